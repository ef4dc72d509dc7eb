"""How a run begins, whoever begins it: a caller, or a step of another run."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common.clock import uuid7
from apps.common.transactions import transaction_required
from apps.saga import attributes, locks, pauses
from apps.saga.definition import Definition
from apps.saga.models import RunStatus
from apps.saga.rows import RunRow
from apps.saga.session import GRACE, Session


class InvalidDefinition(RuntimeError):
    """A definition that ``manage.py check`` refuses was started: a bug."""


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose branch a run is: another run's, of its step at this position."""

    run_id: UUID
    position: int
    branch: str


@transaction_required
def new_run(
    definition: Definition,
    *,
    subject_id: UUID,
    business_key: str,
    data: dict[str, Any],
    now: datetime,
    global_id: UUID | None = None,
    idempotency_key: str = "",
    parent: Parent | None = None,
    run_id: UUID | None = None,
) -> Session:
    """A run in the caller's commit. ``flush`` of what is returned writes it; until then only its keys are taken.

    It is held when its use case is paused, and waits when another run holds one of its keys: whoever goes on with it asks
    ``may_begin`` first. Raises InvalidDefinition, InvalidAttribute, UseCasePaused, KeyHeld.
    """
    if definition.first_problem:
        raise InvalidDefinition(f"{definition.use_case}: {definition.first_problem}")
    attributes.check(definition.attributes, data)
    pause = pauses.check_start(definition.use_case)
    run_id = run_id or uuid7()
    run = RunRow(
        id=run_id,
        global_id=global_id or run_id,
        use_case=definition.use_case,
        version=definition.version,
        subject_id=subject_id,
        business_key=business_key,
        status=RunStatus.RUNNING,
        data=data,
        idempotency_key=idempotency_key,
        due_at=now + GRACE,
        started_at=now,
        deadline_at=now + definition.deadline if definition.deadline is not None else None,
    )
    if parent is not None:
        run.parent_id, run.parent_position, run.branch = parent.run_id, parent.position, parent.branch
    session = Session.create(definition, run, now=now)
    locks.take(session)
    if pause is not None:
        session.hold(pause.id)
    return session


def may_begin(session: Session) -> bool:
    """Does nothing stand in the way of its first step, as far as is known without a query?"""
    run = session.run
    return run.held_by is None and not run.awaits_key and not pauses.is_known(run.use_case, session.step.name)
