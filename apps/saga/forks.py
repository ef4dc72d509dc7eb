"""Forking a run: try in a sandbox what it would do from a step on, with its input or an edited one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from apps.common.clock import uuid7
from apps.common.errors import DomainError, NotFound
from apps.common.transactions import durable, transaction
from apps.saga import attributes, audit, sandbox
from apps.saga.attributes import InvalidAttribute
from apps.saga.definition import Definition, LocalStep, UnknownDefinition, lookup
from apps.saga.fork_models import Fork
from apps.saga.models import LIVE, Run, Step, StepStatus
from apps.saga.pauses import UnknownStep
from apps.saga.values import InvalidValues, as_values
from apps.saga.versions import UnknownVersion

KEPT_FOR = timedelta(days=30)  # a fork answers a question of its day
FORGET_ROWS_MAX = 10_000  # in one round of the maintenance task
FORKS_MAX = 50  # of one run, told at once
_DONE = (StepStatus.DONE, StepStatus.UNDONE, StepStatus.UNDOING)


class NotOver(DomainError):
    """The run is on its way: only one that is over or stuck can be forked."""

    code = "R556"


class NeverReached(DomainError):
    """The run never came to this step, so nobody knows what the steps before it would have left."""

    code = "R557"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkStep:
    """``how``: run, taken (the run's own output), given (by the operator), not_asked, or kept (before the first step)."""

    name: str
    how: str
    status: str
    output: Mapping[str, Any]
    error_code: str
    error_detail: str
    took_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkState:
    """A try in the sandbox, and what it would have done. ``status``: COMPLETED, REFUSED or FAILED.

    ``published``: topic, schema and key of each message; ``posted``: rows by witness, such as the ledger's lines.
    """

    fork_id: UUID
    forked_from: UUID
    use_case: str
    version: int
    subject_id: UUID
    business_key: str
    from_step: str
    status: str
    failed_step: str
    error_code: str
    error_detail: str
    edited: bool
    steps: tuple[ForkStep, ...]
    published: tuple[Mapping[str, str], ...]
    posted: Mapping[str, Any]
    reason: str
    made_by: str
    made_at: datetime


@durable
def fork(
    run_id: UUID,
    *,
    reason: str,
    by: str,
    now: datetime,
    from_step: str = "",
    data: Mapping[str, Any] | None = None,
    answers: Mapping[str, Mapping[str, Any]] | None = None,
) -> ForkState:
    """Do the steps of a run that is over or stuck once more, in a sandbox: nothing is sent, only the tale of it stays.

    ``from_step`` empty: from the first. ``data``: another input. ``answers``: by step, what the other side of an ask or a
    call shall have said. What is written in the sandbox is rolled back; see Note [What is real] in sandbox.py. Raises
    NotFound, UnknownStep, UnknownVersion, NotOver, NeverReached, InvalidValues, InvalidRequest, ForkTooSlow.
    """
    why = audit.check_reason(reason)
    run = Run.objects.filter(pk=run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    if run.status in LIVE:
        raise NotOver(f"The run is {Run(status=run.status).get_status_display().lower()}.")
    plan = _plan(run, from_step, data, answers or {})
    played = sandbox.play(plan, now=now)
    return _state(_keep(run, plan, played, edited=data is not None, reason=why, by=by, now=now))


def _plan(
    run: Run, from_step: str, data: Mapping[str, Any] | None, answers: Mapping[str, Mapping[str, Any]]
) -> sandbox.Plan:
    try:
        definition = lookup(run.use_case, run.version)
    except UnknownDefinition as error:
        raise UnknownVersion(str(error)) from None
    rows = list(Step.objects.filter(run_id=run.pk).order_by("position"))
    names = tuple(row.name for row in rows)
    if from_step and from_step not in names:
        raise UnknownStep(f"The run has no step {from_step}.")
    at = names.index(from_step) if from_step else 0
    missing = next((row.name for row in rows[:at] if row.status not in _DONE), None)
    if missing is not None:
        raise NeverReached(f"{missing} was not done: fork from it, or from a step before it.")
    return sandbox.Plan(
        fork_id=uuid7(),
        definition=definition,
        subject_id=run.subject_id,
        business_key=run.business_key,
        data=run.data if data is None else _checked(definition, data),
        renamed=run.renamed,
        names=names,
        at=at,
        outputs={row.name: row.output for row in rows if row.status in _DONE},
        answers=_answers(definition, names[at:], answers),
    )


def _checked(definition: Definition, data: Mapping[str, Any]) -> dict[str, Any]:
    values = as_values(data, "input")
    try:
        attributes.check(definition.attributes, values)
    except InvalidAttribute as error:
        raise InvalidValues(f"{error}.", field="input") from None
    return values


def _answers(
    definition: Definition, names: tuple[str, ...], answers: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    for name in answers:
        if name not in names:
            raise InvalidValues(f"{name[:100]} is no step of the fork.", field="answers")
        if isinstance(definition.by_name[name], LocalStep):
            raise InvalidValues(f"{name} asks nobody: it is done.", field="answers")
    return {name: as_values(answer, f"answers.{name}") for name, answer in answers.items()}


@transaction
def _keep(
    run: Run, plan: sandbox.Plan, played: sandbox.Played, *, edited: bool, reason: str, by: str, now: datetime
) -> Fork:
    error, last = played.error, played.steps[-1]
    row = Fork.objects.create(
        id=plan.fork_id,
        forked_from=run.pk,
        use_case=run.use_case,
        version=run.version,
        subject_id=run.subject_id,
        business_key=run.business_key,
        from_step=plan.names[plan.at],
        status=Fork.Status.COMPLETED if error is None else Fork.Status[last.status],
        failed_step="" if error is None else last.name,
        error_code=last.error_code,
        error_detail=last.error_detail,
        data=plan.data,
        edited=edited,
        steps=[asdict(step) for step in played.steps],
        published=played.published,
        posted=played.posted,
        reason=reason,
        made_by=by,
        made_at=now,
    )
    detail = {"fork": str(row.id), "status": row.status, "edited": edited, "answers": sorted(plan.answers)}
    audit.note(
        at=now,
        actor=by,
        action="fork",
        use_case=run.use_case,
        step=row.from_step,
        run_id=run.pk,
        reason=reason,
        detail=detail,
    )
    row.refresh_from_db(fields=["posted"])  # as everybody will read it: texts, where Python had dates and amounts
    return row


# --- Questions ------------------------------------------------------------------------------------------------------------
def fork_state(fork_id: UUID) -> ForkState | None:
    """A fork by its id."""
    row = Fork.objects.filter(pk=fork_id).first()
    return _state(row) if row is not None else None


def forks_of(run_id: UUID) -> tuple[ForkState, ...]:
    """The forks of a run, the newest first, FORKS_MAX at most."""
    return tuple(_state(row) for row in Fork.objects.filter(forked_from=run_id).order_by("-id")[:FORKS_MAX])


def _state(row: Fork) -> ForkState:
    return ForkState(
        fork_id=row.id,
        forked_from=row.forked_from,
        use_case=row.use_case,
        version=row.version,
        subject_id=row.subject_id,
        business_key=row.business_key,
        from_step=row.from_step,
        status=row.status,
        failed_step=row.failed_step,
        error_code=row.error_code,
        error_detail=row.error_detail,
        edited=row.edited,
        steps=tuple(ForkStep(**step) for step in row.steps),
        published=tuple(row.published),
        posted=row.posted,
        reason=row.reason,
        made_by=row.made_by,
        made_at=row.made_at,
    )


@transaction
def forget_old(*, now: datetime) -> int:
    """Delete the forks that are older than they are kept for. How many; safe to repeat."""
    old = Fork.objects.filter(made_at__lt=now - KEPT_FOR).order_by("id").values_list("pk", flat=True)
    deleted, _ = Fork.objects.filter(pk__in=list(old[:FORGET_ROWS_MAX])).delete()
    return deleted
