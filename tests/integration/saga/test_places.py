"""Where the runs are now, and how they fared lately: told from the rows that the engine writes, in a few statements."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.saga import pace as paces
from apps.saga import places as where
from apps.saga.definition import PIVOT, Definition
from apps.saga.models import Pause, Run, Step
from apps.saga.pace import Pace, StepPace, pace
from apps.saga.places import Place, places
from tests import factories
from tests.factories import StepStory, Try, make_run
from tests.integration.saga.aged import home_of, id_at
from tests.integration.saga.test_engine import Story, ask, local
from tests.integration.saga.world import REASON, registered, toy

pytestmark = pytest.mark.django_db
NOW = timezone.now()
CARD = "orders.purchase.card"
INDEX_OF = """SELECT indexrelid::regclass::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid
    WHERE indrelid = %s::regclass AND inhparent = 'saga_run_open'::regclass"""
DONE = StepStory("DONE", (Try(0, 1, "DONE"),))


def waiting_run(age: float, *, asked_at: float = 1, number: int = 1) -> Run:
    """It waits for the payment's answer since it asked."""
    tries = tuple(Try(asked_at + turn, None if turn == number - 1 else asked_at + turn + 0.5, "") for turn in range(number))
    story = (DONE, StepStory("WAITING", tries, answer_in=20))
    return make_run(status="WAITING", started_at=NOW - timedelta(seconds=age), now=NOW, story=story)


def at(step: str, *, undo: bool = False) -> Place:
    """The place of a step of the purchase by card."""
    return next(each for each in places(CARD, now=NOW) if (each.step, each.undo) == (step, undo))


def many(runs: int, *, status: str, age: timedelta) -> None:
    """So many runs in the second step of the purchase by card, the first one done."""
    sql = """
    INSERT INTO saga_run (id, global_id, use_case, version, subject_id, business_key, status, cursor, data, attributes,
        renamed, idempotency_key, failed_step, error_code, error_detail, due_at, late_answers, stale_outcomes, started_at,
        finished_at)
    SELECT (%s || lpad(to_hex(n), 12, '0'))::uuid, gen_random_uuid(), %s, 1, gen_random_uuid(), 'key ' || n, %s, 1, '{}',
        '{}', '{}', '', '', '', '', %s, 0, 0, %s, %s FROM generate_series(1, %s) n"""
    began = NOW - age
    live, milliseconds = status in ("RUNNING", "WAITING"), int(began.timestamp() * 1000)
    first = f"{milliseconds:012x}70008000"
    over = None if live else began + timedelta(seconds=1)
    with connection.cursor() as cursor:
        cursor.execute(sql, [first, CARD, status, NOW if live else None, began, over, runs])
        cursor.execute(
            """INSERT INTO saga_step (run_id, position, name, kind, shape, status, attempts, undo_attempts,
                   attempts_forgiven, undo_attempts_forgiven, output, error_code, error_detail, started_at, finished_at)
               SELECT id, 0, 'reserve_tickets', 'COMPENSABLE', 'local', 'DONE', 1, 0, 0, 0, '{}', '', '',
                   started_at, started_at
               FROM saga_run WHERE status = %s""",
            [status],
        )


class TestPlaces:
    def test_count_the_runs_of_each_step_in_both_directions(self) -> None:
        factories.undoing_run(now=NOW)
        factories.stuck_run(now=NOW)
        factories.completed_run(now=NOW)
        for age in (5, 400):
            waiting_run(age)
        found = {(each.step, each.undo): each for each in places(CARD, now=NOW)}
        assert set(found) == {("authorise_payment", False), ("authorise_payment", True), ("post_sale", False)}
        waits = found["authorise_payment", False]
        assert (waits.runs, waits.asking, waits.stuck, waits.held, waits.in_error) == (2, 2, 0, 0, 0)
        assert (found["post_sale", False].stuck, found["post_sale", False].runs) == (1, 1)
        assert found["authorise_payment", True].runs == 1

    def test_tell_who_stands_badly_against_the_promise(self) -> None:
        for age in (5, 60, 3600):
            waiting_run(age)
        found = at("authorise_payment")
        assert (found.runs, found.slow, found.late) == (3, 2, 1)

    def test_name_the_run_that_has_been_in_the_step_for_longest_and_not_the_oldest(self) -> None:
        waiting_run(3600, asked_at=3500)
        wanted = waiting_run(900, asked_at=60)
        found = at("authorise_payment").longest
        assert (found.run_id, found.since, found.exact) == (wanted.pk, NOW - timedelta(seconds=840), True)
        assert found.wait is not None
        assert (found.wait.kind, found.wait.whom) == ("answer", "payment processor")
        assert found.wait.until == NOW + timedelta(seconds=30)

    def test_count_what_waits_before_its_first_attempt_from_the_end_of_the_step_before(self) -> None:
        story = (StepStory("DONE", (Try(0, 7, "DONE"),)),)
        run = make_run(status="RUNNING", started_at=NOW - timedelta(seconds=30), now=NOW, story=story)
        found = at("authorise_payment").longest
        assert (found.run_id, found.since, found.attempt) == (run.pk, NOW - timedelta(seconds=23), 0)

    def test_count_what_waits_before_its_undo_from_the_undo_before(self) -> None:
        run = factories.undoing_run(now=NOW)
        Step.objects.filter(run=run, position=1).update(undo_started_at=None)
        assert at("authorise_payment", undo=True).longest.since == run.started_at + timedelta(seconds=41.004)

    def test_tell_of_held_and_of_retried_runs(self) -> None:
        held, retried = waiting_run(10), waiting_run(20)
        pause = Pause.objects.create(use_case=CARD, step="x", kind="MANUAL", reason=REASON, paused_by="x", paused_at=NOW)
        Run.objects.filter(pk=held.pk).update(status="RUNNING", held_by=pause.pk, held_at=NOW, due_at=None, error_code="R1")
        Run.objects.filter(pk=retried.pk).update(status="RUNNING", error_code="OperationalError")
        found = at("authorise_payment")
        assert (found.held, found.in_error, found.asking, found.runs) == (1, 1, 0, 2)

    def test_admit_that_a_run_they_did_not_look_at_may_wait_for_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(where, "OLDEST_LOOKED_AT", 2)
        for age, asked_at in ((500, 499), (400, 399), (300, 1)):
            waiting_run(age, asked_at=asked_at)
        assert at("authorise_payment").longest.exact is False
        Step.objects.filter(position=1).update(started_at=NOW - timedelta(seconds=350))
        assert at("authorise_payment").longest.exact is True

    def test_of_a_version_that_nobody_knows_have_no_name(self) -> None:
        run = waiting_run(10)
        Run.objects.filter(pk=run.pk).update(version=77)
        found = next(iter(places(CARD, now=NOW)))
        assert (found.version, found.step, found.longest.run_id) == (77, "", run.pk)

    def test_are_asked_for_in_two_statements_whatever_there_is(self) -> None:
        counted = []
        for _ in range(2):
            factories.undoing_run(now=NOW)
            factories.stuck_run(now=NOW)
            waiting_run(10)
            with CaptureQueriesContext(
                connection,
            ) as captured:
                assert places(now=NOW)
            counted.append(len(captured))
        assert counted == [2, 2]

    def test_are_read_through_the_index_of_open_runs_alone(self) -> None:
        # Nearly of one age, and so of one partition: open runs alone in a new month's would all be read, and rightly so.
        many(60_000, status="COMPLETED", age=timedelta(hours=1, seconds=1))
        many(20_000, status="WAITING", age=timedelta(hours=1))
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE saga_run, saga_step")
        with CaptureQueriesContext(connection) as captured:
            (found,) = places(CARD, now=NOW)
        assert found.runs == found.late == 20_000
        plan = explained(captured.captured_queries[0]["sql"])
        run = Run.objects.filter(status="WAITING").only("pk").first()
        assert run is not None
        (month,) = home_of("saga_run", "id", run.pk)
        index = one_value(INDEX_OF, month)
        assert not [line for line in plan if f"Seq Scan on {month} " in line], "\n".join(plan)
        assert [line for line in plan if f"{index} " in f"{line} " and "Index" in line], "\n".join(plan)
        (steps,) = home_of("saga_step", "run_id", run.pk)
        assert not [line for line in plan if f"Seq Scan on {steps} " in line], "\n".join(plan)


def one_value(sql: str, *values: object) -> str:
    """The one value that it answers."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        ((found,),) = cursor.fetchall()
        return str(found)


def explained(sql: str) -> list[str]:
    """How PostgreSQL answers it."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (COSTS OFF) {sql}")
        return [line for (line,) in cursor.fetchall()]


class TestPace:
    @pytest.fixture
    def made(self) -> Iterator[Definition]:
        story = Story()
        found = toy(local(story, "a"), ask(story, "b"), local(story, "c", PIVOT), story=story)
        with registered(found):
            yield found

    def test_tells_how_long_each_step_took_and_on_what(self) -> None:
        story = (
            StepStory("DONE", (Try(0.5, 0.6, "DONE"),)),
            StepStory("DONE", (Try(1.6, 3.6, "NO_ANSWER"), Try(8.6, 9.6, "ANSWERED"))),
        )
        make_run(status="RUNNING", started_at=NOW - timedelta(seconds=9.6), now=NOW, story=story)
        told = {each.step: each for each in lately().steps}
        assert median(told["reserve_tickets"], "queue") == 0.5
        assert median(told["reserve_tickets"], "work") == pytest.approx(0.1)
        assert told["reserve_tickets"].outside is None
        asked = told["authorise_payment"]
        assert (median(asked, "queue"), median(asked, "outside"), median(asked, "between")) == (1.0, 3.0, 5.0)
        assert (median(asked, "whole"), asked.entered, asked.work) == (8.0, 1, None)
        assert (told["confirm_order"].entered, told["confirm_order"].whole, told["confirm_order"].queue) == (0, None, None)

    def test_spreads_over_many_runs(self) -> None:
        for seconds in range(1, 102):
            story = (StepStory("DONE", (Try(0, seconds, "DONE"),)),)
            make_run(status="COMPLETED", started_at=NOW - timedelta(minutes=5), now=NOW, story=story, finished_at=NOW)
        work = lately().steps[0].work
        assert work is not None
        assert [each.total_seconds() for each in (work.p50, work.p95, work.p99)] == [51, 96, 100]

    def test_counts_a_wait_that_has_not_ended_with_what_it_has_lasted(self) -> None:
        waiting_run(601, asked_at=1)
        told = {each.step: each for each in lately().steps}
        assert median(told["authorise_payment"], "outside") == 600
        assert median(told["authorise_payment"], "whole") == 600

    def test_counts_a_run_that_hangs_between_two_attempts(self) -> None:
        story = (DONE, StepStory("FAILED", (Try(1, 2, "FAILED"),), retry_in=10))
        make_run(status="RUNNING", started_at=NOW - timedelta(seconds=100), now=NOW, story=story)
        told = {each.step: each for each in lately().steps}
        assert median(told["authorise_payment"], "between") == 98

    def test_does_not_count_an_attempt_that_nobody_closed_beyond_the_end_of_its_run(self) -> None:
        story = (StepStory("DONE", (Try(0, None, ""),)),)
        began = NOW - timedelta(minutes=30)
        ended = began + timedelta(seconds=2)
        make_run(status="COMPLETED", started_at=began, now=NOW, story=story, finished_at=ended)
        assert median(lately().steps[0], "work") == 2

    def test_tells_failures_from_refusals_and_both_directions_apart(self) -> None:
        factories.undoing_run(now=NOW)
        found = {(each.step, each.undo, each.outcome): each for each in lately().troubles}
        assert found["authorise_payment", True, "NO_ANSWER"].runs == 1, "one run, whatever its attempts"
        assert found["issue_fiscal_doc", False, "REFUSED"].refused is True
        assert found["authorise_payment", False, "NO_ANSWER"].refused is False
        assert found["authorise_payment", False, "NO_ANSWER"].code == "NoAnswer"

    def test_counts_a_run_with_several_errors_once(self) -> None:
        tries = (Try(1, 2, "FAILED", code="A"), Try(3, 4, "FAILED", code="B"), Try(5, 6, "REFUSED", code="R1"))
        story = (DONE, StepStory("FAILED", tries))
        make_run(status="COMPENSATED", started_at=NOW - timedelta(seconds=9), now=NOW, story=story, finished_at=NOW)
        found = lately()
        assert sorted(each.code for each in found.troubles) == ["A", "B", "R1"]
        told = {(each.step, each.undo, each.refused): each.runs for each in found.failures}
        assert told == {("authorise_payment", False, False): 1, ("authorise_payment", False, True): 1}

    def test_tells_how_runs_ended_and_what_was_promised(self) -> None:
        factories.completed_run(now=NOW)
        factories.stuck_run(now=NOW)
        make_run(status="COMPLETED", started_at=NOW - timedelta(hours=1) / 2, now=NOW, story=(DONE,), finished_at=NOW)
        found = {(each.status, each.failed_step, each.standing): each.runs for each in lately().endings}
        assert found == {("COMPLETED", "", "within"): 1, ("COMPLETED", "", "late"): 1, ("STUCK", "post_sale", ""): 1}

    def test_is_of_the_runs_that_began_since_then(self) -> None:
        for age in (10, 50, 4000):
            run = factories.completed_run(now=NOW)
            moved(run, NOW - timedelta(seconds=age))
        assert (lately().runs, lately().cut) == (2, False)
        assert lately(hours=24).runs == 3

    def test_says_when_it_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(paces, "RUNS_MAX", 2)
        for age in (10, 50, 400):
            moved(factories.completed_run(now=NOW), NOW - timedelta(seconds=age))
        found = lately()
        assert (found.runs, found.cut, found.since) == (2, True, NOW - timedelta(seconds=50))

    def test_of_nothing_is_nothing(self, made: Definition) -> None:
        found = pace(made.use_case, since=NOW - timedelta(hours=1), now=NOW)
        assert (found.runs, found.steps, found.troubles, found.endings) == (0, (), (), ())

    def test_needs_two_statements_and_reads_no_table_whole(self) -> None:
        many(60_000, status="COMPLETED", age=timedelta(hours=3))
        factories.completed_run(now=NOW)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE saga_run, saga_step, saga_attempt")
        with CaptureQueriesContext(connection) as captured:
            assert lately().runs == 1
        assert len(captured) == 2
        for query in captured.captured_queries:
            plan = explained(query["sql"])
            (month,) = home_of("saga_run", "id", Run.objects.order_by("pk").values_list("pk", flat=True)[0])
            assert not [line for line in plan if f"Seq Scan on {month} " in line], "\n".join(plan)


def lately(*, hours: int = 1) -> Pace:
    """How the purchases by card fared."""
    return pace(CARD, since=NOW - timedelta(hours=hours), now=NOW)


def median(step: StepPace, what: str) -> float | None:
    """In seconds."""
    spread = getattr(step, what)
    return spread and float(spread.p50.total_seconds())


def moved(run: Run, to: datetime) -> None:
    """The run began at another time."""
    fresh = id_at(to)
    Run.objects.filter(pk=run.pk).update(id=fresh, started_at=to)
