"""The map of a use case: which step offends, and where do customers wait longest? Told from the runs' own rows."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from apps.backoffice.components.formats import age, plural
from apps.backoffice.components.offence import WINDOW_WORDS, Said, longest_wait, offence, offender
from apps.backoffice.components.stepmap import MEASURES, StepMap, Tone, step_map
from apps.backoffice.components.usemap import StepFacts, facts_of, heat_of, spreads, waited
from apps.backoffice.remembered import Remembered
from apps.saga import public as saga

LIVE_MS = 1000
# Percentiles of thousands of runs do not change from one second to the next; the counts of who is there now do.
PACE_FRESH_FOR = timedelta(seconds=10)
WINDOWS = saga.WINDOWS
WINDOW_DEFAULT = "1h"
_paces: Remembered[saga.Pace] = Remembered(PACE_FRESH_FOR)
forget = _paces.forget


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that changes how the map is seen."""

    word: str
    href: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """A duration with its heat; ``href`` where the runs behind it are listed."""

    took: timedelta | None
    heat: int
    href: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """A step in the table. The hrefs lead to the runs that each number counts."""

    facts: StepFacts
    href: str
    failed_href: str
    refused_href: str
    stuck_href: str
    held_href: str
    undo_href: str
    undo_failed_href: str
    now: Cell
    now_words: str
    longest_href: str
    whole: tuple[Cell, Cell, Cell]
    parts: tuple[tuple[str, Cell], ...]
    offends: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How the use case stands against its SLA: of the runs that ended in the window, and of those on the way."""

    within: int
    slow: int
    late: int
    slow_now: int
    late_now: int
    slow_href: str
    late_href: str

    @property
    def share(self) -> str:
        """Of those that ended, how many in time; empty when none ended."""
        ended = self.within + self.slow + self.late
        if not ended:
            return ""
        # Rounded down: 99.96 % are not all.
        return f"{int(self.within * 1000 / ended) / 10:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCaseMap:
    """All that the page says about the steps."""

    drawing: StepMap
    lines: tuple[StepLine, ...]
    offence: Said
    offence_href: str
    wait: Said
    wait_href: str
    promise: Promise | None
    on_the_way: int
    versions: str
    window: str
    window_words: str
    measure: str
    measures: tuple[Choice, ...]
    windows: tuple[Choice, ...]
    sample: str
    live_url: str
    now: datetime


def use_case_map(request: HttpRequest, state: saga.UseCaseState, *, now: datetime) -> UseCaseMap:
    """The map as the address asks for it: ``by`` a measure, over a ``window``. Four statements at most."""
    measure = request.GET.get("by", "")
    window = request.GET.get("window", "")
    return map_of(
        state,
        measure=measure if measure in MEASURES else MEASURES[0],
        window=window if window in WINDOWS else WINDOW_DEFAULT,
        now=now,
    )


def map_of(state: saga.UseCaseState, *, measure: str, window: str, now: datetime) -> UseCaseMap:
    """Ask where the runs are and how they fared, and lay it out."""
    found = saga.places(state.name, now=now)
    pace = _paces.get((state.name, window), lambda: saga.pace(state.name, since=now - WINDOWS[window], now=now), now=now)
    steps = facts_of(state, found, pace)
    doors = Doors(state.name, window)
    says, waits = offence(steps, window=window, now=now), longest_wait(steps, now=now)
    offends = offender(steps)
    tone = Tone(
        measure=measure,
        offender=offends.name if offends else "",
        waits_longest=waits.step if not waits.undo else "",
        now=now,
    )
    hrefs = {key: doors.at(key) for step in steps for key in (step.name, f"undo:{step.name}")}
    return UseCaseMap(
        drawing=step_map(steps, tone=tone, ends=_ends(pace), hrefs=hrefs),
        lines=tuple(_line(step, doors, offends=step is offends, now=now) for step in steps),
        offence=says,
        offence_href=_offence_href(offends, doors),
        wait=waits,
        wait_href=_longest_href(steps, waits),
        promise=_promise(state, found, pace, doors),
        on_the_way=sum(place.runs for place in found),
        versions=_versions(state),
        window=window,
        window_words=WINDOW_WORDS[window],
        measure=measure,
        measures=tuple(Choice(each.capitalize(), _address(each, window), each == measure) for each in MEASURES),
        windows=tuple(Choice(_WINDOW_NAMES[each], _address(measure, each), each == window) for each in WINDOWS),
        sample=_sample(pace, window, now=now),
        live_url=reverse("admin:backoffice_use_case_live", args=[state.name]) + _address(measure, window),
        now=now,
    )


_WINDOW_NAMES = {"15min": "15 min", "1h": "1 h", "24h": "24 h", "7d": "7 d"}


def _address(measure: str, window: str) -> str:
    return f"?{urlencode({'by': measure, 'window': window})}"


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the runs behind a number are listed."""

    use_case: str
    window: str

    def runs(self, **filters: str) -> str:
        """The list of runs of this use case, filtered."""
        return f"{reverse('admin:saga_run_changelist')}?{urlencode({'use_case': self.use_case, **filters})}"

    def lately(self, **filters: str) -> str:
        """The same, of the runs that began in the window."""
        return self.runs(begun=self.window, **filters)

    def at(self, step: str) -> str:
        """Those that are in a step now."""
        return self.runs(at=step)


def _offence_href(step: StepFacts | None, doors: Doors) -> str:
    if step is None:
        return ""
    if step.ahead.trouble:
        return doors.runs(at=step.name, needs="in_error")
    if step.back.stuck:
        return doors.runs(at=f"undo:{step.name}")
    return doors.lately(failed=step.name)


def _longest_href(steps: tuple[StepFacts, ...], said: Said) -> str:
    step = next((each for each in steps if each.name == said.step), None)
    if step is None:
        return ""
    longest = (step.back if said.undo else step.ahead).longest
    return reverse("admin:backoffice_run", args=[longest.run_id]) if longest is not None else ""


def _ends(pace: saga.Pace) -> dict[str, int]:
    def of(status: str) -> int:
        return sum(ending.runs for ending in pace.endings if ending.status == status)

    return {"started": pace.runs, "completed": of("COMPLETED"), "undone": of("COMPENSATED")}


def _versions(state: saga.UseCaseState) -> str:
    with_runs = [each for each in state.versions if each.live + each.stuck]
    older = [each for each in with_runs if each.version != state.version]
    total = sum(each.live + each.stuck for each in with_runs)
    if not total:
        return f"version {state.version}, no run on the way"
    if not older:
        return f"version {state.version}, {'its' if total == 1 else 'all'} {plural(total, 'run', 'runs')} on it"
    told = ", ".join(f"{plural(each.live + each.stuck, 'run', 'runs')} on version {each.version}" for each in with_runs)
    return f"version {state.version}; {told}"


def _sample(pace: saga.Pace, window: str, *, now: datetime) -> str:
    if pace.cut:
        told = f"the newest {plural(pace.runs, 'run', 'runs')}, of the last {age(now - pace.since)}: there are more"
    else:
        told = f"the {plural(pace.runs, 'run', 'runs')} that began in the last {WINDOW_WORDS[window]}"
    return f"Times and failures are of {told}."


def _promise(state: saga.UseCaseState, found: tuple[saga.Place, ...], pace: saga.Pace, doors: Doors) -> Promise | None:
    if state.sla is None:
        return None
    ended = {"within": 0, "slow": 0, "late": 0}
    for ending in pace.endings:
        if ending.standing in ended:
            ended[ending.standing] += ending.runs
    return Promise(
        **ended,
        slow_now=sum(place.slow for place in found),
        late_now=sum(place.late for place in found),
        slow_href=doors.runs(needs="slow"),
        late_href=doors.runs(needs="late"),
    )


def _line(step: StepFacts, doors: Doors, *, offends: bool, now: datetime) -> StepLine:
    lasted = waited(step.ahead, now=now)
    whole = step.pace.whole if step.pace is not None else None
    longest = step.ahead.longest
    return StepLine(
        facts=step,
        href=doors.at(step.name),
        failed_href=doors.lately(failed=step.name),
        refused_href=doors.lately(refused=step.name),
        stuck_href=doors.runs(at=step.name, needs="stuck"),
        held_href=doors.runs(at=step.name, needs="held"),
        undo_href=doors.at(f"undo:{step.name}"),
        undo_failed_href=doors.lately(failed=f"undo:{step.name}"),
        now=Cell(lasted, heat_of(lasted)),
        now_words=age(lasted) if lasted is not None else "",
        longest_href=reverse("admin:backoffice_run", args=[longest.run_id]) if longest is not None else "",
        whole=(
            _whole(step, whole.p50 if whole else None, doors),
            _whole(step, whole.p95 if whole else None, doors),
            _whole(step, whole.p99 if whole else None, doors),
        ),
        parts=tuple((word, _cell(spread.p95 if spread else None)) for word, spread in spreads(step.pace)),
        offends=offends,
    )


def _cell(took: timedelta | None) -> Cell:
    return Cell(took, heat_of(took))


def _whole(step: StepFacts, took: timedelta | None, doors: Doors) -> Cell:
    if took is None:
        return Cell(None, 0)
    # Rounded down, so that the run of which it is told is among those that the list shows.
    return Cell(took, heat_of(took), doors.lately(took=f"{step.name}:{int(took.total_seconds() * 1000) / 1000:g}"))
