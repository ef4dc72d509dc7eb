"""Incidents: there with the commit that failed, true about what they affect, and nobody waits to write them."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.utils import timezone

from apps.saga import engine, incidents, triage
from apps.saga.audit import interventions
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.incidents import ITSELF, IncidentQuestion, IncidentState, Occurred
from apps.saga.models import Incident, IncidentTrend, Occurrence, Run, RunStatus
from apps.saga.triage import retry
from tests.integration.saga.test_engine import Refusal, Story, ask, local
from tests.integration.saga.world import begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 5, 1, 12, 3, tzinfo=UTC)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_journey(story: Story) -> Iterator[Definition]:
    made = toy(local(story, "a"), local(story, "d", PIVOT), local(story, "e", RETRIABLE), story=story)
    with registered(made):
        yield made


def every(**wanted: str) -> tuple[IncidentState, ...]:
    return incidents.incidents(IncidentQuestion(**wanted), limit=50)


def stuck(story: Story, made: Definition, amount: str = "10.00") -> UUID:
    story.plan["do e"] = [Refusal("no such account")]
    run_id = begin(made, data={"amount": amount})
    assert finish(run_id).status == RunStatus.STUCK
    return run_id


def occur(code: str = "OSError", at: datetime = NOW, times: int = 1) -> UUID:
    each = Occurred(use_case="test.toy", step="a", error_code=code, error_class="technical", detail="away", at=at)
    with transaction.atomic():
        for _ in range(times):
            incidents.append([each])
    return each.incident_id


class TestWritten:
    def test_in_the_commit_that_fails_and_seen_at_once(self, story: Story, made: Definition) -> None:
        story.plan["do a"] = [RuntimeError("the stock is locked")]
        begin(made, inline_ms=10_000, data={"amount": "10.00"})
        (found,) = every()
        assert (found.use_case, found.step, found.error_code) == ("test.toy", "a", "RuntimeError")
        assert (found.error_class, found.detail, found.count) == ("technical", "the stock is locked", 1)
        assert (found.runs, found.stuck, found.amount, found.status) == (1, 0, Decimal("10.00"), "OPEN")
        incidents.fold()
        (folded,) = every()
        assert folded == found, "folding changes nothing that anybody sees"

    def test_not_when_the_commit_does_not_happen(self, story: Story, made: Definition) -> None:
        story.plan["do a"] = [RuntimeError("x")]
        with transaction.atomic():
            engine.start(
                made, subject_id=UUID(int=1), business_key="k", data={}, now=timezone.now(), run_inline_for_ms=1000
            )
            assert len(every()) == 1
            transaction.set_rollback(True)
        assert every() == ()

    def test_not_for_the_answers_of_business(self, story: Story, made: Definition) -> None:
        story.plan["do a"] = [Refusal("sold out")]
        assert finish(begin(made)).status == RunStatus.COMPENSATED
        assert every() == ()

    def test_for_a_refusal_after_the_pivot_because_the_run_is_stuck(self, story: Story, made: Definition) -> None:
        stuck(story, made)
        (found,) = every()
        assert (found.step, found.error_code, found.error_class, found.stuck) == ("e", "R999", "business", 1)

    def test_for_questions_without_answers(self, story: Story) -> None:
        asking = toy(ask(story, "q"), story=story, use_case="test.ask")
        with registered(asking):
            finish(begin(asking))
        (found,) = every(use_case="test.ask")
        assert (found.error_code, found.error_class, found.count) == ("NoAnswer", "unknown", 3)

    def test_once_where_the_last_attempt_leaves_the_run_stuck(self, story: Story, made: Definition) -> None:
        story.plan["do e"] = [RuntimeError("broken")] * 8
        finish(begin(made))
        assert every()[0].count == 8


class TestAffected:
    def test_is_counted_from_the_runs_and_so_never_old(self, story: Story, made: Definition) -> None:
        first, second = stuck(story, made), stuck(story, made, amount="2.50")
        assert [(each.runs, each.amount) for each in every()] == [(2, Decimal("12.50"))]
        retry(first, now=timezone.now())
        finish(first)
        assert [(each.runs, each.amount, each.count) for each in every()] == [(1, Decimal("2.50"), 2)]
        with transaction.atomic():
            wanted = triage.wanted(triage.Action.HANDLE)
            triage.apply(second, wanted, reason="by hand", by="user:a", now=timezone.now())
        assert [(each.runs, each.amount) for each in every()] == [(0, Decimal("0.00"))]

    def test_says_when_it_stopped_counting(self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(3):
            stuck(story, made)
        monkeypatch.setattr(incidents, "AFFECTED_MAX", 2)
        (found,) = every()
        monkeypatch.undo()
        assert found.runs == 3


class TestFolding:
    def test_counts_everything_once_and_keeps_the_trend(self) -> None:
        one = occur(times=3)
        occur(at=NOW - timedelta(minutes=6), times=2)
        other = occur(code="R204")
        assert incidents.fold() == 6
        occur(times=4)
        assert incidents.trends([one, other], buckets=3, now=NOW + timedelta(minutes=1)) == {
            one: (0, 2, 7),
            other: (0, 0, 1),
        }
        assert incidents.fold() == 4
        assert incidents.fold() == 0
        assert incidents.trends([one, other], buckets=3, now=NOW + timedelta(minutes=1)) == {
            one: (0, 2, 7),
            other: (0, 0, 1),
        }
        row = Incident.objects.get(pk=one)
        assert (row.count, row.first_seen, row.last_seen) == (9, NOW - timedelta(minutes=6), NOW)
        assert Occurrence.objects.count() == 0

    def test_by_two_at_once_counts_nothing_twice(self) -> None:
        one = occur(times=200)
        folded: list[int] = []

        def fold() -> None:
            folded.append(incidents.fold())
            connections.close_all()

        threads = [threading.Thread(target=fold) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        incidents.fold()
        assert sum(folded) in (0, 200)
        assert Incident.objects.get(pk=one).count == 200

    def test_a_thousand_failures_at_once_wait_for_nobody(self) -> None:
        """Open transactions of many failures of one kind stand side by side, while one folds and one handles."""
        many, ready, go = 12, threading.Barrier(13), threading.Event()
        broken: list[BaseException] = []

        def fail() -> None:
            try:
                with transaction.atomic():
                    incidents.append(
                        [
                            Occurred(
                                use_case="test.toy",
                                step=step,
                                error_code="OSError",
                                error_class="technical",
                                detail="x",
                                at=NOW,
                            )
                            for step in ("a", "b")
                        ]
                    )
                    ready.wait(timeout=90)  # nobody commits before all have written
                    go.wait(timeout=90)
            except BaseException as error:
                broken.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=fail) for _ in range(many)]
        for thread in threads:
            thread.start()
        ready.wait(timeout=90)
        assert incidents.fold() == 0, "what is not committed is not there"
        go.set()
        for thread in threads:
            thread.join()
        assert broken == []
        incidents.fold()
        assert sorted(Incident.objects.values_list("step", "count")) == [("a", many), ("b", many)]


class TestHandled:
    def test_opens_again_when_the_error_comes_back(self) -> None:
        one = occur()
        incidents.fold()
        with transaction.atomic():
            assert incidents.handle(one, by="user:chief", reason="the fix is out", now=NOW + timedelta(minutes=1))
            assert not incidents.handle(one, by="user:chief", reason="the fix is out", now=NOW + timedelta(minutes=1))
        (row,) = interventions(use_case="test.toy")
        assert (row.action, row.step, row.reason) == ("handle", "a", "the fix is out")
        assert [(each.status, each.handled_by) for each in every()] == [("HANDLED", "user:chief")]
        occur(at=NOW + timedelta(seconds=30))  # one that was under way
        assert every()[0].status == "HANDLED"
        occur(at=NOW + timedelta(minutes=2))
        assert (every()[0].status, every()[0].openings) == ("OPEN", 2)
        incidents.fold()
        assert (every()[0].status, every()[0].openings) == ("OPEN", 2)
        assert every(status="HANDLED") == ()

    def test_by_itself_when_it_is_quiet_and_affects_no_run(self, story: Story, made: Definition) -> None:
        occur()
        stuck(story, made)
        incidents.fold()
        assert incidents.tidy(now=NOW + timedelta(minutes=10)) == 0, "it might come back any minute"
        assert incidents.tidy(now=timezone.now() + timedelta(hours=1)) == 1
        states = {each.step: (each.status, each.handled_by) for each in every()}
        assert states == {"a": ("HANDLED", ITSELF), "e": ("OPEN", "")}
        assert Run.objects.get().status == RunStatus.STUCK
        incidents.tidy(now=timezone.now() + timedelta(days=2))
        assert not IncidentTrend.objects.exists()


class TestList:
    def test_goes_from_page_to_page_without_loss(self) -> None:
        made = {occur(code=f"E{n}", at=NOW + timedelta(seconds=n // 2)) for n in range(7)}
        incidents.fold()
        made.add(occur(code="fresh", at=NOW))
        met: list[UUID] = []
        after = None
        while page := incidents.incidents(IncidentQuestion(), limit=3, after=after):
            assert page[0].total == 8
            met += [each.id for each in page]
            after = (page[-1].last_seen, page[-1].id)
        assert len(met) == 8
        assert set(met) == made

    def test_finds_by_what_is_asked(self, story: Story, made: Definition) -> None:
        one = occur(code="R204")
        occur(code="R205")
        assert [each.id for each in every(error_code="R204", step="a", use_case="test.toy")] == [one]
        assert every(use_case="test.other") == ()
        found = incidents.incident(one)
        assert found is not None
        assert found.error_code == "R204"
        assert incidents.incident(UUID(int=3)) is None
