"""The engine under many threads: whoever wakes a run, and however often, each step takes effect once."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import UnknownOutcome
from apps.saga import engine
from apps.saga.definition import PIVOT, RETRIABLE, CallStep
from apps.saga.engine import Resumed
from apps.saga.models import LIVE, Attempt, Run, RunStatus, Step
from apps.saga.sweeper import sweep
from tests.integration.messaging.world import together
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, begin, call, known, local
from tests.saga_driver import let_time_pass

pytestmark = pytest.mark.django_db(transaction=True)

THREADS = 6
ROUNDS_MAX = 400


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(autouse=True)
def _no_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's messages are hints; here the threads are the hints."""
    monkeypatch.setattr("apps.saga.chains.wake", lambda *_: None)
    monkeypatch.setattr("apps.saga.chains.wake_soon", lambda *_: None)
    monkeypatch.setattr("apps.saga.chains.wake_undo", lambda *_: None)


def status(run_id: UUID) -> str:
    return Run.objects.values_list("status", flat=True).get(pk=run_id)


def drive(run_id: UUID, seed: int, *, disturb: Callable[[], object] = lambda: None) -> None:
    """Wake a run in both directions, again and again, until it is over."""
    chance = random.Random(seed)
    for _ in range(ROUNDS_MAX):
        found = status(run_id)
        if found not in LIVE:
            return
        engine.advance(run_id, undo=chance.random() < (0.8 if found == RunStatus.COMPENSATING else 0.2))
        disturb()
    raise AssertionError("the run never ends")


def drivers(run_id: UUID, **options: Callable[[], object]) -> list[Callable[[], None]]:
    return [partial(drive, run_id, seed, **options) for seed in range(THREADS)]


def consistent(run_id: UUID) -> None:
    """What must hold for every run that is over."""
    run = Run.objects.get(pk=run_id)
    assert (run.due_at, run.token) == (None, None)
    for step in Step.objects.filter(run=run):
        tries = Attempt.objects.filter(run=run, position=step.position)
        assert tries.filter(undo=False).count() == step.attempts
        assert tries.filter(undo=True).count() == step.undo_attempts
        numbers = sorted(tries.filter(undo=False).values_list("number", flat=True))
        assert numbers == list(range(1, step.attempts + 1)), "no two attempts have one number"
        assert step.waiting_until is None


class TestForward:
    def test_each_step_is_done_once(self, story: Story) -> None:
        steps = (local(story, "a"), call(story, "b"), local(story, "c", PIVOT), call(story, "d", RETRIABLE))
        with known(*steps, local(story, "e", RETRIABLE), story=story) as toy:
            run_id = begin(toy)
            together(*drivers(run_id))
        assert status(run_id) == RunStatus.COMPLETED
        assert story.told == [
            *["do a", "prepare b", "call b", "record b", "do c"],
            *["prepare d", "call d", "record d", "do e"],
        ]
        assert set(Step.objects.values_list("status", "attempts")) == {("DONE", 1)}
        consistent(run_id)

    def test_an_answer_is_taken_once_however_often_it_comes(self, story: Story) -> None:
        found: list[Resumed] = []
        with known(local(story, "a"), ask(story, "b"), local(story, "c", RETRIABLE), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            answers = [lambda: found.append(answer(run_id, 1))] * THREADS
            together(*answers, *drivers(run_id))
        assert Counter(found) == {Resumed.ACCEPTED: 1, Resumed.LATE: THREADS - 1}
        assert story.told == ["do a", "ask b", "answer b", "do c"]
        assert Run.objects.get(pk=run_id).late_answers == THREADS - 1
        assert status(run_id) == RunStatus.COMPLETED
        consistent(run_id)

    @pytest.mark.parametrize("seed", range(4))
    def test_an_answer_and_its_deadline_meet(self, story: Story, seed: int) -> None:
        found: list[Resumed] = []
        chance = random.Random(seed)
        with known(local(story, "a"), ask(story, "b"), local(story, "c", RETRIABLE), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)

            def time_passes() -> None:
                for _ in range(chance.randrange(6)):
                    let_time_pass(run_id)
                    engine.advance(run_id)
                found.append(answer(run_id, 1))

            together(time_passes, lambda: found.append(answer(run_id, 1)))
            together(*drivers(run_id, disturb=partial(let_time_pass, run_id)))
        over = status(run_id)
        assert story.told.count("answer b") == found.count(Resumed.ACCEPTED) <= 1
        if Resumed.ACCEPTED in found:
            assert over == RunStatus.COMPLETED
            assert story.told[-1] == "do c"
            assert "undo a" not in story.told
        else:
            assert over == RunStatus.COMPENSATED
            assert story.told[-3:] == ["undo b", "undo a", "compensated because b: NoAnswer"]
        consistent(run_id)

    @pytest.mark.parametrize("seed", range(3))
    def test_owners_that_lose_their_lease_record_nothing(self, story: Story, seed: int) -> None:
        chance = random.Random(seed)
        calling = call(story, "b", RETRIABLE)
        type(calling).attempts_max = 10_000
        run_id = UUID(int=0)

        def lose_the_lease() -> None:
            if chance.random() < 0.6:
                let_time_pass(run_id)

        with known(local(story, "a", PIVOT), _stalling(calling, lose_the_lease), story=story) as toy:
            run_id = begin(toy)
            together(*drivers(run_id))
        run = Run.objects.get(pk=run_id)
        assert run.status == RunStatus.COMPLETED
        assert story.told.count("record b") == 1
        assert run.stale_outcomes == Attempt.objects.filter(position=1, outcome="UNKNOWN").count()
        consistent(run_id)


def _stalling(step: CallStep, stall: Callable[[], None]) -> CallStep:
    """The same step, whose owner stalls on the network each time."""
    original = type(step).call

    def slow(self: CallStep, run: object) -> dict[str, object]:
        stall()
        return original(self, run)  # type: ignore[arg-type]

    type(step).call = slow  # type: ignore[method-assign, assignment]
    return step


class TestBack:
    def test_each_step_is_undone_once_in_reverse_order(self, story: Story) -> None:
        story.plan["do e"] = [Refusal("no")]
        steps = (local(story, "a"), call(story, "b"), local(story, "c"), call(story, "d"), local(story, "e", PIVOT))
        with known(*steps, story=story) as toy:
            run_id = begin(toy)
            together(*drivers(run_id))
        assert status(run_id) == RunStatus.COMPENSATED
        assert [line for line in story.told if line.startswith("undo ")] == ["undo d", "undo c", "undo b", "undo a"]
        assert story.told[-1] == "compensated because e: R999"
        assert story.told.count("compensated because e: R999") == 1
        consistent(run_id)

    def test_an_answer_to_an_undo_is_taken_once(self, story: Story) -> None:
        found: list[Resumed] = []
        with known(ask(story, "a", undo_waits=True), local(story, "b"), story=story) as toy:
            story.plan["do b"] = [Refusal("no")]
            run_id = begin(toy, inline_ms=10_000)
            answer(run_id, 0)
            engine.advance(run_id)
            engine.advance(run_id, undo=True)

            def reply() -> None:
                with transaction.atomic():
                    found.append(engine.resume(step_key=f"{run_id}:0:undo", answer={}, now=timezone.now()))

            together(*[reply] * THREADS, *drivers(run_id))
        assert Counter(found) == {Resumed.ACCEPTED: 1, Resumed.LATE: THREADS - 1}
        assert story.told.count("undone a") == 1
        assert status(run_id) == RunStatus.COMPENSATED
        consistent(run_id)

    def test_technical_errors_on_the_way_back_are_tried_again_by_whoever_comes(self, story: Story) -> None:
        story.plan["do c"] = [Refusal("no")]
        story.plan["undo b"] = [UnknownOutcome("dead line"), RuntimeError("a bug")]
        story.plan["undo a"] = [RuntimeError("a bug")] * 5
        calling = call(story, "b")
        type(calling).undo_attempts_max = 10_000  # time passes so quickly here that owners lose their leases
        with known(local(story, "a"), calling, local(story, "c", PIVOT), story=story) as toy:
            run_id = begin(toy)
            together(*drivers(run_id, disturb=partial(let_time_pass, run_id)))
        assert status(run_id) == RunStatus.COMPENSATED
        assert story.told.count("undone b") == 1
        assert story.told.count("undo a") == 6
        consistent(run_id)


class TestSweep:
    def test_many_sweepers_wake_each_run_once(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        woken: list[UUID] = []
        monkeypatch.setattr("apps.saga.chains.wake_soon", woken.append)
        with known(local(story, "a"), story=story) as toy:
            due = [begin(toy) for _ in range(30)]
            for run_id in due:
                let_time_pass(run_id)
            woken.clear()
            together(*[lambda: sweep() and None] * THREADS)
        assert sorted(woken) == sorted(due)

    def test_sweeps_while_others_work_on_the_runs(self, story: Story) -> None:
        stop = threading.Event()

        def sweeper() -> None:
            while not stop.is_set():
                sweep()

        def workers() -> None:
            try:
                for run_id in runs:
                    drive(run_id, 1, disturb=partial(let_time_pass, run_id))
            finally:
                stop.set()

        bank = call(story, "b")
        type(bank).attempts_max = 100  # time that is made to pass under a worker who talks costs an attempt each
        with known(local(story, "a"), bank, local(story, "c", PIVOT), story=story) as toy:
            runs = [begin(toy) for _ in range(8)]
            together(sweeper, workers, workers)
        assert {status(run_id) for run_id in runs} == {RunStatus.COMPLETED}
        assert Counter(story.told)["do a"] == Counter(story.told)["record b"] == Counter(story.told)["do c"] == 8
        for run_id in runs:
            consistent(run_id)
