"""Random journeys: steps of every shape, in an order that a saga may have; keys, a deadline, a list that is revised."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from apps.saga.definition import COMPENSABLE, PIVOT, REFUSE, RETRIABLE, WAIT, Definition, Hooks, Kind, Run
from apps.saga.shapes import REFUSE as REFUSED_THEN
from apps.saga.shapes import STUCK, ApprovalStep, Child, Decision, ParallelStep, Question, SubSagaStep, TimerStep
from apps.saga.terms import Breaker
from tests.simulation.steps import REFUSAL, TECHNICAL, Common, SimAsk, SimCall, SimLocal
from tests.simulation.world import World

BREAKER = Breaker(failures=2, within=timedelta(minutes=5))
BOSSES, DEPUTIES = "group:bosses", "group:deputies"
KEYS = ("a", "b")
DEADLINES = (20, 60, 300)  # seconds


class SimTimer(Common, TimerStep):
    """Waits a little."""

    def until(self, run: Run) -> datetime:
        self._fail(run, "until", TECHNICAL)
        return run.now + timedelta(seconds=3)


class SimApproval(Common, ApprovalStep):
    """Waits for one of the bosses, then perhaps for their deputies."""

    deciders = (BOSSES,)
    decide_within = delegate_within = timedelta(seconds=25)

    def __init__(self, world: World, position: int, kind: Kind, prefix: str = "") -> None:
        super().__init__(world, position, kind, prefix)
        self.delegates = world.chance.choice([(), (DEPUTIES,)])  # type: ignore[misc]
        self.on_timeout = world.chance.choice([REFUSED_THEN, STUCK])  # type: ignore[misc]

    def ask(self, run: Run) -> Question:
        self._fail(run, "ask", TECHNICAL)
        return Question("May it?")

    def on_decision(self, run: Run, decision: Decision) -> dict[str, Any] | None:
        self._fail(run, "on_decision", REFUSAL)
        return super().on_decision(run, decision)


class SimParallel(Common, ParallelStep):
    """Two or three branches, each a run of one step."""

    def __init__(self, world: World, position: int, kind: Kind, prefix: str = "") -> None:
        super().__init__(world, position, kind, prefix)
        branches = world.chance.randint(2, 3)
        self.steps = tuple(world.chance.choice(SHAPES)(world, at, kind, f"{self.name}_") for at in range(branches))

    def branches(self, run: Run) -> Mapping[str, Child]:
        self._fail(run, "branches", TECHNICAL)
        return super().branches(run)


class SimSub(Common, SubSagaStep):
    """A saga as a step: one of steps that can be undone or, after the pivot, of any."""

    def __init__(self, world: World, position: int, kind: Kind, prefix: str = "") -> None:
        super().__init__(world, position, kind, prefix)
        kinds = [COMPENSABLE] * world.chance.randint(1, 2)
        if kind is not COMPENSABLE:
            kinds = [COMPENSABLE] * world.chance.randint(0, 1) + [RETRIABLE]
        self.inner = Definition(
            f"simulated.s{world.seed}.{world.id}.{self.name}",
            1,
            tuple(world.chance.choice(SHAPES)(world, at, each, f"{self.name}_") for at, each in enumerate(kinds)),
        )
        self.definitions = (self.inner,)  # type: ignore[misc]

    def parts(self, _whole: Definition) -> Iterator[Definition]:
        yield self.inner

    def child(self, run: Run) -> Child:
        self._fail(run, "child", TECHNICAL)
        return Child(self.inner, run.subject_id, run.business_key, dict(run.data))


class Reopening(Hooks):
    """A journey whose owner lets it begin again after its undo."""

    def reopens(self, run: Run, *, step: str) -> bool:
        return True


SHAPES: tuple[type[SimLocal] | type[SimAsk] | type[SimCall], ...] = (SimLocal, SimLocal, SimAsk, SimCall)


def journey(world: World) -> Definition:
    """compensable* pivot? retriable*, of two to six steps of any shape."""
    chance = world.chance
    kinds = [COMPENSABLE] * chance.randint(0, 3) + [PIVOT] * chance.randint(0, 1) + [RETRIABLE] * chance.randint(0, 2)
    kinds = kinds if len(kinds) > 1 else [COMPENSABLE, *kinds, RETRIABLE]
    steps = tuple(_shape(world, kind)(world, position, kind) for position, kind in enumerate(sorted(kinds, key=_order)))
    for position, step in enumerate(steps):
        if isinstance(step, SimAsk | SimCall) and world.happens(0.15):
            step.breaker, step.partner = BREAKER, "partner"  # type: ignore[misc]
        if isinstance(step, SimLocal) and world.happens(0.1):
            step.revises, step.following = True, tuple(each.name for each in steps[position + 1 :])
    return Definition(
        f"simulated.s{world.seed}.{world.id}",
        1,
        steps,
        hooks=Reopening() if world.happens(0.5) else Hooks(),
        deadline=timedelta(seconds=chance.choice(DEADLINES)) if world.happens(0.25) else None,
        locks=_keys if world.happens(0.4) else None,
        on_conflict=chance.choice([WAIT, WAIT, REFUSE]),
    )


def _keys(data: Mapping[str, Any]) -> list[str]:
    return list(data["keys"])


def _shape(world: World, kind: Kind) -> type[Common]:
    drawn = world.chance.random()
    if kind is not PIVOT and drawn < 0.18:
        return SimParallel if drawn < 0.11 else SimSub
    if drawn < 0.30:
        return SimApproval if drawn < 0.25 else SimTimer
    return world.chance.choice(SHAPES)


_order = [COMPENSABLE, PIVOT, RETRIABLE].index
