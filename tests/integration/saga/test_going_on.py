"""What follows a call is done in the commit that records it; what a commit has read is known to its later steps."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, LocalStep, Run
from apps.saga.engine import Progress
from apps.saga.models import Run as RunModel
from apps.saga.models import RunStatus, Step
from apps.saga.pauses import pause
from apps.saga.progress import RunProgress, run_progress
from tests.integration.saga.test_engine import Refusal, Story, ask, begin, call, known, local

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def statuses(run_id: UUID) -> list[str]:
    return list(Step.objects.filter(run_id=run_id).order_by("position").values_list("status", flat=True))


def version_of(run_id: UUID) -> str:
    return str(RunModel.objects.extra(select={"version_": "xmin::text"}).values_list("version_", flat=True).get(pk=run_id))


class TestAfterACall:
    def test_local_steps_are_done_in_the_same_commit(self, story: Story) -> None:
        with known(call(story, "a"), local(story, "b", PIVOT), local(story, "c", RETRIABLE), story=story) as toy:
            run_id = begin(toy)
            assert engine.advance(run_id, on=True) is Progress.MOVED, "up to the pivot, and no further"
            assert statuses(run_id) == ["DONE", "DONE", "PENDING"]

    def test_the_next_call_is_left_to_its_own_unit_of_work(self, story: Story) -> None:
        with known(call(story, "a"), local(story, "b"), call(story, "c"), story=story) as toy:
            run_id = begin(toy)
            assert engine.advance(run_id, on=True) is Progress.MOVED
            assert statuses(run_id) == ["DONE", "DONE", "PENDING"]
            assert RunModel.objects.get().token is None

    def test_a_question_is_asked(self, story: Story) -> None:
        with known(call(story, "a"), ask(story, "b"), story=story) as toy:
            run_id = begin(toy)
            assert engine.advance(run_id, on=True) is Progress.PARKED
            assert RunModel.objects.get(pk=run_id).status == RunStatus.WAITING

    def test_a_refusal_leaves_the_call_recorded_and_turns_around(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run_id = begin(toy)
            assert engine.advance(run_id, on=True) is Progress.UNDOING
            assert statuses(run_id) == ["DONE", "FAILED"]

    def test_a_paused_step_is_left_to_whoever_looks_at_the_pause(self, story: Story) -> None:
        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run_id = begin(toy)
            pause(toy.use_case, "b", reason="not now", by="ana", now=timezone.now())
            assert engine.advance(run_id, on=True) is Progress.MOVED
            assert statuses(run_id) == ["DONE", "PENDING"]

    def test_what_came_of_the_call_survives_a_commit_that_what_follows_breaks(
        self, story: Story, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def breaks(session: Any) -> None:
            raise IntegrityError("a constraint that is checked at the commit")

        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run_id = begin(toy)
            monkeypatch.setattr(engine, "_go_on", breaks)
            assert engine.advance(run_id, on=True) is Progress.MOVED
        assert statuses(run_id) == ["DONE", "PENDING"]
        assert story.told == ["prepare a", "call a", "record a", "record a"], "called once"
        assert "does not go on" in caplog.text


class TestPast:
    def test_nothing_is_done_or_written_for_a_step_that_the_run_has_left_behind(self, story: Story) -> None:
        with known(call(story, "a"), local(story, "b"), call(story, "c"), story=story) as toy:
            run_id = begin(toy)
            assert engine.advance(run_id, past=0) is Progress.MOVED
            before = version_of(run_id)
            assert engine.advance(run_id, past=0) is Progress.MOVED
            assert version_of(run_id) == before
            assert statuses(run_id) == ["DONE", "PENDING", "PENDING"]


class Reading(LocalStep):
    """Reads something, unless it is known."""

    kind = COMPENSABLE

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def handle(self, run: Run) -> dict[str, Any]:
        was = run.known.get("read", "")
        run.known["read"] = f"{was}{run.step}"
        return {"was": was}

    def compensate(self, run: Run) -> None:
        pass


class TestKnown:
    def test_is_shared_by_the_steps_of_a_transaction_and_by_no_other(self, story: Story) -> None:
        with known(Reading("a"), Reading("b"), call(story, "c"), Reading("d"), story=story) as toy:
            with transaction.atomic():
                run_id = engine.start(
                    toy,
                    subject_id=uuid4(),
                    business_key="k",
                    data={},
                    now=timezone.now(),
                    run_inline_for_ms=10_000,
                    known={"read": "x"},
                )
            engine.advance(run_id, on=True)
        outputs = Step.objects.filter(run_id=run_id).order_by("position").values_list("output", flat=True)
        assert [output.get("was") for output in outputs] == ["x", "xa", None, ""]


class TestTold:
    def test_how_far_a_start_came_is_what_the_database_will_say(self, story: Story) -> None:
        said: list[RunProgress] = []
        run_id = uuid7()
        with known(local(story, "a"), call(story, "b"), story=story) as toy, transaction.atomic():
            started = engine.start(
                toy,
                subject_id=uuid4(),
                business_key="k",
                data={},
                now=timezone.now(),
                run_inline_for_ms=10_000,
                run_id=run_id,
                told=said.append,
            )
        assert started == run_id
        assert said == [run_progress(run_id)]
