"""What may be asked of a choreographed run from outside."""

from datetime import datetime
from uuid import UUID

from apps.common.transactions import transaction_required
from apps.saga import audit
from apps.saga.choreography import store
from apps.saga.choreography.errors import AlreadyUndone, NotChoreographed, PastThePivot, UnknownSaga
from apps.saga.choreography.facts import CODE_CHARACTERS_MAX
from apps.saga.choreography.plan import past_the_pivot
from apps.saga.choreography.settle import Work
from apps.saga.models import Run, RunStatus
from apps.saga.session import Session

ASKED_FOR = "ASKED_FOR"  # the code of an undo that somebody asked for and gave none


def run_of(global_id: str, branch: str = "") -> UUID:
    """The run of a saga, by what its messages are called by. Raises UnknownSaga."""
    found = store.run_of(global_id, branch)
    if found is None:
        raise UnknownSaga(f"No choreographed run is known as {global_id[:100]!r}.")
    return found


@transaction_required
def compensate(run_id: UUID, *, reason: str, by: str, now: datetime, code: str = "") -> None:
    """Turn a run round, wherever it is: its services undo what they did, in reverse order. Also a completed one.

    The message that says so is published in the caller's commit. Asked twice it is refused: AlreadyUndone. Raises
    UnknownSaga, NotChoreographed, PastThePivot, InvalidRequest (no reason).
    """
    why = audit.check_reason(reason)
    session = Session.lock(run_id, now=now, wait=True)
    if session is None:
        raise UnknownSaga(f"There is no run {run_id}.")
    if not session.definition.is_choreographed:
        raise NotChoreographed(f"The steps of {session.run.use_case} are done here: the engine undoes them.")
    work = Work(session, store.facts_of(run_id))
    view = work.view
    if view.is_backward or session.run.status in (RunStatus.COMPENSATING, RunStatus.COMPENSATED):
        raise AlreadyUndone(f"The run is {Run(status=session.run.status).get_status_display().lower()}.")
    if (pivot := past_the_pivot(view, work.steps)) is not None:
        raise PastThePivot(f"{pivot.name} was begun, and cannot be undone.")
    audit.note(at=now, actor=by, action="compensate", use_case=session.run.use_case, run_id=run_id, reason=why, detail={})
    work.turn_round(code=code[:CODE_CHARACTERS_MAX] or ASKED_FOR, reason=why)
