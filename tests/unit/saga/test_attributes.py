"""Search attributes: one form per value, and nothing that only looks like one."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.saga import attributes
from apps.saga.attributes import Attribute, InvalidAttribute, collect, encode, encode_text

AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**12), max_value=10**12)


class TestForms:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            ("10.5", "10.50"),
            (Decimal("486"), "486.00"),
            (7, "7.00"),
            ("0.1250", "0.125"),
            ("-0.00", "0.00"),
            ("1E+3", "1000.00"),
        ],
    )
    def test_an_amount_is_a_text_with_cents(self, value: Any, kept: str) -> None:
        assert encode(Decimal, value) == kept

    @given(AMOUNTS, st.integers(0, 4))
    def test_the_same_amount_has_one_form_however_it_is_written(self, amount: Decimal, zeros: int) -> None:
        longer = amount.quantize(Decimal(1).scaleb(-2 - zeros))
        assert encode(Decimal, longer) == encode(Decimal, str(amount)) == encode_text(Decimal, str(longer))
        assert Decimal(str(encode(Decimal, amount))) == amount

    @given(st.datetimes(), st.datetimes())
    def test_moments_compare_as_their_texts_do(self, one: datetime, other: datetime) -> None:
        texts = [str(encode(datetime, each.replace(tzinfo=UTC))) for each in (one, other)]
        assert (texts[0] < texts[1]) == (one < other)

    def test_a_moment_is_kept_in_utc(self) -> None:
        here = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3)))
        assert encode(datetime, here) == "2026-01-02T06:04:05.000000Z"
        assert encode_text(datetime, "2026-01-02T06:04:05Z") == "2026-01-02T06:04:05.000000Z"

    @given(st.dates(), st.dates())
    def test_days_compare_as_their_texts_do(self, one: date, other: date) -> None:
        assert (str(encode(date, one)) < str(encode(date, other))) == (one < other)

    def test_the_others_are_themselves(self) -> None:
        assert [encode(str, "acc_1"), encode(int, -5), encode(bool, True)] == ["acc_1", -5, True]
        assert [encode_text(int, "-5"), encode_text(bool, "false"), encode_text(str, "5")] == [-5, False, "5"]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (str, 5),
            (str, "x" * 201),
            (str, "a\x00b"),
            (int, True),
            (int, "5"),
            (int, 2**63),
            (bool, 1),
            (bool, "true"),
            (Decimal, 1.5),
            (Decimal, True),
            (Decimal, "NaN"),
            (Decimal, "Infinity"),
            (Decimal, "1e40"),
            (Decimal, "1e-40"),
            (Decimal, "ten"),
            (date, datetime(2026, 1, 1, tzinfo=UTC)),
            (date, "2026-13-01"),
            (datetime, datetime(2026, 1, 1)),
            (datetime, "yesterday"),
        ],
    )
    def test_what_is_not_of_the_type_is_refused(self, kind: type, value: Any) -> None:
        with pytest.raises(InvalidAttribute):
            encode(kind, value)

    @pytest.mark.parametrize(("kind", "text"), [(int, "٣"), (int, "1" * 5000), (int, ""), (bool, "yes"), (Decimal, "1,5")])
    def test_what_was_typed_wrongly_is_refused(self, kind: type, text: str) -> None:
        with pytest.raises(InvalidAttribute):
            encode_text(kind, text)

    def test_no_number_becomes_so_long_that_the_database_refuses_it(self) -> None:
        assert len(str(encode(Decimal, Decimal(10) ** 29 + Decimal("1e-30")))) <= 70


class TestOfARun:
    DECLARED = (
        Attribute("customer", str),
        Attribute("amount", Decimal, key="total"),
        Attribute("payment", str, from_step="pay", key="id"),
    )

    def test_come_from_the_data_and_from_the_steps(self) -> None:
        found = collect(
            self.DECLARED, {"customer": "c1", "total": "5", "id": "no"}, {"pay": {"id": "p1"}, "x": {"id": "no"}}
        )
        assert found == {"customer": "c1", "amount": "5.00", "payment": "p1"}

    def test_what_is_missing_or_none_is_left_out(self) -> None:
        assert collect(self.DECLARED, {"customer": None}, {"pay": {}}) == {}

    def test_a_value_that_does_not_fit_is_left_out_and_told(self, caplog: pytest.LogCaptureFixture) -> None:
        assert collect(self.DECLARED, {"customer": 5, "total": "1"}, {}) == {"amount": "1.00"}
        assert "customer" in caplog.text

    def test_the_start_refuses_what_does_not_fit_and_names_it(self) -> None:
        with pytest.raises(InvalidAttribute, match="attribute amount"):
            attributes.check(self.DECLARED, {"total": "ten"})
        attributes.check(self.DECLARED, {"customer": "c1", "payment": 5})

    def test_the_amount_is_what_is_at_risk(self) -> None:
        assert attributes.amount_of({"amount": "5.00"}) == 5
        assert attributes.amount_of({}) is None
        assert attributes.amount_of({"amount": "what?"}) is None
