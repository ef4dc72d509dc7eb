"""Cards: number, brand, expiry, security code."""

import itertools
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn

from apps.common.clock import business_date
from apps.payments import rules, vault
from apps.payments.brands import BRANDS, brand_of
from apps.payments.merchants import NewPayment
from apps.payments.processor import rules as processor_rules
from apps.payments.processor.sandbox import Fault, behaviour

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def card(number: str = "4242424242424242", **changes: object) -> vault.CardInput:
    values = {"number": number, "exp_month": 12, "exp_year": 2030, "cvv": "973", **changes}
    return vault.CardInput(**values)  # type: ignore[arg-type]


def complete(body: str) -> str:
    return body + luhn.calc_check_digit(body)


class TestNumber:
    @given(st.text(alphabet="0123456789", min_size=14, max_size=14))
    def test_a_visa_number_with_its_check_digit_passes(self, body: str) -> None:
        number = complete("4" + body)
        if brand_of(number[:6]).name == "visa":  # type: ignore[union-attr]
            assert vault.check(card(number), now=NOW).name == "visa"

    @given(st.text(alphabet="0123456789", min_size=14, max_size=14), st.integers(0, 15), st.integers(1, 9))
    def test_one_wrong_digit_never_passes(self, body: str, position: int, change: int) -> None:
        number = complete("4" + body)
        wrong = str((int(number[position]) + change) % 10)
        with pytest.raises((vault.InvalidCardNumber, vault.UnsupportedBrand)):
            vault.check(card(number[:position] + wrong + number[position + 1 :]), now=NOW)

    @given(st.text(max_size=30) | st.text("0123456789 -", max_size=12))
    def test_no_other_text_passes_and_no_message_quotes_the_text(self, text: str) -> None:
        with pytest.raises((vault.InvalidCardNumber, vault.UnsupportedBrand)) as refusal:
            vault.check(card(text), now=NOW)
        assert len(text) < 5 or text not in refusal.value.detail

    @pytest.mark.parametrize("number", ["4242 4242 4242 4242", "4242-4242-4242-4242"])
    def test_groups_are_fine(self, number: str) -> None:
        assert vault.check(card(number), now=NOW).name == "visa"

    @pytest.mark.parametrize(
        "number",
        [
            "",
            "4242424242424241",
            "424242424242",
            "४२४२४२४२४२४२४२४२",
            "4242  4242  4242  4242",
            "4" * 30,
            "4242424242424242\n",
        ],
    )
    def test_other_shapes_are_not(self, number: str) -> None:
        with pytest.raises(vault.InvalidCardNumber):
            vault.check(card(number), now=NOW)

    def test_neither_number_nor_cvv_shows_in_a_repr(self) -> None:
        assert "4242" not in repr(card())
        assert "973" not in repr(card())

    def test_nor_does_a_token_which_is_all_that_it_takes_to_pay(self) -> None:
        asked = NewPayment(
            account_id="acc_shop",
            amount=Decimal(1),
            reference="",
            card_token="tok_secret",
            card=None,
            idempotency_key=None,
            route="POST /payments",
            body={"card_token": "tok_secret"},
        )
        assert "tok_secret" not in repr(asked)


class TestBrand:
    @pytest.mark.parametrize(
        ("number", "cvv", "brand"),
        [
            ("4242424242424242", "973", "visa"),
            ("5555555555554444", "973", "mastercard"),
            ("2221000000000009", "973", "mastercard"),
            ("378282246310005", "9735", "amex"),
            ("30569309025904", "973", "diners"),
            ("6011111111111117", "973", "discover"),
            ("3530111333300000", "973", "jcb"),
            ("6062825624254001", "973", "hipercard"),
            ("6362970000457013", "973", "elo"),
            ("5067310000000010", "973", "elo"),
        ],
    )
    def test_is_read_from_the_first_digits(self, number: str, cvv: str, brand: str) -> None:
        assert vault.check(card(number, cvv=cvv), now=NOW).name == brand

    def test_a_number_of_no_brand_is_refused(self) -> None:
        with pytest.raises(vault.UnsupportedBrand):
            vault.check(card(complete("999999999999999")), now=NOW)

    def test_a_visa_of_fifteen_digits_is_refused(self) -> None:
        with pytest.raises(vault.InvalidCardNumber):
            vault.check(card(complete("42424242424242")), now=NOW)

    def test_no_two_ranges_of_one_brand_overlap_and_each_begins_before_it_ends(self) -> None:
        for brand in BRANDS:
            ordered = sorted(brand.ranges)
            assert all(first <= last for first, last in ordered)
            assert all(one[1] < two[0] for one, two in itertools.pairwise(ordered))


class TestExpiry:
    @given(st.dates(date(2020, 1, 1), date(2090, 12, 31)))
    def test_a_card_is_good_through_the_last_day_of_its_month(self, day: date) -> None:
        rules.check_expiry(exp_month=day.month, exp_year=day.year, today=day)
        next_month = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
        with pytest.raises(rules.CardExpired):
            rules.check_expiry(exp_month=day.month, exp_year=day.year, today=next_month)

    def test_the_month_ends_in_sao_paulo_three_hours_after_it_ends_in_utc(self) -> None:
        expiring = card(exp_month=11, exp_year=2026)
        vault.check(expiring, now=datetime(2026, 12, 1, 2, 59, tzinfo=UTC))
        with pytest.raises(rules.CardExpired):
            vault.check(expiring, now=datetime(2026, 12, 1, 3, 0, tzinfo=UTC))

    @pytest.mark.parametrize(("month", "year"), [(0, 2030), (13, 2030), (12, 2047), (12, 30)])
    def test_impossible_dates_are_refused(self, month: int, year: int) -> None:
        with pytest.raises(rules.CardExpired):
            rules.check_expiry(exp_month=month, exp_year=year, today=business_date(NOW))


class TestCvv:
    @pytest.mark.parametrize(
        ("number", "cvv"),
        [("4242424242424242", "12"), ("4242424242424242", "1234"), ("378282246310005", "123"), ("4242424242424242", "١٢٣")],
    )
    def test_has_three_digits_and_four_on_amex(self, number: str, cvv: str) -> None:
        with pytest.raises(vault.InvalidCvv):
            vault.check(card(number, cvv=cvv), now=NOW)


class TestTruncated:
    def test_keeps_six_and_four_digits_of_a_number_and_nothing_of_anything_else(self) -> None:
        assert vault.truncated("4242 4242 4242 4241") == ("424242", "4241")
        assert vault.truncated("4242") == ("", "")
        assert vault.truncated("my card") == ("", "")


class TestAmount:
    @pytest.mark.parametrize("amount", ["1", "1.00", "10.5", "999.99", "1000.00"])
    def test_from_one_to_a_thousand_passes(self, amount: str) -> None:
        rules.check_range(rules.exact_amount(Decimal(amount)))

    @pytest.mark.parametrize("amount", ["0.99", "0.01", "1000.01", "9999999999999.99"])
    def test_outside_is_refused(self, amount: str) -> None:
        with pytest.raises(rules.AmountOutOfRange):
            rules.check_range(rules.exact_amount(Decimal(amount)))

    @pytest.mark.parametrize("amount", ["0", "-1", "10.505", "NaN", "Infinity", "1e20", "0.001"])
    def test_what_is_no_amount_is_malformed(self, amount: str) -> None:
        with pytest.raises(rules.InvalidAmount):
            rules.exact_amount(Decimal(amount))

    def test_both_sides_of_the_bus_hold_to_the_same_range(self) -> None:
        ours = (rules.AMOUNT_LEAST, rules.AMOUNT_MOST)
        assert ours == (processor_rules.AMOUNT_LEAST, processor_rules.AMOUNT_MOST)


class TestSeedStatus:
    def test_a_payment_that_captures_itself_is_pending_until_its_money_is_taken(self) -> None:
        assert rules.seed_status(state="AUTHORISED", captures_itself=True) == "pending"
        assert rules.seed_status(state="AUTHORISED", captures_itself=False) == "approved"
        assert rules.seed_status(state="CAPTURED", captures_itself=True) == "approved"


class TestProcessorDecides:
    def decide(self, **changes: object) -> processor_rules.Decision:
        values = {
            "amount": Decimal("10.50"),
            "currency": "BRL",
            "card_bin": "424242",
            "card_last4": "4242",
            "exp_month": 12,
            "exp_year": 2030,
            "today": date(2026, 11, 21),
            **changes,
        }
        return processor_rules.authorise(**values)  # type: ignore[arg-type]

    @given(st.decimals("1.00", "1000.00", places=2))
    def test_every_amount_in_range_of_a_good_card_is_approved(self, amount: Decimal) -> None:
        assert self.decide(amount=amount) == processor_rules.YES

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"amount": Decimal("0.99")}, "amount_too_small"),
            ({"amount": Decimal("1000.01")}, "amount_too_large"),
            ({"currency": "USD"}, "currency_not_supported"),
            ({"exp_month": 10, "exp_year": 2026}, "expired_card"),
            ({"card_bin": "400000", "card_last4": "0002"}, "card_declined"),
            ({"card_bin": "400000", "card_last4": "9995"}, "insufficient_funds"),
            ({"card_bin": "400000", "card_last4": "0069"}, "expired_card"),
        ],
    )
    def test_what_is_rejected_has_a_code_and_a_message(self, changes: dict[str, object], code: str) -> None:
        decision = self.decide(**changes)
        assert (decision.status, decision.error_code) == ("rejected", code)
        assert decision.error_message

    def test_the_fault_cards_authorise(self) -> None:
        for last4 in ("0341", "1000", "2008", "3006"):
            assert self.decide(card_bin="400000", card_last4=last4) == processor_rules.YES
        assert behaviour("400000", "1000").fault is Fault.FIRST_ANSWER_LOST

    def test_the_table_is_for_the_whole_card_and_not_for_its_last_digits(self) -> None:
        assert self.decide(card_bin="424242", card_last4="0002") == processor_rules.YES

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({}, ""),
            ({"voided": True}, "voided"),
            ({"status": "rejected"}, "not_authorised"),
            ({"status": ""}, "not_authorised"),
            ({"captured": Decimal(10)}, "already_captured"),
            ({"amount": Decimal(11)}, "amount_too_large"),
            ({"card_bin": "400000", "card_last4": "0341"}, "capture_refused"),
        ],
    )
    def test_captures(self, changes: dict[str, object], code: str) -> None:
        values = {
            "status": "approved",
            "voided": False,
            "authorised": Decimal(10),
            "captured": Decimal(0),
            "amount": Decimal(10),
            "card_bin": "424242",
            "card_last4": "4242",
            **changes,
        }
        assert processor_rules.capture(**values).error_code == code  # type: ignore[arg-type]

    def test_voids_and_refunds(self) -> None:
        assert processor_rules.void(captured=Decimal(0)) == processor_rules.YES
        assert processor_rules.void(captured=Decimal(1)).error_code == "already_captured"
        card = {"captured": Decimal(10), "refunded": Decimal(4), "card_bin": "400000", "card_last4": "0341"}
        assert processor_rules.refund(**card, amount=Decimal(6)) == processor_rules.YES  # type: ignore[arg-type]
        too_much = processor_rules.refund(**card, amount=Decimal("6.01"))  # type: ignore[arg-type]
        assert too_much.error_code == "refund_too_large"
        refusing = {**card, "card_last4": "5126"}
        assert processor_rules.refund(**refusing, amount=Decimal(6)).error_code == "refund_refused"  # type: ignore[arg-type]
