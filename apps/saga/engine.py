"""The engine: do a step, undo a step. The run's row decides; whoever wakes the engine only gives a hint.

Note [One owner]
Local work is fenced by the row lock: a second owner finds the row locked and leaves. A call holds no lock while it
talks, so it takes a token under the lock first, and only the holder of the token may record an outcome. When the
token's time is over, another owner takes a new one and asks "did it happen?" before it repeats.
"""

import logging
import time
from collections.abc import Callable
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
from apps.saga.definition import AskStep, CallStep, Definition, LocalStep
from apps.saga.failing import declared_class, failed, undo_failed
from apps.saga.models import LIVE, AttemptOutcome, RunStatus, StepStatus
from apps.saga.progress import RunProgress, progress_of
from apps.saga.segments import run_segments
from apps.saga.session import Session
from apps.saga.shapes import ChildrenStep, WaitingStep

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
    run_id: UUID | None = None,
    known: dict[str, Any] | None = None,
    told: Callable[[RunProgress], None] | None = None,
) -> UUID:
    """Begin a run in the caller's commit, do what can be done now, and hand the rest to workers after the commit.

    ``run_inline_for_ms``: the time that local steps may take here; the first one that must wait ends it earlier.
    ``run_id``: what the run shall be called, a UUID of version 7. ``known``: what this transaction has read or written, for
    the steps that are done here (``Run.known``). ``told`` is called with how far the run has come here.
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
        run_id=run_id,
    )
    session.known.update(known or {})
    if definition.is_choreographed:
        choreography.begin(session)
        return session.run.id
    if run_inline_for_ms > 0 and may_begin(session):
        with session.at_work():
            run_segments(session, until=time.monotonic() + run_inline_for_ms / 1000)
    else:
        session.flush()
    wake(session)
    if told is not None:
        told(progress_of(session))
    return session.run.id


@durable
def advance(
    run_id: UUID,
    *,
    undo: bool = False,
    calls: bool = True,
    wait: bool = False,
    on: bool = False,
    past: int | None = None,
    now: datetime | None = None,
) -> Progress:
    """Do the next unit of work of a run: its due local steps, or one call; with ``undo``, one undo. Safe to repeat.

    Without ``calls`` a call is not made here but handed to a worker of its own. With ``wait``, another owner's commit is
    waited for, and what he left is looked at. With ``on``, the local steps after a call are done in the commit that records
    it. ``past``: nothing is done when the run has gone beyond this step.
    """
    found = _work(run_id, undo=undo, calls=calls, wait=wait, past=past, now=now or clock.now())
    if not isinstance(found, Claim):
        return found
    outcome = talk(found)
    try:
        return _settle(found, outcome, on=on, now=clock.now())
    except Exception:
        if not on:
            raise
        # What came of the call must not be lost because of what follows it. If it was written, its token is over.
        logger.warning("run %s does not go on with its call's record", run_id, exc_info=True)
        return _settle(found, outcome, now=clock.now())


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
def _work(run_id: UUID, *, undo: bool, calls: bool, wait: bool, past: int | None, now: datetime) -> Progress | Claim:
    session = Session.lock(run_id, now=now, wait=wait)
    if session is None:
        return Progress.PARKED  # another owner has the row, and whatever it leaves will be due again
    if past is not None and session.run.status in (RunStatus.RUNNING, RunStatus.WAITING) and session.position > past:
        return Progress.MOVED
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
    run_segments(session, until=None)
    progress = _progress(session)
    if progress is Progress.MOVED and not calls and isinstance(session.step, CallStep):
        wake(session)  # without a look of its own
        return Progress.PARKED
    return progress


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
def _settle(claim: Claim, outcome: Outcome, *, now: datetime, on: bool = False) -> Progress:
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
        if on and not claim.undo:
            _go_on(session)
    return _undo_progress(session) if claim.undo else _progress(session)


def _go_on(session: Session) -> None:
    """Do the local steps that follow a call, unless the next unit of work has to look at something first."""
    run = session.run
    if run.status != RunStatus.RUNNING or session.at_end or isinstance(session.step, CallStep):
        return
    if run.held_by is not None or session.row.retry_at is not None or pauses.is_known(run.use_case, session.step.name):
        return
    if not turning.turned(session):
        run_segments(session, until=None)
