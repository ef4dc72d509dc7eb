"""The money of merchants' own payments in the ledger.

An order's payment is posted by the order's journey. A merchant's own has none: what was captured and given back is posted
when the payment says that it changed. Capture: the acquirer owes us, and we owe the merchant; a refund is the mirror of it.

Note [Posted from the payment's operations]
    The fact that a payment changed only says when to look. What is posted follows from the payment's approved operations,
    each under its own id as the tracekey: a fact that comes twice or late posts nothing again, and one that never came is
    made up for by the next one, or by ``manage.py merchants_money``.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from apps.common.transactions import transaction, transaction_required
from apps.ledger import public as ledger
from apps.orders.sagas import money
from apps.payments import public as payments

BATCH_PAYMENTS_MAX = 200  # of one commit of the command: a few hundred entries
CAPTURE = "capture"  # of an operation that moved money: else it is a refund


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What merchants' own payments came to. ``missing``: the entries that were not in the ledger."""

    payments: int = 0
    captured: Decimal = Decimal("0.00")
    refunded: Decimal = Decimal("0.00")
    missing: int = 0
    last: UUID | None = None

    def __add__(self, other: "Posted") -> "Posted":
        return Posted(
            payments=self.payments + other.payments,
            captured=self.captured + other.captured,
            refunded=self.refunded + other.refunded,
            missing=self.missing + other.missing,
            last=other.last or self.last,
        )


@transaction_required
def post_taken(payment_id: UUID, *, now: datetime) -> Posted:
    """Post what was captured and refunded of a merchant's own payment, and is not posted. Safe to repeat, in any order.

    Nothing for an order's payment, and where LEDGER_MERCHANTS_ACCOUNT is empty. Raises UnknownPayment, and the ledger's
    refusals (its account or an event is missing, or posting is suspended).
    """
    merchants = money.merchants_account()
    if merchants is None:
        return Posted()
    view = payments.taken(payment_id)
    if view.of_saga:
        return Posted()
    missing = sum(_post(view, operation, merchants, now=now) for operation in view.operations)
    return Posted(
        payments=1, captured=view.captured_amount, refunded=view.refunded_amount, missing=missing, last=payment_id
    )


def _post(
    view: payments.PaymentView, operation: payments.OperationView, merchants: ledger.AccountRef, *, now: datetime
) -> bool:
    """Was there something to post?"""
    if _is_posted(operation.id):
        return False
    assert operation.amount is not None  # noqa: S101  # only a void has none
    clearing, takes = money.card_clearing_account(), operation.kind == CAPTURE
    entry = ledger.Entry.transfer(
        tracekey=operation.id,
        debit=clearing if takes else merchants,
        credit=merchants if takes else clearing,
        amount=operation.amount,
        eventcode=money.EVENT_MERCHANT_PAYMENT if takes else money.EVENT_MERCHANT_REFUND,
        description=f"Payment {view.id}",
        details={"account_id": view.account_id},
    )
    ledger.post(entry, now=now)
    return True


def _is_posted(tracekey: UUID) -> bool:
    try:
        return ledger.entry(tracekey) is not None
    except ledger.MonthArchived:
        return True


@transaction
def post_batch(*, after: UUID | None, now: datetime) -> Posted:
    """Post what is missing of the payments behind ``after``, at most BATCH_PAYMENTS_MAX; ``last`` is where to go on."""
    total = Posted()
    for payment_id in payments.taken_ids(after=after, rows_max=BATCH_PAYMENTS_MAX):
        total += post_taken(payment_id, now=now)
    return total
