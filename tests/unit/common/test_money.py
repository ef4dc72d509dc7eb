"""Amounts keep their cents, or are refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.money import AMOUNT_MAX, exact_cents


class TestExactCents:
    @given(st.decimals(min_value=-AMOUNT_MAX, max_value=AMOUNT_MAX, places=2))
    def test_keeps_every_amount_of_two_places(self, amount: Decimal) -> None:
        assert exact_cents(amount) == amount
        assert exact_cents(amount).as_tuple().exponent == -2

    @given(st.integers(min_value=-(10**12), max_value=10**12))
    def test_gives_whole_numbers_their_places(self, whole: int) -> None:
        assert str(exact_cents(Decimal(whole))) == f"{whole}.00"

    @given(st.decimals(min_value=-1000, max_value=1000, places=5).filter(lambda d: d != round(d, 2)))
    def test_never_rounds(self, amount: Decimal) -> None:
        with pytest.raises(ValueError, match="two decimal places"):
            exact_cents(amount)

    @pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity", "1E+999999", "10000000000000.00", "1E-7"])
    def test_refuses_what_is_no_amount(self, text: str) -> None:
        with pytest.raises(ValueError, match="amount"):
            exact_cents(Decimal(text))

    def test_has_no_negative_zero(self) -> None:
        assert str(exact_cents(Decimal("-0"))) == "0.00"

    def test_drops_zeros_behind_the_cents(self) -> None:
        assert str(exact_cents(Decimal("10.5000"))) == "10.50"
