"""Questions about payments, answered in values."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.pagination import Page, Slice, newest_first
from apps.payments import rules
from apps.payments.models import Payment, PaymentOperation

PAYMENTS_OF_ORDER_MAX = 20  # an order has one, or a few after refusals
OPERATIONS_ROWS_MAX = 100  # of one payment; refunds of a cent each could be many


class UnknownPayment(DomainError):
    """There is no such payment, or it is not yours."""

    code, status = "R214", 404


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationView:
    """What was asked of the processor, and what it said. ``status``: REQUESTED, APPROVED, REJECTED or NOT_NEEDED."""

    id: UUID
    kind: str
    status: str
    amount: Decimal | None
    processor_reference: str
    error_code: str
    error_message: str
    reason: str
    times_asked: int
    late_answers: int
    requested_at: datetime
    answered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentView:
    """A payment, as values.

    ``status`` is "approved", "rejected" or "pending"; ``state`` says it exactly. ``waits_for_answer``: the saga step named
    in ``reply_to`` of the verb just called will be resumed. ``amount``: None when it was voided before it was asked for.
    ``reply_to``: the step of a journey that asked for it; empty: it is a merchant's own.
    """

    id: UUID
    account_id: str
    order_ref: str
    method: str
    amount: Decimal | None
    currency: str
    status: str
    state: str
    card_bin: str
    card_last4: str
    card_brand: str
    captured_amount: Decimal
    refunded_amount: Decimal
    error_code: str
    error_message: str
    waits_for_answer: bool
    reply_to: str
    created_at: datetime
    updated_at: datetime
    operations: tuple[OperationView, ...] = ()

    @property
    def of_saga(self) -> bool:
        """Did a journey ask for it?"""
        return bool(self.reply_to)

    def to_json(self) -> dict[str, Any]:
        """What merchants are shown: amounts as text with two places, moments in ISO 8601."""
        return {
            "id": str(self.id),
            "status": self.status,
            "state": self.state,
            "amount": None if self.amount is None else f"{self.amount:.2f}",
            "captured_amount": f"{self.captured_amount:.2f}",
            "refunded_amount": f"{self.refunded_amount:.2f}",
            "currency": self.currency,
            "method": self.method,
            "reference": self.order_ref,
            "card": {"brand": self.card_brand, "bin": self.card_bin, "last4": self.card_last4},
            "error": {"code": self.error_code, "message": self.error_message} if self.error_code else None,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


def view_of(row: Payment, *, waits_for_answer: bool = False, operations: tuple[OperationView, ...] = ()) -> PaymentView:
    """The values of a row."""
    return PaymentView(
        id=row.pk,
        account_id=row.account_id,
        order_ref=row.order_ref,
        method=row.method,
        amount=row.amount,
        currency=row.currency,
        status=rules.seed_status(state=row.state, captures_itself=row.captures_itself),
        state=row.state,
        card_bin=row.card_bin,
        card_last4=row.card_last4,
        card_brand=row.card_brand,
        captured_amount=row.captured_amount,
        refunded_amount=row.refunded_amount,
        error_code=row.error_code,
        error_message=row.error_message,
        waits_for_answer=waits_for_answer,
        reply_to=row.reply_to,
        created_at=row.created_at,
        updated_at=row.updated_at,
        operations=operations,
    )


def _operation_view(row: PaymentOperation) -> OperationView:
    return OperationView(
        id=row.pk,
        kind=row.kind,
        status=row.status,
        amount=row.amount,
        processor_reference=row.processor_reference,
        error_code=row.error_code,
        error_message=row.error_message,
        reason=row.reason,
        times_asked=row.times_asked,
        late_answers=row.late_answers,
        requested_at=row.requested_at,
        answered_at=row.answered_at,
    )


def payment(payment_id: UUID, *, account_id: str | None = None) -> PaymentView:
    """A payment with its operations. Raises UnknownPayment, also for another account's when ``account_id`` is given."""
    row = _row(payment_id)
    if account_id is not None and row.account_id != account_id:
        raise UnknownPayment
    return _whole(row)


def _row(payment_id: UUID) -> Payment:
    row = Payment.objects.filter(pk=payment_id).first()
    if row is None:
        raise UnknownPayment
    return row


def _whole(row: Payment) -> PaymentView:
    operations = row.operations.order_by("requested_at", "pk")[:OPERATIONS_ROWS_MAX]
    return view_of(row, operations=tuple(_operation_view(operation) for operation in operations))


def payment_of_operation(operation_id: UUID) -> UUID | None:
    """The payment that an operation, such as a refund, is about."""
    return PaymentOperation.objects.filter(pk=operation_id).values_list("payment_id", flat=True).first()


def known_by(key: str) -> tuple[PaymentView, ...]:
    """The payments of any account with this id, with a refund or another operation of this id, or under this reference.

    With their operations, the newest first; at most PAYMENTS_OF_ORDER_MAX.
    """
    rows = Payment.objects.filter(order_ref=key).exclude(order_ref="")
    with suppress(ValueError):
        by_id = Payment.objects.filter(pk=payment_of_operation(UUID(key)) or UUID(key))
        rows = by_id if by_id.exists() else rows
    return tuple(_whole(row) for row in rows.order_by("-pk")[:PAYMENTS_OF_ORDER_MAX])


def taken(payment_id: UUID) -> PaymentView:
    """A payment with the operations that moved its money and no others: its capture, and its refunds that were approved.

    Raises UnknownPayment.
    """
    row = _row(payment_id)
    kinds = (PaymentOperation.Kind.CAPTURE, PaymentOperation.Kind.REFUND)
    moved = row.operations.filter(kind__in=kinds, status=PaymentOperation.Status.APPROVED).order_by("requested_at", "pk")
    return view_of(row, operations=tuple(_operation_view(operation) for operation in moved))


def payments_page(
    account_id: str, wanted: Slice, *, state: str | None = None, reference: str | None = None
) -> Page[PaymentView]:
    """An account's payments, newest first; of one state or reference. Raises InvalidRequest for a wrong cursor."""
    return newest_first(Payment, wanted, {"order_ref": reference, "state": state, "account_id": account_id}).each(view_of)


def taken_ids(*, after: UUID | None, rows_max: int) -> tuple[UUID, ...]:
    """Merchants' own payments whose money was taken, whatever became of it since; in the order of their ids, behind one."""
    rows = Payment.objects.filter(captured_amount__gt=0, reply_to="").order_by("pk")
    if after is not None:
        rows = rows.filter(pk__gt=after)
    return tuple(rows.values_list("pk", flat=True)[:rows_max])


def payments_of(*, order_ref: str) -> tuple[PaymentView, ...]:
    """The payments that sagas asked for under this reference, the newest first; at most PAYMENTS_OF_ORDER_MAX."""
    # Not a merchant's own, in whose reference anything may stand: an order of somebody else, too.
    rows = Payment.objects.filter(order_ref=order_ref).exclude(reply_to="").order_by("-pk")
    return tuple(view_of(row) for row in rows[:PAYMENTS_OF_ORDER_MAX])
