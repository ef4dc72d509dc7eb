"""Resetting a run that has failed: it goes forward again from an earlier step.

Note [Begun anew]
Whoever undoes a step leaves a tombstone under its key, so that a do which comes late is refused. So a step that was undone
and is to be done again gets new keys: ``redone`` of its row is counted up, and is a part of the step key and of the trace
key. An answer to the old key finds nobody who waits for it. A step that was refused or failed, and not undone, keeps its
key: whatever is left of its attempts is found by it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction as django_transaction

from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction
from apps.saga import audit, chains
from apps.saga.definition import CallStep, UnknownDefinition
from apps.saga.models import RunStatus, StepStatus
from apps.saga.pauses import UnknownStep
from apps.saga.rows import StepRow
from apps.saga.session import GRACE, Session
from apps.saga.versions import UnknownVersion

REDONE_MAX = 50  # resets of one step: whoever needs more has another trouble
SHAPES = ("local", "ask", "call")  # whose attempts leave nothing behind but their own rows
_BEGINS = (StepStatus.PENDING, StepStatus.FAILED, StepStatus.UNDONE, StepStatus.ROLLED_BACK)


class NotFailed(DomainError):
    """The run has not failed: only one that is stuck or undone can be reset."""

    code = "R560"


class UnsafeReset(DomainError):
    """The run cannot be reset to this step: something would be done twice, or was never done."""

    code = "R561"


class NotReopened(DomainError):
    """The run was undone, and its use case does not let it begin again."""

    code = "R562"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetChoice:
    """A step as a place to begin again. ``code``, ``detail``: why not, or empty. ``redone``: steps that get new keys."""

    step: str
    code: str
    detail: str
    redone: tuple[str, ...]


@transaction
def reset(run_id: UUID, *, to_step: str, reason: str, by: str, now: datetime) -> None:
    """Let a run that is stuck or undone go forward again from a step, with a fresh budget of attempts.

    Safe only if the steps before it are still done, and the others undone, refused, failed or never begun; of a step whose
    outcome is in doubt, retry the run instead: it asks first. What was undone is done under new keys. A run that was undone
    has told its owner so: the owner says whether it may begin again (``Hooks.reopens``). Its deadline stays as it was.

    Raises NotFound, UnknownStep, UnknownVersion, NotFailed, UnsafeReset, NotReopened, InvalidRequest. A second call finds a
    run that has not failed.
    """
    _reset(run_id, to_step=to_step, reason=audit.check_reason(reason), by=by, now=now)


@transaction
def reset_choices(run_id: UUID, *, now: datetime) -> tuple[ResetChoice, ...]:
    """What would become of a reset to each step of a run: each is done and rolled back. Raises NotFound, UnknownVersion."""
    return tuple(_choice(run_id, row.name, now=now) for row in _locked(run_id, now=now).steps)


def _choice(run_id: UUID, step: str, *, now: datetime) -> ResetChoice:
    redone: tuple[str, ...] = ()
    code = detail = ""
    try:
        with django_transaction.atomic():
            redone = _reset(run_id, to_step=step, reason="", by="", now=now)
            django_transaction.set_rollback(True)
    except DomainError as refusal:
        code, detail = refusal.code, refusal.detail
    return ResetChoice(step=step, code=code, detail=detail, redone=redone)


def _locked(run_id: UUID, *, now: datetime) -> Session:
    try:
        session = Session.lock(run_id, now=now, wait=True)
    except UnknownDefinition as error:
        raise UnknownVersion(str(error)) from None
    if session is None:
        raise NotFound("There is no such run.")
    return session


def _reset(run_id: UUID, *, to_step: str, reason: str, by: str, now: datetime) -> tuple[str, ...]:
    """The reset, as a part of the caller's commit. Which steps get new keys."""
    session = _locked(run_id, now=now)
    was, at = session.run.status, _position(session, to_step)
    _check(session, at)
    failed = session.run.failed_step
    with session.at_work():
        _begin_anew(session, at)
        if was == RunStatus.COMPENSATED and not session.definition.hooks.reopens(session.view(whole=True), step=to_step):
            raise NotReopened(f"{session.run.use_case} does not say how what is undone begins again.")
    redone = tuple(row.name for row in session.steps[at:] if row.redone)
    audit.note(
        at=now,
        actor=by,
        action="reset",
        use_case=session.run.use_case,
        step=to_step,
        run_id=run_id,
        reason=reason,
        detail={"was": was, "failed_step": failed, "redone": list(redone)},
    )
    if isinstance(session.step, CallStep):
        chains.wake_after_commit(run_id, at, len(session.steps))
    else:
        chains.wake_soon_after_commit(run_id)
    return redone


def _position(session: Session, to_step: str) -> int:
    found = next((row.position for row in session.steps if row.name == to_step), None)
    if found is None:
        raise UnknownStep(f"The run has no step {to_step[:100]}.")
    return found


def _check(session: Session, at: int) -> None:
    run = session.run
    if run.status not in (RunStatus.STUCK, RunStatus.COMPENSATED):
        raise NotFailed(f"The run is {RunStatus(run.status).label.lower()}.")
    if run.parent_id is not None:
        raise UnsafeReset("It is a branch of another run, which has gone on without it.")
    if run.awaits_key is not None and run.status == RunStatus.COMPENSATED:
        raise UnsafeReset("It has given up its keys, which another run may hold by now.")
    undone_before = next((row for row in session.steps[:at] if row.status != StepStatus.DONE), None)
    if undone_before is not None:
        raise UnsafeReset(f"{undone_before.name}, which comes before, is {undone_before.status}: it has to be done.")
    for row in session.steps[at:]:
        _check_step(row)


def _check_step(row: StepRow) -> None:
    if row.status not in _BEGINS:
        raise UnsafeReset(f"{row.name} is {row.status}: it would be done twice.")
    if row.shape not in SHAPES and row.status != StepStatus.PENDING:
        raise UnsafeReset(f"{row.name} was begun, and what it has begun cannot be begun anew.")
    if row.redone >= REDONE_MAX:
        raise UnsafeReset(f"{row.name} was begun anew {REDONE_MAX} times.")


def _begin_anew(session: Session, at: int) -> None:
    run = session.run
    for run.cursor in range(at, len(session.steps)):
        row = session.touch()
        row.redone += row.status == StepStatus.UNDONE
        row.status, row.output = StepStatus.PENDING, {}
        row.attempts_forgiven, row.undo_attempts_forgiven = row.attempts, row.undo_attempts
        row.error_code = row.error_detail = ""
        row.retry_at = row.waiting_until = None
        row.finished_at = row.undo_started_at = row.undone_at = None
    run.status, run.cursor, run.due_at = RunStatus.RUNNING, at, session.now + GRACE
    run.failed_step = run.error_code = run.error_detail = ""
    run.token = run.finished_at = run.hook_failures = None
