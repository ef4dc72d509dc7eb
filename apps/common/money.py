"""Amounts: Decimal with exactly two places. Never float, never an implicit rounding."""

import re
from decimal import Decimal, InvalidOperation

CENT = Decimal("0.01")
AMOUNT_DIGITS_MAX = 15  # numeric(15,2), as in the seed's tables
AMOUNT_MAX = Decimal("9999999999999.99")
CURRENCY = "BRL"
# An amount as callers write it: no sign, no exponent, no NaN. Decimal itself would read "1_0", " 10 ", "1e1" and "१०".
AMOUNT_TEXT = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,2})?")


def exact_cents(value: Decimal) -> Decimal:
    """Give the amount two places. Raises ValueError when that would change it: 10.5 passes, 10.505 does not."""
    try:
        cents = value.quantize(CENT)
    except InvalidOperation:
        raise ValueError(f"{value} does not fit an amount of {AMOUNT_DIGITS_MAX} digits") from None
    if cents != value or abs(cents) > AMOUNT_MAX:
        raise ValueError(f"{value} is not an amount with two decimal places")
    return cents or Decimal("0.00")  # never -0.00
