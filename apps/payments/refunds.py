"""Refunds of a merchant's own payment: asked for once per key, then the processor decides.

A refund is an operation on its payment, as its capture is: apps/payments/operations.py asks, results.py records the answer,
and who asks again about a lost answer is ``operations.ask_overdue``.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.common.clock import uuid7
from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction
from apps.payments import operations
from apps.payments.authorisations import locked_own, mine
from apps.payments.merchants import Answer, once
from apps.payments.models import Payment, PaymentOperation

# Of one payment, whatever became of them. A few partial refunds are usual; a page shows them all, and a program that goes
# on asking a bank that refuses comes to an end.
REFUNDS_MAX = 50
Status = PaymentOperation.Status
_STATUS = {Status.REQUESTED: "pending", Status.APPROVED: "approved", Status.REJECTED: "rejected"}


class TooManyRefunds(DomainError):
    """So many refunds of this payment were asked for that it takes no more."""

    code = "R219"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRefund:
    """What a merchant asks for. ``amount`` None: all that is left."""

    account_id: str
    payment_id: UUID
    amount: Decimal | None
    reason: str
    idempotency_key: str | None
    body: Any = field(repr=False)  # as it came, for the fingerprint of the Idempotency-Key


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundView:
    """A refund, as values. ``status`` is "pending", "approved" or "rejected"; then the error says why."""

    id: UUID
    payment_id: UUID
    status: str
    amount: Decimal
    currency: str
    reason: str
    error_code: str
    error_message: str
    created_at: datetime
    answered_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """What merchants are shown."""
        return {
            "id": str(self.id),
            "payment_id": str(self.payment_id),
            "status": self.status,
            "amount": f"{self.amount:.2f}",
            "currency": self.currency,
            "reason": self.reason,
            "error": {"code": self.error_code, "message": self.error_message} if self.error_code else None,
            "created_at": self.created_at.isoformat(),
            "answered_at": self.answered_at and self.answered_at.isoformat(),
        }


# --- Questions --------------------------------------------------------------------------------------------------------
def refunds_of(payment_id: UUID, *, account_id: str) -> tuple[RefundView, ...]:
    """The refunds of an account's payment, the latest first. Raises UnknownPayment."""
    payment = mine(payment_id, account_id=account_id)
    rows = payment.operations.filter(kind=PaymentOperation.Kind.REFUND).order_by("-pk")
    return tuple(_view(row, payment) for row in rows[:REFUNDS_MAX])


def refund_of(payment_id: UUID, refund_id: UUID, *, account_id: str) -> RefundView:
    """One refund of an account's payment. Raises UnknownPayment, NotFound."""
    payment = mine(payment_id, account_id=account_id)
    row = payment.operations.filter(kind=PaymentOperation.Kind.REFUND, pk=refund_id).first()
    if row is None:
        raise NotFound("There is no such refund of this payment.")
    return _view(row, payment)


def _view(row: PaymentOperation, payment: Payment) -> RefundView:
    assert row.amount is not None  # noqa: S101  # payments_operation_amount: only a void has none
    return RefundView(
        id=row.pk,
        payment_id=payment.pk,
        status=_STATUS[Status(row.status)],
        amount=row.amount,
        currency=payment.currency,
        reason=row.reason,
        error_code=row.error_code,
        error_message=row.error_message,
        created_at=row.requested_at,
        answered_at=row.answered_at,
    )


# --- Asked for --------------------------------------------------------------------------------------------------------
@transaction
def ask_refund(command: NewRefund, *, now: datetime) -> Answer:
    """Ask the processor to give back a part, or all that is left: 202, and its answer is found at Location.

    With an Idempotency-Key safe to repeat. Raises UnknownPayment (another's, too), PaymentOfOrder, PaymentNotCaptured,
    RefundTooLarge, TooManyRefunds, InvalidAmount, and what idempotency.begin raises; then nothing was written.
    """
    return once(
        lambda: _answer(_ask(command, now=now)),
        account_id=command.account_id,
        key=command.idempotency_key,
        route=f"POST /payments/{command.payment_id}/refunds",
        body=command.body,
        now=now,
    )


def _answer(view: RefundView) -> Answer:
    location = f"/payments/{view.payment_id}/refunds/{view.id}"
    return Answer(status=202, body=view.to_json(), headers={"Location": location})


def _ask(command: NewRefund, *, now: datetime) -> RefundView:
    # Two refunds meet here: the second one sees what the first one asked for.
    payment = locked_own(command.payment_id, account_id=command.account_id, instead="POST /orders/{}/returns refunds it.")
    if payment.operations.filter(kind=PaymentOperation.Kind.REFUND).count() >= REFUNDS_MAX:
        raise TooManyRefunds(f"{REFUNDS_MAX} refunds of this payment were asked for: it takes no more.")
    step_key = f"merchant:{uuid7()}"
    operations.refund(
        step_key=step_key,
        reply_to="",
        payment_id=payment.pk,
        amount=_amount(command, payment),
        now=now,
        reason=command.reason,
    )
    return _view(PaymentOperation.objects.get(step_key=step_key, kind=PaymentOperation.Kind.REFUND), payment)


def _amount(command: NewRefund, payment: Payment) -> Decimal:
    if command.amount is not None:
        return command.amount
    if not payment.captured_amount:
        raise operations.PaymentNotCaptured(f"The payment is {payment.state}: there is nothing to refund.")
    left = operations.refundable(payment)
    if not left:
        raise operations.RefundTooLarge("All of it was refunded, or is on its way back: nothing is left.")
    return left
