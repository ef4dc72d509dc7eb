"""The steps of a use case with what is known of each: who is there now, how long it took lately, what failed. Pure."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from apps.saga.public import Longest, Pace, Place, Spread, StepPace, StepTerms, Trouble, UseCaseState

# Shorter than this nobody calls it a wait; further limits where a person looks again, puts the phone down, and leaves.
HEAT_LIMITS = tuple(timedelta(seconds=seconds) for seconds in (0.1, 1, 4, 15, 30))
HOTTEST = len(HEAT_LIMITS)
_TURNED = frozenset({"COMPENSATING", "COMPENSATED"})
# The parts of a step's time, and what each is called where one word must do.
PARTS = (("queue", "queue"), ("work", "running"), ("between", "retries"), ("outside", "outside"))


@dataclass(frozen=True, slots=True)
class Lane:
    """The runs that are in a step now in one direction, of all versions."""

    runs: int = 0
    asking: int = 0
    in_error: int = 0
    held: int = 0
    stuck: int = 0
    longest: Longest | None = None

    @property
    def trouble(self) -> int:
        """Those that do not just wait for their turn: stuck, or tried again."""
        return self.stuck + self.in_error


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """A step of the map. ``terms`` None: no version that is registered has it any more, and ``name`` says which had.

    ``errors`` and ``undo_errors``: runs with an attempt that failed in the window; ``turned``: that turned around here.
    """

    name: str
    terms: StepTerms | None
    ahead: Lane
    back: Lane
    pace: StepPace | None
    errors: int
    undo_errors: int
    refusals: int
    turned: int
    worst: Trouble | None
    paused: bool

    @property
    def can_be_undone(self) -> bool:
        """Has it an undo?"""
        return self.terms is not None and self.terms.kind == "COMPENSABLE"

    @property
    def slowest(self) -> tuple[str, timedelta] | None:
        """The part on which the time goes, by its 95th percentile; None when no run passed."""
        found = [(word, spread.p95) for word, spread in spreads(self.pace) if spread is not None]
        return max(found, key=lambda each: each[1], default=None)


def spreads(pace: StepPace | None) -> list[tuple[str, Spread | None]]:
    """The parts of a step's time, in the order of the page."""
    return [(word, getattr(pace, part) if pace is not None else None) for part, word in PARTS]


def heat_of(took: timedelta | None) -> int:
    """From 0, which nobody notices, to HOTTEST."""
    return sum(took >= limit for limit in HEAT_LIMITS) if took is not None else 0


def share_heat(number: int, most: int) -> int:
    """The same for a count, against the highest of its kind; nothing is cold, and the highest is hot."""
    return 0 if not number or not most else max(1, round(number / most * HOTTEST))


def waited(lane: Lane, *, now: datetime) -> timedelta | None:
    """For how long the one that waits longest has waited."""
    return now - lane.longest.since if lane.longest is not None else None


def facts_of(state: UseCaseState, places: tuple[Place, ...], pace: Pace) -> tuple[StepFacts, ...]:
    """Every step of the newest version in its order, then those in which runs of older versions still are."""
    paced = {each.step: each for each in pace.steps}
    names = [step.name for step in state.steps]
    names += sorted({_called(place) for place in places} - set(names))
    terms = {step.name: step for step in state.steps}
    turned: Counter[str] = Counter()
    for ending in pace.endings:
        if ending.status in _TURNED:
            turned[ending.failed_step] += ending.runs
    paused = {pause.step for pause in state.pauses}
    return tuple(
        StepFacts(
            name=name,
            terms=terms.get(name),
            ahead=_lane([place for place in places if _called(place) == name and not place.undo]),
            back=_lane([place for place in places if _called(place) == name and place.undo]),
            pace=paced.get(name),
            turned=turned[name],
            paused=name in paused,
            worst=_worst(name, pace),
            **_failures(name, pace),
        )
        for name in names
    )


def lanes_of(places: tuple[Place, ...]) -> tuple[StepFacts, ...]:
    """The steps in which runs of one use case are now, without what happened lately: for pages that show many use cases."""
    return tuple(
        StepFacts(
            name=name,
            ahead=_lane([place for place in places if _called(place) == name and not place.undo]),
            back=_lane([place for place in places if _called(place) == name and place.undo]),
            terms=None,
            pace=None,
            errors=0,
            undo_errors=0,
            refusals=0,
            turned=0,
            worst=None,
            paused=False,
        )
        for name in sorted({_called(place) for place in places})
    )


def _called(place: Place) -> str:
    """Its step, or where it is when nobody knows its version."""
    return place.step or f"version {place.version}, step {place.position + 1}"


def _lane(places: list[Place]) -> Lane:
    if not places:
        return Lane()
    return Lane(
        runs=sum(place.runs for place in places),
        asking=sum(place.asking for place in places),
        in_error=sum(place.in_error for place in places),
        held=sum(place.held for place in places),
        stuck=sum(place.stuck for place in places),
        longest=min((place.longest for place in places), key=lambda longest: longest.since),
    )


def _failures(name: str, pace: Pace) -> dict[str, int]:
    found = {(each.undo, each.refused): each.runs for each in pace.failures if each.step == name}
    return {
        "errors": found.get((False, False), 0),
        "undo_errors": found.get((True, False), 0),
        "refusals": found.get((False, True), 0),
    }


def _worst(name: str, pace: Pace) -> Trouble | None:
    found = [each for each in pace.troubles if each.step == name and not each.undo and not each.refused]
    return max(found, key=lambda each: each.runs, default=None)
