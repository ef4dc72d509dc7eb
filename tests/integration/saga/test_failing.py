"""Budgets of attempts and time, errors that a step classifies itself, and hooks that fail."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import engine
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.hooks import HOOK_ATTEMPTS_MAX
from apps.saga.models import Attempt, Run, RunStatus, Step
from apps.saga.terms import ErrorClass
from apps.saga.triage import retry
from tests.integration.saga.test_engine import Refusal, Story, TellingHooks, answer, ask, call, known, local
from tests.integration.saga.world import begin, registered
from tests.saga_driver import finish, work

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def patient(step: Any, **terms: Any) -> Any:
    """The step, with other terms."""
    for name, value in terms.items():
        setattr(type(step), name, value)
    return step


class TestBudgetOfTime:
    def test_ends_the_retries_before_that_of_attempts_is_used_up(self, story: Story) -> None:
        story.plan["do a"] = [RuntimeError("broken")] * 100
        step = patient(local(story, "a"), attempts_max=100, retry_within=timedelta(minutes=10))
        with known(step, story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            first = Attempt.objects.get().started_at
            engine.advance(run_id, now=first + timedelta(minutes=9))
            assert Run.objects.get().status == RunStatus.RUNNING
            assert Step.objects.get().retry_at <= first + timedelta(minutes=10), "the last attempt is within the budget"
            engine.advance(run_id, now=first + timedelta(minutes=10, seconds=1))
            assert Run.objects.get().status == RunStatus.COMPENSATED
        assert story.told.count("do a") == 3

    def test_does_not_count_what_a_person_has_forgiven(self, story: Story) -> None:
        story.plan["do b"] = [RuntimeError("broken")] * 3
        step = patient(local(story, "b", RETRIABLE), attempts_max=2, retry_within=timedelta(hours=1))
        with known(local(story, "a", PIVOT), step, story=story) as toy:
            run = finish(begin(toy))
            assert run.status == RunStatus.STUCK
            Attempt.objects.filter(position=1).update(started_at=timezone.now() - timedelta(hours=2))
            retry(run.pk, now=timezone.now())
            work(run.pk)
            assert Run.objects.get().status == RunStatus.RUNNING, "its time begins anew with the first attempt after it"
            assert finish(run.pk).status == RunStatus.COMPLETED

    def test_of_an_undo_is_its_own(self, story: Story) -> None:
        story.plan["undo a"] = [RuntimeError("broken")] * 100
        step = patient(local(story, "a"), undo_attempts_max=100, undo_retry_within=timedelta(minutes=1))
        with known(step, ask(story, "b"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            answer(run_id, 1, refused=True)
            engine.advance(run_id, undo=True)
            first = Attempt.objects.get(undo=True).started_at
            engine.advance(run_id, undo=True, now=first + timedelta(seconds=59))
            assert Run.objects.get().status == RunStatus.COMPENSATING
            engine.advance(run_id, undo=True, now=first + timedelta(seconds=61))
        assert Run.objects.get().status == RunStatus.STUCK


class TestClasses:
    def test_a_technical_error_that_the_step_calls_business_is_compensated(self, story: Story) -> None:
        story.plan["do b"] = [ValueError("no such account")]
        step = patient(local(story, "b"), errors={ValueError: ErrorClass.BUSINESS})
        with known(call(story, "a"), step, story=story) as toy:
            run = finish(begin(toy))
        assert run.status == RunStatus.COMPENSATED
        assert story.told.count("do b") == 1

    def test_a_refusal_that_the_step_calls_technical_is_tried_again(self, story: Story) -> None:
        story.plan["do a"] = [Refusal(), Refusal()]
        step = patient(local(story, "a"), errors={DomainError: ErrorClass.TECHNICAL})
        with known(step, story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPLETED
        assert story.told.count("do a") == 3

    def test_an_error_that_the_step_calls_unknown_is_asked_about_first(self, story: Story) -> None:
        story.plan["call a"] = [OSError("the line went dead")]
        story.happened.add("a")
        step = patient(call(story, "a"), errors={OSError: ErrorClass.UNKNOWN})
        with known(step, story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPLETED
        assert story.told.count("call a") == 1
        assert "ask whether a" in story.told

    def test_an_error_in_an_answer_is_the_messengers_unless_the_step_names_it(self, story: Story) -> None:
        story.plan["answer a"] = [KeyError("amount"), ValueError("declined")]
        step = patient(ask(story, "a"), errors={ValueError: ErrorClass.BUSINESS})
        with known(step, story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            with pytest.raises(KeyError):
                answer(run_id, 0)
            assert Run.objects.get().status == RunStatus.WAITING
            answer(run_id, 0)
        assert Run.objects.get().status == RunStatus.COMPENSATED


class TestUndo:
    def test_that_is_refused_leaves_the_code_of_the_refusal(self, story: Story) -> None:
        story.plan["undo a"] = [Refusal("closed")]
        story.plan["do b"] = [RuntimeError("x")] * 8
        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run = finish(begin(toy))
        assert (run.status, run.failed_step, run.error_code) == (RunStatus.STUCK, "a", "R999")
        assert Step.objects.get(position=0).error_code == "R999"


class FailingHooks(TellingHooks):
    """They fail so often before they work."""

    def __init__(self, story: Story, failures: int) -> None:
        super().__init__(story)
        self.failures = failures

    def _fail(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("the hook is broken")

    def on_compensated(self, run: Any, **told: Any) -> None:
        super().on_compensated(run, **told)
        self._fail()

    def on_stuck(self, run: Any, **told: Any) -> None:
        super().on_stuck(run, **told)
        self._fail()


def hooked(story: Story, failures: int, *steps: Any) -> Definition:
    return Definition("test.toy", 1, steps, hooks=FailingHooks(story, failures))


class TestHooks:
    def test_that_fail_once_are_called_again_and_nothing_else_is(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("sold out")]
        toy = hooked(story, 1, call(story, "a"), local(story, "b"))
        with registered(toy):
            run_id = begin(toy)
            run = work(run_id)
            assert (run.status, run.hook_failures) == (RunStatus.COMPENSATING, 1)
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert Run.objects.get().hook_failures is None
        assert story.told.count("undo a") == 1
        assert story.told[-2:] == ["compensated because b: R999"] * 2

    def test_that_fail_in_the_callers_commit_do_not_fail_the_caller(self, story: Story) -> None:
        story.plan["do a"] = [Refusal("sold out")]
        toy = hooked(story, 1, local(story, "a"))
        with registered(toy):
            run_id = begin(toy, inline_ms=10_000)
            assert Run.objects.get().status == RunStatus.COMPENSATING
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert story.told.count("do a") == 1

    def test_that_always_fail_leave_the_run_stuck_with_a_code_that_says_so(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("sold out")]
        toy = hooked(story, HOOK_ATTEMPTS_MAX, call(story, "a"), local(story, "b"))
        with registered(toy):
            run = finish(begin(toy))
        assert (run.status, run.error_code, run.failed_step) == (RunStatus.STUCK, "R540", "b")
        assert "on_compensated failed 8 times: RuntimeError: the hook is broken. Before: R999: sold out" in run.error_detail
        assert story.told.count("compensated because b: R999") == HOOK_ATTEMPTS_MAX

    def test_of_a_run_that_is_stuck_are_bounded_too(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")] * 100
        steps = (local(story, "a", PIVOT), local(story, "b", RETRIABLE))
        toy = hooked(story, 100, *steps)
        with registered(toy):
            run = finish(begin(toy))
        assert (run.status, run.error_code, run.hook_failures) == (RunStatus.STUCK, "R540", None)
        assert story.told.count("stuck at b: R999") == HOOK_ATTEMPTS_MAX
        assert story.told.count("do b") == 1, "the step is not tried again for its hook's sake"
