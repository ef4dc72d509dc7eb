"""Reversals by hand: above LEDGER_FOUR_EYES one person asks and another one agrees.

Note [Four eyes]
    The reversal is posted in the commit that notes the second person's yes, so there is no request that was agreed to and
    not posted, and none that was posted twice. Whoever agrees, withdraws or lets it expire holds the request's row, which
    is locked before the ledger's fences (Note [Fences] in rows.py); nobody who holds those asks for it. What the ledger
    refuses (the money was spent) leaves the request waiting. Machines do not ask: a saga that undoes its posting has its
    reasons in its own steps, and calls ``reverse``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError
from django.db import transaction as django_transaction
from django.db.models import QuerySet

from apps.common.arrays import array_text
from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction_required
from apps.ledger.by_hand_models import ReversalRequest
from apps.ledger.keys import posted_lines, reversal_of
from apps.ledger.lines import EntryView
from apps.ledger.months_behind import archived_entries
from apps.ledger.postings import AlreadyReversed, ReverseResult, reverse
from apps.ledger.queries import TransactionLine
from apps.ledger.rows import fetch
from apps.ledger.rules import PostedLine

AGREE_WITHIN = timedelta(hours=24)  # after a day the reason is another one, and whoever asked has gone home
WAITING_MAX = 100  # on one page
_REVERSED = "SELECT reverses FROM ledger_posting_key WHERE reverses = ANY(%s::uuid[])"


class SecondPersonNeeded(DomainError):
    """A reversal of this amount waits for a second person: ask for it."""

    code = "R143"


class ReversalAsked(DomainError):
    """Somebody has asked for this reversal already: it waits for a second person."""

    code = "R144"


class ReversalNotWaiting(DomainError):
    """The reversal does not wait for this any more."""

    code = "R145"


class SameHands(DomainError):
    """Whoever asked for a reversal does not agree to it: a second person must."""

    code = "R146"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingReversal:
    """A reversal that waits for a second person. ``amount`` is the entry's larger side, in one of its currencies."""

    id: UUID
    tracekey: UUID
    amount: Decimal
    currency: str
    reason: str
    asked_by: str
    asked_at: datetime
    until: datetime


class Asked(NamedTuple):
    """A request to a second person. ``is_repeat``: it waited already."""

    id: UUID
    is_repeat: bool


def needs_second_person(entry: EntryView) -> bool:
    """Is the entry's amount above LEDGER_FOUR_EYES?"""
    return _is_above(_amount_of(entry.lines)[0])


def _is_above(amount: Decimal) -> bool:
    return settings.LEDGER_FOUR_EYES is not None and amount > settings.LEDGER_FOUR_EYES


def _amount_of(lines: Iterable[PostedLine | TransactionLine]) -> tuple[Decimal, str]:
    """The largest sum of one side in one currency."""
    sums: dict[tuple[str, str], Decimal] = {}
    for line in lines:
        side = (line.account.currency, line.debitcredit)
        sums[side] = sums.get(side, Decimal(0)) + line.amount
    amount, currency = max((amount, currency) for (currency, _), amount in sums.items())
    return amount, currency


def _lines_of(tracekey: UUID) -> list[PostedLine]:
    """Raises NotFound, MonthArchived."""
    if lines := posted_lines([tracekey]).get(tracekey):
        return lines
    raise archived_entries([tracekey]).get(tracekey) or NotFound("Nothing was posted under this trace key.")


@transaction_required
def reverse_by_hand(*, tracekey: UUID, reversal_tracekey: UUID, now: datetime) -> ReverseResult:
    """As ``reverse``, for one person alone, of an entry that there is.

    Raises SecondPersonNeeded, NotFound, MonthArchived and the refusals of ``reverse``.
    """
    if _is_above(_amount_of(_lines_of(tracekey))[0]):
        raise SecondPersonNeeded
    return reverse(tracekey=tracekey, reversal_tracekey=reversal_tracekey, now=now)


@transaction_required
def ask_reversal(*, tracekey: UUID, reversal_tracekey: UUID, reason: str, by: str, now: datetime) -> Asked:
    """Ask a second person for a reversal; nothing is posted yet.

    Safe to repeat by the same person with the same words, while it waits: a form may be sent twice. Raises ReversalAsked
    while another request waits, AlreadyReversed, NotFound, MonthArchived.
    """
    amount, currency = _amount_of(_lines_of(tracekey))
    if (other := reversal_of(tracekey)) is not None:
        raise AlreadyReversed(f"It was reversed by {other}.", field="reversal_tracekey")
    _waiting(tracekey).filter(asked_at__lt=now - AGREE_WITHIN).update(state=ReversalRequest.State.EXPIRED, decided_at=now)
    try:
        with django_transaction.atomic():
            made = ReversalRequest.objects.create(
                tracekey=tracekey,
                reversal_tracekey=reversal_tracekey,
                amount=amount,
                currency=currency,
                reason=reason,
                asked_by=by,
                asked_at=now,
            )
    except IntegrityError:
        same = _waiting(tracekey).filter(reversal_tracekey=reversal_tracekey, reason=reason, asked_by=by).first()
        if same is None:
            raise ReversalAsked from None
        return Asked(same.id, True)
    return Asked(made.id, False)


@transaction_required
def agree_to_reversal(request_id: UUID, *, tracekey: UUID, by: str, now: datetime) -> ReverseResult:
    """The second person's yes: the reversal of this entry is posted, dated today. See Note [Four eyes].

    Raises NotFound, ReversalNotWaiting, SameHands and the refusals of ``reverse``: then the request still waits.
    """
    row = _locked(request_id, tracekey, now=now)
    if row.asked_by == by:
        raise SameHands
    _decide(row, ReversalRequest.State.POSTED, by=by, now=now)
    return reverse(tracekey=row.tracekey, reversal_tracekey=row.reversal_tracekey, now=now)


@transaction_required
def withdraw_reversal(request_id: UUID, *, tracekey: UUID, reason: str, by: str, now: datetime) -> None:
    """No: nothing is posted. By whoever asked, or by the second person.

    Raises NotFound, ReversalNotWaiting.
    """
    row = _locked(request_id, tracekey, now=now)
    row.answer = reason
    _decide(row, ReversalRequest.State.WITHDRAWN, by=by, now=now)


def _locked(request_id: UUID, tracekey: UUID, *, now: datetime) -> ReversalRequest:
    row = ReversalRequest.objects.select_for_update().filter(pk=request_id, tracekey=tracekey).first()
    if row is None:
        raise NotFound("Nobody asked for such a reversal.")
    if row.state != ReversalRequest.State.WAITING:
        raise ReversalNotWaiting(f"It is {row.get_state_display().lower()}.")
    if now - row.asked_at > AGREE_WITHIN:
        raise ReversalNotWaiting("It was asked for too long ago: ask again.")
    return row


def _decide(row: ReversalRequest, state: ReversalRequest.State, *, by: str, now: datetime) -> None:
    row.state, row.decided_by, row.decided_at = state, by, now
    row.save(update_fields=["state", "decided_by", "decided_at", "answer"])


def waiting_reversal(tracekey: UUID, *, now: datetime) -> WaitingReversal | None:
    """The request that waits for a second person to take this entry back."""
    row = _waiting(tracekey).filter(asked_at__gte=now - AGREE_WITHIN).first()
    return _view(row) if row else None


def waiting_reversals(*, now: datetime, limit: int = WAITING_MAX) -> list[WaitingReversal]:
    """The requests that wait, the oldest first: these expire next. Not those whose entry was taken back otherwise."""
    rows = ReversalRequest.objects.filter(state=ReversalRequest.State.WAITING, asked_at__gte=now - AGREE_WITHIN)
    found = list(rows.order_by("asked_at", "id")[: max(1, min(limit, WAITING_MAX))])
    done = {reversed_one for (reversed_one,) in fetch(_REVERSED, [array_text([row.tracekey for row in found])])}
    return [_view(row) for row in found if row.tracekey not in done]


def _waiting(tracekey: UUID) -> QuerySet[ReversalRequest]:
    return ReversalRequest.objects.filter(tracekey=tracekey, state=ReversalRequest.State.WAITING)


def _view(row: ReversalRequest) -> WaitingReversal:
    return WaitingReversal(
        id=row.id,
        tracekey=row.tracekey,
        amount=row.amount,
        currency=row.currency,
        reason=row.reason,
        asked_by=row.asked_by,
        asked_at=row.asked_at,
        until=row.asked_at + AGREE_WITHIN,
    )
