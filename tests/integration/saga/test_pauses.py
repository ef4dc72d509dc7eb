"""Use cases and steps that are paused: what waits, what goes on, and that nothing is forgotten when the pause is lifted."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.common.errors import InvalidRequest
from apps.saga import engine, overview, pauses
from apps.saga.audit import interventions
from apps.saga.definition import PIVOT, RETRIABLE
from apps.saga.engine import Progress, Resumed
from apps.saga.models import Audit, Pause, Run, RunStatus, Step
from apps.saga.sweeper import sweep
from tests.integration.messaging.world import together
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import REASON, TOY, assert_consistent, begin, registered, toy, until
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(autouse=True)
def woken(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Whom somebody wakes."""
    found: list[UUID] = []
    monkeypatch.setattr("apps.saga.chains.wake", lambda run_id, position, steps: found.append(run_id))
    monkeypatch.setattr("apps.saga.chains.wake_undo", found.append)
    return found


def pause(step: str = "", **how: Any) -> UUID:
    return pauses.pause(TOY, step, reason=REASON, by="user:chief", now=timezone.now(), **how)


def lift(step: str = "", **how: Any) -> tuple[UUID, ...]:
    return pauses.lift(TOY, step, reason="they are back", by="user:chief", now=timezone.now(), **how)


class TestUseCase:
    def test_new_runs_wait_and_go_on_when_it_is_lifted(self, story: Story, woken: list[UUID]) -> None:
        a_toy = toy(local(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            made = pause()
            run_id = begin(a_toy, inline_ms=10_000)
            run = Run.objects.get(pk=run_id)
            assert (run.status, run.held_by, run.due_at) == (RunStatus.RUNNING, made, None)
            assert (story.told, woken) == ([], [])
            assert engine.advance(run_id) is Progress.PARKED
            assert lift() == (made,)
            assert woken == [run_id], "it is woken at once, not by the sweeper"
            assert finish(run_id).status == RunStatus.COMPLETED
        assert story.told == ["do a", "do b"]
        assert_consistent()

    def test_nobody_sweeps_a_held_run_or_thinks_that_it_needs_a_person(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            begin(a_toy)
            later = timezone.now() + timedelta(days=3)
            assert sweep(now=later) == 0
            assert overview.runs_in_need(now=later) == ()
            assert overview.runs_in_need_count(now=later) == 0
            counted = overview.runs_now()
        assert (counted.in_flight, counted.held) == (0, 1)

    def test_runs_that_began_before_go_on(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy)
            pause()
            assert finish(run_id).status == RunStatus.COMPLETED

    def test_new_runs_are_refused_when_it_says_so(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause(refuses=True)
            with pytest.raises(pauses.UseCasePaused, match=REASON) as refusal:
                begin(a_toy)
            assert refusal.value.retryable
            assert not Run.objects.exists()
            lift()
            assert finish(begin(a_toy)).status == RunStatus.COMPLETED

    def test_another_use_case_does_not_notice(self, story: Story) -> None:
        a_toy, other = toy(local(story, "a"), story=story), toy(local(story, "b"), story=story, use_case="test.other")
        with registered(a_toy, other):
            pause()
            assert finish(begin(other)).status == RunStatus.COMPLETED

    def test_all_its_versions_wait(self, story: Story) -> None:
        old, new = toy(local(story, "a"), story=story), toy(local(story, "b"), story=story, version=2)
        with registered(old, new):
            pause()
            assert {Run.objects.get(pk=begin(each)).due_at for each in (old, new)} == {None}


class TestStep:
    @pytest.mark.parametrize("shape", [local, ask, call])
    def test_is_not_begun_until_it_is_lifted(self, story: Story, woken: list[UUID], shape: Any) -> None:
        a_toy = toy(local(story, "a"), shape(story, "b"), local(story, "c", RETRIABLE), story=story)
        with registered(a_toy):
            made = pause("b")
            run_id = begin(a_toy, inline_ms=10_000)
            assert story.told == ["do a"], "the steps before it are done in the same commit"
            assert work(run_id).held_by == made
            woken.clear()
            assert sweep(now=timezone.now() + timedelta(days=1)) == 0
            assert lift("b") == (made,)
            assert woken == [run_id]
            work(run_id)
            if shape is ask:
                assert answer(run_id, 1) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPLETED
        assert story.told[0] == "do a"
        assert story.told[-1] == "do c"
        assert Step.objects.get(run_id=run_id, position=1).attempts == 1

    def test_the_first_step_holds_a_run_that_begins(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause("a")
            run_id = begin(a_toy, inline_ms=10_000)
            assert work(run_id).held_by is not None
        assert story.told == []

    def test_its_undo_waits_too(self, story: Story, woken: list[UUID]) -> None:
        story.plan["do c"] = [Refusal("no")]
        a_toy = toy(local(story, "a"), call(story, "b"), local(story, "c", PIVOT), story=story)
        with registered(a_toy):
            run_id = begin(a_toy)
            engine.advance(run_id)
            engine.advance(run_id)
            made = pause("b")
            assert work(run_id).held_by == made
            assert not [line for line in story.told if line.startswith("undo")]
            assert overview.runs_in_need_count(now=timezone.now() + timedelta(days=1)) == 0, "held, not undoing for long"
            woken.clear()
            lift("b")
            assert woken == [run_id]
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert [line for line in story.told if line.startswith("undo ")] == ["undo b", "undo a"]

    def test_its_undo_goes_on_when_the_pause_is_of_its_do_alone(self, story: Story) -> None:
        story.plan["do c"] = [Refusal("no")]
        a_toy = toy(local(story, "a"), call(story, "b"), local(story, "c", PIVOT), story=story)
        with registered(a_toy):
            run_id = begin(a_toy)
            engine.advance(run_id)
            engine.advance(run_id)
            pause("b", holds_undo=False)
            assert finish(run_id).status == RunStatus.COMPENSATED

    def test_takes_an_answer_to_what_was_asked_before(self, story: Story) -> None:
        a_toy = toy(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, inline_ms=10_000)
            pause("a")
            assert answer(run_id, 0) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPLETED

    def test_holds_a_run_whose_deadline_passes_and_takes_the_late_answer(self, story: Story) -> None:
        a_toy = toy(ask(story, "a"), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, inline_ms=10_000)
            made = pause("a")
            let_time_pass(run_id)
            assert work(run_id).held_by == made
            assert story.told == ["ask a"], "it is not asked again"
            assert answer(run_id, 0) is Resumed.ACCEPTED
            assert Run.objects.get(pk=run_id).held_by is None
            assert finish(run_id).status == RunStatus.COMPLETED
        assert_consistent()

    @pytest.mark.parametrize("shape", [ask, call])
    def test_gives_nothing_up_while_it_is_paused(self, story: Story, shape: Any) -> None:
        a_toy = toy(local(story, "a"), shape(story, "b"), story=story)
        story.plan["call b"] = [RuntimeError("away")] * 3
        with registered(a_toy):
            run_id = begin(a_toy)
            for _ in range(2):
                work(run_id)
                let_time_pass(run_id)
            while Step.objects.get(run_id=run_id, position=1).attempts < 3:  # its last attempt is under way
                let_time_pass(run_id)
                engine.advance(run_id) if shape is ask else _during_the_call(run_id, a_toy)
            if shape is ask:
                pause("b")
                let_time_pass(run_id)
            assert work(run_id).held_by is not None
            assert "undo a" not in story.told
            lift("b")
            work(run_id)
            if shape is ask:
                answer(run_id, 1)
            assert finish(run_id).status == RunStatus.COMPLETED, "with a fresh budget of attempts"

    def test_keeps_in_mind_that_an_owner_did_not_come_back(self, story: Story) -> None:
        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        calling = call(story, "a", during=die)
        a_toy = toy(calling, story=story)
        with registered(a_toy):
            run_id = begin(a_toy)
            with pytest.raises(Killed):
                engine.advance(run_id)
            pause("a")
            assert work(run_id).held_by is None, "its owner may come back until the lease is over"
            let_time_pass(run_id)
            assert work(run_id).held_by is not None
            story.happened.add("a")
            lift("a")
            assert finish(run_id).status == RunStatus.COMPLETED
        assert story.told[-2:] == ["ask whether a", "record a"], "in doubt, so it asks first"


def _during_the_call(run_id: UUID, definition: Any) -> None:
    """Pause the step while a worker talks to its partner."""
    step = definition.steps[1]
    original = step.call

    def paused_meanwhile(run: Any) -> Any:
        together(lambda: pause("b") and None)
        return original(run)

    step.call = paused_meanwhile
    try:
        engine.advance(run_id)
        engine.advance(run_id)
    finally:
        del step.call


class TestWords:
    def test_are_written_down_with_the_deed(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story)):
            made = pause("a")
            (state,) = pauses.pauses(TOY)
            assert (state.id, state.step, state.reason, state.paused_by, state.held) == (made, "a", REASON, "user:chief", 0)
            lift("a")
            assert pauses.pauses(TOY) == ()
        told = [(each.action, each.actor, each.step, each.reason) for each in interventions(use_case=TOY)]
        assert told == [("resume", "user:chief", "a", "they are back"), ("pause", "user:chief", "a", REASON)]

    def test_a_second_pause_is_refused(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story)):
            pause()
            with pytest.raises(pauses.AlreadyPaused):
                pause()
            pause("a")
            assert Audit.objects.count() == Pause.objects.count() == 2

    def test_nothing_is_lifted_that_is_not_paused(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story)):
            with pytest.raises(pauses.NotPaused):
                lift()
            pause()
            with pytest.raises(pauses.NotPaused):
                lift("a")
            lift()
            with pytest.raises(pauses.NotPaused):
                lift()
        assert Audit.objects.count() == 2

    def test_a_page_that_is_out_of_date_lifts_nothing(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story)):
            seen = pause()
            lift()
            made = pause()
            with pytest.raises(pauses.NotPaused):
                lift(pause_id=seen)
            assert lift(pause_id=made) == (made,)

    def test_what_does_not_exist_cannot_be_paused(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story)):
            with pytest.raises(pauses.UnknownStep):
                pause("z")
            with pytest.raises(pauses.UnknownStep):
                lift("z")
        with pytest.raises(pauses.UnknownUseCase):
            pause()
        assert not Pause.objects.exists()

    @pytest.mark.parametrize("reason", ["", "    ok    ", "x" * 501])
    def test_a_reason_is_asked_for(self, story: Story, reason: str) -> None:
        with registered(toy(local(story, "a"), story=story)), pytest.raises(InvalidRequest) as refusal:
            pauses.pause(TOY, reason=reason, by="user:chief", now=timezone.now())
        assert refusal.value.field == "reason"
        assert not Pause.objects.exists()


class TestMany:
    @pytest.fixture(autouse=True)
    def small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pauses, "RELEASE_RUNS_MAX", 3)

    def test_the_sweeper_lets_go_what_one_commit_could_not(self, story: Story, woken: list[UUID]) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            held = sorted(begin(a_toy) for _ in range(8))
            woken.clear()
            lift()
            assert woken == held[:3], "the oldest first"
            assert Pause.objects.get().released_at is None
            sweep()
            assert woken == held[:6]
            sweep()
            assert woken == held
            assert Pause.objects.get().released_at is not None
            sweep()
            assert woken == held
        assert_consistent()

    def test_a_run_that_somebody_looks_at_is_let_go_in_the_next_round(self, story: Story, woken: list[UUID]) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            first, second = begin(a_toy), begin(a_toy)
            with transaction.atomic():
                Run.objects.select_for_update(no_key=True).get(pk=first)
                together(lambda: lift() and None)
            assert woken == [second]
            assert Pause.objects.get().released_at is None
            sweep()
            assert woken == [second, first]
        assert_consistent()

    def test_a_new_pause_is_not_lifted_by_the_rest_of_the_old_one(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            for _ in range(5):
                begin(a_toy)
            lift()
            made = pause()
            waiting = begin(a_toy)
            sweep()
            assert list(Run.objects.filter(held_by__isnull=False).values_list("pk", "held_by")) == [(waiting, made)]


class TestRaces:
    def test_two_who_lift_at_once(self, story: Story) -> None:
        outcomes: list[str] = []

        def try_to() -> None:
            try:
                lift()
                outcomes.append("lifted")
            except pauses.NotPaused:
                outcomes.append("refused")

        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            begin(a_toy)
            together(*[try_to] * 4)
        assert sorted(outcomes) == ["lifted"] + ["refused"] * 3
        assert Audit.objects.filter(action="resume").count() == 1

    def test_two_who_pause_at_once(self, story: Story) -> None:
        outcomes: list[str] = []

        def try_to() -> None:
            try:
                pause("a")
                outcomes.append("paused")
            except pauses.AlreadyPaused:
                outcomes.append("refused")

        with registered(toy(local(story, "a"), story=story)):
            together(*[try_to] * 4)
        assert sorted(outcomes) == ["paused"] + ["refused"] * 3
        assert Pause.objects.count() == Audit.objects.count() == 1

    def test_lifting_waits_for_a_worker_who_is_about_to_hold_a_run(self, story: Story, woken: list[UUID]) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause()
            with transaction.atomic():
                run_id = engine.start(a_toy, subject_id=uuid4(), business_key="toy", data={}, now=timezone.now())
                lifting = threading.Thread(target=lambda: together(lambda: lift() and None))
                lifting.start()
                until(_somebody_waits_for_a_lock)
            lifting.join(90)
        assert woken == [run_id]
        assert Run.objects.get(pk=run_id).held_by is None
        assert_consistent()

    def test_a_worker_who_comes_while_it_is_lifted_goes_on(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story)
        with registered(a_toy):
            pause("a")
            run_id = begin(a_toy)
            with transaction.atomic():
                row = Pause.objects.select_for_update().get()
                worker = threading.Thread(target=lambda: together(lambda: engine.advance(run_id) and None))
                worker.start()
                until(_somebody_waits_for_a_lock)
                pauses.end(row, reason=REASON, by="user:chief", now=timezone.now())
            worker.join(90)
        assert Run.objects.get(pk=run_id).status == RunStatus.COMPLETED

    @pytest.mark.parametrize("seed", range(3))
    def test_pauses_come_and_go_while_workers_are_at_it(self, story: Story, seed: int) -> None:
        a_toy = toy(
            local(story, "a"), call(story, "b"), local(story, "c", PIVOT), local(story, "d", RETRIABLE), story=story
        )
        over = threading.Event()

        def chief() -> None:
            for turn in range(12):
                step = ["b", "", "c"][(turn + seed) % 3]
                pause(step)
                assert_held_by_something()
                lift(step)
                sweep()
            over.set()

        def worker() -> None:
            while not over.is_set() or Run.objects.filter(finished_at__isnull=True).exists():
                for run_id in Run.objects.filter(finished_at__isnull=True).values_list("pk", flat=True):
                    engine.advance(run_id)
                if over.is_set():
                    sweep()

        def customer() -> None:
            for _ in range(10):
                begin(a_toy, inline_ms=10_000)

        with registered(a_toy):
            together(chief, worker, worker, customer)
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.COMPLETED}
        assert Run.objects.count() == 10
        assert {name: story.told.count(name) for name in ("do a", "record b", "do c", "do d")} == dict.fromkeys(
            ("do a", "record b", "do c", "do d"), 10
        )
        assert_consistent()


def assert_held_by_something() -> None:
    assert not Run.objects.filter(held_by__isnull=False, due_at__isnull=False).exists()


def _somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees its first look again and again
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = %s",
            [connection.settings_dict["NAME"]],
        )
        return bool(cursor.fetchone()[0])
