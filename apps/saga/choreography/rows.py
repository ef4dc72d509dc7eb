"""The rows of a choreographed run's steps, as the facts have them."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from apps.saga.choreography.facts import What
from apps.saga.choreography.fold import BACKWARD, State, View
from apps.saga.choreography.plan import Do, Plan
from apps.saga.models import StepStatus
from apps.saga.rows import AttemptRow, StepRow
from apps.saga.session import Session

_STATUS = {
    State.WAITING: StepStatus.PENDING,
    State.ASKED: StepStatus.WAITING,
    State.RETRYING: StepStatus.WAITING,
    State.DONE: StepStatus.DONE,
    State.REFUSED: StepStatus.FAILED,
    State.DEAD: StepStatus.FAILED,
    State.UNDO_ASKED: StepStatus.UNDOING,
    State.UNDO_RETRYING: StepStatus.UNDOING,
    State.UNDONE: StepStatus.UNDONE,
    State.UNDO_DEAD: StepStatus.UNDOING,
}


def all_attempts(view: View, position: int) -> list[tuple[AttemptRow, Any]]:
    """Every try of a step, forward and back."""
    return view.attempts(position, undo=False) + view.attempts(position, undo=True)


def write_steps(session: Session, view: View, decision: Plan) -> None:
    """Write the rows of the steps as the view has them; what has changed is flushed with the session."""
    for row in session.steps:
        before = replace(row)
        _write_step(row, view, decision)
        if _values(row) != _values(before):
            session.touch(row.position)


def _values(row: StepRow) -> list[Any]:
    return [getattr(row, name) for name in StepRow.__slots__]


def _write_step(row: StepRow, view: View, decision: Plan) -> None:
    state = view.states[row.position]
    do, undo = view.attempts(row.position, undo=False), view.attempts(row.position, undo=True)
    row.status = _STATUS[state]
    if view.is_compensated:  # what a service that reports nothing must have done, since those before it are undone
        row.status = {State.ASKED: StepStatus.FAILED, State.DONE: StepStatus.UNDONE}.get(state, row.status)
    row.attempts, row.undo_attempts = len(do), len(undo)
    row.started_at = do[0][0].started_at if do else None
    row.finished_at = _end(view, row.position, do) if state not in (State.WAITING, State.ASKED, State.RETRYING) else None
    row.undo_started_at = undo[0][0].started_at if undo else None
    undone = view.way(row.position, undo=True).latest(What.UNDONE)
    row.undone_at = (undone.finished_at or undone.at) if undone is not None else None
    row.error_code, row.error_detail = _trouble(view, row.position, state)
    waits = decision.do is Do.NOTHING and decision.position == row.position
    row.waiting_until = decision.until if waits and not decision.is_retry else None
    row.retry_at = decision.until if waits and decision.is_retry else None


def _end(view: View, position: int, tries: list[tuple[AttemptRow, Any]]) -> datetime | None:
    done = view.way(position, undo=False).latest(What.DONE)
    if done is not None:
        return done.finished_at or done.at
    return tries[-1][0].finished_at if tries else None


def _trouble(view: View, position: int, state: State) -> tuple[str, str]:
    if state in (State.WAITING, State.DONE, State.UNDONE):
        return "", ""
    is_undo = state in BACKWARD and state is not State.REFUSED
    fact = view.way(position, undo=is_undo).latest(What.REFUSED, What.DEAD, What.LETTER, What.RETRYING)
    return (fact.code, fact.reason) if fact is not None else ("", "")
