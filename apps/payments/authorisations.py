"""A merchant's own payment that was only authorised: captured or voided as the merchant says, or voided in time."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.payments import operations
from apps.payments.merchants import Answer, once
from apps.payments.models import Payment, PaymentOperation
from apps.payments.queries import PaymentView, UnknownPayment, view_of

# A bank keeps an amount for about so long; what is captured later it may refuse, and until then the customer misses it.
AUTHORISED_FOR = timedelta(days=7)
STALE_ROWS_MAX = 100  # one batch: a short transaction
# Of one payment: a program that goes on asking a bank that refuses comes to an end, and a page shows all that was asked.
CAPTURES_MAX = 20
Kind, Status, State = PaymentOperation.Kind, PaymentOperation.Status, Payment.State


class PaymentOfOrder(DomainError):
    """The payment belongs to an order, whose journey alone moves its money."""

    code = "R218"


class TooManyCaptures(DomainError):
    """So many captures of this payment were refused that it takes no more."""

    code = "R220"


def mine(payment_id: UUID, *, account_id: str) -> Payment:
    """An account's payment. Raises UnknownPayment, also for another's."""
    payment = Payment.objects.filter(pk=payment_id, account_id=account_id).first()
    if payment is None:
        raise UnknownPayment
    return payment


@transaction_required
def locked_own(payment_id: UUID, *, account_id: str, instead: str) -> Payment:
    """An account's own payment, locked until the commit. Raises UnknownPayment; PaymentOfOrder, which says what instead."""
    found = mine(payment_id, account_id=account_id)
    if found.reply_to:  # a saga asked for it: behind its back nothing is taken, given free or given back
        raise PaymentOfOrder(f"The payment belongs to an order: {instead.format(found.order_ref)}")
    return operations.locked(payment_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a merchant asks for: ``kind`` is "capture" or "void"."""

    account_id: str
    payment_id: UUID
    kind: str
    idempotency_key: str | None
    body: Any = field(repr=False)  # as it came, for the fingerprint of the Idempotency-Key


@transaction
def decide(command: Decision, *, now: datetime) -> Answer:
    """Ask the processor to take the authorised amount, or to give it free: 202, and the payment tells what became of it.

    With an Idempotency-Key safe to repeat; a void is without one, too. Raises UnknownPayment (another's, too),
    PaymentOfOrder, PaymentVoided, PaymentNotAuthorised, PaymentCaptured, TooManyCaptures, and what idempotency.begin
    raises.
    """
    return once(
        lambda: _answer(_decide(command, now=now)),
        account_id=command.account_id,
        key=command.idempotency_key,
        route=f"POST /payments/{command.payment_id}/{command.kind}",
        body=command.body,
        now=now,
    )


def _answer(view: PaymentView) -> Answer:
    return Answer(status=202, body=view.to_json(), headers={"Location": f"/payments/{view.id}"})


def _decide(command: Decision, *, now: datetime) -> PaymentView:
    instead = "it is captured, or voided, with the order {}."
    payment = locked_own(command.payment_id, account_id=command.account_id, instead=instead)
    if command.kind == Kind.CAPTURE:
        if payment.operations.filter(kind=Kind.CAPTURE, status=Status.REJECTED).count() >= CAPTURES_MAX:
            raise TooManyCaptures(f"{CAPTURES_MAX} captures of this payment were refused: it takes no more.")
        return operations.capture(step_key=f"merchant:{uuid7()}", reply_to="", payment_id=payment.pk, now=now)
    return _void(payment, now=now)


def _void(payment: Payment, *, now: datetime) -> PaymentView:
    if payment.captured_amount:
        raise operations.PaymentCaptured
    asked = payment.operations.filter(kind=Kind.VOID).first()
    # Its answer may still come: who asks again at once does not wake the processor each time. And what it refused it would
    # refuse again: the payment says why.
    if asked is not None and (asked.status != Status.REQUESTED or asked.asked_at > now - operations.ANSWER_OVERDUE):
        return view_of(payment)
    if payment.operations.filter(kind=Kind.CAPTURE, status=Status.REQUESTED).exists():
        raise operations.PaymentCaptured("A capture is on its way already.")
    return operations.void(step_key=payment.step_key, reply_to="", now=now)


@transaction
def void_stale(*, now: datetime) -> int:
    """Void merchants' authorisations that nobody captured in AUTHORISED_FOR, at most STALE_ROWS_MAX. Gives how many.

    Not where a capture or a void is on its way, or where a void was refused: that one is for a person.
    """
    stale = Payment.objects.filter(
        state=State.AUTHORISED, captures_itself=False, reply_to="", created_at__lt=now - AUTHORISED_FOR
    ).exclude(Q(operations__status=Status.REQUESTED) | Q(operations__kind=Kind.VOID))
    voided = 0
    for found in stale.order_by("created_at")[:STALE_ROWS_MAX]:
        payment = operations.locked(found.pk)
        # Its merchant may have decided while we waited for the lock.
        if stale.filter(pk=found.pk).exists():
            _void(payment, now=now)
            voided += 1
    return voided
