"""Every shape in one journey, made to fail at every place in turn, in three ways, with every undo done twice.

After each: the run ended as it must, at the place where it was made to fail; what was done is undone, in reverse order,
and nothing was done after it was undone.
"""

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import UnknownOutcome
from apps.saga import engine
from apps.saga.deciding import ApprovalOver, decide
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, LocalStep, Output, Revise, Run
from apps.saga.models import LIVE, Approval, Lock, RunStatus
from apps.saga.models import Run as RunRow
from apps.saga.models import Step as StepRow
from apps.saga.shapes import TimerStep
from apps.saga.sweeper import sweep
from tests.integration.saga.hints import Hints, assert_whole
from tests.integration.saga.test_approvals import BOSS, question
from tests.integration.saga.test_children import sub, wrapped
from tests.integration.saga.test_engine import Refusal, Story, ask, call, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import registered, toy

pytestmark = pytest.mark.django_db(transaction=True)

# What may be made to fail before the pivot: what is told when it is done, and the step of the run or branch that it is.
PLACES = {
    "do a": "a",
    "ask q": "q",
    "decided q": "q",
    "do x": "x",
    "do y": "y",
    "do p1": "p1",
    "call p2": "p2",
    "answer p3": "p3",
    "do choose": "choose",
    "do r1": "r1",
    "call r2": "r2",
    "do z": "z",
}
SEEDS = int(os.environ.get("SHAPES_SEEDS", "20"))  # more by hand: a seed that fails is the name of its test
LEAVES = ("a", "x", "y", "p1", "p2", "p3", "choose", "r1", "r2")


class Choose(LocalStep):
    name, kind = "choose", COMPENSABLE
    story: Story

    def handle(self, run: Run) -> Output:
        self.story.tell("do choose")
        return Revise({}, ("r1", "r2", "z", "m"))

    def compensate(self, run: Run) -> None:
        self.story.tell("undo choose")


class Wait(TimerStep):
    name, kind = "t", COMPENSABLE

    def until(self, run: Run) -> datetime:
        return run.now + timedelta(hours=1)


@dataclass
class World:
    """The journey, and everybody whom it waits for."""

    story: Story
    hints: Hints
    definition: Definition
    now: datetime = field(default_factory=timezone.now)
    steps_done: list[str] = field(default_factory=list)

    def start(self) -> UUID:
        return begin(self.definition, now=timezone.now(), data={"keys": ["k"]})

    def end(self, run_id: UUID) -> RunRow:
        """Everybody does what he is asked, and time passes, until the run is over."""
        for _ in range(300):
            self.hints.work_off()
            run = RunRow.objects.get(pk=run_id)
            if run.status not in LIVE:
                return run
            self._answer()
            self._decide()
            past = timezone.now() - timedelta(seconds=1)
            StepRow.objects.filter(retry_at__isnull=False).update(retry_at=past)
            StepRow.objects.filter(waiting_until__isnull=False, shape="timer").update(waiting_until=past)
            RunRow.objects.filter(lease_until__isnull=False).update(lease_until=past)
            RunRow.objects.filter(due_at__isnull=False).update(due_at=past)
            sweep()
        raise AssertionError(f"the run never ends: {run.status} at {run.at_step}")

    def _answer(self) -> None:
        for run_id, position, undo in StepRow.objects.filter(shape="ask", waiting_until__isnull=False).values_list(
            "run_id", "position", "undo_attempts"
        ):
            with transaction.atomic():
                key = f"{run_id}:{position}" + (":undo" if undo else "")
                try:
                    with transaction.atomic():
                        engine.resume(step_key=key, answer={}, now=timezone.now())
                except RuntimeError:
                    continue  # the handler of messages would try it again

    def _decide(self) -> None:
        for pk in Approval.objects.filter(status="OPEN").values_list("pk", flat=True):
            try:
                decide(pk, approve=True, by=BOSS, reason="looks good", now=timezone.now())
            except (RuntimeError, ApprovalOver):
                continue  # the colleague presses the button again, or reads that it is over


@pytest.fixture(name="world")
def a_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    hints, story = Hints(), Story()
    hints.patch(monkeypatch)
    chooses = Choose()
    chooses.story = story
    child = toy(local(story, "x"), local(story, "y"), story=story, use_case="test.child")
    branches = wrapped(local(story, "p1"), call(story, "p2"), ask(story, "p3"))
    steps = (local(story, "a"), Wait(), question(story, "q"), sub(child), branches, chooses)
    end = (local(story, "z", PIVOT), local(story, "m", RETRIABLE))
    options = (local(story, "r1"), call(story, "r2"))
    whole = toy(*steps, *end, story=story, optional_steps=options, locks=lambda data: data["keys"])
    with registered(child, whole):
        yield World(story, hints, whole)


def twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every undo happens, its process dies before it says so, and it happens again."""
    died: set[str] = set()
    tell = world.story.tell

    def telling(what: str) -> None:
        tell(what)
        if what.startswith("undo ") and what not in died:
            died.add(what)
            raise RuntimeError("died right after it")

    monkeypatch.setattr(world.story, "tell", telling)


def clean(world: World) -> None:
    """What was done is undone after it, in reverse, and nothing is done again."""
    told = world.story.told
    for leaf in LEAVES:
        verbs = [line for line in told if line.split(" ", 1)[1] == leaf]
        undone = [at for at, line in enumerate(verbs) if line == f"undo {leaf}"]
        effects = [at for at, line in enumerate(verbs) if line.split(" ")[0] in ("do", "record", "answer")]
        if undone:
            assert not effects or max(effects) < min(undone), f"{leaf} was done after it was undone"
    order = [line.removeprefix("undo ") for line in told if line.startswith("undo ")]
    order = list(dict.fromkeys(reversed(order)))  # as they were undone last, the first one first
    spine = [leaf for leaf in order if not leaf.startswith("p")]
    assert spine == [leaf for leaf in LEAVES if leaf in spine], "in strict reverse order"


def finished(world: World) -> None:
    assert not RunRow.objects.filter(status__in=LIVE).exists()
    assert not Lock.objects.exists()
    assert not Approval.objects.filter(status="OPEN").exists()
    assert_whole()


class TestNothingFails:
    def test_and_all_is_done_once(self, world: World) -> None:
        run = world.end(world.start())
        assert run.status == RunStatus.COMPLETED
        told = world.story.told
        assert [told.count(f"do {leaf}") for leaf in ("a", "x", "y", "p1", "choose", "r1", "z", "m")] == [1] * 8
        assert [told.count(f"record {leaf}") for leaf in ("p2", "r2")] == [1, 1]
        assert not [line for line in told if line.startswith("undo ")]
        finished(world)


class TestEveryPlace:
    @pytest.mark.parametrize("undo", ["once", "twice"])
    @pytest.mark.parametrize("place", PLACES)
    def test_refuses(self, world: World, monkeypatch: pytest.MonkeyPatch, place: str, undo: str) -> None:
        world.story.plan[place] = [Refusal("no")]
        if undo == "twice":
            twice(world, monkeypatch)
        run = world.end(world.start())
        assert run.status == RunStatus.COMPENSATED
        assert run.error_code == "R999"
        failed = set(RunRow.objects.exclude(failed_step="").values_list("failed_step", flat=True))
        assert PLACES[place] in failed, "it failed where it was made to"
        assert set(RunRow.objects.values_list("status", flat=True)) == {"COMPENSATED"}
        assert "do z" not in world.story.told or place == "do z"
        clean(world)
        finished(world)

    @pytest.mark.parametrize("place", [place for place in PLACES if not place.startswith(("decided", "answer"))])
    def test_breaks_for_ever(self, world: World, place: str) -> None:
        world.story.plan[place] = [RuntimeError("broken")] * 100
        run = world.end(world.start())
        assert run.status == RunStatus.COMPENSATED
        assert run.error_code == "RuntimeError"
        clean(world)
        finished(world)

    @pytest.mark.parametrize("place", PLACES)
    def test_breaks_twice_and_then_works(self, world: World, place: str) -> None:
        broken = UnknownOutcome if place.startswith("call") else RuntimeError
        world.story.plan[place] = [broken("not now"), broken("not now")]
        assert world.end(world.start()).status == RunStatus.COMPLETED
        assert not [line for line in world.story.told if line.startswith("undo ")]
        finished(world)


class TestAfterThePivot:
    def test_nothing_goes_back(self, world: World) -> None:
        world.story.plan["do m"] = [RuntimeError("broken")] * 100
        run = world.end(world.start())
        assert run.status == RunStatus.STUCK
        assert not [line for line in world.story.told if line.startswith("undo ")]


class TestTurnedAroundAnywhere:
    @pytest.mark.parametrize("seed", range(12))
    def test_at_any_moment_the_deadline_may_pass(self, world: World, seed: int) -> None:
        run_id = world.start()
        for _ in range(seed):
            try:
                world.hints.waiting.popleft()()
            except IndexError:
                world._answer()
                world._decide()
                past = timezone.now() - timedelta(seconds=1)
                StepRow.objects.filter(waiting_until__isnull=False, shape="timer").update(waiting_until=past)
                RunRow.objects.filter(due_at__isnull=False).update(due_at=past)
                sweep()
        RunRow.objects.filter(pk=run_id).update(deadline_at=timezone.now() - timedelta(seconds=1))
        run = world.end(run_id)
        pivot_done = "do z" in world.story.told
        assert run.status == (RunStatus.COMPLETED if pivot_done else RunStatus.COMPENSATED)
        if not pivot_done:
            assert run.error_code == "R530"
            clean(world)
        finished(world)


class TestWhateverOrder:
    """Messages come twice, late, or never; time jumps; people say no; two runs want the same key."""

    @pytest.mark.parametrize("seed", range(SEEDS))
    def test_each_run_ends_whole(self, world: World, seed: int) -> None:
        chance = random.Random(seed)
        for place in chance.sample(sorted(PLACES), chance.randrange(3)):
            error = chance.choice([Refusal("no"), RuntimeError("broken"), RuntimeError("broken")])
            world.story.plan[place] = [error] * chance.choice([1, 1, 2])
        runs = [world.start() for _ in range(2)]
        for _ in range(chance.randrange(20, 120)):
            disturb(world, chance, runs)
        found = [world.end(run_id) for run_id in runs]
        for run in found:
            assert run.status in (RunStatus.COMPLETED, RunStatus.COMPENSATED), (run.status, run.error_code)
            branches = RunRow.objects.filter(parent_id=run.pk)
            assert set(branches.values_list("status", flat=True)) <= {run.status}
            assert effects_of(world, run) == (EFFECTS if run.status == RunStatus.COMPLETED else set())
        finished(world)


EFFECTS = {"a", "x", "y", "p1", "p2", "p3", "choose", "r1", "r2", "z", "m"}


def effects_of(world: World, run: RunRow) -> set[str]:
    """What is done and not undone, by the rows of the run and of its branches."""
    family = [run.pk, *RunRow.objects.filter(parent_id=run.pk).values_list("pk", flat=True)]
    done = StepRow.objects.filter(run_id__in=family, status="DONE")
    return set(done.exclude(shape__in=["timer", "approval", "child", "parallel"]).values_list("name", flat=True))


def disturb(world: World, chance: random.Random, runs: list[UUID]) -> None:
    """One thing happens."""
    hints, past = world.hints.waiting, timezone.now() - timedelta(seconds=1)
    what = chance.random()
    if what < 0.6 and hints:
        hints.rotate(chance.randrange(len(hints)))
        hint = hints.popleft()
        if chance.random() < 0.15:
            return  # it is lost
        for _ in range(1 + (chance.random() < 0.2)):
            hint()
    elif what < 0.7:
        world._answer()
    elif what < 0.78:
        for pk in Approval.objects.filter(status="OPEN").values_list("pk", flat=True):
            with suppress(RuntimeError, ApprovalOver):
                decide(pk, approve=chance.random() < 0.9, by=BOSS, reason="as I like", now=timezone.now())
    elif what < 0.9:
        due = RunRow.objects.filter(due_at__isnull=False)
        due.filter(pk__in=[pk for pk in due.values_list("pk", flat=True) if chance.random() < 0.5]).update(due_at=past)
        StepRow.objects.filter(retry_at__isnull=False).update(retry_at=past)
        StepRow.objects.filter(waiting_until__isnull=False, shape="timer").update(waiting_until=past)
        sweep()
    elif what < 0.97:
        engine.advance(chance.choice(list(RunRow.objects.values_list("pk", flat=True))), undo=chance.random() < 0.5)
    else:
        RunRow.objects.filter(pk=chance.choice(runs), finished_at=None).update(deadline_at=past)
