"""The processor's verbs: decide once, store, and publish the answer as often as it is asked for.

The request's ``operation_key`` makes it safe to repeat: a caller whose answer was lost asks again and gets the same one.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from apps.common.clock import business_date, uuid7
from apps.common.transactions import transaction_required
from apps.messaging.contracts.payments import (
    AuthoriseRequested,
    CaptureRequested,
    CardResult,
    RefundRequested,
    VoidRequested,
)
from apps.messaging.public import publish
from apps.payments.processor import rules
from apps.payments.processor.models import ProcessorOperation, ProcessorTransaction
from apps.payments.processor.sandbox import Fault, behaviour

Request = AuthoriseRequested | CaptureRequested | VoidRequested | RefundRequested


@transaction_required
def authorise(request: AuthoriseRequested, *, reply_to: str, now: datetime) -> None:
    """Decide on a card payment, store the transaction approved or rejected, and publish the answer."""
    decision = rules.authorise(
        amount=request.amount,
        currency=request.currency,
        card_bin=request.card_bin,
        card_last4=request.card_last4,
        exp_month=request.card_exp_month,
        exp_year=request.card_exp_year,
        today=business_date(now),
    )
    row, created = ProcessorTransaction.objects.get_or_create(
        payment_id=request.payment_id, defaults={**_values(request), **_outcome(decision), "created_at": now}
    )
    if not created:
        row = _locked(row)
        if _answered_before(request, row):
            return
        decision = _second_authorisation(row, request)
    _answer(_stored(request, "authorise", row, decision, amount=request.amount, reply_to=reply_to, now=now), row)


def _second_authorisation(row: ProcessorTransaction, request: AuthoriseRequested) -> rules.Decision:
    """The payment is known under another key: the void came first, or somebody asks for a second payment under its id."""
    if row.status:
        return rules.no("duplicate_payment", "The payment was decided under another key.")
    for name, value in {**_values(request), **_outcome(rules.VOIDED)}.items():
        setattr(row, name, value)
    row.save()
    return rules.VOIDED


@transaction_required
def capture(request: CaptureRequested, *, reply_to: str, now: datetime) -> None:
    """Take an authorised amount, and publish the answer."""
    row = _transaction_of(request, now=now)
    if _answered_before(request, row):
        return
    decision = rules.capture(
        status=row.status,
        voided=row.voided_at is not None,
        authorised=row.amount or Decimal(0),
        captured=row.captured_amount,
        amount=request.amount,
        card_bin=row.card_bin,
        card_last4=row.card_last4,
    )
    if decision == rules.YES:
        row.captured_amount = request.amount
        row.save(update_fields=["captured_amount"])
    _answer(_stored(request, "capture", row, decision, amount=request.amount, reply_to=reply_to, now=now), row)


@transaction_required
def void(request: VoidRequested, *, reply_to: str, now: datetime) -> None:
    """Give an authorisation free; unknown, it is refused from now on. Publishes the answer."""
    row = _transaction_of(request, now=now)
    if _answered_before(request, row):
        return
    decision = rules.void(captured=row.captured_amount)
    if decision == rules.YES and row.voided_at is None:
        row.voided_at = now
        row.save(update_fields=["voided_at"])
    _answer(_stored(request, "void", row, decision, amount=None, reply_to=reply_to, now=now), row)
    if behaviour(row.card_bin, row.card_last4).fault is Fault.ANSWERED_AFTER_VOID:
        _publish_late_answer(row)


@transaction_required
def refund(request: RefundRequested, *, reply_to: str, now: datetime) -> None:
    """Give back captured money, and publish the answer."""
    row = _transaction_of(request, now=now)
    if _answered_before(request, row):
        return
    decision = rules.refund(
        captured=row.captured_amount,
        refunded=row.refunded_amount,
        amount=request.amount,
        card_bin=row.card_bin,
        card_last4=row.card_last4,
    )
    if decision == rules.YES:
        row.refunded_amount += request.amount
        row.save(update_fields=["refunded_amount"])
    _answer(_stored(request, "refund", row, decision, amount=request.amount, reply_to=reply_to, now=now), row)


def _values(request: AuthoriseRequested) -> dict[str, Any]:
    return {
        "amount": request.amount,
        "currency": request.currency,
        "card_bin": request.card_bin,
        "card_last4": request.card_last4,
        "card_brand": request.card_brand,
    }


def _outcome(decision: rules.Decision) -> dict[str, str]:
    return {
        "status": decision.status,
        "error_code": decision.error_code,
        "error_message": decision.error_message,
    }


def _locked(row: ProcessorTransaction) -> ProcessorTransaction:
    return ProcessorTransaction.objects.select_for_update().get(pk=row.pk)


def _transaction_of(request: CaptureRequested | VoidRequested | RefundRequested, *, now: datetime) -> ProcessorTransaction:
    """The transaction, locked. One that nobody asked for yet begins void: a late authorisation finds it and is refused."""
    row, _ = ProcessorTransaction.objects.get_or_create(
        payment_id=request.payment_id, defaults={"voided_at": now, "created_at": now}
    )
    return _locked(row)


def _answered_before(request: Request, row: ProcessorTransaction) -> bool:
    """Answer a request that was decided before, with the same answer."""
    known = ProcessorOperation.objects.filter(operation_key=request.operation_key, transaction=row).first()
    if known is None:
        return False
    known.times_asked += 1
    known.save(update_fields=["times_asked"])
    _answer(known, row)
    return True


def _stored(
    request: Request,
    kind: str,
    row: ProcessorTransaction,
    decision: rules.Decision,
    *,
    amount: Decimal | None,
    reply_to: str,
    now: datetime,
) -> ProcessorOperation:
    return ProcessorOperation.objects.create(
        transaction=row,
        operation_key=request.operation_key,
        kind=kind,
        amount=amount,
        reference=f"psr_{uuid7().hex}",
        reply_to=reply_to,
        answered_at=now,
        **_outcome(decision),
    )


def _answer(operation: ProcessorOperation, row: ProcessorTransaction) -> None:
    """Publish the answer; a sandbox card may lose, double or withhold the one to its authorisation or its refund."""
    card = behaviour(row.card_bin, row.card_last4)
    fault = card.fault if operation.kind == card.fault_of else Fault.NONE
    silent = fault is Fault.FIRST_ANSWER_LOST and operation.times_asked == 1
    if silent or (fault is Fault.ANSWERED_AFTER_VOID and row.voided_at is None):
        return
    for _ in range(2 if fault is Fault.ANSWERED_TWICE else 1):
        _publish(operation)


def _publish_late_answer(row: ProcessorTransaction) -> None:
    late = ProcessorOperation.objects.filter(transaction=row, kind="authorise", times_answered=0).first()
    if late is not None:
        _publish(late)


def _publish(operation: ProcessorOperation) -> None:
    operation.times_answered += 1
    operation.save(update_fields=["times_answered"])
    result = CardResult(
        operation_key=operation.operation_key,
        payment_id=operation.transaction.payment_id,
        kind=operation.kind,
        status=operation.status,
        processor_reference=operation.reference,
        answered_at=operation.answered_at,
        amount=operation.amount,
        error_code=operation.error_code,
        error_message=operation.error_message,
    )
    publish(result, key=str(operation.transaction.payment_id), reply_to=operation.reply_to)
