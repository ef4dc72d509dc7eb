"""May this card and this amount pass? Pure: values in, answer out."""

from datetime import date
from decimal import Decimal

from apps.common.errors import DomainError
from apps.common.money import exact_cents

AMOUNT_LEAST = Decimal("1.00")  # both ends are allowed: the domain's universal rule
AMOUNT_MOST = Decimal("1000.00")
CARD_YEARS_AHEAD_MAX = 20  # no card is valid for longer; a later year is a typing error

# The state of a payment in the seed's words. VOIDED: nothing was, and nothing will be, taken.
_STATUS = {
    "PENDING": "pending",
    "UNKNOWN": "pending",
    "AUTHORISED": "approved",
    "CAPTURED": "approved",
    "REFUNDED": "approved",
    "REJECTED": "rejected",
    "VOIDED": "rejected",
}


class InvalidAmount(DomainError):
    """The amount is not a positive number with at most two decimal places."""

    code, status = "R201", 422


class AmountOutOfRange(DomainError):
    """A card payment is from 1.00 to 1000.00, both included."""

    code = "R202"


class CardExpired(DomainError):
    """The card has expired, or its expiry date is none."""

    code, status = "R205", 422


def exact_amount(amount: Decimal) -> Decimal:
    """The amount with two places. Raises InvalidAmount when that would change it, or when it is not above zero."""
    try:
        cents = exact_cents(amount)
    except ValueError:
        raise InvalidAmount(field="amount") from None
    if cents <= 0:
        raise InvalidAmount(field="amount")
    return cents


def check_range(amount: Decimal) -> None:
    """Raises AmountOutOfRange."""
    if not AMOUNT_LEAST <= amount <= AMOUNT_MOST:
        raise AmountOutOfRange(field="amount")


def check_expiry(*, exp_month: int, exp_year: int, today: date) -> None:
    """A card is good through the last day of its month, in São Paulo. Raises CardExpired."""
    if not 1 <= exp_month <= 12:
        raise CardExpired("The month is a number from 1 to 12.", field="exp_month")
    if exp_year > today.year + CARD_YEARS_AHEAD_MAX:
        raise CardExpired("The year is too far ahead.", field="exp_year")
    if (exp_year, exp_month) < (today.year, today.month):
        raise CardExpired("The card has expired.", field="exp_year")


def seed_status(*, state: str, captures_itself: bool) -> str:
    """ "approved", "rejected" or "pending". A payment that captures itself is approved once its money is taken."""
    if state == "AUTHORISED" and captures_itself:
        return "pending"
    return _STATUS[state]
