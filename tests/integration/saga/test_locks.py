"""Keys that a run holds from its start to its end: the next one waits in order, or is refused."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, REFUSE, RETRIABLE, Definition, LocalStep, Run
from apps.saga.edits import InvalidInput
from apps.saga.locks import KEYS_MAX, KeyHeld, locks_of
from apps.saga.models import LIVE, Lock, RunStatus
from apps.saga.models import Run as RunRow
from apps.saga.queries import run_state
from apps.saga.sweeper import sweep
from apps.saga.triage import Action, WrongState, apply, wanted
from apps.saga.waits import wait_of
from tests.integration.messaging.world import together
from tests.integration.saga.hints import Hints, assert_whole, end, many
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import registered, toy

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="hints", autouse=True)
def some_hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    hints = Hints()
    hints.patch(monkeypatch)
    return hints


def locking(*steps: Any, story: Story, **terms: Any) -> Definition:
    """Its runs lock what their data names."""
    return toy(*steps, story=story, locks=lambda data: data["keys"], **terms)


def on(definition: Definition, *keys: str, **options: Any) -> UUID:
    return begin(definition, now=timezone.now(), data={"keys": list(keys)}, **options)


def run_of(run_id: UUID) -> RunRow:
    return RunRow.objects.get(pk=run_id)


def held() -> dict[str, UUID]:
    return dict(Lock.objects.filter(state="HELD").values_list("key", "run_id"))


@contextmanager
def another_transaction() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Do something in a transaction of another connection, and leave that open."""
    import threading

    ready, go = threading.Event(), threading.Event()
    found: list[Any] = []

    def run(what: Callable[[], Any]) -> None:
        from django.db import connections

        try:
            with transaction.atomic():
                found.append(what())
                ready.set()
                assert go.wait(90)
        finally:
            ready.set()
            connections.close_all()

    threads: list[threading.Thread] = []

    def do(what: Callable[[], Any]) -> Any:
        threads.append(threading.Thread(target=run, args=(what,)))
        threads[0].start()
        assert ready.wait(90)
        return found[0]

    try:
        yield do
    finally:
        go.set()
        threads[0].join(90)


class TestWaiting:
    def test_the_second_run_waits_and_is_handed_the_key(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            first, second, third = (on(a_toy, "order-1") for _ in range(3))
            other = on(a_toy, "order-2")
            hints.work_off()
            assert [run_of(each).awaits_key for each in (first, second, third, other)] == ["", "order-1", "order-1", ""]
            assert [run_of(each).status for each in (first, second)] == [RunStatus.WAITING, RunStatus.RUNNING]
            assert story.told == ["ask a", "ask a"]
            answer(first, 0)
            hints.work_off()
            assert held() == {"order-1": second, "order-2": other}
            assert run_of(second).status == RunStatus.WAITING, "it was woken, and asks"
            answer(second, 0)
            hints.work_off()
            answer(third, 0)
            answer(other, 0)
            assert end(hints, first, second, third, other) == [RunStatus.COMPLETED] * 4
        assert not Lock.objects.exists()

    def test_it_shows_whom_it_waits_for(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story, deadline=timedelta(hours=1))
        with registered(a_toy):
            first, second, third = (on(a_toy, "order-1") for _ in range(3))
            hints.work_off()
            wait = wait_of(run_of(third), a_toy)
            assert wait is not None
            assert (wait.kind, wait.whom, wait.until) == ("lock", "the run that holds order-1", run_of(third).deadline_at)
            state = run_state(third)
            assert state is not None
            (lock,) = state.locks
            assert (lock.key, lock.held, lock.holder, lock.holder_business_key, lock.ahead) == (
                *("order-1", False, first, "toy", 1),
            )
            assert locks_of(second)[0].ahead == 0
            assert locks_of(first)[0].held

    def test_is_freed_by_a_run_that_is_undone(self, story: Story, hints: Hints) -> None:
        story.plan["do b"] = [Refusal("no")]
        a_toy = locking(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            first, second = on(a_toy, "k"), on(a_toy, "k")
            answer(first, 0)
            hints.work_off()
            assert (run_of(first).status, held()) == (RunStatus.COMPENSATED, {"k": second})

    def test_is_kept_by_a_run_that_is_stuck(self, story: Story, hints: Hints) -> None:
        story.plan["undo a"] = [Refusal("no way back")]
        story.plan["do b"] = [Refusal("no")]
        a_toy = locking(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            first, second = on(a_toy, "k"), on(a_toy, "k")
            answer(first, 0)
            hints.work_off()
            assert (run_of(first).status, held()) == (RunStatus.STUCK, {"k": first})
            assert run_of(second).awaits_key == "k"

    def test_a_run_that_is_quick_leaves_no_trace(self, story: Story) -> None:
        a_toy = locking(local(story, "a"), story=story)
        with registered(a_toy):
            assert run_of(on(a_toy, "k")).status == RunStatus.COMPLETED
            assert run_of(on(a_toy, "k")).status == RunStatus.COMPLETED
        assert not Lock.objects.exists()

    def test_the_deadline_holds_for_runs_that_wait(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = locking(ask(story, "a"), story=story, deadline=timedelta(seconds=10))
        with registered(a_toy):
            first, second, third = (on(a_toy, "k") for _ in range(3))
            RunRow.objects.filter(pk__in=[first, third]).update(deadline_at=now + timedelta(days=9))
            hints.work_off()
            assert run_of(second).due_at == run_of(second).deadline_at
            assert sweep(now=now + timedelta(seconds=11)) == 3
            hints.waiting.clear()
            engine.advance(second, now=now + timedelta(seconds=11))
            assert (run_of(second).status, run_of(second).error_code) == (RunStatus.COMPENSATED, "R530")
            answer(first, 0)
            hints.work_off()
            assert held() == {"k": third}, "it left the queue"

    def test_a_run_that_waits_is_not_pushed_past_it_by_hand(self, story: Story, hints: Hints) -> None:
        """Skipping its first step, and undoing it then, would do something while another run has the key."""
        a_toy = locking(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            on(a_toy, "k")
            second = on(a_toy, "k")
            for action in (Action.SKIP, Action.RETRY):
                with pytest.raises(WrongState, match="waits for k"), transaction.atomic():
                    apply(second, wanted(action), reason="hurry up", by="me", now=timezone.now())
            with transaction.atomic():
                apply(second, wanted(Action.COMPENSATE), reason="not needed", by="me", now=timezone.now())
            hints.work_off()
        assert run_of(second).status == RunStatus.COMPENSATED
        assert story.told == ["ask a", "compensated because a: R546"]

    def test_has_a_limit_of_keys(self, story: Story) -> None:
        a_toy = locking(local(story, "a"), story=story)
        with registered(a_toy):
            for keys in ([f"k{n}" for n in range(KEYS_MAX + 1)], [""], ["x" * 201]):
                with pytest.raises(ValueError, match="key"):
                    on(a_toy, *keys)

    def test_a_use_case_without_keys_writes_nothing(self, story: Story) -> None:
        a_toy = locking(local(story, "a"), story=story)
        with registered(a_toy):
            assert run_of(on(a_toy)).awaits_key is None


class TestRefusing:
    def test_a_second_run_is_refused_and_nothing_is_written(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story, on_conflict=REFUSE)
        with registered(a_toy):
            first = on(a_toy, "b")
            with pytest.raises(KeyHeld, match="holds b") as refusal:
                on(a_toy, "a", "b")
            assert (refusal.value.code, refusal.value.status, refusal.value.retryable) == ("R538", 409, True)
            assert held() == {"b": first}, "not a either"
            assert RunRow.objects.count() == 1
            answer(first, 0)
            hints.work_off()
            assert run_of(on(a_toy, "a", "b")).awaits_key == ""

    def test_a_caller_who_catches_it_has_taken_nothing(self, story: Story) -> None:
        a_toy = locking(ask(story, "a"), story=story, on_conflict=REFUSE)
        with registered(a_toy):
            first = on(a_toy, "b")
            with transaction.atomic(), pytest.raises(KeyHeld):
                engine.start(a_toy, subject_id=first, business_key="x", data={"keys": ["a", "b"]}, now=timezone.now())
            assert Lock.objects.count() == 1

    def test_is_asked_for_by_one_of_two_words(self, story: Story) -> None:
        assert "on_conflict" in Definition("x", 1, (local(story, "a"),), on_conflict="fight").problems()[0]


class TestTwoKeys:
    def test_are_taken_in_their_order(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            first, second = on(a_toy, "b"), on(a_toy, "b", "a", "c")
            third = on(a_toy, "c")
            assert held() == {"b": first, "a": second, "c": third}
            states = dict(Lock.objects.filter(run_id=second).values_list("key", "state"))
            assert states == {"a": "HELD", "b": "WAITING", "c": "LATER"}, "it stands in one queue"
            answer(first, 0)
            hints.work_off()
            assert run_of(second).awaits_key == "c"
            answer(third, 0)
            hints.work_off()
            assert (run_of(second).status, held()) == (RunStatus.WAITING, dict.fromkeys("abc", second))

    @pytest.mark.parametrize("seed", range(4))
    def test_runs_with_two_keys_never_wait_for_each_other(self, story: Story, hints: Hints, seed: int) -> None:
        chance = random.Random(seed)
        hints.loses(0.1, seed=seed)

        a_toy = locking(local(story, "a"), ask(story, "b"), story=story)
        runs: list[UUID] = []

        def start() -> None:
            for _ in range(4):
                runs.append(on(a_toy, *chance.sample("abcd", 2), inline_ms=chance.choice([0, 10_000])))

        def answers() -> None:
            while len(runs) < 16 or RunRow.objects.filter(status__in=LIVE).exists():
                for run_id in RunRow.objects.filter(status=RunStatus.WAITING).values_list("pk", flat=True):
                    mine = {key for key, holder in held().items() if holder == run_id}
                    assert mine == set(run_of(run_id).data["keys"]), "it asks when it has them all"
                    answer(run_id, 1)

        with registered(a_toy):
            together(*[start] * 4)
            together(answers, *many(hints, threads=3))
        assert set(RunRow.objects.values_list("status", flat=True)) == {"COMPLETED"}
        assert story.told.count("do a") == 16
        assert not Lock.objects.exists()
        assert_whole()


class TestRaces:
    def test_a_start_never_waits_for_another_transaction(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            with another_transaction() as elsewhere:
                first = elsewhere(
                    lambda: engine.start(
                        a_toy, subject_id=UUID(int=1), business_key="1", data={"keys": ["k"]}, now=timezone.now()
                    )
                )
                second = on(a_toy, "k")  # would hang if it waited
                assert run_of(second).awaits_key == "k"
            hints.work_off()
            assert (held(), run_of(second).awaits_key) == ({"k": first}, "k")

    def test_who_began_to_wait_while_the_key_was_freed_looks_again(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            first = on(a_toy, "k")
            with another_transaction() as elsewhere:
                second = elsewhere(
                    lambda: engine.start(
                        a_toy, subject_id=UUID(int=1), business_key="2", data={"keys": ["k"]}, now=timezone.now()
                    )
                )
                answer(first, 0)  # frees the key, and sees nobody who waits
                assert held() == {}
            hints.work_off()
            assert (held(), run_of(second).awaits_key, run_of(second).status) == ({"k": second}, "", "WAITING")

    def test_a_hand_over_whose_message_is_lost_is_found(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            first, second = on(a_toy, "k"), on(a_toy, "k")
            hints.work_off()
            answer(first, 0)
            hints.waiting.clear()
            assert sweep(now=timezone.now() + timedelta(seconds=6)) == 1
            hints.work_off()
            assert run_of(second).status == RunStatus.WAITING

    def test_a_key_whose_run_was_ended_by_hand_is_nobodys(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            first, second = on(a_toy, "k"), on(a_toy, "k")
            hints.work_off()
            ended = {"status": RunStatus.COMPENSATED, "due_at": None, "finished_at": timezone.now()}
            RunRow.objects.filter(pk=first).update(**ended)
            engine.advance(second)
            assert held() == {"k": second}

    def test_nobody_overtakes(self, story: Story, hints: Hints) -> None:
        a_toy = locking(ask(story, "a"), story=story)
        with registered(a_toy):
            runs = [on(a_toy, "k") for _ in range(6)]
            hints.work_off()
            for at, run_id in enumerate(runs):
                assert held() == {"k": run_id}
                later = on(a_toy, "k")
                assert run_of(later).awaits_key == "k"
                answer(run_id, 0)
                random.Random(at).shuffle(hints.waiting)
                hints.work_off()

    @pytest.mark.parametrize("seed", range(3))
    def test_one_at_a_time_whatever_the_threads_do(self, story: Story, hints: Hints, seed: int) -> None:
        inside: list[str] = []
        hints.loses(0.1, seed=seed)

        class Enter(LocalStep):
            name, kind = "enter", COMPENSABLE

            def handle(self, run: Run) -> None:
                story.tell(f"enter {run.id}")

            def compensate(self, run: Run) -> None:
                story.tell(f"undo {run.id}")

        class Leave(LocalStep):
            name, kind = "leave", COMPENSABLE

            def handle(self, run: Run) -> None:
                story.tell(f"leave {run.id}")

            def compensate(self, run: Run) -> None:
                """Nothing."""

        a_toy = locking(Enter(), ask(story, "b"), Leave(), story=story)
        runs: list[UUID] = []

        def start() -> None:
            runs.extend(on(a_toy, "k", inline_ms=10_000) for _ in range(3))

        def answers() -> None:
            while len(runs) < 12 or RunRow.objects.filter(status__in=LIVE).exists():
                for run_id in RunRow.objects.filter(status=RunStatus.WAITING).values_list("pk", flat=True):
                    answer(run_id, 1)

        with registered(a_toy):
            together(*[start] * 4)
            together(answers, *many(hints, threads=3))
        for line in story.told:
            verb, _, run = line.partition(" ")
            if verb == "enter":
                assert inside == [], "two hold the same key"
                inside.append(run)
            elif verb == "leave":
                inside.remove(run)
        assert set(RunRow.objects.values_list("status", flat=True)) == {"COMPLETED"}
        assert not Lock.objects.exists()


class TestAnEditedInput:
    @pytest.mark.parametrize("patch", [{"keys": ["b"]}, {"keys": ["a", "b"]}, {"keys": []}, {"keys": None}, {"keys": [""]}])
    def test_that_would_need_other_keys_is_refused(self, story: Story, hints: Hints, patch: Any) -> None:
        story.plan["do x"] = [Refusal("no")]
        made = locking(local(story, "p", PIVOT), local(story, "x", RETRIABLE), story=story)
        with registered(made):
            run_id = on(made, "a")
            hints.work_off()
            assert run_of(run_id).status == RunStatus.STUCK
            with pytest.raises(InvalidInput, match="keys"), transaction.atomic():
                apply(
                    run_id, wanted(Action.RETRY, patch=patch), reason="its account is another", by="t", now=timezone.now()
                )
            assert run_of(run_id).data == {"keys": ["a"]}

    def test_that_needs_the_same_keys_is_taken(self, story: Story, hints: Hints) -> None:
        story.plan["do x"] = [Refusal("no")]
        made = locking(local(story, "p", PIVOT), local(story, "x", RETRIABLE), story=story)
        with registered(made):
            run_id = on(made, "a", "b")
            hints.work_off()
            with transaction.atomic():
                patch = {"keys": ["b", "a"], "amount": "2.00"}
                apply(run_id, wanted(Action.RETRY, patch=patch), reason="its amount is another", by="t", now=timezone.now())
            assert end(hints, run_id) == [RunStatus.COMPLETED]
        assert held() == {}
