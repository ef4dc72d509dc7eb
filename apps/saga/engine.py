"""The engine: do a step, undo a step. The run's row decides; whoever wakes the engine only gives a hint.

Note [One owner]
Local work is fenced by the row lock: a second owner finds the row locked and leaves. A call holds no lock while it
talks, so it takes a token under the lock first, and only the holder of the token may record an outcome. When the
token's time is over, another owner takes a new one and asks "did it happen?" before it repeats.

Note [Optimistic segment]
Consecutive local steps run in one transaction under one savepoint. A refusal rolls the savepoint back: nothing was
visible, so nothing is compensated. A technical error rolls back too, then the steps that worked are done again and
kept, and the failing one is put off. A segment ends at the pivot, because what follows it must not take it back.
"""

import logging
import time
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection
from django.db import transaction as django_transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.errors import DomainError, UnknownOutcome
from apps.common.transactions import durable, transaction, transaction_required
from apps.saga import calls, chains
from apps.saga.definition import PIVOT, RETRIABLE, AskStep, CallStep, Definition, LocalStep
from apps.saga.models import LIVE, AttemptOutcome, RunStatus, StepStatus
from apps.saga.models import Run as RunRow
from apps.saga.session import GRACE, Session, backoff, outcome_of

logger = logging.getLogger(__name__)


class Progress(Enum):
    """What one unit of work came to."""

    MOVED = "moved"  # there is more to do, and nothing to wait for
    PARKED = "parked"  # waits for an answer, a later attempt, or another owner
    UNDOING = "undoing"  # turned around: the undo has to run
    OVER = "over"  # completed, compensated or stuck


class InvalidDefinition(RuntimeError):
    """A definition that ``manage.py check`` refuses was started: a bug."""


class NoAnswer(UnknownOutcome):
    """No answer came within the step's deadline."""


class Resumed(Enum):
    """What became of an answer."""

    ACCEPTED = "accepted"
    LATE = "late"  # nobody waits for it any more: counted, and nothing else
    UNKNOWN = "unknown"  # no run asked for it


@transaction_required
def start(
    definition: Definition,
    *,
    subject_id: UUID,
    business_key: str,
    data: dict[str, Any],
    now: datetime,
    run_inline_for_ms: int = 0,
    global_id: UUID | None = None,
) -> UUID:
    """Begin a run in the caller's commit, do what can be done now, and hand the rest to workers after the commit.

    ``run_inline_for_ms``: the time that local steps may take here; the first one that must wait ends it earlier.
    A refusal in this head rolls its effects back and ends the run in the same commit: see the run's status.
    """
    if problems := definition.problems():
        raise InvalidDefinition(f"{definition.use_case}: {problems[0]}")
    run_id = uuid7()
    run = RunRow(
        id=run_id,
        global_id=global_id or run_id,
        use_case=definition.use_case,
        version=definition.version,
        subject_id=subject_id,
        business_key=business_key,
        status=RunStatus.RUNNING,
        data=data,
        due_at=now + GRACE,
        started_at=now,
    )
    session = Session.create(definition, run, now=now)
    if run_inline_for_ms > 0:
        with session.ids():
            _segments(session, until=time.monotonic() + run_inline_for_ms / 1000)
    session.flush()
    _wake(session)
    return run_id


@durable
def advance(run_id: UUID, *, undo: bool = False, now: datetime | None = None) -> Progress:
    """Do the next unit of work of a run: its due local steps, or one call; with ``undo``, one undo. Safe to repeat."""
    found = _work(run_id, undo=undo, now=now or timezone.now())
    if not isinstance(found, calls.Claim):
        return found
    outcome = calls.talk(found)
    return _settle(found, outcome, now=timezone.now())


def is_past(run_id: UUID, position: int) -> bool:
    """Has the run gone beyond this step? Read without a lock: a hint about a hint."""
    run = RunRow.objects.filter(pk=run_id).values_list("status", "cursor").first()
    return run is not None and run[0] in (RunStatus.RUNNING, RunStatus.WAITING) and run[1] > position


@transaction_required
def resume(*, step_key: str, answer: dict[str, Any], now: datetime) -> Resumed:
    """Give a parked step its answer, in the caller's commit. Late and foreign answers change nothing."""
    run_id, position, undo = _parse_key(step_key)
    session = Session.lock(run_id, now=now, wait=True) if run_id else None
    if session is None:
        return Resumed.UNKNOWN
    if not _expects(session, position, undo=undo):
        session.run.late_answers += 1
        session.flush()
        logger.warning("late answer for %s refused: nobody waits", step_key)
        return Resumed.LATE
    with session.ids():
        _take_answer(session, answer, undo=undo)
    session.flush()
    _wake(session)
    return Resumed.ACCEPTED


def _expects(session: Session, position: int, *, undo: bool) -> bool:
    if session.position != position or session.at_end:
        return False
    if undo:
        return session.run.status == RunStatus.COMPENSATING and session.row.status == StepStatus.UNDOING
    # UNKNOWN: the deadline passed and it will be asked again; the answer to the first question is as good.
    asked = session.row.status in (StepStatus.WAITING, StepStatus.UNKNOWN)
    return asked and session.run.status in (RunStatus.RUNNING, RunStatus.WAITING)


def _parse_key(step_key: str) -> tuple[UUID | None, int, bool]:
    run_text, _, rest = step_key.partition(":")
    position, _, undo = rest.partition(":")
    try:
        return UUID(run_text), int(position), undo == "undo"
    except ValueError:
        return None, 0, False


def _take_answer(session: Session, answer: dict[str, Any], *, undo: bool) -> None:
    step = session.step
    assert isinstance(step, AskStep)  # noqa: S101  # only an ask waits
    try:
        with django_transaction.atomic():
            output = None
            if undo:
                step.on_undo_answer(session.view(undo=True), answer)
            else:
                output = step.on_answer(session.view(), answer)
    except DomainError as refusal:
        (_undo_failed if undo else _failed)(session, refusal)
        return
    session.end_attempt(AttemptOutcome.ANSWERED, undo=undo)
    if undo:
        session.undone()
    else:
        session.done(output)


def _wake(session: Session) -> None:
    """Send the wake-up after the commit. Losing it loses nothing: the sweeper looks at due_at."""
    run = session.run
    if run.status == RunStatus.RUNNING and session.row.retry_at is None:
        chains.wake_after_commit(run.id, session.position, len(session.steps))
    elif run.status == RunStatus.COMPENSATING:
        chains.undo_after_commit(run.id)


# --- One unit of work -----------------------------------------------------------------------------------------------
@transaction
def _work(run_id: UUID, *, undo: bool, now: datetime) -> Progress | calls.Claim:
    session = Session.lock(run_id, now=now)
    if session is None:
        return Progress.PARKED  # another owner has the row, and whatever it leaves will be due again
    with session.ids():
        found = _next(session, undo=undo)
    session.flush()
    return found


def _next(session: Session, *, undo: bool) -> Progress | calls.Claim:
    run = session.run
    if run.status not in LIVE:
        return Progress.OVER
    undoing = run.status == RunStatus.COMPENSATING
    if undoing != undo:  # a wake-up of the other direction: say which one it is
        return Progress.UNDOING if undoing else Progress.MOVED
    if run.token is not None and run.lease_until is not None and run.lease_until > session.now:
        return Progress.PARKED  # an owner is talking to the network, and its time is not over
    if session.row.retry_at is not None and session.row.retry_at > session.now:
        return Progress.PARKED
    if session.row.waiting_until is not None:
        if session.row.waiting_until > session.now:
            return Progress.PARKED
        _no_answer(session)
        return _progress(session)
    return _undo(session) if undoing else _do(session)


def _progress(session: Session) -> Progress:
    status = session.run.status
    if status == RunStatus.COMPENSATING:
        return Progress.UNDOING
    if status == RunStatus.WAITING or (status == RunStatus.RUNNING and session.row.retry_at is not None):
        return Progress.PARKED
    return Progress.MOVED if status == RunStatus.RUNNING else Progress.OVER


def _do(session: Session) -> Progress | calls.Claim:
    if isinstance(session.step, CallStep):
        return _claim(session, undo=False) or _progress(session)
    _segments(session, until=None)
    return _progress(session)


def _segments(session: Session, *, until: float | None) -> None:
    """Do local steps, and the ask that ends them, up to the pivot or the next call."""
    first = session.position
    try:
        with django_transaction.atomic():
            _do_local(session, until=until, before=len(session.steps))
        return
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        failure: Exception = error
    except Exception as error:
        failure = error
    failing = session.position
    if isinstance(failure, DomainError) and session.step.kind is not RETRIABLE:
        session.roll_back(first, failing)
        _failed(session, failure)
        return
    session.forget(first, failing)
    if failing > first:
        with django_transaction.atomic():
            _do_local(session, until=None, before=failing)
    session.begin_attempt()
    _failed(session, failure)


def _do_local(session: Session, *, until: float | None, before: int) -> None:
    while session.position < before:
        step = session.step
        if isinstance(step, CallStep) or (until is not None and time.monotonic() >= until):
            return
        session.begin_attempt()
        if isinstance(step, AskStep):
            step.ask(session.view())
            session.end_attempt(AttemptOutcome.ASKED)
            session.wait(session.now + step.answer_within)
            return
        assert isinstance(step, LocalStep)  # noqa: S101  # the third shape
        output = step.handle(session.view())
        session.end_attempt(AttemptOutcome.DONE)
        session.done(output)
        if step.kind is PIVOT:
            return


# --- What may go wrong forward --------------------------------------------------------------------------------------
def _failed(session: Session, error: Exception, *, prepared: bool = False) -> None:
    """The current step was refused, failed or is in doubt: try again, turn around, or call a person.

    ``prepared``: a call's preparation is committed, so the undo includes this step even if the other side refused it.
    """
    step, row = session.step, session.row
    unknown = isinstance(error, UnknownOutcome)
    refused = isinstance(error, DomainError) and not (step.kind is RETRIABLE and error.retryable)
    session.end_attempt(AttemptOutcome.NO_ANSWER if isinstance(error, NoAnswer) else outcome_of(error), error=error)
    session.fail(error, status=StepStatus.UNKNOWN if unknown else StepStatus.FAILED)
    if not refused and not session.exhausted():
        session.run.status = RunStatus.RUNNING
        session.retry_after(backoff(step, row.attempts))
        return
    # After the pivot there is no way back; and of a pivot in doubt nobody knows on which side of it the run is.
    if step.kind is RETRIABLE or (step.kind is PIVOT and unknown):
        session.stick(error)
        return
    session.blame(error)
    session.begin_undo(include_current=unknown or prepared)


def _no_answer(session: Session) -> None:
    """The deadline of an ask is over: ask again, or give up and treat the outcome as unknown."""
    undo = session.run.status == RunStatus.COMPENSATING
    if undo:
        session.end_attempt(AttemptOutcome.NO_ANSWER, undo=True)
        session.touch().waiting_until = None
        _undo_failed(session, NoAnswer(f"no answer to the undo of {session.step.name}"), ended=True)
    else:
        _failed(session, NoAnswer(f"no answer to {session.step.name} in time"))


# --- Back -----------------------------------------------------------------------------------------------------------
def _undo(session: Session) -> Progress | calls.Claim:
    """Undo the current step: one commit each, in strict reverse order."""
    step = session.step
    if isinstance(step, CallStep):
        return _claim(session, undo=True) or _progress(session)
    session.begin_attempt(undo=True)
    try:
        with django_transaction.atomic():
            waits = _undo_local(session)
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        _undo_failed(session, error)
        return _undo_progress(session)
    except Exception as error:
        _undo_failed(session, error)
        return _undo_progress(session)
    if waits and isinstance(step, AskStep):
        row = session.touch()
        row.status, row.waiting_until = StepStatus.UNDOING, session.now + step.answer_within
        session.run.due_at = row.waiting_until
        session.end_attempt(AttemptOutcome.ASKED, undo=True)
        return Progress.PARKED
    session.end_attempt(AttemptOutcome.DONE, undo=True)
    session.undone()
    return _undo_progress(session)


def _undo_local(session: Session) -> bool:
    step, view = session.step, session.view(undo=True)
    if isinstance(step, AskStep):
        return step.ask_undo(view)
    assert isinstance(step, LocalStep)  # noqa: S101  # calls were taken before
    step.compensate(view)
    return False


def _undo_progress(session: Session) -> Progress:
    if session.run.status != RunStatus.COMPENSATING:
        return Progress.OVER
    return Progress.PARKED if session.row.retry_at is not None else Progress.UNDOING


def _undo_failed(session: Session, error: Exception, *, ended: bool = False) -> None:
    """An undo did not succeed: try again for long, then call a person."""
    step, row = session.step, session.touch()
    if not ended:
        session.end_attempt(outcome_of(error), undo=True, error=error)
    row.status, row.waiting_until = StepStatus.UNDOING, None
    hopeless = isinstance(error, DomainError) and not error.retryable
    if hopeless or session.exhausted(undo=True):
        row.error_code, row.error_detail = type(error).__name__[:50], str(error)[:2000]
        session.stick(error)
        return
    session.retry_after(backoff(step, row.undo_attempts))


# --- Calls: a token under the lock, the network without it, the outcome under the lock again ---------------------------
def _claim(session: Session, *, undo: bool) -> calls.Claim | None:
    """Take the token for a call. None when preparing settled it, one way or the other."""
    step = session.step
    assert isinstance(step, CallStep)  # noqa: S101  # the caller looked
    if session.run.token is not None and _give_up_abandoned(session, undo=undo):
        return None
    session.begin_attempt(undo=undo)
    needed = True
    try:
        with django_transaction.atomic():
            if undo:
                needed = step.undo_prepare(session.view(undo=True))
            else:
                step.prepare(session.view())
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        if undo:
            _undo_failed(session, error)
        else:
            _failed(session, error, prepared=session.row.attempts > 1)
        return None
    if not needed:
        session.end_attempt(AttemptOutcome.DONE, undo=True)
        session.undone()
        return None
    token = uuid7()
    session.touch().status = StepStatus.UNDOING if undo else StepStatus.RUNNING
    session.own(token, session.now + step.lease)
    return calls.Claim(step=step, run=session.view(undo=undo), token=token, undo=undo)


def _give_up_abandoned(session: Session, *, undo: bool) -> bool:
    """The owner died or stalled, so its attempt's outcome is unknown. True when that was the last attempt."""
    session.end_attempt(AttemptOutcome.UNKNOWN, undo=undo)
    if session.exhausted(undo=undo):
        error = UnknownOutcome(f"{session.step.name}: its owner did not come back")
        (_undo_failed if undo else _failed)(session, error)
        return True
    return False


@transaction
def _settle(claim: calls.Claim, outcome: calls.Outcome, *, now: datetime) -> Progress:
    session = Session.lock(claim.run.id, now=now, wait=True)
    if session is None:
        return Progress.OVER
    if session.run.token != claim.token:
        # The lease was over and another owner has taken the step: a stale owner changes nothing.
        session.run.stale_outcomes += 1
        session.flush()
        return Progress.PARKED
    with session.ids():
        _record(session, claim, outcome)
        session.flush()
    return _undo_progress(session) if claim.undo else _progress(session)


def _record(session: Session, claim: calls.Claim, outcome: calls.Outcome) -> None:
    if isinstance(outcome, Exception):
        _call_failed(session, claim, outcome)
        return
    output = None
    try:
        with django_transaction.atomic():
            if claim.undo:
                claim.step.undo_record(session.view(undo=True), outcome)
            else:
                output = claim.step.record(session.view(), outcome)
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        _call_failed(session, claim, error)
        return
    session.end_attempt(AttemptOutcome.DONE, undo=claim.undo)
    if claim.undo:
        session.undone()
    else:
        session.done(output)


def _call_failed(session: Session, claim: calls.Claim, error: Exception) -> None:
    if claim.undo:
        _undo_failed(session, error)
    else:
        _failed(session, error, prepared=True)
