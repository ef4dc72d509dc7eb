"""The use cases: who answers for each, what it promises, what it consists of, and how many of its runs are where."""

from collections import Counter
from dataclasses import dataclass, replace

from django.db.models import Count, Q

from apps.saga.attributes import Attribute
from apps.saga.audit import Intervention, interventions
from apps.saga.definition import Definition, Step, registered, versions_of
from apps.saga.diagram import svg
from apps.saga.models import OPEN, Run, RunStatus
from apps.saga.pauses import PauseState, UnknownUseCase, pauses
from apps.saga.terms import Breaker, Sla
from apps.saga.versions import UnknownVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTerms:
    """A step as its definition has it. ``told``: the first sentence about it."""

    name: str
    kind: str
    shape: str
    told: str
    partner: str
    attempts_max: int
    undo_attempts_max: int
    breaker: Breaker | None
    optional: bool = False  # a run has it only when one of its steps has chosen it


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """The runs of a version that are not over. ``registered`` False: nobody knows how they go on."""

    version: int
    registered: bool
    live: int
    held: int
    stuck: int
    migrates_from: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCaseState:
    """A use case as it is now; the terms are those of its newest version."""

    name: str
    owner: str
    description: str
    version: int
    sla: Sla | None
    attributes: tuple[Attribute, ...]
    steps: tuple[StepTerms, ...]
    versions: tuple[VersionState, ...]
    pauses: tuple[PauseState, ...]
    interventions: tuple[Intervention, ...] = ()  # of one use case that is looked at, the newest

    @property
    def paused(self) -> bool:
        """Does no new run begin?"""
        return any(not pause.step for pause in self.pauses)


Counts = dict[tuple[str, int], Counter[str]]


def use_cases() -> tuple[UseCaseState, ...]:
    """Every registered use case, by name. The counts are exact, and read the runs alone that are not over."""
    names = sorted({definition.use_case for definition in registered()})
    counts, now_paused = _counts(Q()), pauses()
    return tuple(_state(name, counts, tuple(pause for pause in now_paused if pause.use_case == name)) for name in names)


def use_case(name: str) -> UseCaseState:
    """One of them. Raises UnknownUseCase."""
    if not versions_of(name):
        raise UnknownUseCase(f"There is no use case {name}.")
    found = _state(name, _counts(Q(use_case=name)), pauses(name))
    return replace(found, interventions=interventions(use_case=name))


def definition_for(name: str, version: int | None) -> Definition:
    """A version of a use case, the newest by default. Raises UnknownUseCase, UnknownVersion."""
    versions = {each.version: each for each in versions_of(name)}
    if not versions:
        raise UnknownUseCase(f"There is no use case {name}.")
    found = versions.get(max(versions) if version is None else version)
    if found is None:
        raise UnknownVersion(f"{name} has no version {version}.")
    return found


def drawing(name: str, version: int | None = None) -> str:
    """The picture of a use case, as SVG. Raises UnknownUseCase, UnknownVersion."""
    return svg(definition_for(name, version))


def _counts(condition: Q) -> Counts:
    rows = (
        Run.objects.filter(condition, status__in=OPEN)
        .order_by()
        .values_list("use_case", "version", "status")
        .annotate(runs=Count("pk"), held=Count("pk", filter=Q(held_by__isnull=False)))
    )
    found: Counts = {}
    for name, version, status, runs, held in rows:
        counter = found.setdefault((name, version), Counter())
        counter["stuck" if status == RunStatus.STUCK else "live"] += runs
        counter["held"] += held
    return found


def _state(name: str, counts: Counts, paused: tuple[PauseState, ...]) -> UseCaseState:
    known = {each.version: each for each in versions_of(name)}
    newest = known[max(known)]
    numbers = sorted({*known, *(version for use_case, version in counts if use_case == name)})
    return UseCaseState(
        name=name,
        owner=newest.owner,
        description=newest.description,
        version=newest.version,
        sla=newest.sla,
        attributes=newest.attributes,
        steps=tuple(_terms(step, optional=step not in newest.steps) for step in newest.all_steps),
        versions=tuple(_version(number, known.get(number), counts.get((name, number), Counter())) for number in numbers),
        pauses=paused,
    )


def _version(number: int, definition: Definition | None, counted: Counter[str]) -> VersionState:
    return VersionState(
        version=number,
        registered=definition is not None,
        live=counted["live"],
        held=counted["held"],
        stuck=counted["stuck"],
        migrates_from=tuple(sorted(definition.migrates_from)) if definition else (),
    )


def _terms(step: Step, *, optional: bool) -> StepTerms:
    paragraph = " ".join((step.__doc__ or "").split("\n\n")[0].split())
    return StepTerms(
        name=step.name,
        kind=step.kind.value,
        shape=step.shape,
        told=paragraph,
        partner=step.partner,
        attempts_max=step.attempts_max,
        undo_attempts_max=step.undo_attempts_max,
        breaker=step.breaker,
        optional=optional,
    )
