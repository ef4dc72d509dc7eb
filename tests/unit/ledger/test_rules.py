from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from apps.ledger.forms import LineForms, fingerprint
from apps.ledger.rules import (
    BACKDATE_DAYS_MAX,
    DETAILS_BYTES_MAX,
    ENTRY_LEGS_MAX,
    AccountRef,
    DateRefused,
    Entry,
    Leg,
    MalformedEntry,
    UnbalancedEntry,
    check_dateref,
)

KEY = UUID(int=1)
ACCOUNT = AccountRef("0001", "000000001")


def entry(**changes: object) -> Entry:
    values = {"account": ACCOUNT, "amount": Decimal("10.50"), "debitcredit": "C", "eventcode": 1, **changes}
    dateref = values.pop("dateref", None)
    return Entry(tracekey=KEY, legs=(Leg(**values),), dateref=dateref)  # type: ignore[arg-type]


class TestFingerprint:
    def test_is_the_same_for_the_same_amount_written_differently(self) -> None:
        assert fingerprint(entry(amount=Decimal("10.5"))) == fingerprint(entry(amount=Decimal("10.50")))

    def test_is_the_same_for_details_in_another_order(self) -> None:
        assert fingerprint(entry(details={"a": 1, "b": 2})) == fingerprint(entry(details={"b": 2, "a": 1}))

    @pytest.mark.parametrize(
        "change",
        [
            {"amount": Decimal("10.51")},
            {"debitcredit": "D"},
            {"eventcode": 2},
            {"description": "other"},
            {"details": {"a": 1}},
            {"dateref": date(2026, 1, 1)},
            {"account": AccountRef("0001", "000000002")},
            {"account": AccountRef("0001", "000000001", "USD")},
        ],
    )
    def test_differs_when_any_field_differs(self, change: dict[str, object]) -> None:
        assert fingerprint(entry(**change)) != fingerprint(entry())

    @pytest.mark.parametrize(
        "change",
        [
            {"amount": Decimal("0")},
            {"amount": Decimal("-1")},
            {"amount": Decimal("0.001")},
            {"amount": Decimal("NaN")},
            {"amount": Decimal("Infinity")},
            {"amount": Decimal("10000000000000.00")},
            {"amount": 10.5},
            {"amount": 10},
            {"debitcredit": "X"},
            {"debitcredit": None},
            {"eventcode": 0},
            {"eventcode": True},
            {"eventcode": 2**31},
            {"description": "x" * 256},
            {"description": "a\x00b"},
            {"description": "\ud800"},
            {"details": {"a": "\x00"}},
            {"details": {"a": "\ud800"}},
            {"details": {"a": float("nan")}},
            {"details": {"a": object()}},
            {"details": [1]},
            {"details": {"a": "x" * DETAILS_BYTES_MAX}},
            {"account": AccountRef("", "1")},
            {"account": AccountRef("0001", "1\n")},
            {"account": AccountRef("0001", "1 OR 1=1")},
            {"account": AccountRef("0001", "1", "brl")},
        ],
    )
    def test_refuses_what_is_malformed(self, change: dict[str, object]) -> None:
        with pytest.raises(MalformedEntry):
            fingerprint(entry(**change))

    def test_refuses_an_entry_without_legs_and_one_with_too_many(self) -> None:
        one = entry().legs
        with pytest.raises(MalformedEntry):
            fingerprint(Entry(tracekey=KEY, legs=()))
        with pytest.raises(MalformedEntry):
            fingerprint(Entry(tracekey=KEY, legs=one * (ENTRY_LEGS_MAX + 1)))

    def test_refuses_legs_that_do_not_balance_in_each_currency(self) -> None:
        reais, dollars = ACCOUNT, AccountRef("0001", "000000001", "USD")
        legs = (
            Leg(account=reais, amount=Decimal("1.00"), debitcredit="D", eventcode=1),
            Leg(account=dollars, amount=Decimal("1.00"), debitcredit="C", eventcode=1),
        )
        with pytest.raises(UnbalancedEntry):
            fingerprint(Entry(tracekey=KEY, legs=legs))


class TestDateref:
    TODAY = date(2026, 3, 18)

    @pytest.mark.parametrize("days", [0, BACKDATE_DAYS_MAX])
    def test_takes_today_and_the_oldest_day_of_the_window(self, days: int) -> None:
        check_dateref(date.fromordinal(self.TODAY.toordinal() - days), today=self.TODAY)

    @pytest.mark.parametrize("days", [-1, BACKDATE_DAYS_MAX + 1])
    def test_refuses_tomorrow_and_the_day_before_the_window(self, days: int) -> None:
        with pytest.raises(DateRefused):
            check_dateref(date.fromordinal(self.TODAY.toordinal() - days), today=self.TODAY)


LINES: list[dict[str, object]] = [
    {},
    {"amount": Decimal("10.5")},
    {"amount": Decimal("1e2")},
    {"amount": Decimal("0.00")},
    {"amount": Decimal("-1.00")},
    {"amount": Decimal("1.005")},
    {"amount": Decimal("NaN")},
    {"amount": Decimal("99999999999999.00")},
    {"amount": "10.00"},
    {"amount": 10.0},
    {"debitcredit": "D"},
    {"debitcredit": "X"},
    {"debitcredit": None},
    {"eventcode": True},
    {"eventcode": 1.0},
    {"eventcode": 0},
    {"eventcode": 2**31},
    {"eventcode": 7},
    {"description": "a\tb ç \u2028"},
    {"description": "\x00"},
    {"description": "\ud800"},
    {"description": "x" * 256},
    {"description": None},
    {"details": {"b": 1, "a": "ç"}},
    {"details": {"a": float("nan")}},
    {"details": [1]},
    {"account": AccountRef("0001", "x y")},
    {"account": AccountRef("0001", "1\n")},
    {"account": AccountRef("0001", "1", "BRL")},
    {"account": AccountRef("0001", "1", "brl")},
    {"account": AccountRef(1, "1")},  # type: ignore[arg-type]
    {"account": ["0001", "1", "BRL"]},
    {"dateref": date(2026, 3, 1)},
]


class TestLineForms:
    """For lines of one batch; each twice, because the second time most of it is known."""

    def test_are_what_fingerprint_finds_and_nothing_that_it_refuses(self) -> None:
        forms = LineForms()
        for change in [*LINES, *reversed(LINES)]:
            line = entry(**change)
            try:
                body_hash, legs = fingerprint(line)
            except MalformedEntry:
                assert forms.of(line) is None, change
            else:
                assert forms.of(line) == (body_hash, tuple(legs)), change

    @pytest.mark.parametrize(
        "change", [{"group": "g"}, {"up_to": True}, {"tracekey": "1"}, {"legs": ()}, {"legs": entry().legs * 2}]
    )
    def test_are_not_for_other_entries(self, change: dict[str, object]) -> None:
        assert LineForms().of(replace(entry(), **change)) is None  # type: ignore[arg-type]
