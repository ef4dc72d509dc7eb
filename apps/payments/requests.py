"""What goes to the processor, and the facts about a payment that go to everybody: rows of the outbox."""

from datetime import datetime
from decimal import Decimal

from apps.common.transactions import transaction_required
from apps.messaging.contracts.base import Message
from apps.messaging.contracts.payments import (
    AuthoriseRequested,
    CaptureRequested,
    PaymentChanged,
    RefundRequested,
    VoidRequested,
)
from apps.messaging.public import publish
from apps.payments import rules
from apps.payments.models import CardToken, Payment, PaymentOperation

Kind, Status, State = PaymentOperation.Kind, PaymentOperation.Status, Payment.State


@transaction_required
def ask(
    payment: Payment,
    kind: PaymentOperation.Kind,
    *,
    step_key: str,
    amount: Decimal | None,
    reply_to: str,
    now: datetime,
    reason: str = "",
) -> PaymentOperation:
    """Store a new operation and send its request. The caller holds the payment's lock."""
    operation = PaymentOperation.objects.create(
        payment=payment,
        kind=kind,
        step_key=step_key,
        reply_to=reply_to,
        amount=amount,
        reason=reason,
        requested_at=now,
        asked_at=now,
    )
    _send(operation, payment)
    return operation


@transaction_required
def ask_again(operation: PaymentOperation, payment: Payment, *, now: datetime) -> None:
    """Send a request once more: the answer was late or lost, and the processor gives the same one again."""
    operation.times_asked += 1
    operation.asked_at = now
    operation.save(update_fields=["times_asked", "asked_at"])
    if operation.kind == Kind.AUTHORISE and operation.status == Status.REQUESTED and payment.state == State.PENDING:
        move(payment, State.UNKNOWN, now=now)  # No answer in time says neither yes nor no.
    _send(operation, payment)


@transaction_required
def move(payment: Payment, state: str, *, now: datetime) -> None:
    """Bring a payment, whose lock the caller holds, forward to a state, and publish the fact."""
    payment.state, payment.updated_at = state, now
    payment.save(update_fields=["state", "captured_amount", "refunded_amount", "error_code", "error_message", "updated_at"])
    publish_change(payment)


@transaction_required
def publish_change(payment: Payment) -> None:
    """Publish what a payment is now."""
    fact = PaymentChanged(
        payment_id=payment.pk,
        account_id=payment.account_id,
        order_ref=payment.order_ref,
        status=rules.seed_status(state=payment.state, captures_itself=payment.captures_itself),
        state=payment.state,
        currency=payment.currency,
        captured_amount=Decimal(payment.captured_amount),  # of a row that was made just now: the default, an int
        refunded_amount=Decimal(payment.refunded_amount),
        changed_at=payment.updated_at,
        amount=payment.amount,
        card_bin=payment.card_bin,
        card_last4=payment.card_last4,
        card_brand=payment.card_brand,
        error_code=payment.error_code,
        error_message=payment.error_message,
    )
    publish(fact, key=str(payment.pk))


def _send(operation: PaymentOperation, payment: Payment) -> None:
    # The payment's id is the key: the processor receives the requests of one payment in their order.
    publish(_request(operation, payment), key=str(payment.pk), reply_to=operation.reply_to)


def _request(operation: PaymentOperation, payment: Payment) -> Message:
    key = operation.operation_key
    if operation.kind == Kind.VOID:
        return VoidRequested(operation_key=key, payment_id=payment.pk)
    assert operation.amount is not None  # noqa: S101  # payments_operation_amount: only a void has none
    if operation.kind == Kind.CAPTURE:
        return CaptureRequested(operation_key=key, payment_id=payment.pk, amount=operation.amount)
    if operation.kind == Kind.REFUND:
        return RefundRequested(operation_key=key, payment_id=payment.pk, amount=operation.amount)
    return _authorisation(operation, payment, amount=operation.amount)


def _authorisation(operation: PaymentOperation, payment: Payment, *, amount: Decimal) -> AuthoriseRequested:
    card: CardToken | None = payment.card
    assert card is not None  # noqa: S101  # without a card nothing is asked
    return AuthoriseRequested(
        operation_key=operation.operation_key,
        payment_id=payment.pk,
        amount=amount,
        currency=payment.currency,
        card_bin=payment.card_bin,
        card_last4=payment.card_last4,
        card_brand=payment.card_brand,
        card_exp_month=card.exp_month,
        card_exp_year=card.exp_year,
        order_ref=payment.order_ref,
    )
