"""A step that may have happened: once in doubt, it stays in doubt until the other side says which it is."""

from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import UnknownOutcome
from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, AskStep, CallStep, Definition, Run
from apps.saga.engine import Resumed
from apps.saga.models import Attempt, RunStatus, Step
from apps.saga.models import Run as RunRow
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, begin, call, known, local
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)

AGAIN = 10  # more than any step tries


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def undone(story: Story) -> list[str]:
    return [line for line in story.told if line.startswith("undo ")]


def ask_and_wait_in_vain(toy: Definition) -> Any:
    run_id = begin(toy, inline_ms=10_000)
    let_time_pass(run_id)
    return run_id


class TestAsk:
    def test_is_undone_when_asking_again_fails(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            run_id = ask_and_wait_in_vain(toy)
            story.plan["ask b"] = [RuntimeError("cannot ask")] * AGAIN
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert undone(story) == ["undo b", "undo a"]

    def test_is_undone_when_asking_again_is_refused_on_our_side(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            run_id = ask_and_wait_in_vain(toy)
            story.plan["ask b"] = [Refusal("the card has expired meanwhile")]
            run = finish(run_id)
        assert (run.status, run.error_code) == (RunStatus.COMPENSATED, "R999")
        assert undone(story) == ["undo b", "undo a"]

    def test_is_not_undone_when_the_other_side_refuses_in_the_end(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            run_id = ask_and_wait_in_vain(toy)
            work(run_id)
            assert answer(run_id, 1, refused=True) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert undone(story) == ["undo a"]

    def test_is_not_undone_when_it_was_refused_before_it_was_ever_asked(self, story: Story) -> None:
        story.plan["ask b"] = [Refusal("no")]
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPENSATED
        assert "undo b" not in story.told

    def test_takes_an_answer_to_the_first_question_although_the_second_failed(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = ask_and_wait_in_vain(toy)
            story.plan["ask a"] = [RuntimeError("cannot ask")]
            work(run_id)
            let_time_pass(run_id)
            engine.advance(run_id)
            assert answer(run_id, 0) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPLETED
        outcomes = Attempt.objects.filter(run_id=run_id).order_by("number").values_list("outcome", flat=True)
        assert list(outcomes) == ["ANSWERED", "FAILED"], "the second question asked nobody"


class TestPivot:
    @pytest.mark.parametrize("error", [RuntimeError("cannot ask"), Refusal("no longer allowed")])
    def test_calls_a_person_when_asking_again_fails(self, story: Story, error: Exception) -> None:
        with known(local(story, "a"), ask(story, "b", PIVOT), story=story) as toy:
            run_id = ask_and_wait_in_vain(toy)
            story.plan["ask b"] = [error] * AGAIN
            run = finish(run_id)
        assert run.status == RunStatus.STUCK
        assert undone(story) == [], "the money may have moved: nothing is taken back"

    def test_calls_a_person_when_a_call_that_may_have_happened_cannot_be_asked_about(self, story: Story) -> None:
        story.plan["call b"] = [UnknownOutcome("the line went dead")]
        story.plan["ask whether b"] = [RuntimeError("no route")] * AGAIN
        with known(local(story, "a"), call(story, "b", PIVOT), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.STUCK
        assert undone(story) == []

    def test_goes_back_when_a_call_was_refused_and_needs_no_undo_of_its_own(self, story: Story) -> None:
        class Pay(CallStep):
            name, kind = "pay", PIVOT

            def call(self, run: Run) -> dict[str, Any]:
                raise Refusal("no money")

            def did_it_happen(self, run: Run) -> None:
                return None

            def record(self, run: Run, outcome: dict[str, Any]) -> None:
                return None

        with known(local(story, "a"), Pay(), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPENSATED
        assert undone(story) == ["undo a"]


class TestCall:
    def test_is_undone_when_recording_it_never_works(self, story: Story) -> None:
        story.plan["record b"] = [RuntimeError("a bug")] * AGAIN
        story.happened.add("b")
        with known(local(story, "a"), call(story, "b"), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPENSATED
        assert undone(story) == ["undo b", "undo a"]
        assert story.told.count("call b") == 1, "it asks whether it happened before it repeats"


class TestForeignAnswers:
    def test_an_answer_to_a_call_changes_nothing(self, story: Story) -> None:
        story.plan["call a"] = [UnknownOutcome("the line went dead")]
        with known(call(story, "a"), story=story) as toy:
            run_id = begin(toy)
            engine.advance(run_id)
            assert Step.objects.get(run_id=run_id).status == "UNKNOWN"
            assert answer(run_id, 0) is Resumed.LATE
        assert RunRow.objects.get(pk=run_id).late_answers == 1

    @pytest.mark.parametrize("suffix", [":", ":other", ":undo:undo", ":UNDO"])
    def test_a_key_that_we_never_gave_out_is_unknown(self, story: Story, suffix: str) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            with transaction.atomic():
                found = engine.resume(step_key=f"{run_id}:0{suffix}", answer={}, now=timezone.now())
        assert found is Resumed.UNKNOWN


class TestDefinition:
    def test_names_whatever_a_step_lacks(self) -> None:
        class Ask(AskStep):
            name, kind = "asks", COMPENSABLE

            def ask(self, run: Run) -> None: ...

        class Call(CallStep):
            name, kind = "calls", COMPENSABLE

            def call(self, run: Run) -> dict[str, Any]:
                return {}

            def undo_call(self, run: Run) -> dict[str, Any]:
                return {}

        assert Definition("x", 1, (Ask(), Call())).problems() == [
            "step asks has no on_answer",
            "compensable step asks has no ask_undo",
            "step calls has no did_it_happen",
            "step calls has no record",
            "compensable step calls has no undo_prepare",
        ]
