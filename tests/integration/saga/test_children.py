"""Sagas within sagas: a sub-saga as a step, branches that run at once, and how all of them go back together."""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from celery import Task
from django.core.management import call_command
from django.utils import timezone

from apps.saga import chains, engine, pauses
from apps.saga import definition as definitions
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, Run, Step
from apps.saga.filters import Filter
from apps.saga.incidents import IncidentQuestion, fold, incidents, trends
from apps.saga.models import LIVE, Approval, RunStatus
from apps.saga.models import Run as RunRow
from apps.saga.models import Step as StepRow
from apps.saga.queries import find_run, run_state
from apps.saga.search import find_runs
from apps.saga.shapes import BRANCHES_MAX, Child, ParallelStep, SubSagaStep
from apps.saga.snapshots import snapshot_of
from apps.saga.sweeper import sweep
from apps.saga.triage import retry
from tests.integration.messaging.world import together
from tests.integration.saga.hints import Hints, assert_whole, end, many
from tests.integration.saga.test_approvals import question
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.test_timers import begin, rows
from tests.integration.saga.world import registered, toy

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="hints", autouse=True)
def some_hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    hints = Hints()
    hints.patch(monkeypatch)
    return hints


def sub(inner: Definition, kind: Kind = COMPENSABLE, name: str = "sub") -> SubSagaStep:
    class Sub(SubSagaStep):
        definitions = (inner,)

        def child(self, run: Run) -> Child:
            return Child(inner, run.subject_id, f"{run.business_key}/sub", {"from": run.step, **run.data})

    Sub.name, Sub.kind = name, kind
    return Sub()


def fan(kind: Kind = COMPENSABLE, name: str = "fan", **children: Definition) -> ParallelStep:
    class Fan(ParallelStep):
        definitions = tuple(children.values())

        def branches(self, run: Run) -> Mapping[str, Child]:
            return {name: Child(each, run.subject_id, run.business_key, {}) for name, each in children.items()}

    Fan.name, Fan.kind = name, kind
    return Fan()


def wrapped(*branches: Step, kind: Kind = COMPENSABLE, name: str = "fan") -> ParallelStep:
    class Fan(ParallelStep):
        steps = branches

    Fan.name, Fan.kind = name, kind
    return Fan()


def child_of(run_id: UUID, branch: str = "") -> RunRow:
    found = RunRow.objects.filter(parent_id=run_id, branch=branch).order_by("-pk").first()
    assert found is not None
    return found


def statuses(run_id: UUID) -> dict[str, str]:
    return dict(RunRow.objects.filter(parent_id=run_id).order_by("pk").values_list("branch", "status"))


class TestSubSaga:
    def test_is_a_run_of_its_own_and_its_outputs_are_the_steps(self, story: Story, hints: Hints) -> None:
        child = toy(local(story, "x"), call(story, "y"), story=story, use_case="test.child")
        a_toy = toy(local(story, "a"), sub(child), local(story, "b"), story=story)
        with registered(child, a_toy):
            run_id = begin(a_toy, now=timezone.now(), data={"customer": "c1"})
            parent, begun = RunRow.objects.get(pk=run_id), child_of(run_id)
            assert (parent.status, parent.at_step) == (RunStatus.WAITING, "sub")
            assert (begun.use_case, begun.business_key, begun.global_id) == ("test.child", "toy/sub", parent.global_id)
            assert begun.data == {"from": "sub", "customer": "c1"}
            assert hints.groups == [[begun.pk]]
            hints.work_off()
            parent.refresh_from_db()
            assert parent.status == RunStatus.COMPLETED, "no sweep, no moment: the end of the child is enough"
        output = StepRow.objects.get(run_id=run_id, position=1).output
        assert output == {"x": {"by": "x"}, "y": {"answer": "y"}}
        assert story.told == ["do a", "do x", "prepare y", "call y", "record y", "do b"]
        assert_whole()

    def test_that_fails_turns_the_run_around(self, story: Story, hints: Hints) -> None:
        story.plan["do y"] = [Refusal("no y today")]
        child = toy(call(story, "x"), local(story, "y"), story=story, use_case="test.child")
        a_toy = toy(local(story, "a"), sub(child), local(story, "b"), story=story)
        with registered(child, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
        run = RunRow.objects.get(pk=run_id)
        assert (run.status, run.failed_step, run.error_code) == (RunStatus.COMPENSATED, "sub", "R999")
        assert "no y today" in run.error_detail
        assert rows(run_id) == [("a", "UNDONE"), ("sub", "UNDONE"), ("b", "PENDING")]
        undone = [line for line in story.told if line.startswith("undo ")]
        assert undone == ["undo x", "undo a"]

    def test_that_is_complete_goes_back_when_the_run_does(self, story: Story, hints: Hints) -> None:
        story.plan["do b"] = [Refusal("no")]
        child = toy(local(story, "x"), local(story, "y"), story=story, use_case="test.child")
        a_toy = toy(local(story, "a"), sub(child), local(story, "b"), story=story)
        with registered(child, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
        begun = child_of(run_id)
        assert (RunRow.objects.get(pk=run_id).status, begun.status) == (RunStatus.COMPENSATED, RunStatus.COMPENSATED)
        assert (begun.error_code, begun.failed_step) == ("R537", "")
        undone = [line for line in story.told if line.startswith("undo ")]
        assert undone == ["undo y", "undo x", "undo a"]
        assert_whole()

    def test_may_be_the_pivot_with_a_pivot_inside(self, story: Story, hints: Hints) -> None:
        child = toy(local(story, "x"), local(story, "p", PIVOT), story=story, use_case="test.child")
        steps = (local(story, "a"), sub(child, PIVOT), local(story, "b", RETRIABLE))
        a_toy = toy(*steps, story=story)
        with registered(child, a_toy):
            done = begin(a_toy, now=timezone.now())
            hints.work_off()
            story.plan["do p"] = [Refusal("no")]
            refused = begin(a_toy, now=timezone.now())
            assert end(hints, done, refused) == [RunStatus.COMPLETED, RunStatus.COMPENSATED]
        assert rows(refused)[:2] == [("a", "UNDONE"), ("sub", "FAILED")]

    def test_that_fails_after_the_pivot_is_a_persons_case_and_begins_anew(self, story: Story, hints: Hints) -> None:
        story.plan["do x"] = [Refusal("no")]
        child = toy(local(story, "x"), story=story, use_case="test.child")
        a_toy = toy(local(story, "a", PIVOT), sub(child, RETRIABLE), story=story)
        with registered(child, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            assert RunRow.objects.get(pk=run_id).status == RunStatus.STUCK
            retry(run_id, now=timezone.now())
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        found = RunRow.objects.filter(parent_id=run_id).order_by("pk").values_list("status", flat=True)
        assert list(found) == ["COMPENSATED", "COMPLETED"]

    def test_is_begun_anew_once_by_processes_whose_clocks_differ(
        self, story: Story, hints: Hints, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ids of runs begin with their time: by a clock that is behind, the newer one has the smaller id."""
        story.plan["do x"] = [Refusal("no")]
        story.plan["do y"] = [Refusal("no")]
        child = toy(local(story, "x"), story=story, use_case="test.child")
        other = toy(local(story, "y"), story=story, use_case="test.other")
        a_toy = toy(local(story, "a", PIVOT), fan(RETRIABLE, one=child, two=other), story=story)
        with registered(child, other, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            assert RunRow.objects.get(pk=run_id).status == RunStatus.STUCK
            right = time.time_ns
            monkeypatch.setattr(time, "time_ns", lambda: right() - 60_000_000_000)
            retry(run_id, now=timezone.now())
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert Counter(RunRow.objects.filter(parent_id=run_id).values_list("branch", "status")) == {
            ("one", "COMPENSATED"): 1, ("one", "COMPLETED"): 1, ("two", "COMPENSATED"): 1, ("two", "COMPLETED"): 1
        }  # fmt: skip
        assert story.told.count("do x") == 2

    def test_may_have_one_itself(self, story: Story, hints: Hints) -> None:
        grandchild = toy(local(story, "g"), local(story, "h"), story=story, use_case="test.grandchild")
        child = toy(local(story, "x"), sub(grandchild), story=story, use_case="test.child")
        a_toy = toy(sub(child), local(story, "b"), story=story)
        with registered(grandchild, child, a_toy):
            done = begin(a_toy, now=timezone.now())
            hints.work_off()
            story.plan["do b"] = [Refusal("no")]
            undone = begin(a_toy, now=timezone.now())
            hints.work_off()
            assert end(hints, done, undone) == [RunStatus.COMPLETED, RunStatus.COMPENSATED]
        output = StepRow.objects.get(run_id=done, position=0).output
        assert output == {"x": {"by": "x"}, "sub": {"g": {"by": "g"}, "h": {"by": "h"}}}
        assert [line for line in story.told if line.startswith("undo ")] == ["undo h", "undo g", "undo x"]

    def test_that_a_pause_refuses_is_a_refusal_of_the_step(self, story: Story, hints: Hints) -> None:
        child = toy(local(story, "x"), story=story, use_case="test.child")
        a_toy = toy(local(story, "a"), sub(child), story=story)
        with registered(child, a_toy):
            pauses.pause("test.child", reason="a bug was found", by="t", now=timezone.now(), refuses=True)
            run_id = begin(a_toy, now=timezone.now())
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
            assert not RunRow.objects.filter(parent_id=run_id).exists()
        assert RunRow.objects.get(pk=run_id).error_code == "R513"

    def test_of_another_definition_than_it_says_is_a_bug(self, story: Story) -> None:
        child = toy(local(story, "x"), story=story, use_case="test.child")
        other = toy(local(story, "x"), story=story, use_case="test.other")
        step = sub(child)
        type(step).definitions = (other,)
        a_toy = toy(step, story=story)
        with registered(child, other, a_toy):
            run = RunRow.objects.get(pk=begin(a_toy, now=timezone.now()))
        assert (run.status, run.error_code) == (RunStatus.RUNNING, "ValueError")
        assert "test.child" in run.error_detail


class TestParallel:
    def test_branches_begin_as_one_group_and_are_joined(self, story: Story, hints: Hints) -> None:
        one = toy(local(story, "x"), story=story, use_case="test.one")
        two = toy(call(story, "y"), local(story, "z"), story=story, use_case="test.two")
        a_toy = toy(local(story, "a"), fan(one=one, two=two), local(story, "b"), story=story)
        with registered(one, two, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert [len(group) for group in hints.groups] == [2]
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert statuses(run_id) == {"one": "COMPLETED", "two": "COMPLETED"}
        output = StepRow.objects.get(run_id=run_id, position=1).output
        assert output == {"one": {"x": {"by": "x"}}, "two": {"y": {"answer": "y"}, "z": {"by": "z"}}}
        assert (story.told[0], story.told[-1]) == ("do a", "do b")

    def test_steps_may_be_the_branches(self, story: Story, hints: Hints) -> None:
        a_toy = toy(wrapped(local(story, "x"), call(story, "y")), local(story, "b"), story=story)
        with registered(a_toy):
            names = {each.use_case for each in definitions.registered()}
            assert names >= {"test.toy.fan.x", "test.toy.fan.y"}
            run_id = begin(a_toy, now=timezone.now(), data={"customer": "c1"})
            assert child_of(run_id, "x").data == {"customer": "c1"}
            assert end(hints, run_id) == [RunStatus.COMPLETED]
        assert StepRow.objects.get(run_id=run_id, position=0).output == {"x": {"by": "x"}, "y": {"answer": "y"}}

    def test_a_branch_that_fails_compensates_those_that_are_done(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        steps = (local(story, "x"), call(story, "y"), local(story, "z"))
        a_toy = toy(local(story, "a"), wrapped(*steps), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
        run = RunRow.objects.get(pk=run_id)
        assert (run.status, run.failed_step, run.error_code) == (RunStatus.COMPENSATED, "fan", "R999")
        assert statuses(run_id) == dict.fromkeys("xyz", "COMPENSATED")
        assert Counter(line for line in story.told if line.startswith("undo ")) == {"undo x": 1, "undo y": 1, "undo a": 1}
        assert story.told[-2:] == ["undo a", "compensated because fan: R999"]
        assert_whole()

    @pytest.mark.parametrize(("error", "own", "parents"), [(RuntimeError("z"), 1, 0), (Refusal("no z"), 0, 1)])
    def test_the_error_of_a_branch_counts_once(
        self, story: Story, hints: Hints, error: Exception, own: int, parents: int
    ) -> None:
        """After the pivot: what the branch counted is not counted again when its parent is stuck; the parent is found."""
        z = local(story, "z")
        type(z).attempts_max, story.plan["do z"] = 1, [error]
        inner = toy(z, story=story, use_case="test.inner")
        a_toy = toy(local(story, "a", PIVOT), fan(RETRIABLE, one=inner), story=story)
        with registered(inner, a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert end(hints, run_id) == [RunStatus.STUCK]
        code = "R999" if isinstance(error, Refusal) else "RuntimeError"
        for _ in range(2):  # as appended, and as folded
            found = {each.use_case: each for each in incidents(IncidentQuestion(error_code=code), limit=10)}
            assert found["test.toy"].runs == 1, "there it is acted upon"
            assert (sum(each.count for each in found.values()), found["test.toy"].count) == (1, parents)
            assert (found["test.inner"].count if "test.inner" in found else 0) == own
            assert {sum(trends([each.id], buckets=2, now=timezone.now())[each.id]) for each in found.values()} <= {0, 1}
            fold()

    def test_branches_that_still_wait_are_called_back(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        steps = (ask(story, "w"), question(story, "q"), local(story, "z"))
        a_toy = toy(wrapped(*steps), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPENSATED
            assert answer(child_of(run_id, "w").pk, 0) is engine.Resumed.LATE
        assert statuses(run_id) == dict.fromkeys("wqz", "COMPENSATED")
        assert (Approval.objects.get().status, Approval.objects.get().reason) == ("CLOSED", "R537")
        assert child_of(run_id, "w").error_code == "R537"

    def test_waits_for_an_undo_that_waits(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        a_toy = toy(local(story, "a"), wrapped(ask(story, "w", undo_waits=True), local(story, "z")), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            run = RunRow.objects.get(pk=run_id)
            assert (run.status, rows(run_id)[1]) == (RunStatus.COMPENSATING, ("fan", "UNDOING"))
            assert "undo a" not in story.told
            with_undo = f"{child_of(run_id, 'w').pk}:0:undo"
            from django.db import transaction

            with transaction.atomic():
                engine.resume(step_key=with_undo, answer={}, now=timezone.now())
            hints.work_off()
        run.refresh_from_db()
        assert run.status == RunStatus.COMPENSATED
        assert story.told[-2:] == ["undo a", "compensated because fan: R999"]

    def test_a_branch_held_by_a_pause_is_called_back(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        one, two = (toy(local(story, name), story=story, use_case=f"test.{name}") for name in "xz")
        a_toy = toy(fan(x=one, z=two), story=story)
        with registered(one, two, a_toy):
            pauses.pause("test.x", reason="a bug was found", by="t", now=timezone.now())
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
        assert statuses(run_id) == {"x": "COMPENSATED", "z": "COMPENSATED"}
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPENSATED
        assert "do x" not in story.told

    def test_a_branch_that_is_stuck_shows_itself_and_the_run_waits(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        story.plan["undo y"] = [RuntimeError("no way back")] * 3
        a_toy = toy(wrapped(call(story, "y"), local(story, "z")), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            for _ in range(8):
                try:
                    end(hints, run_id, rounds=1)
                except AssertionError:
                    continue
            stuck = child_of(run_id, "y")
            assert (stuck.status, RunRow.objects.get(pk=run_id).status) == (RunStatus.STUCK, RunStatus.COMPENSATING)
            retry(stuck.pk, now=timezone.now())
            assert end(hints, run_id) == [RunStatus.COMPENSATED]

    def test_no_branch_is_nothing_to_wait_for(self, story: Story) -> None:
        step = fan()
        type(step).definitions = (toy(local(story, "x"), story=story),)
        a_toy = toy(step, local(story, "b"), story=story)
        with registered(a_toy):
            assert RunRow.objects.get(pk=begin(a_toy, now=timezone.now())).status == RunStatus.COMPLETED

    def test_has_not_more_branches_than_a_commit_should_write(self, story: Story) -> None:
        one = toy(local(story, "x"), story=story, use_case="test.one")
        a_toy = toy(fan(**{f"b{n}": one for n in range(BRANCHES_MAX + 1)}), story=story)
        with registered(one, a_toy):
            run = RunRow.objects.get(pk=begin(a_toy, now=timezone.now()))
        assert run.error_code == "ValueError"
        assert not RunRow.objects.filter(parent_id__isnull=False).exists()

    def test_keeps_the_branches_that_are_done_when_the_others_begin_anew(self, story: Story, hints: Hints) -> None:
        story.plan["do z"] = [Refusal("no z")]
        steps = (local(story, "x", RETRIABLE), local(story, "z", COMPENSABLE))
        a_toy = toy(local(story, "a", PIVOT), wrapped(*steps, kind=RETRIABLE), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            assert RunRow.objects.get(pk=run_id).status == RunStatus.STUCK
            retry(run_id, now=timezone.now())
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert Counter(story.told)["do x"] == 1

    def test_a_deadline_calls_all_back(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), wrapped(ask(story, "w"), local(story, "x")), story=story, deadline=DAY)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            hints.work_off()
            assert statuses(run_id) == {"w": "WAITING", "x": "COMPLETED"}
            engine.advance(run_id, now=now + DAY)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert statuses(run_id) == {"w": "COMPENSATED", "x": "COMPENSATED"}
        assert RunRow.objects.get(pk=run_id).error_code == "R530"


class TestCheck:
    def test_refuses_branches_that_could_not_be_taken_back(self, story: Story) -> None:
        child = Definition("test.child", 1, (local(story, "x"), local(story, "p", PIVOT)))
        assert Definition("x", 1, (sub(child),)).problems() == [
            "step sub: it is compensable, and test.child v1 cannot undo p"
        ]
        assert Definition("x", 1, (sub(child, PIVOT),)).problems() == []
        assert Definition("x", 1, (wrapped(local(story, "p", PIVOT)),)).problems() == [
            "step fan: it is compensable, and its branch p is not"
        ]

    def test_refuses_branches_as_the_pivot_and_none_at_all(self, story: Story) -> None:
        child = Definition("test.child", 1, (local(story, "x"),))
        assert "no pivot" not in str(Definition("x", 1, (fan(one=child),)).problems())
        assert Definition("x", 1, (fan(PIVOT, one=child),)).problems() == [
            "step fan: branches cannot be the pivot: one might pass it, and another not"
        ]
        assert Definition("x", 1, (fan(),)).problems() == [
            "step fan: it does not say which definitions its branches may have"
        ]

    def test_a_snapshot_names_the_branches(self, story: Story) -> None:
        a_toy = toy(wrapped(local(story, "x")), story=story)
        with registered(a_toy):
            (step,) = snapshot_of(a_toy)["steps"]
        assert step == {"name": "fan", "kind": "COMPENSABLE", "shape": "parallel", "runs": ["test.toy.fan.x.v1"]}


class TestQuestions:
    def test_tell_of_branches_and_find_the_whole(self, story: Story, hints: Hints) -> None:
        a_toy = toy(wrapped(ask(story, "w"), local(story, "x")), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            hints.work_off()
            state = run_state(run_id)
            assert state is not None
            told = [(child.step, child.branch, child.status) for child in state.children]
            assert told == [("fan", "w", "WAITING"), ("fan", "x", "COMPLETED")]
            by_key, by_global = find_run("toy"), run_state(state.global_id)
            assert by_key is not None
            assert by_global is not None
            assert (by_key.run_id, by_global.run_id) == (run_id, run_id), "the whole, not a branch of it"
            branch = run_state(state.children[0].run_id)
            assert branch is not None
            assert (branch.parent_id, branch.branch) == (run_id, "w")
            found = find_runs(Filter(global_id=state.global_id), limit=10, now=timezone.now())
            assert {row.run_id: row.wait and row.wait.kind for row in found.rows} == {
                run_id: "branches",
                state.children[0].run_id: "answer",
                state.children[1].run_id: None,
            }
            assert end(hints, run_id) == [RunStatus.COMPENSATED]


class TestCelery:
    """The messages themselves, without the list that the other tests put in their place."""

    @pytest.fixture(name="sent")
    def what_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
        monkeypatch.undo()
        sent: list[tuple[str, Any, Any]] = []

        def send(task: Task, *args: Any, **options: Any) -> None:
            sent.append((task.name, options.get("kwargs") or args[1], options.get("group_id")))

        monkeypatch.setattr(Task, "apply_async", send)
        return sent

    def test_branches_are_one_group_and_a_call_is_a_chain_of_its_own(self, sent: list[tuple[str, Any, Any]]) -> None:
        one, two, three = (UUID(int=n) for n in (1, 2, 3))
        chains.wake_group([chains.Begun(one, 0), chains.Begun(two, 2), chains.Begun(three, 0)])
        names = [(name, kwargs.get("run_id") or kwargs["run_ids"][0]) for name, kwargs, _ in sent]
        assert sorted(names) == [("saga.advance", str(one)), ("saga.advance", str(three)), ("saga.do_step", str(two))]
        groups = {group for name, _, group in sent if name == "saga.advance"}
        assert len(groups) == 1
        assert None not in groups

    def test_a_look_is_a_message_for_each_run(self, sent: list[tuple[str, Any, Any]]) -> None:
        chains.look(UUID(int=1), UUID(int=2))
        assert [(name, kwargs) for name, kwargs, _ in sent] == [
            ("saga.look", {"run_id": str(UUID(int=1))}),
            ("saga.look", {"run_id": str(UUID(int=2))}),
        ]


class TestCommand:
    def test_tells_of_branches_and_keys(self, story: Story, hints: Hints) -> None:
        a_toy = toy(wrapped(ask(story, "w")), story=story, locks=lambda _: ["order-1"])
        with registered(a_toy):
            first, second = begin(a_toy, now=timezone.now()), begin(a_toy, now=timezone.now())
            hints.work_off()
            told = StringIO()
            call_command("saga_state", str(first), stdout=told)
            call_command("saga_state", str(second), stdout=told)
        text = told.getvalue()
        assert "key order-1: held\n" in text
        assert f"key order-1: held by run {first}, 0 before it" in text
        assert f"WAITING      run {child_of(first, 'w').pk}, branch w of fan" in text
        assert "waits for lock: the run that holds order-1" in text


class TestLost:
    """Every message may be lost: rows say what is to be done, and the sweeper reads them."""

    @pytest.mark.parametrize("seed", range(4))
    def test_messages_are_lost_on_the_way_forward(self, story: Story, hints: Hints, seed: int) -> None:
        hints.loses(1.0 if seed == 0 else 0.5, seed=seed)
        a_toy = toy(local(story, "a"), wrapped(local(story, "x"), call(story, "y")), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert drive_by_rows(hints, run_id) == RunStatus.COMPLETED
        assert Counter(story.told) == dict.fromkeys(("do a", "do x", "prepare y", "call y", "record y", "do b"), 1)

    @pytest.mark.parametrize("seed", range(4))
    def test_and_on_the_way_back(self, story: Story, hints: Hints, seed: int) -> None:
        hints.loses(1.0 if seed == 0 else 0.5, seed=seed)
        story.plan["do b"] = [Refusal("no")]
        a_toy = toy(local(story, "a"), wrapped(local(story, "x"), call(story, "y")), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert drive_by_rows(hints, run_id) == RunStatus.COMPENSATED
        assert statuses(run_id) == {"x": "COMPENSATED", "y": "COMPENSATED"}
        undone = Counter(line for line in story.told if line.startswith("undo "))
        assert undone == {"undo x": 1, "undo y": 1, "undo a": 1}
        assert_whole()


def drive_by_rows(hints: Hints, run_id: UUID) -> str:
    """Only what is due is worked on, as a sweeper's message would have it; what else is sent is mostly lost."""
    now = timezone.now()
    for _ in range(60):
        now += timedelta(minutes=11)
        due = list(RunRow.objects.filter(due_at__lte=now).values_list("pk", "status"))
        for each, status in due:
            engine.advance(each, undo=status == RunStatus.COMPENSATING, now=now)
        hints.work_off()
        found = RunRow.objects.get(pk=run_id).status
        if found not in LIVE:
            return found
    raise AssertionError("the run never ends")


class TestRaces:
    @pytest.mark.parametrize(("seed", "refused"), [(seed, seed % 2) for seed in range(6)])
    def test_many_workers_join_and_turn_around(self, story: Story, hints: Hints, seed: int, refused: int) -> None:
        if refused:
            story.plan["do z"] = [Refusal("no z")]
        hints.loses(0.2, seed=seed)
        names = [f"s{n}" for n in range(6)]
        steps = [call(story, name) if n % 2 else local(story, name) for n, name in enumerate(names)]
        a_toy = toy(local(story, "a"), wrapped(*steps, local(story, "z")), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            together(*many(hints, threads=5))
        told = Counter(story.told)
        expected = RunStatus.COMPENSATED if refused else RunStatus.COMPLETED
        assert RunRow.objects.get(pk=run_id).status == expected
        assert set(statuses(run_id).values()) == {expected.value}
        for n, name in enumerate(names):
            done = told[f"record {name}"] if n % 2 else told[f"do {name}"]
            assert done <= 1
            if refused:
                assert told[f"undo {name}"] >= done, "what was done is undone"
            else:
                assert (done, told[f"undo {name}"]) == (1, 0)
        assert told["undo a"] == refused
        assert told["do b"] == 1 - refused
        assert_whole()

    def test_two_branches_end_at_the_same_moment(self, story: Story, hints: Hints) -> None:
        a_toy = toy(wrapped(local(story, "x"), local(story, "y")), local(story, "b"), story=story)
        with registered(a_toy):
            for _ in range(8):
                run_id = begin(a_toy, now=timezone.now())
                hints.waiting.clear()
                one, two = child_of(run_id, "x").pk, child_of(run_id, "y").pk
                together(lambda at=one: _end(hints, at), lambda at=two: _end(hints, at))  # type: ignore[misc]
                hints.work_off()
                assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED, "no sweep was needed"

    def test_a_branch_completes_while_the_run_turns_around(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), wrapped(local(story, "x"), local(story, "y")), story=story, deadline=DAY)
        with registered(a_toy):
            for _ in range(8):
                run_id = begin(a_toy, now=now)
                hints.waiting.clear()
                one, two = child_of(run_id, "x").pk, child_of(run_id, "y").pk
                together(
                    lambda at=one: _end(hints, at),  # type: ignore[misc]
                    lambda at=two: _end(hints, at),  # type: ignore[misc]
                    lambda at=run_id: engine.advance(at, now=now + DAY),  # type: ignore[misc]
                )
                RunRow.objects.filter(pk=run_id, status=RunStatus.COMPENSATING).update(due_at=now)
                status = end(hints, run_id)[0]
                assert set(statuses(run_id).values()) == {status}
        told = Counter(story.told)
        assert (told["do x"], told["do y"]) == (told["undo x"] + _completed("x"), told["undo y"] + _completed("y"))


def _end(hints: Hints, run_id: UUID) -> None:
    engine.advance(run_id)


def _completed(branch: str) -> int:
    return RunRow.objects.filter(branch=branch, status=RunStatus.COMPLETED).count()


class TestSweep:
    def test_a_branch_that_ends_makes_its_parent_due(self, story: Story, hints: Hints) -> None:
        a_toy = toy(wrapped(local(story, "x")), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            assert RunRow.objects.get(pk=run_id).due_at > timezone.now() + timedelta(minutes=9)
            engine.advance(child_of(run_id, "x").pk)
            hints.waiting.clear()  # the worker died right after its commit
            assert sweep(now=timezone.now() + timedelta(seconds=6)) == 1
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
