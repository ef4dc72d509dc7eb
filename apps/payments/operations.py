"""Verbs on payments. Every one is safe to repeat with its step key, and an undo may come before its do.

See Note [The payment's row is the lock] in models.py.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Sum

from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.common.transactions import transaction, transaction_required
from apps.payments import card_testing, rules, vault
from apps.payments.models import CardToken, Payment, PaymentOperation
from apps.payments.queries import PaymentView, UnknownPayment, view_of
from apps.payments.requests import ask, ask_again, publish_change

Kind, Status, State = PaymentOperation.Kind, PaymentOperation.Status, Payment.State

ANSWER_OVERDUE = timedelta(seconds=30)  # the processor answers in milliseconds; then the request or the answer is lost
ASKED_TIMES_MAX = 6  # after that a person looks at it: it stays UNKNOWN and visible
OVERDUE_ROWS_MAX = 100  # one batch: a short transaction


class PaymentVoided(DomainError):
    """The payment was voided: it can be neither authorised nor captured any more."""

    code = "R208"


class PaymentNotAuthorised(DomainError):
    """The payment is not authorised, so there is nothing to capture."""

    code = "R209"


class PaymentCaptured(DomainError):
    """The payment was captured already: refund it instead."""

    code = "R210"


class PaymentNotCaptured(DomainError):
    """The payment is not captured, so there is nothing to refund."""

    code = "R211"


class RefundTooLarge(DomainError):
    """The refunds would exceed what was captured."""

    code = "R212"


class StepKeyReused(DomainError):
    """The step key was used for another payment or amount."""

    code = "R213"


class PaymentRefused(DomainError):
    """The processor refused the payment."""

    code = "R215"


@transaction_required
def authorise(
    *,
    step_key: str,
    reply_to: str,
    account_id: str,
    order_ref: str,
    card_token: str,
    amount: Decimal,
    now: datetime,
    card_owner_id: str | None = None,
    captures_itself: bool = False,
) -> PaymentView:
    """Store a payment and ask the processor whether the card may pay it. The answer goes to the saga step ``reply_to``.

    Repeated, it asks again and gets the same answer. The processor decides on range, expiry and funds; its refusal is
    stored. Raises InvalidAmount, UnknownCard (also for a card of another owner, when ``card_owner_id`` is given),
    TooManyRefusals (nobody is asked, the first time), PaymentVoided (the undo came first) or StepKeyReused.
    """
    cents = rules.exact_amount(amount)
    card = vault.find(card_token, owner_id=card_owner_id)
    values = {
        **card_values(card),
        "reply_to": reply_to,
        "account_id": account_id,
        "order_ref": order_ref,
        "amount": cents,
        "currency": CURRENCY,
        "captures_itself": captures_itself,
        "created_at": now,
        "updated_at": now,
    }
    payment, created = Payment.objects.get_or_create(step_key=step_key, defaults=values)
    if created:
        card_testing.check(card, account_id=account_id, now=now)
        publish_change(payment)
        ask(payment, Kind.AUTHORISE, step_key=step_key, amount=cents, reply_to=reply_to, now=now)
    else:
        payment = locked(payment.pk)
        _authorise_again(payment, card=card, amount=cents, now=now)
    return view_of(payment, waits_for_answer=bool(reply_to))


def _authorise_again(payment: Payment, *, card: CardToken, amount: Decimal, now: datetime) -> None:
    undone = payment.operations.filter(kind=Kind.VOID, status__in=[Status.REQUESTED, Status.APPROVED]).exists()
    if payment.state == State.VOIDED or undone:
        raise PaymentVoided
    if (payment.card_id, payment.amount) != (card.pk, amount):
        raise StepKeyReused
    ask_again(payment.operations.get(kind=Kind.AUTHORISE), payment, now=now)


@transaction_required
def capture(*, step_key: str, reply_to: str, payment_id: UUID, now: datetime) -> PaymentView:
    """Ask for the whole authorised amount. The answer goes to the saga step ``reply_to``; repeated, it asks again.

    Raises UnknownPayment, PaymentVoided, PaymentNotAuthorised, PaymentCaptured (under another key) or StepKeyReused.
    """
    payment = locked(payment_id)
    known = PaymentOperation.objects.filter(step_key=step_key, kind=Kind.CAPTURE).first()
    if known is not None:
        if known.payment_id != payment.pk:
            raise StepKeyReused
        ask_again(known, payment, now=now)
    else:
        _check_capturable(payment)
        ask(payment, Kind.CAPTURE, step_key=step_key, amount=payment.amount, reply_to=reply_to, now=now)
    return view_of(payment, waits_for_answer=bool(reply_to))


def _check_capturable(payment: Payment) -> None:
    undone = payment.operations.filter(kind=Kind.VOID, status=Status.REQUESTED).exists()
    if payment.state == State.VOIDED or undone:
        raise PaymentVoided
    if payment.state in (State.CAPTURED, State.REFUNDED):
        raise PaymentCaptured
    if payment.state != State.AUTHORISED:
        raise PaymentNotAuthorised
    if payment.operations.filter(kind=Kind.CAPTURE, status=Status.REQUESTED).exists():
        raise PaymentCaptured("A capture is on its way already.")


@transaction_required
def void(*, step_key: str, reply_to: str, now: datetime, account_id: str = "", order_ref: str = "") -> PaymentView:
    """Undo the authorisation of ``step_key``, also when its outcome is unknown or it never began.

    Look at ``waits_for_answer``: True, the processor's answer will go to the saga step ``reply_to``; False, there is
    nothing to wait for. An authorisation that comes later is refused, here and by the processor, who is told in any case.
    Safe to repeat. Raises PaymentCaptured: money that was taken is refunded.
    """
    tombstone = {
        "reply_to": reply_to,  # whose it is: nobody waits for an answer to it
        "account_id": account_id,
        "order_ref": order_ref,
        "state": State.VOIDED,
        "created_at": now,
        "updated_at": now,
    }
    payment, created = Payment.objects.get_or_create(step_key=step_key, defaults=tombstone)
    if created:
        publish_change(payment)
        ask(payment, Kind.VOID, step_key=step_key, amount=None, reply_to="", now=now)
        return view_of(payment)
    payment = locked(payment.pk)
    known = payment.operations.filter(kind=Kind.VOID).first()
    if known is None:
        return _first_void(payment, reply_to=reply_to, now=now)
    settled = known.status in (Status.APPROVED, Status.NOT_NEEDED) or payment.amount is None
    if not settled:
        ask_again(known, payment, now=now)
    return view_of(payment, waits_for_answer=bool(known.reply_to) and not settled)


def _first_void(payment: Payment, *, reply_to: str, now: datetime) -> PaymentView:
    if payment.state == State.CAPTURED:
        raise PaymentCaptured
    if payment.state in (State.REJECTED, State.REFUNDED):
        PaymentOperation.objects.create(
            payment=payment,
            kind=Kind.VOID,
            step_key=payment.step_key,
            status=Status.NOT_NEEDED,
            requested_at=now,
            asked_at=now,
            answered_at=now,
        )
        return view_of(payment)
    ask(payment, Kind.VOID, step_key=payment.step_key, amount=None, reply_to=reply_to, now=now)
    return view_of(payment, waits_for_answer=bool(reply_to))


@transaction_required
def refund(
    *, step_key: str, reply_to: str, payment_id: UUID, amount: Decimal, now: datetime, reason: str = ""
) -> PaymentView:
    """Ask to give back a part or all of what was captured; several refunds may follow each other.

    Repeated, it asks again. Raises InvalidAmount, UnknownPayment, PaymentNotCaptured, RefundTooLarge or StepKeyReused.
    """
    cents = rules.exact_amount(amount)
    payment = locked(payment_id)
    known = PaymentOperation.objects.filter(step_key=step_key, kind=Kind.REFUND).first()
    if known is not None:
        if (known.payment_id, known.amount) != (payment.pk, cents):
            raise StepKeyReused
        ask_again(known, payment, now=now)
    else:
        _check_refundable(payment, cents)
        ask(payment, Kind.REFUND, step_key=step_key, amount=cents, reply_to=reply_to, now=now, reason=reason)
    return view_of(payment, waits_for_answer=bool(reply_to))


def _check_refundable(payment: Payment, amount: Decimal) -> None:
    if not payment.captured_amount:
        raise PaymentNotCaptured
    if amount > refundable(payment):
        raise RefundTooLarge(field="amount")


def refundable(payment: Payment) -> Decimal:
    """What can still be given back of a payment whose lock the caller holds."""
    # What is on its way counts too, or two refunds at once would both fit.
    promised = payment.operations.filter(kind=Kind.REFUND, status__in=[Status.REQUESTED, Status.APPROVED])
    total: Decimal = promised.aggregate(total=Sum("amount", default=Decimal(0)))["total"]
    return payment.captured_amount - total


@transaction_required
def store_rejected(
    *,
    account_id: str,
    order_ref: str,
    amount: Decimal,
    card: dict[str, Any],
    step_key: str,
    refusal: DomainError,
    now: datetime,
) -> PaymentView:
    """Store a payment that our own rules refuse, with the reason; nobody is asked, everybody is told."""
    payment = Payment.objects.create(
        step_key=step_key,
        account_id=account_id,
        order_ref=order_ref,
        amount=amount,
        currency=CURRENCY,
        state=State.REJECTED,
        error_code=refusal.code,
        error_message=refusal.detail,
        created_at=now,
        updated_at=now,
        **card,
    )
    publish_change(payment)
    return view_of(payment)


@transaction
def ask_overdue(*, now: datetime) -> int:
    """Ask again about merchants' own payments whose answer is overdue (a saga's step asks for itself).

    At most OVERDUE_ROWS_MAX operations, each at most ASKED_TIMES_MAX times in all. Gives how many were asked.
    """
    overdue = PaymentOperation.objects.filter(
        status=Status.REQUESTED, reply_to="", asked_at__lt=now - ANSWER_OVERDUE, times_asked__lt=ASKED_TIMES_MAX
    )
    asked = 0
    for found in overdue.order_by("asked_at")[:OVERDUE_ROWS_MAX]:
        payment = locked(found.payment_id)
        # Its answer, or another of us, may have come while we waited for the lock.
        operation = overdue.filter(pk=found.pk).first()
        if operation is not None:
            ask_again(operation, payment, now=now)
            asked += 1
    return asked


def card_values(card: CardToken) -> dict[str, Any]:
    """What a payment keeps of its card."""
    return {
        "card": card,
        "card_fingerprint": bytes(card.fingerprint),
        "card_bin": card.bin6,
        "card_last4": card.last4,
        "card_brand": card.brand,
    }


def locked(payment_id: UUID) -> Payment:
    """The payment's row, locked until the commit. Raises UnknownPayment."""
    payment = Payment.objects.select_for_update().filter(pk=payment_id).first()
    if payment is None:
        raise UnknownPayment
    return payment
