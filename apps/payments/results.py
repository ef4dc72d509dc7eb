"""The processor answered. The first answer counts; nothing moves a payment backward."""

import logging
from datetime import datetime
from typing import Any

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.messaging.contracts.payments import CardResult
from apps.observability.logs import mask_cards
from apps.payments.models import Payment, PaymentOperation
from apps.payments.operations import capture, locked, void
from apps.payments.requests import move

logger = logging.getLogger(__name__)

Kind, Status, State = PaymentOperation.Kind, PaymentOperation.Status, Payment.State

APPROVED, REJECTED = "approved", "rejected"
CODE_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX = 40, 300  # what our rows hold; the contract sets the processor no limit
_OPEN = (State.PENDING, State.UNKNOWN)


class UnknownOperation(DomainError):
    """The processor answers a question that we did not ask."""

    code = "R216"


def operation_of(result: CardResult) -> PaymentOperation:
    """The operation that a result answers. Raises UnknownOperation, also for an approval of another amount."""
    step_key = result.operation_key.removesuffix(f":{result.kind}")
    row = PaymentOperation.objects.filter(step_key=step_key, kind=result.kind, payment_id=result.payment_id).first()
    if row is None or result.status not in (APPROVED, REJECTED):
        raise UnknownOperation
    # Ours would say that all of it was taken or given back: a person compares first. (A void has no amount of its own.)
    if result.status == APPROVED and result.amount is not None and row.amount not in (None, result.amount):
        raise UnknownOperation(f"It approves {result.amount}, and {row.amount} was asked for.")
    return row


def _reason(result: CardResult) -> tuple[str, str]:
    """Code and message of a refusal as we keep and show them: cut to what fits, without a card number, never no code."""
    code = result.error_code or (REJECTED if result.status == REJECTED else "")
    return code[:CODE_CHARACTERS_MAX], mask_cards(result.error_message)[:MESSAGE_CHARACTERS_MAX]


def answer_of(result: CardResult) -> dict[str, Any]:
    """What a waiting saga step is given: status ("approved" or "rejected"), kind, payment_id and the rest, all text."""
    code, message = _reason(result)
    return {
        "status": result.status,
        "kind": result.kind,
        "payment_id": str(result.payment_id),
        "processor_reference": result.processor_reference,
        "error_code": code,
        "error_message": message,
    }


@transaction_required
def record_result(result: CardResult, *, now: datetime) -> None:
    """Store an answer and bring the payment forward. Safe to repeat: later answers are counted, and change nothing.

    Raises UnknownOperation.
    """
    payment = locked(result.payment_id)
    operation = operation_of(result)
    if operation.status != Status.REQUESTED:
        _count_late(operation)
        return
    approved = result.status == APPROVED
    operation.status = Status.APPROVED if approved else Status.REJECTED
    operation.processor_reference = result.processor_reference
    operation.error_code, operation.error_message = _reason(result)
    operation.answered_at = now
    operation.save()
    if not _advance(payment, operation, approved=approved, now=now):
        _count_late(operation)


def _count_late(operation: PaymentOperation) -> None:
    operation.late_answers += 1
    operation.save(update_fields=["late_answers"])
    logger.info("late answer to %s counted, nothing changed", operation.operation_key)


def _advance(payment: Payment, operation: PaymentOperation, *, approved: bool, now: datetime) -> bool:
    """The next state of the payment; False when the answer comes too late to matter."""
    if operation.kind == Kind.AUTHORISE:
        return _authorised(payment, operation, approved=approved, now=now)
    if operation.kind == Kind.VOID:
        return _voided(payment, operation, approved=approved, now=now)
    if not approved:
        return _refused(payment, operation, now=now)
    assert operation.amount is not None  # noqa: S101  # only a void has none
    payment.error_code = payment.error_message = ""  # of an earlier try, under another key
    if operation.kind == Kind.CAPTURE:
        payment.captured_amount += operation.amount
        move(payment, State.CAPTURED, now=now)
    else:
        payment.refunded_amount += operation.amount
        whole = payment.refunded_amount == payment.captured_amount
        move(payment, State.REFUNDED if whole else State.CAPTURED, now=now)
    return True


def _authorised(payment: Payment, operation: PaymentOperation, *, approved: bool, now: datetime) -> bool:
    if payment.state not in _OPEN:
        return False  # Voided meanwhile.
    if not approved:
        payment.error_code, payment.error_message = operation.error_code, operation.error_message
        move(payment, State.REJECTED, now=now)
        return True
    move(payment, State.AUTHORISED, now=now)
    undone = payment.operations.filter(kind=Kind.VOID).exists()
    if payment.captures_itself and not undone:
        capture(step_key=payment.step_key, reply_to="", payment_id=payment.pk, now=now)
    return True


def _voided(payment: Payment, operation: PaymentOperation, *, approved: bool, now: datetime) -> bool:
    if not approved:
        return _refused(payment, operation, now=now)
    if payment.state not in (*_OPEN, State.AUTHORISED):
        return payment.state == State.VOIDED  # The processor confirms what we knew, or it was rejected meanwhile.
    move(payment, State.VOIDED, now=now)
    return True


def _refused(payment: Payment, operation: PaymentOperation, *, now: datetime) -> bool:
    """A capture, void or refund was refused: the payment stays as it is, and says why."""
    payment.error_code, payment.error_message = operation.error_code, operation.error_message
    move(payment, payment.state, now=now)
    if operation.kind == Kind.CAPTURE and payment.captures_itself:
        void(step_key=payment.step_key, reply_to="", now=now)  # No saga will: give the card's limit free again.
    return True
