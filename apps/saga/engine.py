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

from apps.common import clock
from apps.common.errors import DomainError
from apps.common.transactions import durable, kept_savepoint, transaction, transaction_required
from apps.saga import answers, chains, circuits, claims, hooks, locks, parking, pauses, turning
from apps.saga.beginnings import may_begin, new_run
from apps.saga.calls import Claim, Outcome, talk
from apps.saga.choreography import settle as choreography
from apps.saga.definition import PIVOT, RETRIABLE, AskStep, CallStep, Definition, LocalStep
from apps.saga.failing import class_of, declared_class, failed, undo_failed
from apps.saga.models import LIVE, AttemptOutcome, RunStatus, StepStatus
from apps.saga.models import Run as RunModel
from apps.saga.session import Session
from apps.saga.shapes import ChildrenStep, WaitingStep
from apps.saga.terms import ErrorClass

logger = logging.getLogger(__name__)


class Progress(Enum):
    """What one unit of work came to."""

    MOVED = "moved"  # there is more to do, and nothing to wait for
    PARKED = "parked"  # waits for an answer, a later attempt, or another owner
    UNDOING = "undoing"  # turned around: the undo has to run
    OVER = "over"  # completed, compensated or stuck


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
    idempotency_key: str = "",
) -> UUID:
    """Begin a run in the caller's commit, do what can be done now, and hand the rest to workers after the commit.

    ``run_inline_for_ms``: the time that local steps may take here; the first one that must wait ends it earlier.
    A refusal in this head rolls its effects back and ends the run in the same commit: see the run's status. A run of a use
    case that is paused waits, or UseCasePaused is raised and nothing was written. So does one whose key another run holds
    (``Definition.locks``), or KeyHeld is raised.
    """
    session = new_run(
        definition,
        subject_id=subject_id,
        business_key=business_key,
        data=data,
        now=now,
        global_id=global_id,
        idempotency_key=idempotency_key,
    )
    if definition.is_choreographed:
        choreography.begin(session)
        return session.run.id
    if run_inline_for_ms > 0 and may_begin(session):
        with session.at_work():
            _segments(session, until=time.monotonic() + run_inline_for_ms / 1000)
    else:
        session.flush()
    wake(session)
    return session.run.id


@durable
def advance(
    run_id: UUID, *, undo: bool = False, calls: bool = True, wait: bool = False, now: datetime | None = None
) -> Progress:
    """Do the next unit of work of a run: its due local steps, or one call; with ``undo``, one undo. Safe to repeat.

    Without ``calls`` a call is not made here but handed to a worker of its own. With ``wait``, another owner's commit is
    waited for, and what he left is looked at.
    """
    found = _work(run_id, undo=undo, calls=calls, wait=wait, now=now or clock.now())
    if not isinstance(found, Claim):
        return found
    outcome = talk(found)
    return _settle(found, outcome, now=clock.now())


def is_past(run_id: UUID, position: int) -> bool:
    """Has the run gone beyond this step? Read without a lock: a hint about a hint."""
    run = RunModel.objects.filter(pk=run_id).values_list("status", "cursor").first()
    return run is not None and run[0] in (RunStatus.RUNNING, RunStatus.WAITING) and run[1] > position


@transaction_required
def resume(*, step_key: str, answer: dict[str, Any], now: datetime) -> Resumed:
    """Give a parked step its answer, in the caller's commit. Late and foreign answers change nothing."""
    run_id, position, redone, undo = answers.parse_key(step_key)
    session = Session.lock(run_id, now=now, wait=True) if run_id else None
    if session is None:
        return Resumed.UNKNOWN
    if not _expects(session, position, redone, undo=undo):
        session.run.late_answers += 1
        session.flush()
        logger.warning("late answer for %s refused: nobody waits", step_key)
        return Resumed.LATE
    with session.at_work():
        _take_answer(session, answer, undo=undo)
    wake(session)
    return Resumed.ACCEPTED


def _expects(session: Session, position: int, redone: int, *, undo: bool) -> bool:
    if session.position != position or session.at_end or not isinstance(session.step, AskStep):
        return False
    if session.row.redone != redone:  # an answer to what was undone since
        return False
    if undo:
        return session.run.status == RunStatus.COMPENSATING and session.row.status == StepStatus.UNDOING
    # UNKNOWN: the deadline passed and it will be asked again; the answer to the first question is as good.
    asked = session.row.status in (StepStatus.WAITING, StepStatus.UNKNOWN)
    return asked and session.run.status in (RunStatus.RUNNING, RunStatus.WAITING)


def _take_answer(session: Session, answer: dict[str, Any], *, undo: bool) -> None:
    step = session.step
    assert isinstance(step, AskStep)  # noqa: S101  # only an ask waits
    session.answered = answers.answered_attempt(session, undo=undo)
    try:
        with kept_savepoint():
            output = None
            if undo:
                step.on_undo_answer(session.view(undo=True), answer)
            else:
                output = step.on_answer(session.view(), answer)
    except Exception as error:
        # What is neither a refusal nor named by the step is the messenger's trouble, who brings the answer again.
        if not isinstance(error, DomainError) and declared_class(step, error) is None:
            raise
        if undo:
            undo_failed(session, error)
        else:
            failed(session, error, answered=True)
        return
    session.end_attempt(AttemptOutcome.ANSWERED, undo=undo)
    circuits.succeeded(session)
    if undo:
        session.undone()
    else:
        session.done(output)


def wake(session: Session) -> None:
    """Send the wake-up of a run after the commit. Losing it loses nothing: the sweeper looks at due_at."""
    run = session.run
    if run.held_by is not None or run.awaits_key:
        return
    if run.status == RunStatus.RUNNING and session.row.retry_at is None:
        if isinstance(session.step, CallStep):
            chains.wake_after_commit(run.id, session.position, len(session.steps))
        else:
            chains.wake_soon_after_commit(run.id)
    elif run.status == RunStatus.COMPENSATING:
        chains.undo_after_commit(run.id)


# --- One unit of work -----------------------------------------------------------------------------------------------
@transaction
def _work(run_id: UUID, *, undo: bool, calls: bool, wait: bool, now: datetime) -> Progress | Claim:
    session = Session.lock(run_id, now=now, wait=wait)
    if session is None:
        return Progress.PARKED  # another owner has the row, and whatever it leaves will be due again
    with session.at_work():
        return _next(session, undo=undo, calls=calls)


def _next(session: Session, *, undo: bool, calls: bool) -> Progress | Claim:
    run = session.run
    if run.status not in LIVE:
        return Progress.UNDOING if turning.recalled(session) else Progress.OVER
    undoing = run.status == RunStatus.COMPENSATING
    if run.held_by is not None:
        return _progress(session) if not undoing and turning.turned(session) else Progress.PARKED
    if session.definition.is_choreographed:
        return _watch(session)
    if undoing != undo:  # a wake-up of the other direction: say which one it is
        return Progress.UNDOING if undoing else Progress.MOVED
    if run.token is not None and run.lease_until is not None and run.lease_until > session.now:
        return Progress.PARKED  # an owner is talking to the network, and its time is not over
    if not undoing and turning.turned(session):
        return _progress(session)
    if run.awaits_key and not locks.look(session):
        return Progress.PARKED
    if session.row.retry_at is not None and session.row.retry_at > session.now:
        return Progress.PARKED
    if session.row.waiting_until is not None:
        if session.row.waiting_until > session.now and not parking.may_end_early(session):
            return Progress.PARKED
        parking.over(session)
        return _progress(session)
    if run.hook_failures is not None:
        hooks.end_again(session)
        return _undo_progress(session) if undoing else _progress(session)
    if circuits.hold(session, undo=undoing):
        return Progress.PARKED
    return _undo(session) if undoing else _do(session, calls=calls)


def _watch(session: Session) -> Progress:
    """Services hand the run on: do what they did not."""
    if session.run.awaits_key:
        if turning.turned(session):
            return _progress(session)
        if not locks.look(session):
            return Progress.PARKED
    choreography.act(session)
    return Progress.PARKED if session.run.status in LIVE else Progress.OVER


def _progress(session: Session) -> Progress:
    status = session.run.status
    if status == RunStatus.COMPENSATING:
        return _undo_progress(session)
    if session.run.held_by is not None:
        return Progress.PARKED
    if status == RunStatus.WAITING or (status == RunStatus.RUNNING and session.row.retry_at is not None):
        return Progress.PARKED
    return Progress.MOVED if status == RunStatus.RUNNING else Progress.OVER


def _do(session: Session, *, calls: bool) -> Progress | Claim:
    if isinstance(session.step, CallStep):
        if not calls:
            chains.wake_after_commit(session.run.id, session.position, len(session.steps))
            return Progress.PARKED
        return claims.take(session, undo=False) or _progress(session)
    _segments(session, until=None)
    return _progress(session)


def _segments(session: Session, *, until: float | None) -> None:
    """Do local steps, and the ask that ends them, up to the pivot or the next call."""
    first = session.position
    failure = _segment(session, until=until, before=None)
    while failure is not None:
        failing = session.position
        if class_of(session.step, failure) is ErrorClass.BUSINESS and session.step.kind is not RETRIABLE:
            session.roll_back(first, failing)
            failed(session, failure)
            return
        session.forget(first, failing)
        # What worked is done again. The world may have changed meanwhile: then an earlier step is the one that fails.
        sooner = _segment(session, until=None, before=failing) if failing > first else None
        if sooner is None:
            if session.at_end or session.position != failing:
                return  # this time they revised what follows them in another way
            session.begin_attempt()
            failed(session, failure)
            return
        failure = sooner


def _segment(session: Session, *, until: float | None, before: int | None) -> Exception | None:
    """Do local steps under one savepoint; the error of the one that failed, with which all of them are rolled back."""
    try:
        with kept_savepoint():
            _do_local(session, until=until, before=before)
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        return error
    except Exception as error:
        return error
    return None


def _do_local(session: Session, *, until: float | None, before: int | None) -> None:
    first = session.position
    while not session.at_end and session.position != before:
        step = session.step
        if isinstance(step, CallStep) or (until is not None and time.monotonic() >= until):
            return
        if session.position > first and pauses.is_known(session.run.use_case, step.name):
            return  # the next unit of work begins with it, and looks whether it is paused
        session.begin_attempt()
        if isinstance(step, AskStep):
            step.ask(session.view())
            session.end_attempt(AttemptOutcome.ASKED)
            session.wait(session.now + step.answer_within)
            return
        if isinstance(step, WaitingStep):
            if parking.begin(session):
                return
        else:
            assert isinstance(step, LocalStep)  # noqa: S101  # the last of the shapes
            output = step.handle(session.view())
            session.end_attempt(AttemptOutcome.DONE)
            session.done(output)
        if step.kind is PIVOT:
            return


# --- Back -----------------------------------------------------------------------------------------------------------
def _undo(session: Session) -> Progress | Claim:
    """Undo the current step: one commit each, in strict reverse order."""
    step = session.step
    if isinstance(step, CallStep):
        return claims.take(session, undo=True) or _progress(session)
    session.begin_attempt(undo=True)
    try:
        with kept_savepoint():
            waits = _undo_local(session)
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        undo_failed(session, error)
        return _undo_progress(session)
    except Exception as error:
        undo_failed(session, error)
        return _undo_progress(session)
    if waits and isinstance(step, AskStep | ChildrenStep):
        session.wait_undo(session.now + step.answer_within)
        session.end_attempt(AttemptOutcome.ASKED, undo=True)
        return Progress.PARKED
    session.end_attempt(AttemptOutcome.DONE, undo=True)
    session.undone()
    return _undo_progress(session)


def _undo_local(session: Session) -> bool:
    step, view = session.step, session.view(undo=True)
    if isinstance(step, AskStep):
        return step.ask_undo(view)
    if isinstance(step, WaitingStep):
        return parking.undo(session)
    assert isinstance(step, LocalStep)  # noqa: S101  # calls were taken before
    step.compensate(view)
    return False


def _undo_progress(session: Session) -> Progress:
    if session.run.status != RunStatus.COMPENSATING:
        return Progress.OVER
    row = session.row
    parked = session.run.held_by is not None or row.retry_at is not None or row.waiting_until is not None
    return Progress.PARKED if parked else Progress.UNDOING


# --- After a call -------------------------------------------------------------------------------------------------
@transaction
def _settle(claim: Claim, outcome: Outcome, *, now: datetime) -> Progress:
    session = Session.lock(claim.run.id, now=now, wait=True)
    if session is None:
        return Progress.OVER
    if session.run.token != claim.token:
        # The lease was over and another owner has taken the step: a stale owner changes nothing.
        session.run.stale_outcomes += 1
        session.flush()
        return Progress.PARKED
    with session.at_work():
        claims.record(session, claim, outcome)
    return _undo_progress(session) if claim.undo else _progress(session)
