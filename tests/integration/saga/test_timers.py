"""A step that waits for a moment, and a run that has a deadline."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.saga import engine, search
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, Run
from apps.saga.filters import Filter
from apps.saga.models import Attempt, RunStatus, Step
from apps.saga.models import Run as RunRow
from apps.saga.shapes import TimerStep
from apps.saga.sweeper import sweep
from tests.integration.saga.hints import Hints, end
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import registered, toy, with_breaker

pytestmark = pytest.mark.django_db(transaction=True)
AN_HOUR = timedelta(hours=1)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="hints", autouse=True)
def some_hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    hints = Hints()
    hints.patch(monkeypatch)
    return hints


def timer(name: str, moment: datetime | None, kind: Kind = COMPENSABLE) -> TimerStep:
    class Timer(TimerStep):
        def until(self, run: Run) -> datetime:
            assert moment is not None
            return moment

    Timer.name, Timer.kind = name, kind  # type: ignore[misc]
    return Timer()


def begin(definition: Definition, *, now: datetime, inline_ms: int = 10_000, data: dict[str, Any] | None = None) -> UUID:
    with transaction.atomic():
        return engine.start(
            definition,
            subject_id=uuid4(),
            business_key="toy",
            data=data or {},
            now=now,
            run_inline_for_ms=inline_ms,
        )


def rows(run_id: UUID) -> list[tuple[str, str]]:
    return list(Step.objects.filter(run_id=run_id).order_by("position").values_list("name", "status"))


class TestTimer:
    def test_parks_the_run_until_its_moment(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), timer("t", now + AN_HOUR), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            run = RunRow.objects.get(pk=run_id)
            assert (run.status, run.due_at, run.at_step) == (RunStatus.WAITING, now + AN_HOUR, "t")
            assert sweep(now=now + AN_HOUR - timedelta(seconds=1)) == 0
            assert engine.advance(run_id) is engine.Progress.PARKED
            assert sweep(now=now + AN_HOUR) == 1
            engine.advance(run_id, now=now + AN_HOUR)
            hints.work_off()
        run.refresh_from_db()
        assert (run.status, run.rescues, run.at_step) == (RunStatus.COMPLETED, 0, "")
        assert story.told == ["do a", "do b"]
        assert Attempt.objects.get(run=run, position=1).outcome == "DONE"
        assert Step.objects.get(run=run, position=1).output == {"until": (now + AN_HOUR).isoformat()}

    def test_does_not_wait_for_a_moment_that_has_passed(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(timer("t", now), local(story, "b"), story=story)
        with registered(a_toy):
            run = RunRow.objects.get(pk=begin(a_toy, now=now))
        assert run.status == RunStatus.COMPLETED

    def test_has_nothing_to_undo(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        story.plan["do b"] = [Refusal("no")]
        a_toy = toy(local(story, "a"), timer("t", now + AN_HOUR), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert rows(run_id) == [("a", "UNDONE"), ("t", "UNDONE"), ("b", "FAILED")]

    def test_refuses_to_wait_for_ever(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(timer("t", now + timedelta(days=400)), story=story)
        with registered(a_toy):
            run = RunRow.objects.get(pk=begin(a_toy, now=now))
        assert (run.status, run.error_code) == (RunStatus.RUNNING, "ValueError"), "a bug, tried again"

    def test_may_be_the_pivot_and_after_it(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        steps = (local(story, "a"), timer("t", now + AN_HOUR, PIVOT), timer("u", now + 2 * AN_HOUR, RETRIABLE))
        a_toy = toy(*steps, local(story, "b", RETRIABLE), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert end(hints, run_id) == [RunStatus.COMPLETED]

    def test_says_that_it_waits_for_a_moment(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(timer("t", now + AN_HOUR), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            (found,) = search.find_runs(Filter(run_id=run_id), limit=5, now=now).rows
        assert found.step == "t"
        assert found.wait is not None
        assert (found.wait.kind, found.wait.until) == ("timer", now + AN_HOUR)


class TestDeadline:
    def test_undoes_the_run_when_it_passes_before_the_pivot(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        steps = (local(story, "a"), timer("t", now + timedelta(days=3)), local(story, "b", PIVOT))
        a_toy = toy(*steps, story=story, deadline=AN_HOUR)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert RunRow.objects.get(pk=run_id).due_at == now + AN_HOUR, "it wakes by itself"
            assert sweep(now=now + AN_HOUR) == 1
            assert engine.advance(run_id, now=now + AN_HOUR) is engine.Progress.UNDOING
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        run = RunRow.objects.get(pk=run_id)
        assert (run.error_code, run.failed_step, run.rescues) == ("R530", "t", 0)
        assert story.told == ["do a", "undo a", "compensated because t: R530"]
        assert rows(run_id) == [("a", "UNDONE"), ("t", "UNDONE"), ("b", "PENDING")]

    def test_undoes_an_ask_that_was_not_answered(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), ask(story, "b"), story=story, deadline=timedelta(seconds=10))
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + timedelta(seconds=10))
            assert answer(run_id, 1) is engine.Resumed.LATE
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert story.told == ["do a", "ask b", "undo b", "undo a", "compensated because b: R530"]

    def test_waits_for_a_call_that_is_under_way(self, story: Story, hints: Hints) -> None:
        now, seen = timezone.now(), []
        run_id = UUID(int=0)

        def look() -> None:
            RunRow.objects.filter(pk=run_id).update(deadline_at=timezone.now() - timedelta(seconds=1))
            seen.append(engine.advance(run_id))

        a_toy = toy(call(story, "a", during=look), local(story, "b"), story=story, deadline=AN_HOUR)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert seen == [engine.Progress.PARKED]
        assert story.told == ["prepare a", "call a", "record a", "undo a", "undone a", "compensated because b: R530"]

    def test_only_tells_that_it_is_late_after_the_pivot(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        steps = (local(story, "a"), local(story, "b", PIVOT), timer("t", now + 2 * AN_HOUR, RETRIABLE))
        a_toy = toy(*steps, story=story, deadline=AN_HOUR)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert RunRow.objects.get(pk=run_id).due_at != now + AN_HOUR
            engine.advance(run_id)
            assert RunRow.objects.get(pk=run_id).due_at == now + 2 * AN_HOUR
            later = now + AN_HOUR + timedelta(seconds=1)
            assert engine.advance(run_id, now=later) is engine.Progress.PARKED
            found = search.find_runs(Filter(state="late"), limit=5, now=later)
            assert [row.run_id for row in found.rows] == [run_id]
            assert found.rows[0].deadline_at == now + AN_HOUR
            assert end(hints, run_id) == [RunStatus.COMPLETED]

    def test_leaves_a_pivot_alone_that_was_asked(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), ask(story, "b", PIVOT), story=story, deadline=timedelta(seconds=10))
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert engine.advance(run_id, now=now + timedelta(seconds=20)) is engine.Progress.PARKED
            assert answer(run_id, 1) is engine.Resumed.ACCEPTED
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED

    def test_turns_a_local_pivot_around_that_never_worked(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        story.plan["do b"] = [RuntimeError("broken")] * 100
        a_toy = toy(local(story, "a"), local(story, "b", PIVOT), story=story, deadline=timedelta(seconds=2))
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + timedelta(seconds=3))
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert RunRow.objects.get(pk=run_id).error_code == "R530"

    def test_is_not_in_the_way_of_a_run_that_is_quick(self, story: Story) -> None:
        a_toy = toy(local(story, "a"), story=story, deadline=AN_HOUR)
        with registered(a_toy):
            run = RunRow.objects.get(pk=begin(a_toy, now=timezone.now()))
        assert (run.status, run.due_at) == (RunStatus.COMPLETED, None)

    def test_is_positive(self, story: Story) -> None:
        assert "deadline" in Definition("x", 1, (local(story, "a"),), deadline=timedelta(0)).problems()[0]

    def test_undoes_a_run_that_a_pause_of_its_step_held(self, story: Story, hints: Hints) -> None:
        from apps.saga import pauses

        now = timezone.now()
        a_toy = toy(local(story, "a"), with_breaker(ask(story, "b")), story=story, deadline=AN_HOUR)
        with registered(a_toy):
            made = pauses.pause("test.toy", "b", reason="they asked us", by="t", now=now, holds_undo=False)
            run_id = begin(a_toy, now=now)
            hints.work_off()
            assert RunRow.objects.get(pk=run_id).held_by == made
            RunRow.objects.filter(pk=run_id).update(deadline_at=now - AN_HOUR)
            pauses.lift("test.toy", "b", reason="they are back", by="t", now=now)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert story.told == ["do a", "undo a", "compensated because b: R530"]
