"""Questions about runs: the truth, read from the rows that the engine writes."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.saga.locks import LockView, locks_of
from apps.saga.models import Attempt, Run, Step
from apps.saga.search import FoundRun, found_one

SAME_KEY_MAX = 1000  # runs with one key: an order is bought once, and forked a few times

CHILDREN_MAX = 1_000  # of one run: a hundred for each of its steps that has branches
NAMESAKES_MAX = 100  # runs of one order or one business transaction: a page of them


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptState:
    """One try to do or undo a step."""

    undo: bool
    number: int
    outcome: str
    started_at: datetime
    finished_at: datetime | None
    error_code: str
    error_detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """One step of a run with its tries."""

    name: str
    kind: str
    shape: str
    status: str
    attempts: int
    undo_attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    undo_started_at: datetime | None
    undone_at: datetime | None
    retry_at: datetime | None
    waiting_until: datetime | None
    error_code: str
    error_detail: str
    output: dict[str, Any]
    tries: tuple[AttemptState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildState:
    """A branch of a run: a run of its own. ``step``: of the parent."""

    run_id: UUID
    step: str
    branch: str
    use_case: str
    business_key: str
    status: str
    error_code: str
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as it is now: read-your-writes, there is no second store."""

    run_id: UUID
    global_id: UUID
    use_case: str
    version: int
    subject_id: UUID
    business_key: str
    status: str
    failed_step: str
    error_code: str
    error_detail: str
    late_answers: int
    started_at: datetime
    finished_at: datetime | None
    due_at: datetime | None
    steps: tuple[StepState, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str = ""
    held_by: UUID | None = None
    held_at: datetime | None = None
    cursor: int = 0
    deadline_at: datetime | None = None
    parent_id: UUID | None = None
    branch: str = ""
    children: tuple[ChildState, ...] = ()  # the oldest first
    locks: tuple[LockView, ...] = ()


def runs_known_by(any_id: UUID) -> list[UUID]:
    """The runs with this run id, global id or subject id, the newest first of each; at most NAMESAKES_MAX of each."""
    # One look-up for each. A single one with OR, the newest first, may be planned as a walk through all runs.
    return [
        run_id
        for by in ("pk", "global_id", "subject_id")
        for run_id in Run.objects.filter(**{by: any_id})
        .order_by("-started_at")
        .values_list("pk", flat=True)[:NAMESAKES_MAX]
    ]


def run_state(any_id: UUID) -> RunState | None:
    """The run with this run id, else the newest with this global id or subject id."""
    run = _by_id(any_id)
    return _state(run) if run is not None else None


def run_state_by_key(business_key: str) -> RunState | None:
    """The newest run with this business key."""
    run = _newest(business_key=business_key)
    return _state(run) if run is not None else None


def find_run(key: str) -> RunState | None:
    """The state of XYZ: by run id, global id or subject id, else by business key, else by the key of the request.

    Where several runs have this key, the newest.
    """
    run = _by_any(key)
    return _state(run) if run is not None else None


def found_run(run_id: UUID, *, now: datetime) -> FoundRun | None:
    """A run as lists tell of it: whom it waits for, and how it stands against its SLA."""
    run = Run.objects.filter(pk=run_id).first()
    return found_one(run, now=now) if run is not None else None


# One key after the other, each through its own index: together in one condition they may be answered by a scan.
def _by_any(key: str) -> Run | None:
    if not key or "\x00" in key:
        return None
    try:
        run = _by_id(UUID(key))
    except ValueError:
        run = None
    return run or _newest(business_key=key) or _newest(idempotency_key=key)


def _by_id(any_id: UUID) -> Run | None:
    return Run.objects.filter(pk=any_id).first() or _newest(global_id=any_id) or _newest(subject_id=any_id)


def _newest(**key: object) -> Run | None:
    rows = Run.objects.filter(**key)
    # Sorted here: in the order of the ids PostgreSQL might look for the key through all of history. One key has few runs.
    found = rows.values_list("parent_id", "pk")[:SAME_KEY_MAX]
    # Branches share the keys of the whole, and the whole is what is asked for.
    ids = [run_id for parent, run_id in found if parent is None] or [run_id for _, run_id in found]
    return rows.filter(pk=max(ids)).first() if ids else None


def _state(run: Run) -> RunState:
    tries: dict[int, list[AttemptState]] = {}
    for attempt in Attempt.objects.filter(run=run).order_by("started_at", "position", "undo", "number"):
        tries.setdefault(attempt.position, []).append(
            AttemptState(
                undo=attempt.undo,
                number=attempt.number,
                outcome=attempt.outcome,
                started_at=attempt.started_at,
                finished_at=attempt.finished_at,
                error_code=attempt.error_code,
                error_detail=attempt.error_detail,
            )
        )
    steps = list(Step.objects.filter(run=run).order_by("position"))
    return RunState(
        run_id=run.id,
        global_id=run.global_id,
        use_case=run.use_case,
        version=run.version,
        subject_id=run.subject_id,
        business_key=run.business_key,
        status=run.status,
        failed_step=run.failed_step,
        error_code=run.error_code,
        error_detail=run.error_detail,
        late_answers=run.late_answers,
        started_at=run.started_at,
        finished_at=run.finished_at,
        due_at=run.due_at,
        attributes=run.attributes,
        idempotency_key=run.idempotency_key,
        held_by=run.held_by,
        held_at=run.held_at,
        cursor=run.cursor,
        deadline_at=run.deadline_at,
        parent_id=run.parent_id,
        branch=run.branch,
        children=_children(run, {step.position: step.name for step in steps}),
        locks=locks_of(run.id) if run.awaits_key is not None and run.finished_at is None else (),
        steps=tuple(_step_state(step, tuple(tries.get(step.position, ()))) for step in steps),
    )


def _children(run: Run, steps: dict[int, str]) -> tuple[ChildState, ...]:
    rows = Run.objects.filter(parent_id=run.id).order_by("parent_position", "pk").defer("data")[:CHILDREN_MAX]
    return tuple(
        ChildState(
            run_id=row.id,
            step=steps.get(row.parent_position or 0, ""),
            branch=row.branch,
            use_case=row.use_case,
            business_key=row.business_key,
            status=row.status,
            error_code=row.error_code,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in rows
    )


def _step_state(step: Step, tries: tuple[AttemptState, ...]) -> StepState:
    return StepState(
        name=step.name,
        kind=step.kind,
        shape=step.shape,
        status=step.status,
        attempts=step.attempts,
        undo_attempts=step.undo_attempts,
        started_at=step.started_at,
        finished_at=step.finished_at,
        undo_started_at=step.undo_started_at,
        undone_at=step.undone_at,
        retry_at=step.retry_at,
        waiting_until=step.waiting_until,
        error_code=step.error_code,
        error_detail=step.error_detail,
        output=step.output,
        tries=tries,
    )


def as_json(state: RunState) -> dict[str, Any]:
    """The shape that ``manage.py saga_state --json`` prints: run_id, use_case, version, status, steps, business_key, …"""
    return {
        "run_id": str(state.run_id),
        "global_id": str(state.global_id),
        "use_case": state.use_case,
        "version": state.version,
        "status": state.status,
        "business_key": state.business_key,
        "subject_id": str(state.subject_id),
        "failed_step": state.failed_step,
        "error_code": state.error_code,
        "error_detail": state.error_detail,
        "late_answers": state.late_answers,
        "started_at": state.started_at.isoformat(),
        "finished_at": state.finished_at and state.finished_at.isoformat(),
        "due_at": state.due_at and state.due_at.isoformat(),
        "idempotency_key": state.idempotency_key,
        "attributes": state.attributes,
        "held_by": state.held_by and str(state.held_by),
        "held_at": state.held_at and state.held_at.isoformat(),
        "deadline_at": state.deadline_at and state.deadline_at.isoformat(),
        "parent_id": state.parent_id and str(state.parent_id),
        "branch": state.branch,
        "children": [
            {"run_id": str(child.run_id), "step": child.step, "branch": child.branch, "status": child.status}
            for child in state.children
        ],
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "status": step.status,
                "attempts": step.attempts,
                "undo_attempts": step.undo_attempts,
                "started_at": step.started_at and step.started_at.isoformat(),
                "finished_at": step.finished_at and step.finished_at.isoformat(),
                "undone_at": step.undone_at and step.undone_at.isoformat(),
                "error_code": step.error_code,
                "error_detail": step.error_detail,
            }
            for step in state.steps
        ],
    }
