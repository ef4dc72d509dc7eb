"""Which runs an action means, and what would become of each of them: the dry run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from apps.common.errors import DomainError, InvalidRequest
from apps.saga import closing, incidents, triage
from apps.saga.attributes import amount_of
from apps.saga.edits import output_fields
from apps.saga.filters import Filter, matching
from apps.saga.models import Run, Step
from apps.saga.reading import OutputNeeded
from apps.saga.search import check_use_case
from apps.saga.triage import Action, Wanted

RUNS_MAX = 10_000  # of one action: minutes of work; a person looks at what came of it before the next
LEFT_RUNS_MAX = 100  # of which the owner is asked what stays half done: some queries each, and nobody reads more
READ_RUNS = 500  # judged at a time: their steps are read in one query


class NoRuns(DomainError):
    """No run is meant."""

    code = "R547"


class TooManyRuns(DomainError):
    """More runs are meant than one action takes: narrow it, or ask for the first ones."""

    code, status = "R548", 422


class UnknownIncident(DomainError):
    """There is no such incident."""

    code, status = "R549", 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which runs: exactly one of the first three; ``within``: of these only those that somebody has seen."""

    run_ids: tuple[UUID, ...] = ()
    incident_id: UUID | None = None
    filter: Filter | None = None
    within: tuple[UUID, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What would become of one run. ``code`` empty: it would be done. ``left``: what its owner says stays half done."""

    run_id: UUID
    business_key: str
    amount: Decimal | None
    code: str
    detail: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Runs of which the same would become."""

    code: str
    detail: str
    runs: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A dry run. ``outcomes`` in the order in which the runs began."""

    told: str
    outcomes: tuple[Outcome, ...]
    sums: tuple[Sum, ...]
    amount: Decimal
    needs_approval: bool


# --- Which runs? --------------------------------------------------------------------------------------------------------
def _meant(which: Selection, *, now: datetime) -> tuple["QuerySet[Run]", str]:
    """The runs, and what they are called."""
    if sum((bool(which.run_ids), which.incident_id is not None, which.filter is not None)) != 1:
        raise InvalidRequest("Say which runs: run_ids, incident_id or filter, one of them.", field="run_ids")
    if which.incident_id is not None:
        found = incidents.incident(which.incident_id)
        if found is None:
            raise UnknownIncident
        affected = incidents.affected_by(found.use_case, found.step, found.error_code)
        return Run.objects.filter(affected), f"{found.error_code} at {found.step} of {found.use_case}"
    if which.filter is not None:
        check_use_case(which.filter.use_case)
        # What is over can only be refused, and history is long.
        narrow = which.filter if which.filter.state or which.filter.statuses else replace(which.filter, state="open")
        return matching(narrow, now=now), _filter_words(narrow)
    if len(which.run_ids) > RUNS_MAX:
        raise TooManyRuns(field="run_ids")
    told = f"run {which.run_ids[0]}" if len(which.run_ids) == 1 else f"{len(which.run_ids)} chosen runs"
    return Run.objects.filter(pk__in=which.run_ids), told


def _filter_words(wanted: Filter) -> str:
    said = [wanted.use_case, wanted.state, *wanted.statuses, wanted.step, wanted.error_code, wanted.waiting_for]
    said += [f"{each.name}{each.operator}{each.value}" for each in wanted.conditions]
    since = [f"since {wanted.started_from:%Y-%m-%d %H:%M}"] if wanted.started_from else []
    until = [f"before {wanted.started_before:%Y-%m-%d %H:%M}"] if wanted.started_before else []
    return " · ".join([*filter(None, said), *since, *until])


def runs_of(which: Selection, *, runs_max: int | None, now: datetime) -> tuple[list[Run], str]:
    """The runs in the order in which they began. Raises TooManyRuns, and InvalidRequest for a run that is not there."""
    rows, told = _meant(which, now=now)
    rows = rows.filter(pk__in=which.within) if which.within is not None else rows
    most = RUNS_MAX + 1 if runs_max is None else min(runs_max, RUNS_MAX)
    ids = sorted(rows.order_by().values_list("pk", flat=True)[: RUNS_MAX + 1])[:most]
    if len(ids) > RUNS_MAX:
        raise TooManyRuns(f"More than {RUNS_MAX:,} runs are meant: narrow it, or ask for the first ones (runs_max).")
    if missing := set(which.run_ids) - set(ids) if runs_max is None else set():
        raise InvalidRequest(f"There is no run {sorted(missing)[0]}.", field="run_ids")
    return list(Run.objects.filter(pk__in=ids).order_by("pk")), told


def needs_approval(action: Action, amount: Decimal) -> bool:
    """Must a second person agree? By the setting SAGA_FOUR_EYES: names of actions, and amounts above which any does."""
    words = settings.SAGA_FOUR_EYES
    return any(word == action or (word[0].isdigit() and amount > Decimal(word)) for word in words)


def at_risk(runs: Iterable[Run]) -> Decimal:
    """The sum of their amounts."""
    return sum((amount_of(run.attributes) or Decimal(0) for run in runs), Decimal("0.00"))


def check_alone(runs: Sequence[Run], what: Wanted) -> None:
    """An output that a later step reads is one run's own: it names a payment, a hold, a document. Raises OutputNeeded."""
    if what.action is not Action.SKIP or not what.given or len(runs) < 2:  # more than one
        return
    for run in {(run.use_case, run.version, run.at_step): run for run in runs}.values():
        names = Step.objects.filter(run_id=run.pk).order_by("position").values_list("name", flat=True)
        if output_fields(run.use_case, run.version, list(names), run.cursor):
            raise OutputNeeded("What a later step reads is different in each run: skip them one by one.", field="output")


# --- Dry run ------------------------------------------------------------------------------------------------------------
def preview(which: Selection, what: Wanted, *, now: datetime, expected: str = "", runs_max: int | None = None) -> Preview:
    """What would become of each run now. Changes nothing. Raises what ``request`` would, but for a missing reason."""
    runs, told = runs_of(which, runs_max=runs_max, now=now)
    check_expected(runs, expected)
    check_alone(runs, what)
    outcomes = tuple(_outcomes(runs, what, seen=expected, now=now))
    amount = at_risk(runs)
    return Preview(
        told=told,
        outcomes=outcomes,
        sums=_sums(outcomes),
        amount=amount,
        needs_approval=needs_approval(what.action, amount),
    )


def check_expected(runs: Sequence[Run], expected: str) -> None:
    """Only of one run somebody can have seen the state. Raises InvalidRequest."""
    if expected and len(runs) != 1:
        raise InvalidRequest("expected is the state of one run that you saw.", field="expected")


def _outcomes(runs: Sequence[Run], what: Wanted, *, seen: str, now: datetime) -> Iterator[Outcome]:
    asks = what.action is Action.HANDLE and len(runs) <= LEFT_RUNS_MAX
    for first in range(0, len(runs), READ_RUNS):
        few = runs[first : first + READ_RUNS]
        steps: dict[UUID, list[Step]] = {run.pk: [] for run in few}
        for step in Step.objects.filter(run_id__in=steps).order_by("run_id", "position"):
            steps[step.run_id].append(step)
        for run in few:
            yield _outcome(run, steps[run.pk], what, asks=asks, seen=seen, now=now)


def _outcome(run: Run, steps: Sequence[Step], what: Wanted, *, asks: bool, seen: str, now: datetime) -> Outcome:
    left: tuple[str, ...] = ()
    try:
        session = triage.peek(run, steps, now=now)
        code, detail = "", triage.judge(session, what, seen=seen)
        if asks:
            left = closing.left(session)
    except DomainError as refusal:
        code, detail = refusal.code, refusal.detail
    amount = amount_of(run.attributes)
    return Outcome(run_id=run.pk, business_key=run.business_key, amount=amount, code=code, detail=detail, left=left)


def _sums(outcomes: Sequence[Outcome]) -> tuple[Sum, ...]:
    """What would be done first, the most frequent first."""
    groups: dict[tuple[str, str], list[Decimal]] = {}
    for each in outcomes:
        groups.setdefault((each.code, each.detail), []).append(each.amount or Decimal(0))
    found = [
        Sum(code=code, detail=detail, runs=len(amounts), amount=sum(amounts, Decimal("0.00")))
        for (code, detail), amounts in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: (bool(each.code), -each.runs, each.detail)))
