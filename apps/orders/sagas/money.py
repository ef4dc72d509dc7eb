"""Where a sale stands in the ledger: the accounts and event codes that the journeys post to."""

from django.conf import settings

from apps.ledger.public import AccountRef

EVENT_CARD_SALE = 101
EVENT_BALANCE_SALE = 102

EVENT_MERCHANT_PAYMENT = 103
EVENT_MERCHANT_REFUND = 104

EVENTS = {
    EVENT_CARD_SALE: "Sale paid by card",
    EVENT_BALANCE_SALE: "Sale paid from the customer's account",
}
# Of merchants' own payments: where they are posted, their account is open and these are known.
MERCHANT_EVENTS = {
    EVENT_MERCHANT_PAYMENT: "Merchant's payment",
    EVENT_MERCHANT_REFUND: "Refund of a merchant's payment",
}


def sales_account() -> AccountRef:
    """The merchant's revenue."""
    return AccountRef(settings.LEDGER_BRANCH, settings.LEDGER_SALES_ACCOUNT)


def card_clearing_account() -> AccountRef:
    """What the acquirer owes us: debited with the sale, credited when the acquirer pays."""
    return AccountRef(settings.LEDGER_BRANCH, settings.LEDGER_CARD_CLEARING_ACCOUNT)


def merchants_account() -> AccountRef | None:
    """What we owe the merchants for their own payments; None where those are not posted."""
    if not settings.LEDGER_MERCHANTS_ACCOUNT:
        return None
    return AccountRef(settings.LEDGER_BRANCH, settings.LEDGER_MERCHANTS_ACCOUNT)
