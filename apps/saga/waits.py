"""Where a run stands: at which step, whom it waits for and until when, and how that agrees with its SLA.

All of it is in the run's own row and in its definition, so a list of runs costs one query.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from apps.saga.definition import Definition, Step, UnknownDefinition, lookup
from apps.saga.models import RunStatus
from apps.saga.shapes import ApprovalStep, ChildrenStep, TimerStep

OPERATOR = "operator"  # whom a stuck run waits for, when nobody is named as its use case's owner


class RunFacts(Protocol):
    """What is looked at of a run's row."""

    use_case: str
    version: int
    status: str
    cursor: int
    at_step: str
    awaits_key: str | None
    deadline_at: datetime | None
    error_code: str
    token: UUID | None
    lease_until: datetime | None
    due_at: datetime | None
    held_by: UUID | None
    held_at: datetime | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a run that is not over waits for.

    ``kind``: answer (of a partner to a question), call (that a worker makes), retry (the next attempt), undo (of a step),
    worker (nothing but its turn), pause (held), person (stuck), timer (a moment), approval (a person's decision), branches
    (runs that are parts of it) or lock (another run holds its key). ``until`` None: nobody knows.
    """

    kind: str
    whom: str
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The SLA of one run. ``standing``: within, slow or late, now or when it ended."""

    target_at: datetime
    deadline_at: datetime
    standing: str


def definition_of(run: RunFacts) -> Definition | None:
    """The definition with which the run began; None when this process does not know it."""
    try:
        return lookup(run.use_case, run.version)
    except UnknownDefinition:
        return None


def step_of(run: RunFacts, definition: Definition | None) -> str:
    """The step that the run does, or undoes; empty when it is over, or its definition is not known."""
    if run.finished_at is not None:
        return ""
    if run.at_step or definition is None or run.cursor >= len(definition.steps):
        return run.at_step
    return definition.steps[run.cursor].name  # written before runs named their step themselves


def wait_of(run: RunFacts, definition: Definition | None) -> Wait | None:
    """Whom the run waits for; None when it is over."""
    if run.finished_at is not None:
        return None
    if run.held_by is not None:
        return Wait(kind="pause", whom="whoever lifts the pause", since=run.held_at, until=None)
    if run.status == RunStatus.STUCK:
        owner = definition.owner if definition else ""
        return Wait(kind="person", whom=owner or OPERATOR, since=None, until=None)
    if run.awaits_key:
        return Wait(kind="lock", whom=f"the run that holds {run.awaits_key}", since=run.started_at, until=run.deadline_at)
    step = definition.by_name.get(step_of(run, definition)) if definition is not None else None
    partner = step.partner if step is not None else ""
    if run.token is not None:
        return Wait(kind="call", whom=partner, since=None, until=run.lease_until)
    if run.status == RunStatus.WAITING:
        return _waiting(run, step, partner)
    if run.status == RunStatus.COMPENSATING:
        return Wait(kind="undo", whom=partner, since=None, until=run.due_at)
    if run.error_code:
        return Wait(kind="retry", whom=partner, since=None, until=run.due_at)
    return Wait(kind="worker", whom="a worker", since=None, until=None)


def _waiting(run: RunFacts, step: Step | None, partner: str) -> Wait:
    if isinstance(step, TimerStep):
        return Wait(kind="timer", whom="a moment", since=None, until=run.due_at)
    if isinstance(step, ApprovalStep):
        return Wait(kind="approval", whom=partner or " or ".join(step.deciders), since=None, until=run.due_at)
    if isinstance(step, ChildrenStep):
        return Wait(kind="branches", whom=partner or "its branches", since=None, until=run.deadline_at)
    return Wait(kind="answer", whom=partner, since=None, until=run.due_at)


def promise_of(run: RunFacts, definition: Definition | None, *, now: datetime) -> Promise | None:
    """How the run stands against its SLA; None when none was promised. Time in a pause counts: the customer waits."""
    if definition is None or definition.sla is None:
        return None
    sla = definition.sla
    return Promise(
        target_at=run.started_at + sla.target,
        deadline_at=run.started_at + sla.deadline,
        standing=sla.standing((run.finished_at or now) - run.started_at),
    )
