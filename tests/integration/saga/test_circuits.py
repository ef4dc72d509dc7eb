"""Breakers: a partner who is away pauses the step instead of failing the runs, and one run finds out when he is back."""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from apps.common.errors import UnknownOutcome
from apps.saga import engine, pauses
from apps.saga.definition import PIVOT, Definition
from apps.saga.engine import Resumed
from apps.saga.models import Audit, Circuit, Pause, Run, RunStatus, Step
from apps.saga.sweeper import sweep
from apps.saga.terms import Breaker
from tests.integration.messaging.world import rolled_back, together
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import BREAKER, TOY, assert_consistent, begin, registered, toy, with_breaker
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)
PAST = timedelta(hours=1)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(autouse=True)
def woken(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    found: list[UUID] = []
    monkeypatch.setattr("apps.saga.chains.wake", lambda run_id, position, steps: found.append(run_id))
    monkeypatch.setattr("apps.saga.chains.wake_undo", found.append)
    return found


@pytest.fixture(name="toy_of_a_call")
def a_toy_of_a_call(story: Story) -> Any:
    made = toy(local(story, "a"), with_breaker(call(story, "b")), local(story, "c", PIVOT), story=story)
    with registered(made):
        yield made


def away(story: Story, times: int = 3) -> None:
    story.plan["call b"] = [UnknownOutcome("nobody answers")] * times


def fail(definition: Definition) -> UUID:
    """One run, whose call fails once."""
    run_id = begin(definition)
    engine.advance(run_id)
    engine.advance(run_id)
    return run_id


def held() -> list[UUID]:
    return list(Run.objects.filter(held_by__isnull=False).order_by("id").values_list("pk", flat=True))


def the_probe_is_due() -> None:
    Circuit.objects.update(probe_at=timezone.now() - timedelta(seconds=1))


class TestOpening:
    def test_holds_the_runs_after_so_many_failures_in_a_row(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story)
        first, second = fail(toy_of_a_call), fail(toy_of_a_call)
        assert held() == []
        third = fail(toy_of_a_call)
        assert held() == [third], "the one that was too many waits with those who come"
        fourth = begin(toy_of_a_call)
        work(fourth)
        let_time_pass(first)
        work(first)
        assert held() == sorted([first, third, fourth])
        assert Run.objects.get(pk=second).due_at is not None, "it waits for its next attempt"
        assert_consistent()

    def test_says_what_happened(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story)
        for _ in range(3):
            fail(toy_of_a_call)
        (state,) = pauses.pauses(TOY)
        assert (state.step, state.breaker, state.paused_by) == ("b", True, "the breaker")
        assert state.reason == "3 failures in a row. The last one: UnknownOutcome: nobody answers"
        assert state.probe_at is not None
        assert state.probe_at > timezone.now() + BREAKER.probe_after / 2
        entry = Audit.objects.get()
        assert (entry.action, entry.actor, entry.step, entry.reason) == ("pause", "the breaker", "b", state.reason)

    def test_a_success_in_between_makes_the_count_begin_anew(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story, 2)
        fail(toy_of_a_call), fail(toy_of_a_call)
        finish(begin(toy_of_a_call))
        away(story, 2)
        fail(toy_of_a_call), fail(toy_of_a_call)
        assert not Pause.objects.exists()

    def test_failures_that_are_far_apart_do_not_count(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story, 5)
        fail(toy_of_a_call), fail(toy_of_a_call)
        circuit = Circuit.objects.get()
        circuit.failed_at = [circuit.failed_at[0] - PAST, circuit.failed_at[1]]
        circuit.save()
        fail(toy_of_a_call)
        assert not Pause.objects.exists()
        fail(toy_of_a_call)
        assert Pause.objects.exists(), "the last three were within the time"

    def test_a_refusal_is_an_answer(self, story: Story, toy_of_a_call: Definition) -> None:
        story.plan["call b"] = [RuntimeError("away"), RuntimeError("away"), Refusal("no"), RuntimeError("away")]
        for _ in range(4):
            fail(toy_of_a_call)
        assert not Pause.objects.exists()
        assert len(Circuit.objects.get().failed_at) == 1

    def test_our_own_refusal_before_the_call_is_none(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story, 2)
        fail(toy_of_a_call), fail(toy_of_a_call)
        story.plan["prepare b"] = [Refusal("we do not even ask")]
        fail(toy_of_a_call)
        assert len(Circuit.objects.get().failed_at) == 2

    def test_a_step_without_a_breaker_costs_nothing(self, story: Story) -> None:
        story.plan["call a"] = [RuntimeError("away")] * 2
        made = toy(call(story, "a"), story=story)
        with registered(made):
            assert finish(begin(made)).status == RunStatus.COMPLETED
        assert not Circuit.objects.exists()

    def test_counts_every_failure_of_many_workers(self, story: Story) -> None:
        breaker = Breaker(failures=50, within=timedelta(minutes=1))
        made = toy(with_breaker(call(story, "b"), breaker), story=story)
        story.plan["call b"] = [RuntimeError("away")] * 12
        with registered(made):
            runs = [begin(made) for _ in range(12)]
            together(*[lambda run_id=run_id: engine.advance(run_id) and None for run_id in runs])
        assert len(Circuit.objects.get().failed_at) == 12

    def test_questions_without_an_answer_count(self, story: Story) -> None:
        made = toy(with_breaker(ask(story, "a")), local(story, "b"), story=story)
        with registered(made):
            runs = [begin(made, inline_ms=10_000) for _ in range(3)]
            for run_id in runs:
                let_time_pass(run_id)
                engine.advance(run_id)
            assert held() == runs[2:]
            assert answer(runs[0], 0) is Resumed.ACCEPTED, "somebody is there after all"
            assert held() == []
            assert Pause.objects.get().lifted_by == "the breaker"
        assert_consistent()

    def test_opens_for_what_cannot_be_undone(self, story: Story, toy_of_a_call: Definition) -> None:
        story.plan["do c"] = [Refusal("no")] * 3
        story.plan["undo b"] = [RuntimeError("away")] * 3
        runs = [begin(toy_of_a_call) for _ in range(3)]
        for run_id in runs:
            while Run.objects.get(pk=run_id).status != RunStatus.COMPENSATING:
                engine.advance(run_id)
        for run_id in runs:
            engine.advance(run_id, undo=True)
        assert held() == runs[2:]
        the_probe_is_due()
        sweep()
        work(runs[2])
        assert Run.objects.get(pk=runs[2]).status == RunStatus.COMPENSATED
        assert Pause.objects.get().lifted_at is not None


class TestProbing:
    @pytest.fixture(name="waiting")
    def runs_that_wait(self, story: Story, toy_of_a_call: Definition, woken: list[UUID]) -> list[UUID]:
        away(story)
        runs = [fail(toy_of_a_call) for _ in range(3)]
        for run_id in runs:
            let_time_pass(run_id)
            work(run_id)
        assert held() == runs
        woken.clear()
        return runs

    def test_nobody_tries_before_its_time(self, waiting: list[UUID], woken: list[UUID]) -> None:
        sweep()
        assert (held(), woken) == (waiting, [])

    def test_one_tries_and_all_go_on_when_it_succeeds(self, waiting: list[UUID], woken: list[UUID]) -> None:
        the_probe_is_due()
        sweep()
        assert (held(), woken) == (waiting[1:], waiting[:1])
        sweep()
        assert woken == waiting[:1], "one at a time"
        assert finish(waiting[0]).status == RunStatus.COMPLETED
        assert held() == []
        assert set(waiting) <= set(woken)
        assert [finish(run_id).status for run_id in waiting[1:]] == [RunStatus.COMPLETED] * 2
        pause = Pause.objects.get()
        assert (pause.lifted_by, pause.lift_reason) == ("the breaker", "toy was answered")
        assert pause.released_at is not None
        assert Circuit.objects.get().failed_at == []
        assert_consistent()

    def test_waits_as_long_again_when_it_fails(self, story: Story, waiting: list[UUID], woken: list[UUID]) -> None:
        story.plan["ask whether b"] = [RuntimeError("away")]
        the_probe_is_due()
        sweep()
        work(waiting[0])
        assert held() == waiting
        circuit = Circuit.objects.get()
        assert circuit.probe_run is None
        assert circuit.probe_at is not None
        assert circuit.probe_at > timezone.now() + BREAKER.probe_after / 2
        woken.clear()
        sweep()
        assert woken == []
        assert_consistent()

    def test_gives_nobody_up_however_long_it_takes(self, story: Story, waiting: list[UUID]) -> None:
        story.plan["ask whether b"] = [RuntimeError("away")] * 12
        for _ in range(12):
            the_probe_is_due()
            sweep()
            work(waiting[0])
            assert held() == waiting
        step = Step.objects.get(run_id=waiting[0], position=1)
        assert step.attempts == 13
        the_probe_is_due()
        sweep()
        assert finish(waiting[0]).status == RunStatus.COMPLETED

    def test_whoever_comes_tries_when_nobody_waits(self, story: Story, toy_of_a_call: Definition) -> None:
        away(story)
        for _ in range(3):
            fail(toy_of_a_call)
        Run.objects.filter(held_by__isnull=False).update(held_by=None, held_at=None, due_at=timezone.now())
        the_probe_is_due()
        sweep()
        assert finish(begin(toy_of_a_call)).status == RunStatus.COMPLETED
        assert Pause.objects.get().lifted_at is not None

    def test_only_one_of_many_who_come_tries(self, story: Story, toy_of_a_call: Definition, waiting: list[UUID]) -> None:
        step: Any = toy_of_a_call.steps[1]
        original, seen = step.call, []

        def during(run: Any) -> Any:
            seen.append(run.id)
            return original(run)

        step.call = during
        story.plan["call b"] = [RuntimeError("away")] * 9
        runs = [begin(toy_of_a_call) for _ in range(6)]
        for run_id in runs:
            engine.advance(run_id)
        the_probe_is_due()
        together(*[lambda run_id=run_id: engine.advance(run_id) and None for run_id in runs])
        assert len(seen) == 1
        assert len(held()) == len(waiting) + 6
        assert_consistent()

    def test_a_probe_that_never_comes_back_is_replaced(self, waiting: list[UUID], woken: list[UUID]) -> None:
        the_probe_is_due()
        sweep()
        the_probe_is_due()
        sweep()
        assert woken == waiting[:2]
        assert Circuit.objects.get().probe_run == waiting[1]

    def test_a_probe_is_woken_again_and_still_the_one(self, waiting: list[UUID], toy_of_a_call: Definition) -> None:
        the_probe_is_due()
        sweep()
        let_time_pass(waiting[0])
        assert finish(waiting[0]).status == RunStatus.COMPLETED

    def test_does_not_try_what_a_person_has_paused_as_well(
        self, story: Story, toy_of_a_call: Definition, waiting: list[UUID]
    ) -> None:
        pauses.pause(TOY, "b", reason="they repair it", by="user:chief", now=timezone.now())
        told = list(story.told)
        the_probe_is_due()
        sweep()
        work(waiting[0])
        assert story.told == told
        assert held() == waiting
        pauses.lift(TOY, "b", reason="they are ready", by="user:chief", now=timezone.now())
        assert held() == []
        assert not Pause.objects.filter(lifted_at__isnull=True).exists(), "a person lifts both"
        assert Circuit.objects.get().pause_id is None
        assert_consistent()

    def test_counts_anew_after_a_person_has_lifted_it(self, story: Story, waiting: list[UUID]) -> None:
        pauses.lift(TOY, "b", reason="they are back", by="user:chief", now=timezone.now())
        story.plan["ask whether b"] = [RuntimeError("away")] * 2
        for run_id in waiting[:2]:
            work(run_id)
        assert held() == []
        assert not Pause.objects.filter(lifted_at__isnull=True).exists()

    def test_one_who_lifts_and_one_who_answers_meet(self, story: Story, waiting: list[UUID]) -> None:
        the_probe_is_due()
        sweep()

        def lift() -> None:
            with suppress(pauses.NotPaused):
                pauses.lift(TOY, "b", reason="they are back", by="user:chief", now=timezone.now())

        together(lift, lambda: engine.advance(waiting[0]) and None)
        assert held() == []
        assert Audit.objects.filter(action="resume").count() == 1
        assert_consistent()


class TestCommits:
    def test_what_is_rolled_back_was_no_failure(self, story: Story, toy_of_a_call: Definition) -> None:
        with rolled_back():
            pauses.insert(TOY, "b", Pause.Kind.BREAKER, reason="x", by="x", now=timezone.now())
            assert pauses.is_known(TOY, "b")
        assert work(begin(toy_of_a_call)).held_by is None, "a pause that never was holds nobody"
