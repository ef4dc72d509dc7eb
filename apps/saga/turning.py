"""When a run turns around although no step of it was refused: its deadline has passed, or its parent calls it back."""

from apps.common.errors import DomainError
from apps.saga import children
from apps.saga.children import CalledBack
from apps.saga.definition import COMPENSABLE, LocalStep
from apps.saga.models import AttemptOutcome, RunStatus, StepStatus
from apps.saga.session import Session


class DeadlinePassed(DomainError):
    """The run was not done when its deadline passed: what it had done is undone."""

    code = "R530"


def turned(session: Session) -> bool:
    """Turn a run that goes forward around, if it has to. Whoever works on it asks this first."""
    run = session.run
    if run.parent_id is not None and session.can_turn and children.is_called_back(run):
        turn(session, CalledBack())
        return True
    if run.deadline_at is not None and run.deadline_at <= session.now and session.can_turn:
        turn(session, DeadlinePassed(f"It was not done by {run.deadline_at:%Y-%m-%d %H:%M:%S} UTC, at {session.row.name}."))
        return True
    return False


def turn(session: Session, error: DomainError) -> None:
    """Turn a run around that can be: what was begun of its current step is undone too, because it may have happened."""
    row = session.row
    # The effects of a local step that is not done were rolled back; of any other shape they were not.
    begun = row.kind == COMPENSABLE and row.attempts > 0 and not isinstance(session.step, LocalStep)
    if row.status in (StepStatus.WAITING, StepStatus.RUNNING):
        session.end_attempt(AttemptOutcome.NO_ANSWER if row.status == StepStatus.WAITING else AttemptOutcome.UNKNOWN)
    if begun:
        session.fail(error, status=StepStatus.UNKNOWN)
    session.blame(error)
    session.touch().retry_at = None
    session.run.awaits_key = "" if session.run.awaits_key else session.run.awaits_key
    session.begin_undo(include_current=begun)


def recalled(session: Session) -> bool:
    """Turn a run around that is over, or stuck on its way forward, when its parent calls it back."""
    run = session.run
    is_complete = run.status == RunStatus.COMPLETED
    if run.parent_id is None or (run.finished_at is not None and not is_complete) or not children.is_called_back(run):
        return False
    if is_complete:
        session.reopen(CalledBack())
        return True
    if session.row.status == StepStatus.UNDOING or not session.can_turn:
        return False  # a person has to look at it first
    turn(session, CalledBack())
    return True
