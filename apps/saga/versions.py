"""Moving live runs to a newer version of their use case, by the mapping that the newer version declares.

Nobody has to: a run finishes on the version with which it began, for as long as that is registered.

Note [What may move]
A run moves when the steps that it has begun are, by the mapping and in the same order, the first steps of the newer
version, of the same kinds and shapes. Then positions stay, and with them every key that was given out to others;
what lies ahead is the newer version's. A step may be renamed: its trace key is made from the name under which it began.
A run that is undoing, or talks to the network in this moment, stays where it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.transactions import durable, transaction
from apps.saga import audit
from apps.saga.attributes import collect
from apps.saga.definition import Definition, UnknownDefinition, lookup, versions_of
from apps.saga.models import Lock, Run, RunStatus, Step, StepStatus
from apps.saga.pauses import UnknownUseCase
from apps.saga.reading import lacking
from apps.saga.snapshots import Snapshots

RUNS_MAX = 10_000  # in one call of move; call it again for more
MOVES = (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.STUCK)


class UnknownVersion(DomainError):
    """The use case has no such version."""

    code, status = "R516", 404


class NoMapping(DomainError):
    """The newer version does not say how runs of the older one move to it."""

    code = "R517"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What became of one run. ``refusal`` empty: it moved, or would have."""

    run_id: UUID
    business_key: str
    status: str
    refusal: str


# --- The mapping itself -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a step: enough to compare two versions."""

    name: str
    kind: str
    shape: str


def _steps_of(use_case: str, version: int) -> list[_Known] | None:
    """The steps of a version: as it is registered, or as it was written down."""
    try:
        return _declared(lookup(use_case, version))
    except UnknownDefinition:
        written = Snapshots().steps(use_case, version)
        return None if written is None else [_Known(each["name"], each["kind"], each["shape"]) for each in written]


def _declared(definition: Definition) -> list[_Known]:
    return [_Known(step.name, step.kind.value, step.shape) for step in definition.steps]


def mapping_problems(definition: Definition) -> Iterator[str]:
    """What is wrong with the mappings of a definition, a sentence each."""
    for version, mapping in definition.migrates_from.items():
        steps = _steps_of(definition.use_case, version)
        if version >= definition.version or steps is None:
            yield f"it says how runs move from version {version}, which is not an older one of this use case"
            continue
        older, newer = {step.name: step for step in steps}, {step.name: step for step in _declared(definition)}
        known = {old: new for old, new in mapping.items() if old in older and new in newer}
        yield from (
            f"it maps {old} of version {version} to {mapping[old]}: no such step" for old in mapping if old not in known
        )
        yield from _unlike(version, {old: (older[old], newer[new]) for old, new in known.items()})
        places = {new: place for place, new in enumerate(newer)}
        order = [places[mapping[step.name]] for step in steps if step.name in known]
        if order != sorted(set(order)):
            yield f"it maps steps of version {version} to the same step, or in another order"


def _unlike(version: int, pairs: dict[str, tuple[_Known, _Known]]) -> Iterator[str]:
    for old, (before, after) in pairs.items():
        if (before.kind, before.shape) != (after.kind, after.shape):
            yield (
                f"it maps {old} of version {version}, {before.kind.lower()} {before.shape}, "
                f"to {after.name}, {after.kind.lower()} {after.shape}"
            )


# --- One run ------------------------------------------------------------------------------------------------------------
def _begun(steps: Sequence[Step], cursor: int) -> list[Step]:
    """The steps that were done or tried, and those that lie behind the run."""
    last = max((step.position for step in steps if step.attempts or step.status != StepStatus.PENDING), default=-1)
    return list(steps[: max(cursor, last + 1)])


def _refusal(run: Run, steps: Sequence[Step], definition: Definition) -> str:
    """Why a locked run does not move; empty when it may. See Note [What may move]."""
    if definition.is_choreographed:
        return "its services carry its steps with them: it finishes on its own version"
    if run.version not in definition.migrates_from:
        return "it is of another version by now"
    if run.status not in MOVES or any(step.status == StepStatus.UNDOING for step in steps):
        return "it is over, or undoing: it finishes on its own version"
    if run.token is not None:
        return "a worker talks to a partner for it: try again later"
    mapping = definition.migrates_from[run.version]
    newer = _declared(definition)
    known = _steps_of(run.use_case, run.version)
    if known is not None and [step.name for step in steps] != [step.name for step in known]:
        return "a step of it has revised which steps follow: it finishes on its own version"
    for step in _begun(steps, run.cursor):
        new = newer[step.position] if step.position < len(newer) else None
        if new is None or mapping.get(step.name) != new.name:
            return f"it has begun {step.name}, which does not stand at the same place in version {definition.version}"
        if (step.kind, step.shape) != (new.kind, new.shape):
            return f"it has begun {step.name}, which is of another kind in version {definition.version}"
    done = {mapping[step.name]: step.output for step in steps[: run.cursor]}
    if lacks := lacking(done, definition.steps[run.cursor :]):
        return f"in version {definition.version} {lacks}, which this run has not: it finishes on its own version"
    if not _has_keys(run, definition):
        return f"it holds other keys than it would need in version {definition.version}: it finishes on its own version"
    return ""


def _has_keys(run: Run, definition: Definition) -> bool:
    """Does it hold, or wait for, the keys that the newer version takes? A run takes its keys when it begins."""
    if definition.locks is None:
        return True
    try:
        needed = set(definition.locks(run.data))
    except Exception:  # the newer version cannot read the older one's input
        return False
    return needed <= set(Lock.objects.filter(run_id=run.pk).values_list("key", flat=True))


@transaction
def _move(run_id: UUID, definition: Definition, *, reason: str, by: str, now: datetime, dry_run: bool) -> Moved | None:
    run = Run.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=run_id).first()
    if run is None:
        row = Run.objects.values_list("business_key", "status").filter(pk=run_id).first()
        said = "a worker is at it: try again later"
        return Moved(run_id=run_id, business_key=row[0], status=row[1], refusal=said) if row else None
    steps = list(Step.objects.filter(run_id=run_id).order_by("position"))
    refusal = _refusal(run, steps, definition)
    if not refusal and not dry_run:
        detail = {"from": run.version, "to": definition.version}
        _rewrite(run, _begun(steps, run.cursor), definition)
        audit.note(at=now, actor=by, action="migrate", use_case=run.use_case, run_id=run_id, reason=reason, detail=detail)
    return Moved(run_id=run_id, business_key=run.business_key, status=run.status, refusal=refusal)


def _rewrite(run: Run, begun: Sequence[Step], definition: Definition) -> None:
    """Rename what has begun, and replace what lies ahead."""
    mapping = definition.migrates_from[run.version]
    renamed = {mapping[step.name]: run.renamed.get(step.name, step.name) for step in begun}
    run.renamed = {new: old for new, old in renamed.items() if new != old}
    for step in begun:
        if mapping[step.name] != step.name:
            Step.objects.filter(run_id=run.pk, position=step.position).update(name=mapping[step.name])
    Step.objects.filter(run_id=run.pk, position__gte=len(begun)).delete()
    ahead = list(enumerate(definition.steps))[len(begun) :]
    Step.objects.bulk_create(
        Step(run_id=run.pk, position=position, name=step.name, kind=step.kind, shape=step.shape) for position, step in ahead
    )
    run.version = definition.version
    run.at_step = mapping.get(run.at_step) or definition.steps[run.cursor].name
    run.failed_step = mapping.get(run.failed_step, run.failed_step)
    run.attributes = collect(definition.attributes, run.data, {mapping[step.name]: step.output for step in begun})
    run.save(update_fields=["version", "at_step", "renamed", "failed_step", "attributes"])


# --- All of them ----------------------------------------------------------------------------------------------------------
@durable
def move(
    use_case: str,
    *,
    older: int,
    newer: int,
    reason: str,
    by: str,
    now: datetime,
    dry_run: bool,
    runs_max: int = RUNS_MAX,
) -> Iterator[Moved]:
    """Move the live and stuck runs of a version to a newer one, the oldest first; a run that may not move stays.

    One commit and one audit row a run, so it may be stopped at any moment, and repeated. ``dry_run``: nothing is written.
    Raises UnknownUseCase, UnknownVersion, NoMapping, InvalidRequest, before the first run.
    """
    why = audit.check_reason(reason)
    definition = _target(use_case, older=older, newer=newer)
    runs = Run.objects.filter(use_case=use_case, version=older, finished_at__isnull=True).order_by("id")
    ids = list(runs.values_list("pk", flat=True)[:runs_max])
    outcomes = (_move(run_id, definition, reason=why, by=by, now=now, dry_run=dry_run) for run_id in ids)
    return (outcome for outcome in outcomes if outcome is not None)


def _target(use_case: str, *, older: int, newer: int) -> Definition:
    versions = {each.version: each for each in versions_of(use_case)}
    if not versions:
        raise UnknownUseCase(f"There is no use case {use_case}.")
    if newer not in versions:
        raise UnknownVersion(f"{use_case} has no version {newer}.")
    if older not in versions[newer].migrates_from:
        raise NoMapping(f"{use_case} v{newer} does not say how runs of version {older} move to it.")
    if problems := list(mapping_problems(versions[newer])):
        raise NoMapping(f"{use_case} v{newer}: {problems[0]}.")
    return versions[newer]
