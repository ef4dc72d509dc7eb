"""What the engine writes, and in how many statements."""

import json
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.common import prepared
from apps.messaging.models import Message, Pending
from apps.messaging.public import publish
from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, Kind, LocalStep, Run
from apps.saga.models import Attempt, RunStatus, Step
from apps.saga.models import Run as RunModel
from tests.integration.messaging.world import Note, published, rolled_back
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, begin, call, known, local
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def story() -> Story:
    return Story()


def telling(story: Story, name: str, *numbers: int, kind: Kind = COMPENSABLE) -> LocalStep:
    """A step that publishes notes; the last one in a savepoint that is rolled back."""

    class Telling(LocalStep):
        def handle(self, run: Run) -> dict[str, Any]:
            for n in numbers:
                publish(Note(n=n), key="k")
            with rolled_back():
                publish(Note(n=-1), key="k")
            story.tell(f"do {name}")
            return {"at": name}

        def compensate(self, run: Run) -> None:
            publish(Note(n=100), key="k")

    Telling.name, Telling.kind = name, kind  # type: ignore[misc]
    return Telling()


def statements(captured: CaptureQueriesContext) -> list[str]:
    """The verbs of what was executed."""
    return [query["sql"].split()[0] for query in captured.captured_queries]


class TestOneWrite:
    def test_an_inline_run_takes_a_savepoint_and_one_statement(self, story: Story) -> None:
        steps = [local(story, name) for name in "abcd"]
        with known(*steps, telling(story, "e", 1, 2, kind=PIVOT), story=story) as toy:
            begin(toy, inline_ms=10_000)  # the pieces of the statement are read once from the models
            with transaction.atomic(), CaptureQueriesContext(connection) as captured:
                run_id = engine.start(
                    toy, subject_id=UUID(int=1), business_key="k", data={}, now=timezone.now(), run_inline_for_ms=10_000
                )
        inner = ["SAVEPOINT", "RELEASE"]  # of the step's own savepoint, which is rolled back in between
        assert [verb for verb in statements(captured) if verb != "ROLLBACK"] == ["SAVEPOINT", *inner, "WITH"]
        assert RunModel.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert Attempt.objects.filter(run_id=run_id, outcome="DONE").count() == 5

    def test_a_wake_up_takes_a_lock_a_look_and_one_statement(self, story: Story) -> None:
        with known(local(story, "a"), local(story, "b"), story=story) as toy:
            run_id = begin(toy)
            with CaptureQueriesContext(connection) as captured:
                engine.advance(run_id)
        assert statements(captured) == ["BEGIN", "SELECT", "SELECT", "SAVEPOINT", "WITH", "COMMIT"]
        assert RunModel.objects.get(pk=run_id).status == RunStatus.COMPLETED

    def test_hot_statements_are_prepared(self, story: Story) -> None:
        with known(local(story, "a"), story=story) as toy:
            begin(toy, inline_ms=10_000)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%saga_run%'")
            assert cursor.fetchone()[0] >= 1

    def test_is_told_to_those_who_count_statements(self) -> None:
        with CaptureQueriesContext(connection) as captured:
            assert prepared.execute("SELECT %(n)s::int", {"n": 7}).fetchone() == (7,)
        assert len(captured) == 1


class TestMessages:
    def test_of_the_steps_are_written_in_their_order(self, story: Story) -> None:
        with known(telling(story, "a", 1, 2), telling(story, "b", 3), story=story) as toy, transaction.atomic():
            publish(Note(n=0), key="k")
            engine.start(
                toy, subject_id=UUID(int=1), business_key="k", data={}, now=timezone.now(), run_inline_for_ms=10_000
            )
            publish(Note(n=4), key="k")
        assert published() == [0, 1, 2, 3, 4]
        assert Pending.objects.count() == 5
        metas = [row.meta for row in Message.objects.order_by("seq")]
        assert [meta["steps"] for meta in metas] == [[], ["a", "b"], ["a", "b"], ["a", "b"], []]

    def test_of_a_head_that_is_rolled_back_are_gone(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with known(telling(story, "a", 1), telling(story, "b", 2), story=story) as toy:
            begin(toy, inline_ms=10_000)
        assert published() == []

    def test_of_steps_that_are_done_again_after_another_broke_are_written_once(self, story: Story) -> None:
        story.plan["do b"] = [RuntimeError("broken")]
        with known(telling(story, "a", 1), telling(story, "b", 2), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            assert published() == [1]
            finish(run_id)
        assert published() == [1, 2]

    def test_of_an_undo_are_written_with_it(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with known(telling(story, "a", 1), call(story, "x"), local(story, "b"), story=story) as toy:
            finish(begin(toy))
        assert published() == [1, 100]

    def test_of_a_run_within_a_step_keep_their_place(self, story: Story) -> None:
        with known(telling(story, "inner", 2), story=story) as inner:

            class Outer(LocalStep):
                name, kind = "outer", PIVOT

                def handle(self, run: Run) -> None:
                    publish(Note(n=1), key="k")
                    engine.start(
                        inner,
                        subject_id=run.subject_id,
                        business_key="inner",
                        data={},
                        now=run.now,
                        run_inline_for_ms=10_000,
                    )
                    publish(Note(n=3), key="k")

            from apps.saga.definition import Definition

            begin(Definition("test.outer", 1, (Outer(),)), inline_ms=10_000)
        assert published() == [1, 2, 3]
        assert RunModel.objects.filter(status=RunStatus.COMPLETED).count() == 2


class TestAttempts:
    def test_ended_in_a_later_commit_keep_their_beginning(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            began = Attempt.objects.get().started_at
            answer(run_id, 0)
        attempt = Attempt.objects.get()
        assert (attempt.outcome, attempt.started_at) == ("ANSWERED", began)
        assert attempt.finished_at is not None

    def test_keep_why_they_had_no_answer_when_one_comes_after_all(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            let_time_pass(run_id)
            engine.advance(run_id)
            assert Attempt.objects.get().outcome == "NO_ANSWER"
            answer(run_id, 0)
        attempt = Attempt.objects.get()
        assert (attempt.outcome, attempt.error_code) == ("ANSWERED", "NoAnswer")

    def test_of_an_owner_that_died_end_in_the_commit_that_begins_the_next(self, story: Story) -> None:
        class Killed(BaseException):
            pass

        deaths = [Killed()]

        def die() -> None:
            if deaths:
                raise deaths.pop()

        with known(call(story, "a", during=die), story=story) as toy:
            run_id = begin(toy)
            with pytest.raises(Killed):
                engine.advance(run_id)
            let_time_pass(run_id)
            work(run_id)
        outcomes = Attempt.objects.order_by("number").values_list("number", "outcome")
        assert list(outcomes) == [(1, "UNKNOWN"), (2, "DONE")]


class TestErrors:
    @pytest.mark.parametrize("text", ["a\x00b", "half \ud800 a pair", "x" * 5000])
    def test_that_the_database_cannot_keep_are_kept_as_far_as_it_can(self, story: Story, text: str) -> None:
        story.plan["do a"] = [RuntimeError(text)]
        with known(local(story, "a"), story=story) as toy:
            begin(toy, inline_ms=10_000)
        step = Step.objects.get()
        assert (step.status, step.error_code) == ("FAILED", "RuntimeError")
        assert step.error_detail == Attempt.objects.get().error_detail
        assert 2 <= len(step.error_detail) <= 2000

    def test_a_step_that_hands_out_what_is_no_json_stops_the_commit(self, story: Story) -> None:
        class Odd(LocalStep):
            name, kind = "odd", COMPENSABLE

            def handle(self, run: Run) -> dict[str, Any]:
                return {"now": run.now}

            def compensate(self, run: Run) -> None:
                return None

        with known(Odd(), story=story) as toy, pytest.raises(TypeError):
            begin(toy, inline_ms=10_000)
        assert not RunModel.objects.exists()


class TestJson:
    def test_comes_back_as_it_was_given(self, story: Story) -> None:
        data = {"text": 'ä "\\ \u2028', "list": [1, None, {"a": []}], "number": 1.5, "null": None}
        with known(ask(story, "a"), story=story) as toy, transaction.atomic():
            run_id = engine.start(toy, subject_id=UUID(int=1), business_key="k", data=data, now=timezone.now())
        with known(ask(story, "a"), story=story):
            engine.advance(run_id)
            answer(run_id, 0, **data)
        assert RunModel.objects.get().data == data
        assert Step.objects.get().output == data
        assert json.dumps(RunModel.objects.get().data, sort_keys=True) == json.dumps(data, sort_keys=True)
