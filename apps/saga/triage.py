"""What a person may do about a run that is stuck."""

from datetime import datetime
from uuid import UUID

from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction
from apps.saga import chains
from apps.saga.models import Run, RunStatus, StepStatus
from apps.saga.session import GRACE, Session


class NotStuck(DomainError):
    """The run is not stuck: there is nothing to retry by hand."""

    code = "R501"


@transaction
def retry(run_id: UUID, *, now: datetime) -> None:
    """Let a stuck run go on in the direction in which it was going, with a fresh budget of attempts.

    What is in doubt is asked about before it is repeated, as always. Raises NotFound, NotStuck. Safe to repeat: a second
    click finds a run that is not stuck any more.
    """
    session = Session.lock(run_id, now=now, wait=True)
    if session is None:
        raise NotFound
    run = session.run
    if run.status != RunStatus.STUCK:
        raise NotStuck(f"The run is {Run(status=run.status).get_status_display().lower()}.")
    row = session.touch()
    row.attempts_forgiven, row.undo_attempts_forgiven = row.attempts, row.undo_attempts
    row.retry_at = row.waiting_until = None
    undoing = row.status == StepStatus.UNDOING
    run.status = RunStatus.COMPENSATING if undoing else RunStatus.RUNNING
    run.due_at = now + GRACE
    session.flush()
    if undoing:
        chains.undo_after_commit(run.id)
    else:
        chains.wake_after_commit(run.id, session.position, len(session.steps))
