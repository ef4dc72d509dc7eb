"""What the processor decides. Pure: the request's values in, approved or rejected out."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from apps.payments.processor.sandbox import behaviour

APPROVED = "approved"
REJECTED = "rejected"

AMOUNT_LEAST = Decimal("1.00")  # the domain's universal rule; both ends are approved
AMOUNT_MOST = Decimal("1000.00")
CURRENCIES = frozenset({"BRL"})


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a request. A rejection has a code for programs and a message for people."""

    status: str
    error_code: str = ""
    error_message: str = ""


YES = Decision(APPROVED)


def no(code: str, message: str) -> Decision:
    """A rejection."""
    return Decision(REJECTED, code, message)


VOIDED = no("voided", "The payment was voided.")


def authorise(
    *, amount: Decimal, currency: str, card_bin: str, card_last4: str, exp_month: int, exp_year: int, today: date
) -> Decision:
    """Approve every amount from 1.00 to 1000.00 of a valid card that the sandbox does not decline."""
    if amount < AMOUNT_LEAST:
        return no("amount_too_small", f"The amount is below {AMOUNT_LEAST}.")
    if amount > AMOUNT_MOST:
        return no("amount_too_large", f"The amount is above {AMOUNT_MOST}.")
    if currency not in CURRENCIES:
        return no("currency_not_supported", "The currency is not supported.")
    if (exp_year, exp_month) < (today.year, today.month):
        return no("expired_card", "The card has expired.")
    declined = behaviour(card_bin, card_last4).decline
    return no(*declined) if declined else YES


def capture(
    *, status: str, voided: bool, authorised: Decimal, captured: Decimal, amount: Decimal, card_bin: str, card_last4: str
) -> Decision:
    """Take an authorised amount, once."""
    if voided:
        return VOIDED
    if status != APPROVED:
        return no("not_authorised", "There is no authorisation to capture.")
    if captured:
        return no("already_captured", "The payment was captured already.")
    if amount > authorised:
        return no("amount_too_large", "The amount is above the authorised one.")
    if behaviour(card_bin, card_last4).refuses_capture:
        return no("capture_refused", "The card's bank refused the capture.")
    return YES


def void(*, captured: Decimal) -> Decision:
    """Give an authorisation free. What was never asked, was rejected or is void already can be voided: nothing is taken."""
    return no("already_captured", "The payment was captured: refund it.") if captured else YES


def refund(*, captured: Decimal, refunded: Decimal, amount: Decimal, card_bin: str, card_last4: str) -> Decision:
    """Give back no more than was captured."""
    if amount > captured - refunded:
        return no("refund_too_large", "The refunds would exceed what was captured.")
    if behaviour(card_bin, card_last4).refuses_refund:
        return no("refund_refused", "The card's bank refused the refund.")
    return YES
