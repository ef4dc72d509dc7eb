"""Runs, steps and attempts lie in the month of their run."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from apps.common.clock import first_uuid7, time_of_uuid7
from apps.common.partitions import Partitioned, Span
from apps.saga import months
from apps.saga.models import Attempt, Run, RunStatus, Step
from apps.saga.months import MONTHS_AHEAD, TABLES, open_ahead
from apps.saga.queries import run_state
from tests.integration.messaging.world import together
from tests.integration.saga.aged import home_of, id_at, run_at
from tests.integration.saga.test_engine import Story, begin, known, local
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
THEN = datetime(2025, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)


def homes_of(run_id: UUID) -> set[str]:
    return {name for table in TABLES for name in home_of(table.table, table.key, run_id)}


def drop_all_months() -> None:
    with connection.cursor() as cursor:
        for table in TABLES:
            for start in table.starts():
                cursor.execute(f"DROP TABLE {table.name(start)}")


@pytest.fixture(autouse=True)
def months_again() -> Iterator[None]:
    """A test may drop or open months; the next one finds those that a new database has."""
    yield
    for model in (Attempt, Step, Run):
        model.objects.all().delete()
    drop_all_months()
    open_ahead(now=timezone.now())


class TestSpan:
    def test_ends_where_the_next_one_begins(self) -> None:
        assert Span.MONTH.after(date(2026, 1, 1)) == date(2026, 2, 1)
        assert Span.MONTH.after(date(2026, 12, 1)) == date(2027, 1, 1)
        assert Span.DAY.after(date(2028, 2, 28)) == date(2028, 2, 29)

    def test_is_of_utc(self) -> None:
        assert Span.MONTH.start(datetime.fromisoformat("2026-02-28T22:00:00-03:00")) == date(2026, 3, 1)
        assert Span.DAY.start(datetime.fromisoformat("2026-03-01T02:00:00+03:00")) == date(2026, 2, 28)

    def test_holds_every_id_of_its_time(self) -> None:
        table = Partitioned("t", key="id", span=Span.MONTH)
        low, high = table.bounds(date(2025, 12, 1))
        assert low <= first_uuid7(datetime(2025, 12, 1, tzinfo=UTC))
        assert low < id_at(THEN) < high <= id_at(THEN + timedelta(milliseconds=1))


class TestOpening:
    def test_opens_the_present_month_and_those_ahead(self) -> None:
        drop_all_months()
        open_ahead(now=datetime(2031, 11, 30, 23, 59, tzinfo=UTC))
        wanted = [date(2031, 11, 1), date(2031, 12, 1), date(2032, 1, 1), date(2032, 2, 1)]
        assert [table.starts() for table in TABLES] == [wanted] * 3
        assert len(wanted) == MONTHS_AHEAD + 1

    def test_two_that_open_at_once_do_not_disturb_each_other(self) -> None:
        drop_all_months()
        now = timezone.now()
        together(lambda: open_ahead(now=now), lambda: open_ahead(now=now))
        assert [len(table.starts()) for table in TABLES] == [MONTHS_AHEAD + 1] * 3

    def test_a_run_lies_in_its_month_with_its_steps_and_attempts(self) -> None:
        open_ahead(now=timezone.now())  # the month may have begun after this session, which closed those ahead
        story = Story()
        with known(local(story, "a"), local(story, "b"), story=story) as toy:
            run = finish(begin(toy))
        month = f"{time_of_uuid7(run.pk):%Y%m}"
        assert homes_of(run.pk) == {f"saga_run_{month}", f"saga_step_{month}", f"saga_attempt_{month}"}

    def test_a_run_without_a_month_is_taken_and_moves_when_its_month_is_opened(self) -> None:
        run = run_at(THEN)
        assert homes_of(run.pk) == {"saga_run_default", "saga_step_default", "saga_attempt_default"}
        before = run_state(run.pk)
        open_ahead(now=THEN)
        assert homes_of(run.pk) == {"saga_run_202512", "saga_step_202512", "saga_attempt_202512"}
        assert run_state(run.pk) == before

    def test_a_run_without_a_month_can_be_driven(self) -> None:
        drop_all_months()
        story = Story()
        story.plan["do b"] = [RuntimeError("broken")]
        with known(local(story, "a"), local(story, "b"), story=story) as toy:
            run = finish(begin(toy))
        assert (run.status, story.told) == (RunStatus.COMPLETED, ["do a", "do b", "do a", "do b"])


class TestDropping:
    def test_drops_a_month_only_when_nothing_is_in_it(self) -> None:
        months.RUNS.open(date(2025, 12, 1))
        run = run_at(THEN)
        assert not months.RUNS.drop_if_empty(date(2025, 12, 1))
        run.delete()
        assert months.RUNS.drop_if_empty(date(2025, 12, 1))
        assert date(2025, 12, 1) not in months.RUNS.starts()


OLD_RUN = """
INSERT INTO saga_run (id, global_id, use_case, version, subject_id, business_key, status, cursor, data, failed_step,
    error_code, error_detail, late_answers, stale_outcomes, started_at, finished_at, due_at)
VALUES (%(id)s, %(id)s, 'test.before', 1, %(id)s, 'k', %(status)s, 1, '{"a": 1}', '', '', '', 0, 0, %(at)s, %(ended)s,
    %(due)s)
"""
OLD_STEP = """
INSERT INTO saga_step (run_id, position, name, kind, shape, status, attempts, undo_attempts, attempts_forgiven,
    undo_attempts_forgiven, output, error_code, error_detail)
SELECT %(id)s, place, 's' || place, 'COMPENSABLE', 'local', 'DONE', 2, 0, 0, 0, '{"b": 2}', '', ''
FROM generate_series(0, 1) place
"""
OLD_ATTEMPT = """
INSERT INTO saga_attempt (run_id, position, undo, number, outcome, error_code, error_detail, started_at)
SELECT %(id)s, place, false, number, 'DONE', '', '', %(at)s
FROM generate_series(0, 1) place, generate_series(1, 2) number ORDER BY place DESC, number
"""


@pytest.fixture
def unmigrated() -> Iterator[None]:
    """The tables as they were before there were months."""
    call_command("migrate", "saga", "0001", verbosity=0, interactive=False)
    yield
    call_command("migrate", verbosity=0, interactive=False)


def insert_before(moment: datetime, *, live: bool = False) -> UUID:
    run_id = id_at(moment)
    ended = None if live else moment
    values = {"id": run_id, "at": moment, "ended": ended, "due": moment if live else None}
    values["status"] = "RUNNING" if live else "COMPLETED"
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in (OLD_RUN, OLD_STEP, OLD_ATTEMPT):
            cursor.execute(statement, values)
    return run_id


class TestMigration:
    def test_keeps_every_run_in_the_partition_of_the_present_month(self, unmigrated: None) -> None:
        now = timezone.now()
        old, new = insert_before(THEN), insert_before(now, live=True)
        call_command("migrate", verbosity=0, interactive=False)
        month = f"{now.astimezone(UTC):%Y%m}"
        assert homes_of(old) == homes_of(new) == {f"saga_run_{month}", f"saga_step_{month}", f"saga_attempt_{month}"}
        state = run_state(old)
        assert state is not None
        assert [(step.name, step.output, len(step.tries)) for step in state.steps] == [
            ("s0", {"b": 2}, 2),
            ("s1", {"b": 2}, 2),
        ]
        assert [table.starts()[0] for table in TABLES] == [Span.MONTH.start(now)] * 3

    def test_can_be_undone_with_the_runs(self) -> None:
        run = run_at(timezone.now())
        call_command("migrate", "saga", "0001", verbosity=0, interactive=False)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT id), count(*) FROM saga_attempt WHERE run_id = %s", [run.pk])
            assert cursor.fetchone() == (3, 3)
            cursor.execute("SELECT count(DISTINCT id), count(*) FROM saga_step WHERE run_id = %s", [run.pk])
            assert cursor.fetchone() == (2, 2)
        call_command("migrate", verbosity=0, interactive=False)
        state = run_state(run.pk)
        assert state is not None
        assert [len(step.tries) for step in state.steps] == [1, 2]

    def test_leaves_a_new_database_with_its_months(self, unmigrated: None) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        assert [len(table.starts()) for table in TABLES] == [MONTHS_AHEAD + 1] * 3

    def test_lets_the_database_refuse_a_second_attempt_of_one_number(self) -> None:
        run = run_at(timezone.now())
        with pytest.raises(IntegrityError), transaction.atomic():
            Attempt.objects.create(run=run, position=0, number=1, started_at=timezone.now())
