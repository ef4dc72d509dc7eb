"""A step that revises which steps follow it: the run's own rows are its list from then on."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, LocalStep, Output, Revise, Run, Step
from apps.saga.filters import Filter
from apps.saga.models import Attempt, RunStatus
from apps.saga.models import Run as RunRow
from apps.saga.models import Step as StepRow
from apps.saga.queries import run_state
from apps.saga.search import find_runs
from apps.saga.snapshots import snapshot_of
from apps.saga.versions import move
from tests.integration.saga.hints import Hints, end
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.test_timers import begin, rows
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


def choosing(story: Story, *lists: tuple[str, ...], name: str = "choose", kind: Kind = COMPENSABLE) -> LocalStep:
    """A step that chooses the first of these lists, the next time the second one, and at last the last."""
    left = list(lists)

    class Choose(LocalStep):
        def handle(self, run: Run) -> Output:
            story.tell(f"do {name}")
            return Revise({"chose": name}, left.pop(0) if len(left) > 1 else left[0])

        def compensate(self, run: Run) -> None:
            story.tell(f"undo {name}")

    Choose.name, Choose.kind = name, kind
    return Choose()


def slip(*steps: Step, options: tuple[Step, ...], story: Story, **terms: Any) -> Definition:
    return toy(*steps, story=story, optional_steps=options, **terms)


class TestForward:
    @pytest.mark.parametrize("inline_ms", [0, 10_000])
    def test_the_chosen_steps_follow(self, story: Story, hints: Hints, inline_ms: int) -> None:
        steps = (local(story, "a"), choosing(story, ("x", "y", "b")), local(story, "b"), local(story, "c"))
        a_toy = slip(*steps, options=(local(story, "x"), call(story, "y")), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now(), inline_ms=inline_ms)
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert [name for name, _ in rows(run_id)] == ["a", "choose", "x", "y", "b"]
        assert set(StepRow.objects.values_list("status", flat=True)) == {"DONE"}
        done = ["do a", "do choose", "do x", "prepare y", "call y", "record y", "do b"]
        assert story.told == done
        assert StepRow.objects.get(name="choose").output == {"chose": "choose"}
        assert StepRow.objects.get(name="y").shape == "call"

    def test_none_may_follow(self, story: Story, hints: Hints) -> None:
        a_toy = slip(choosing(story, ()), local(story, "b"), options=(), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert rows(run_id) == [("choose", "DONE")]

    def test_may_be_revised_again(self, story: Story, hints: Hints) -> None:
        options = (choosing(story, ("y",), name="x"), local(story, "y"))
        a_toy = slip(choosing(story, ("x", "b")), local(story, "b"), options=options, story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
        assert rows(run_id) == [("choose", "DONE"), ("x", "DONE"), ("y", "DONE")]

    def test_answers_and_outcomes_may_revise_too(self, story: Story, hints: Hints) -> None:
        asking, calling = ask(story, "b"), call(story, "c")
        type(asking).on_answer = lambda *_: Revise(None, ("c", "x"))  # type: ignore[method-assign]
        type(calling).record = lambda *_: Revise({"so": 1}, ("y",))  # type: ignore[method-assign]
        options = (calling, local(story, "x"), ask(story, "y"))
        a_toy = slip(local(story, "a"), asking, local(story, "z"), options=options, story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            answer(run_id, 1)
            hints.work_off()
            assert rows(run_id) == [("a", "DONE"), ("b", "DONE"), ("c", "DONE"), ("y", "WAITING")]
            assert answer(run_id, 3) is engine.Resumed.ACCEPTED
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED

    def test_a_step_that_fails_behind_a_revision_is_tried_again(self, story: Story, hints: Hints) -> None:
        story.plan["do x"] = [RuntimeError("broken")]
        a_toy = slip(
            local(story, "a"), choosing(story, ("x",)), local(story, "b"), options=(local(story, "x"),), story=story
        )
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert rows(run_id) == [("a", "DONE"), ("choose", "DONE"), ("x", "FAILED")]
            assert end(hints, run_id) == [RunStatus.COMPLETED]
        assert rows(run_id)[-1] == ("x", "DONE")
        assert Attempt.objects.filter(run_id=run_id, position=2).count() == 2

    def test_another_choice_when_it_is_done_again_in_the_same_commit(self, story: Story, hints: Hints) -> None:
        story.plan["do x"] = [RuntimeError("broken")]
        options = (local(story, "x"), local(story, "y"))
        a_toy = slip(choosing(story, ("x", "b"), ("y",)), local(story, "b"), options=options, story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now(), inline_ms=0)
            hints.work_off()
            assert end(hints, run_id) == [RunStatus.COMPLETED]
        assert rows(run_id)[0] == ("choose", "DONE")
        assert len(rows(run_id)) == 2

    def test_leaves_out_what_had_begun_when_it_is_done_again_in_the_same_commit(self, story: Story, hints: Hints) -> None:
        """The first choice is the list as it was: the step that broke under it is no part of the second one."""
        story.plan["do b"] = [RuntimeError("broken")]
        a_toy = slip(choosing(story, ("b",), ()), local(story, "b"), options=(), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now(), inline_ms=0)
            assert engine.advance(run_id) is engine.Progress.OVER
        assert (rows(run_id), story.told) == ([("choose", "DONE")], ["do choose", "do b", "do choose"])
        assert Attempt.objects.filter(run_id=run_id).count() == 1

    def test_revises_a_run_that_is_in_the_database(self, story: Story, hints: Hints) -> None:
        steps = (ask(story, "a"), choosing(story, ("x",)), local(story, "b"), local(story, "c"))
        a_toy = slip(*steps, options=(ask(story, "x"),), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            answer(run_id, 0)
            hints.work_off()
            assert rows(run_id) == [("a", "DONE"), ("choose", "DONE"), ("x", "WAITING")]
            found = find_runs(Filter(use_case="test.toy", step="x"), limit=5, now=timezone.now())
            assert [row.step for row in found.rows] == ["x"], "the step where it is, not the one of its definition"
            state = run_state(run_id)
            assert state is not None
            assert [step.name for step in state.steps] == ["a", "choose", "x"]


class TestBack:
    def test_a_refusal_rolls_the_revision_back_with_the_segment(self, story: Story, hints: Hints) -> None:
        story.plan["do x"] = [Refusal("no")]
        a_toy = slip(
            local(story, "a"), choosing(story, ("x",)), local(story, "b"), options=(local(story, "x"),), story=story
        )
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPENSATED
        assert rows(run_id) == [("a", "ROLLED_BACK"), ("choose", "ROLLED_BACK"), ("x", "FAILED")]
        assert story.told[-1] == "compensated because x: R999"

    def test_undoes_what_was_done_and_not_what_was_declared(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no")]
        options = (call(story, "x"), local(story, "z"))
        a_toy = slip(local(story, "a"), choosing(story, ("x", "z")), local(story, "b"), options=options, story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        undone = [line for line in story.told if line.startswith("undo ")]
        assert undone == ["undo x", "undo choose", "undo a"]


class TestWrong:
    @pytest.mark.parametrize(
        ("then", "why"),
        [
            (("nonsense",), "nonsense is neither a step nor an optional step of test.toy v1"),
            (("a",), "a step would come twice: a, choose, a"),
            (("x", "x"), "a step would come twice"),
            (("p", "x"), "the kinds are not compensable"),
            (("p", "q"), "the kinds are not compensable"),
            (("r", "p"), "the kinds are not compensable"),
        ],
    )
    def test_is_a_bug_that_is_told(self, story: Story, hints: Hints, then: tuple[str, ...], why: str) -> None:
        pivots = (local(story, "p", PIVOT), local(story, "q", PIVOT), local(story, "r", RETRIABLE))
        options = (local(story, "x"), *pivots)
        a_toy = slip(local(story, "a"), choosing(story, then), local(story, "b"), options=options, story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            run = RunRow.objects.get(pk=run_id)
            assert (run.status, run.failed_step, run.error_code) == (RunStatus.RUNNING, "choose", "InvalidRevision")
            assert why in run.error_detail
            assert [name for name, _ in rows(run_id)] == ["a", "choose", "b"], "nothing was revised"
            assert end(hints, run_id) == [RunStatus.COMPENSATED], "it is given up like any other bug"

    def test_optional_steps_are_checked_and_written_down(self, story: Story) -> None:
        class NoWayBack(LocalStep):
            name, kind = "oneway", COMPENSABLE

            def handle(self, run: Run) -> None:
                return None

        told = Definition("x", 1, (local(story, "a"),), optional_steps=(NoWayBack(), local(story, "a"))).problems()
        assert told == ["step a appears twice", "compensable step oneway has no compensate"]
        sound = Definition("x", 1, (local(story, "a"),), optional_steps=(local(story, "b", PIVOT),))
        assert sound.problems() == []
        assert snapshot_of(sound)["optional_steps"] == [{"name": "b", "kind": "PIVOT", "shape": "local"}]
        assert "optional_steps" not in snapshot_of(Definition("x", 1, (local(story, "a"),)))


class TestVersions:
    def test_a_run_that_was_revised_stays(self, story: Story, hints: Hints) -> None:
        steps = (choosing(story, ("x",)), local(story, "b"))
        older = slip(*steps, options=(ask(story, "x"),), story=story)
        newer = slip(*steps, options=(ask(story, "x"),), story=story, version=2, migrates_from={1: {"choose": "choose"}})
        with registered(older, newer):
            begin(older, now=timezone.now())
            terms = {"reason": "a better one", "by": "t", "now": timezone.now(), "dry_run": False}
            (moved,) = move("test.toy", older=1, newer=2, **terms)  # type: ignore[arg-type]
        assert "revised" in moved.refusal


class TestDeadline:
    def test_of_a_run_whose_pivot_was_revised_away(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        steps = (choosing(story, ("x",)), local(story, "b", PIVOT))
        a_toy = slip(*steps, options=(ask(story, "x"),), story=story, deadline=timedelta(seconds=10))
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + timedelta(seconds=10))
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
