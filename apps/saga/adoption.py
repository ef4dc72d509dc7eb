"""Taking over transactions that another system began: a run is written as if we had come to a step of it.

The steps before it are done, by the other system, with the outputs that are given. So an undo that comes to them finds in
``run.outputs`` what the other system did, and under the step key nothing of ours: a use case whose undo looks by the step
key alone is taken over after its pivot, or learns to look into the output.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db import transaction as django_transaction
from django.db.models import Q

from apps.common.errors import DomainError
from apps.common.transactions import durable, transaction, transaction_required
from apps.saga import audit, engine
from apps.saga.attributes import ACCOUNT, InvalidAttribute, check, collect
from apps.saga.beginnings import new_run
from apps.saga.definition import Definition
from apps.saga.models import Audit, Run, StepStatus
from apps.saga.pauses import UnknownStep
from apps.saga.reading import lacking
from apps.saga.session import Session
from apps.saga.usecases import definition_for
from apps.saga.values import InvalidValues, as_values

ROWS_MAX = 1_000  # in one request: each is a commit, and a caller waits for all of them
KEY_CHARACTERS_MAX = 200  # of the columns
SAME_KEY_MAX = 100  # runs with one key that are looked at
ACTION = "adopt"


class KeyTaken(DomainError):
    """There is a run with this key, which began otherwise."""

    code = "R563"


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """A transaction that is taken over. ``outputs``: by step, what the steps before ``at_step`` have left."""

    use_case: str
    at_step: str
    subject_id: UUID
    business_key: str
    data: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    idempotency_key: str = ""
    version: int | None = None  # None: the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """``known``: it had been taken over before, by the same request."""

    run_id: UUID
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptOutcome:
    """What became of one of many. ``outcome``: adopted, known or refused; then ``code`` and ``detail`` say why."""

    number: int
    business_key: str
    outcome: str
    run_id: UUID | None = None
    code: str = ""
    detail: str = ""


# --- One ------------------------------------------------------------------------------------------------------------------
@transaction_required
def adopt(
    definition: Definition,
    *,
    at_step: str,
    subject_id: UUID,
    business_key: str,
    data: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    reason: str,
    by: str,
    now: datetime,
    idempotency_key: str = "",
) -> Adopted:
    """Begin a run at a step, in the caller's commit, and let it go on after it; the steps before it are done by others.

    Safe to repeat: the same again, by business key or idempotency key, answers the same run. Raises KeyTaken for another
    body under a known key, UnknownStep, InvalidValues, InvalidRequest, UseCasePaused, KeyHeld; then nothing was written.
    """
    why = audit.check_reason(reason)
    names = [step.name for step in definition.steps]
    if at_step not in names:
        raise UnknownStep(f"{definition.use_case} v{definition.version} has no step {at_step[:100]}.")
    _check_key("business_key", business_key, least=1)
    _check_key("idempotency_key", idempotency_key, least=0)
    at, values = names.index(at_step), as_values(data, "input")
    if at and definition.is_choreographed:
        # Its services go by the messages that they were sent, and the steps before would all be asked for.
        raise InvalidValues("Its steps are done in other services: it is taken over at its first one.", field="at_step")
    given = _outputs(names[:at], outputs)
    if lacks := lacking({name: given.get(name, {}) for name in names[:at]}, definition.steps[at:]):
        raise InvalidValues(f"{lacks}: give it among the outputs.", field="outputs")
    try:
        check(definition.attributes, values)
    except InvalidAttribute as error:
        raise InvalidValues(f"{error}.", field="input") from None
    print_ = _fingerprint(at_step, subject_id, business_key, idempotency_key, values, given)
    known = _known(definition, business_key, idempotency_key, values, print_)
    if known is not None:
        return Adopted(run_id=known, known=True)
    session = new_run(
        definition,
        subject_id=subject_id,
        business_key=business_key,
        data=values,
        now=now,
        idempotency_key=idempotency_key,
    )
    _stand_at(session, at, given)
    audit.note(
        at=now,
        actor=by,
        action=ACTION,
        use_case=definition.use_case,
        step=at_step,
        run_id=session.run.id,
        reason=why,
        detail={"fingerprint": print_, "done_by_others": names[:at]},
    )
    engine.wake(session)
    return Adopted(run_id=session.run.id, known=False)


def _check_key(name: str, value: str, *, least: int) -> None:
    if not least <= len(value) <= KEY_CHARACTERS_MAX or "\x00" in value:
        raise InvalidValues(f"{name} has {least} to {KEY_CHARACTERS_MAX} characters, and no U+0000.", field=name)


def _outputs(earlier: list[str], outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    if not isinstance(outputs, Mapping):
        raise InvalidValues("outputs is an object: by step, what it has left.", field="outputs")
    for name in outputs:
        if name not in earlier:
            raise InvalidValues(f"{str(name)[:100]} is no step before the one that it begins with.", field="outputs")
    return {name: as_values(output, f"outputs.{name}") for name, output in outputs.items()}


def _fingerprint(*body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def _known(
    definition: Definition, business_key: str, idempotency_key: str, data: Mapping[str, Any], fingerprint: str
) -> UUID | None:
    """The run that this very request made. Raises KeyTaken."""
    runs: list[UUID] = []
    # In one order, so that two that have both keys in common do not wait for each other in a circle.
    for column, key in (("business_key", business_key), ("idempotency_key", idempotency_key)):
        if key:
            with connection.cursor() as cursor:  # two at once: the second one waits, and finds the first one's run
                lock = f"{definition.use_case} {column} {key}"
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [lock])
            found = Run.objects.filter(**{column: key}, use_case=definition.use_case, parent_id__isnull=True)
            if column == "idempotency_key":
                found = found.filter(_of_the_same_caller(definition, data))
            runs += found.order_by().values_list("pk", flat=True)[:SAME_KEY_MAX]
    for run_id, detail in Audit.objects.filter(run_id__in=runs, action=ACTION).values_list("run_id", "detail"):
        if detail.get("fingerprint") == fingerprint:
            return run_id
    if runs:
        raise KeyTaken(f"Run {runs[0]} has this key, and began otherwise.", field="business_key")
    return None


def _of_the_same_caller(definition: Definition, data: Mapping[str, Any]) -> Q:
    """Runs whose Idempotency-Keys are of the one who began this, where the use case tells who it was."""
    declared = [one for one in definition.attributes if one.name == ACCOUNT and not one.from_step]
    if not declared:
        return Q()
    caller = collect(declared, data, {})
    return Q(attributes__contains=caller) if caller else ~Q(attributes__has_key=ACCOUNT)


def _stand_at(session: Session, at: int, outputs: Mapping[str, dict[str, Any]]) -> None:
    """The steps before ``at`` are done."""
    for row in session.steps[:at]:
        row.status, row.output = StepStatus.DONE, outputs.get(row.name, {})
        row.started_at = row.finished_at = session.now
    session.run.cursor = at
    session.flush()


# --- Many -----------------------------------------------------------------------------------------------------------------
@durable
def adopt_many(
    legacies: Iterable[Legacy | DomainError], *, reason: str, by: str, now: datetime, dry_run: bool = False
) -> Iterator[AdoptOutcome]:
    """Take over one after the other, each in a commit of its own, and tell what became of each; stop at any time.

    An error instead of a transaction is told as its refusal. ``dry_run``: everything is checked and nothing is written.
    Raises InvalidRequest for a reason that says nothing, before the first one.
    """
    why = audit.check_reason(reason)
    return (
        _outcome(number, legacy, reason=why, by=by, now=now, dry_run=dry_run)
        for number, legacy in enumerate(legacies, start=1)
    )


def _outcome(
    number: int, legacy: Legacy | DomainError, *, reason: str, by: str, now: datetime, dry_run: bool
) -> AdoptOutcome:
    key = legacy.business_key[:KEY_CHARACTERS_MAX] if isinstance(legacy, Legacy) else ""
    try:
        if isinstance(legacy, DomainError):
            raise legacy
        found = _adopt(legacy, reason=reason, by=by, now=now, dry_run=dry_run)
    except DomainError as refusal:
        return AdoptOutcome(number=number, business_key=key, outcome="refused", code=refusal.code, detail=refusal.detail)
    told = "known" if found.known else "adopted"
    return AdoptOutcome(
        number=number, business_key=key, outcome=told, run_id=None if dry_run and told == "adopted" else found.run_id
    )


@transaction
def _adopt(legacy: Legacy, *, reason: str, by: str, now: datetime, dry_run: bool) -> Adopted:
    found = adopt(
        definition_for(legacy.use_case, legacy.version),
        at_step=legacy.at_step,
        subject_id=legacy.subject_id,
        business_key=legacy.business_key,
        data=legacy.data,
        outputs=legacy.outputs,
        idempotency_key=legacy.idempotency_key,
        reason=reason,
        by=by,
        now=now,
    )
    if dry_run:
        django_transaction.set_rollback(True)
    return found
