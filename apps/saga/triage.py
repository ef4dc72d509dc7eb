"""What a person may do about a run: retry it, undo it, skip its step, or say that it is dealt with.

``judge`` tells what would happen, or refuses; ``apply`` does it, after judging again under the run's lock. So a dry run
and the deed cannot disagree, but for what the run did in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction, transaction_required
from apps.saga import audit, chains, closing, edits, hooks, reading
from apps.saga.choreography import by_hand
from apps.saga.definition import COMPENSABLE, PIVOT, AskStep, CallStep, LocalStep, UnknownDefinition, lookup
from apps.saga.definition import Step as AnyStep
from apps.saga.models import LIVE, AttemptOutcome, Run, RunStatus, Step, StepStatus
from apps.saga.queries import RunState
from apps.saga.rows import RunRow, StepRow
from apps.saga.session import GRACE, Session
from apps.saga.shapes import ApprovalStep, ChildrenStep
from apps.saga.turning import turn


class Action(StrEnum):
    """What may be done. Their order is that of the back office's buttons."""

    RETRY = "retry"
    COMPENSATE = "compensate"
    SKIP = "skip"
    HANDLE = "handle"


class NotStuck(DomainError):
    """The run is not stuck: there is nothing to retry by hand."""

    code = "R501"


class WrongState(DomainError):
    """The run is in a state in which this cannot be done."""

    code = "R541"


class Stale(DomainError):
    """The run has moved on since you saw it: look again."""

    code = "R542"


class PastPivot(DomainError):
    """The run has passed its pivot, or may have: it cannot be undone."""

    code = "R543"


class NotRegistered(DomainError):
    """Nobody here knows the version of the use case with which the run began."""

    code = "R545"


class UndoneByHand(DomainError):
    """A person had the run undone."""

    code = "R546"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An action, and what is given to it: for RETRY a change of the input, for SKIP the step's output."""

    action: Action
    given: Mapping[str, Any] = field(default_factory=dict)


def wanted(action: Action, *, patch: Any = None, output: Any = None) -> Wanted:
    """An action with what somebody gave to it. Raises InvalidInput for what does not go with it."""
    if patch is not None and action is not Action.RETRY:
        raise edits.InvalidInput("Only a retry takes an edited input.", field="input")
    if output is not None and action is not Action.SKIP:
        raise edits.InvalidInput("Only a skipped step takes an output.", field="output")
    if patch is not None:
        return Wanted(action=action, given=edits.plain(patch, field="input"))
    return Wanted(action=action, given=edits.plain(output, field="output") if output is not None else {})


# --- What was seen of it ------------------------------------------------------------------------------------------------
def token_of(status: str, cursor: int, attempts: int, undo_attempts: int) -> str:
    """The state of a run as a page has seen it: whatever happens to the run makes another one."""
    return f"={status}:{cursor}:{attempts}:{undo_attempts}"


def token(session: Session) -> str:
    """The same, of a run at hand."""
    row = None if session.at_end else session.row
    return token_of(session.run.status, session.position, row.attempts if row else 0, row.undo_attempts if row else 0)


def token_of_state(run: RunState) -> str:
    """The same, of what is told about a run."""
    row = run.steps[run.cursor] if run.cursor < len(run.steps) else None
    return token_of(run.status, run.cursor, row.attempts if row else 0, row.undo_attempts if row else 0)


def trouble_of(status: str, cursor: int, code: str) -> str:
    """The trouble that a run is in: the same while it only tries again."""
    return f"{cursor}:{code}" + (":undo" if status == RunStatus.COMPENSATING else "")


def check_seen(session: Session, seen: str) -> None:
    """Is the run still as it was seen? Raises Stale."""
    run = session.run
    now = token(session) if seen.startswith("=") else trouble_of(run.status, run.cursor, run.error_code)
    if seen and seen != now:
        raise Stale(f"The run has moved on: it is {_says(run.status)} at {_where(session)}.")


def _says(status: str) -> str:
    return str(RunStatus(status).label).split(":", maxsplit=1)[0].lower()


def _where(session: Session) -> str:
    return "its end" if session.at_end else session.row.name.replace("_", " ")


# --- What would happen? -------------------------------------------------------------------------------------------------
def peek(run: Run, steps: Sequence[Step], *, now: datetime) -> Session:
    """A run to judge, not to change: read without its lock. Raises NotRegistered."""
    try:
        definition = lookup(run.use_case, run.version)
    except UnknownDefinition as error:
        raise NotRegistered(f"{error}.") from None
    row = RunRow(**{each.name: getattr(run, each.name) for each in fields(RunRow)})
    rows = [StepRow(**{each.name: getattr(step, each.name) for each in fields(StepRow)}) for step in steps]
    return Session(row, rows, definition, now=now, new=False)


def judge(session: Session, what: Wanted, *, seen: str = "") -> str:
    """What the action would do to this run, in words. Raises a DomainError that says why it would not."""
    check_seen(session, seen)
    return _JUDGES[what.action](session, what.given)


def _judge_retry(session: Session, given: Mapping[str, Any]) -> str:
    run = session.run
    if run.status != RunStatus.STUCK:
        if run.status not in LIVE:
            raise NotStuck(f"The run is {_says(run.status)}.")
        _check_free(session)
        if session.row.retry_at is None:
            raise NotStuck(f"The run goes on by itself: it is {_says(run.status)}.")
    if given and not session.definition.is_choreographed:
        edits.edited(session.definition, run.data, given)
    with_input = f", with another {', '.join(sorted(given))}" if given else ""
    return _retry_words(session) + with_input


def _retry_words(session: Session) -> str:
    step, where = session.step, _where(session)
    if session.run.hook_failures is not None:
        return "tells the end of the run again"
    if _goes_back(session):
        return f"tries to undo {where} again"
    if isinstance(step, AskStep):
        return f"asks {step.partner or where} again, with the same key"
    if isinstance(step, CallStep) and session.row.attempts:
        return f"asks whether {where} happened, and repeats it if not"
    return f"tries {where} again"


def _judge_compensate(session: Session, given: Mapping[str, Any]) -> str:
    del given  # nothing is
    if session.run.status not in (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.STUCK) or _goes_back(session):
        raise WrongState(f"The run is {_says(session.run.status)}: it does not go forward.")
    _check_free(session, waits_matter=False)
    _check_pivot(session)
    names = [step.name.replace("_", " ") for step in session.steps[: session.position] if step.status in hooks.UNDOABLE]
    names += [_where(session)] if _takes_back_current(session) else []
    return f"undoes {', '.join(reversed(names))}" if names else "ends the run: nothing is to be undone"


def _check_pivot(session: Session) -> None:
    if session.can_turn:
        return
    before = all(step.kind == COMPENSABLE for step in session.steps[: session.position])
    if session.step.kind is not PIVOT or not before:
        raise PastPivot("The run has passed its pivot: it can only go forward.")
    if session.row.status in (StepStatus.UNKNOWN, StepStatus.WAITING, StepStatus.RUNNING):
        raise PastPivot(f"Nobody knows whether {_where(session)}, the pivot, happened: retry asks, skip records it.")


def _takes_back_current(session: Session) -> bool:
    """May something of the current step have happened? Its undo may come before its do."""
    row = session.row
    return row.kind == COMPENSABLE and row.attempts > 0 and not isinstance(session.step, LocalStep)


def _judge_skip(session: Session, given: Mapping[str, Any]) -> str:
    run, row = session.run, session.row if not session.at_end else None
    if row is None or (run.status != RunStatus.STUCK and run.status not in LIVE):
        raise WrongState(f"The run is {_says(run.status)}: there is no step to skip.")
    _check_free(session)
    if run.hook_failures is not None:
        raise WrongState("The run has come to its end, which is being told: there is no step to skip.")
    _check_skippable(session)
    if run.status != RunStatus.STUCK and row.retry_at is None and row.waiting_until is None:
        raise WrongState(f"Nothing is wrong with {_where(session)}: the run goes on by itself.")
    if not _goes_back(session):
        if not session.definition.is_choreographed:
            reading.check(row.name, given, ahead(session))
        output = f"with {', '.join(sorted(given))} as its output" if given else "without an output"
        return f"takes {_where(session)} as done, {output}"
    if given:
        raise WrongState(f"The run undoes {_where(session)}: an undo has no output.")
    return f"takes {_where(session)} as undone"


def ahead(session: Session) -> list[AnyStep]:
    """The steps that follow the current one."""
    return [session.definition.by_name[row.name] for row in session.steps[session.position + 1 :]]


def _check_skippable(session: Session) -> None:
    if isinstance(session.step, ApprovalStep) and not _goes_back(session):
        raise WrongState(f"{_where(session).capitalize()} is for those to decide whom it asks: an operator cannot do it.")
    if isinstance(session.step, ChildrenStep) and session.row.attempts:
        raise WrongState(f"The branches of {_where(session)} are runs of their own: act on them.")


def _judge_handle(session: Session, given: Mapping[str, Any]) -> str:
    del given
    if session.run.status != RunStatus.STUCK:
        raise NotStuck(f"The run is {_says(session.run.status)}: only a stuck one is closed by a person.")
    if session.run.parent_id is not None and Run.objects.filter(pk=session.run.parent_id, finished_at=None).exists():
        raise WrongState("The run is a branch of another one, which waits for it: retry it, or skip its step.")
    return f"closes the run as it is: {closing.standing(session.steps) or 'nothing of it is half done'}"


_JUDGES = {
    Action.RETRY: _judge_retry,
    Action.COMPENSATE: _judge_compensate,
    Action.SKIP: _judge_skip,
    Action.HANDLE: _judge_handle,
}


def _goes_back(session: Session) -> bool:
    if session.run.status == RunStatus.COMPENSATING or hooks.awaits_hook(session):
        return True
    return not session.at_end and session.row.status == StepStatus.UNDOING


def _check_free(session: Session, *, waits_matter: bool = True) -> None:
    run = session.run
    if run.token is not None and run.lease_until is not None and run.lease_until > session.now:
        raise WrongState("A worker talks to a partner for the run in this moment: try again soon.")
    if waits_matter and run.held_by is not None:
        raise WrongState("A pause holds the run: it goes on when that is lifted.")
    if waits_matter and run.awaits_key:  # its steps are not to be touched before it has its keys; it may give up its place
        raise WrongState(f"The run waits for {run.awaits_key}, which another run holds: it goes on when that is over.")


# --- The deed -----------------------------------------------------------------------------------------------------------
@transaction_required
def apply(
    run_id: UUID,
    what: Wanted,
    *,
    reason: str,
    by: str,
    now: datetime,
    seen: str = "",
    detail: Mapping[str, Any] | None = None,
) -> str:
    """Do it to one run, with its audit row, in the caller's commit. What was done, in words.

    ``seen``: only if the run is still as it was seen (``token_of``, ``trouble_of``). Raises NotFound, NotRegistered, Stale,
    NotStuck, WrongState, PastPivot, InvalidInput; then nothing is changed. A second
    time finds another state, and is refused.
    """
    try:
        session = Session.lock(run_id, now=now, wait=True)
    except UnknownDefinition as error:
        raise NotRegistered(f"{error}.") from None
    if session is None:
        raise NotFound("There is no such run.")
    told = judge(session, what, seen=seen)
    run, step = session.run, session.row.name
    left = {"left": list(closing.left(session))} if what.action is Action.HANDLE else {}
    noted = {
        "was": token(session)[1:],
        "code": run.error_code,
        "did": told,
        **(detail or {}),
        **left,
        **_noted(session, what),
    }
    with session.at_work():
        _DEEDS[what.action](session, what.given, reason)
    _wake(session)
    audit.note(
        at=now, actor=by, action=what.action, use_case=run.use_case, step=step, run_id=run.id, reason=reason, detail=noted
    )
    return told


@transaction
def retry(run_id: UUID, *, now: datetime, by: str = "an operator", reason: str = "retried by hand") -> None:
    """``apply`` a retry to one run, in a commit of its own."""
    apply(run_id, Wanted(action=Action.RETRY), reason=reason, by=by, now=now)


def _noted(session: Session, what: Wanted) -> dict[str, Any]:
    if what.action is Action.RETRY and what.given:
        return {"input": what.given, "input_before": edits.before(session.run.data, what.given)}
    return {"output": what.given} if what.given else {}


def _retry(session: Session, given: Mapping[str, Any], reason: str) -> None:
    del reason  # the audit's
    run = session.run
    if session.definition.is_choreographed and not hooks.awaits_hook(session):
        by_hand.retry(session, given, goes_back=_goes_back(session))
        return
    if given:
        run.data = edits.edited(session.definition, run.data, given)
        Run.objects.filter(pk=run.id).update(data=run.data)  # the engine itself never changes it
    session.forgive()
    session.row.retry_at = session.row.waiting_until = None
    if hooks.awaits_hook(session):
        hooks.begin_again(session)
    elif run.status == RunStatus.STUCK:
        run.status = RunStatus.COMPENSATING if _goes_back(session) else RunStatus.RUNNING
    run.due_at, run.token = session.now + GRACE, None


def _leave_attempt(session: Session) -> None:
    """Close the attempt that is under way: nobody waits for its outcome any more."""
    undo = _goes_back(session)
    if session.run.token is not None:  # its owner did not come back
        session.end_attempt(AttemptOutcome.UNKNOWN, undo=undo)
    elif session.row.waiting_until is not None:
        session.end_attempt(AttemptOutcome.NO_ANSWER, undo=undo)


def _compensate(session: Session, given: Mapping[str, Any], reason: str) -> None:
    del given
    run, cause = session.run, UndoneByHand(reason)
    if run.error_code:  # its own error stays the cause
        cause = UndoneByHand(run.error_detail)
        cause.code = run.error_code  # type: ignore[misc]  # of this one alone
    if session.definition.is_choreographed:
        by_hand.compensate(session, code=cause.code, reason=cause.detail)
    else:
        turn(session, cause)


def _skip(session: Session, given: Mapping[str, Any], reason: str) -> None:
    del reason
    if session.definition.is_choreographed:
        by_hand.skip(session, given, goes_back=_goes_back(session))
        return
    _leave_attempt(session)
    if not _goes_back(session):
        session.step.skipped(session.view(), given)
        session.done(dict(given))
        return
    session.run.status = RunStatus.COMPENSATING
    session.undone()


def _handle(session: Session, given: Mapping[str, Any], reason: str) -> None:
    del given
    closing.close(session, reason)


_DEEDS = {Action.RETRY: _retry, Action.COMPENSATE: _compensate, Action.SKIP: _skip, Action.HANDLE: _handle}


def _wake(session: Session) -> None:
    run = session.run
    if run.status == RunStatus.COMPENSATING:
        chains.undo_after_commit(run.id)
    elif run.status == RunStatus.RUNNING:
        chains.wake_after_commit(run.id, session.position, len(session.steps))
