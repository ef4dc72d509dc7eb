"""Old runs are exported, deleted, and their months dropped; nothing else is touched."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partialmethod
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from apps.common.partitions import Partitioned
from apps.saga import archive, months, retention, tasks
from apps.saga import definition as definitions
from apps.saga.definition import Definition
from apps.saga.models import Approval, ArchivedBatch, Attempt, Run, RunStatus, Step
from apps.saga.months import TABLES
from apps.saga.queries import run_state
from apps.saga.retention import archive_runs, count
from tests.integration.messaging.world import together
from tests.integration.saga.aged import home_of, run_at

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
JANUARY = datetime(2026, 1, 10, tzinfo=UTC)
MARCH = datetime(2026, 3, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _old_months(settings: Any) -> Iterator[None]:
    """Three months of the past; a run is kept for thirty days."""
    settings.SAGA_KEEP_DAYS = 30
    for month in (1, 2, 3):
        for table in TABLES:
            table.open(date(2026, month, 1))
    yield
    for model in (Approval, Attempt, Step, Run):
        model.objects.all().delete()
    with connection.cursor() as cursor:
        for table in TABLES:
            for start in table.starts():
                cursor.execute(f"DROP TABLE {table.name(start)}")
    months.open_ahead(now=timezone.now())


def rows_of(directory: Path, table: str) -> list[dict[str, Any]]:
    """What a reader of the archive finds in all of a table's files."""
    return list(pyarrow.parquet.read_table(directory / table).to_pylist())


def old_months() -> list[list[date]]:
    return [[start for start in table.starts() if start.year == 2026 and start.month <= 3] for table in TABLES]


class TestExport:
    def test_can_be_read_back_value_by_value(self, tmp_path: Path) -> None:
        run = run_at(JANUARY)
        columns = archive.columns(Run)
        stored = Run.objects.values(*columns).get()
        steps = list(Step.objects.order_by("position").values(*archive.columns(Step)))
        attempts = list(Attempt.objects.order_by("position", "number").values(*archive.columns(Attempt)))
        assert archive_runs(directory=tmp_path, now=NOW).runs == {"test.old": 1}
        (read,) = rows_of(tmp_path, "saga_run")
        assert read.pop("month") == "2026-01"
        assert json.loads(read.pop("data")) == stored.pop("data") == run.data
        for name in ("attributes", "renamed"):
            assert json.loads(read.pop(name)) == stored.pop(name)
        assert read == {name: str(value) if value and name.endswith("id") else value for name, value in stored.items()}
        read_steps = [{name: row[name] for name in archive.columns(Step)} for row in rows_of(tmp_path, "saga_step")]
        for row, step in zip(read_steps, steps, strict=True):
            assert {**row, "output": json.loads(row["output"])} == {**step, "run_id": str(run.pk)}
        read_attempts = [
            {name: row[name] for name in archive.columns(Attempt)} for row in rows_of(tmp_path, "saga_attempt")
        ]
        assert read_attempts == [{**attempt, "run_id": str(run.pk)} for attempt in attempts]

    def test_takes_what_people_decided_along(self, tmp_path: Path) -> None:
        run, other = run_at(JANUARY), run_at(JANUARY, status=RunStatus.STUCK)
        for each in (run, other):
            Approval.objects.create(
                run_id=each.pk,
                position=1,
                use_case="test.old",
                step="s1",
                business_key="k",
                question="Shall it?",
                deciders=["group:bosses"],
                status="REFUSED",
                asked_at=JANUARY,
                until=JANUARY,
                decided_by="user:boss",
                reason="no",
            )
        archive_runs(directory=tmp_path, now=NOW)
        (row,) = rows_of(tmp_path, "saga_approval")
        assert (row["run_id"], row["decided_by"], row["question"]) == (str(run.pk), "user:boss", "Shall it?")
        assert Approval.objects.get().run_id == other.pk

    def test_keeps_times_and_numbers_as_what_they_are(self, tmp_path: Path) -> None:
        run_at(JANUARY)
        archive_runs(directory=tmp_path, now=NOW)
        schema = pyarrow.parquet.read_table(tmp_path / "saga_run").schema
        kinds = {name: str(schema.field(name).type) for name in ("id", "started_at", "version", "late_answers", "data")}
        assert kinds == {
            "id": "string",
            "started_at": "timestamp[us, tz=UTC]",
            "version": "int16",
            "late_answers": "int32",
            "data": "string",
        }

    def test_lies_in_the_folder_of_its_month(self, tmp_path: Path) -> None:
        run_at(JANUARY)
        run_at(MARCH)
        archive_runs(directory=tmp_path, now=NOW)
        folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}
        tables = ("saga_run", "saga_step", "saga_attempt", "saga_approval")
        wanted = {f"{table}/month=2026-0{month}" for table in tables for month in (1, 3)}
        assert folders == wanted
        assert not list(tmp_path.rglob("*.part"))

    def test_of_a_run_without_a_month_lies_in_its_month_too(self, tmp_path: Path) -> None:
        long_ago = run_at(datetime(2024, 5, 1, tzinfo=UTC))
        assert home_of("saga_run", "id", long_ago.pk) == {"saga_run_default"}
        run_at(datetime(2024, 7, 1, tzinfo=UTC))
        archive_runs(directory=tmp_path, now=NOW)
        assert {row["month"] for row in rows_of(tmp_path, "saga_run")} == {"2024-05", "2024-07"}
        assert not Run.objects.exists()

    def test_goes_by_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH_RUNS_MAX", 2)
        runs = {str(run_at(JANUARY + timedelta(hours=hour)).pk) for hour in range(5)}
        done = archive_runs(directory=tmp_path, now=NOW)
        assert (done.runs, done.is_complete) == ({"test.old": 5}, True)
        assert sorted(ArchivedBatch.objects.values_list("runs", flat=True)) == [1, 2, 2]
        assert {row["id"] for row in rows_of(tmp_path, "saga_run")} == runs
        assert not Step.objects.exists()
        assert not Attempt.objects.exists()

    def test_says_that_there_is_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH_RUNS_MAX", 1)
        for hour in range(3):
            run_at(JANUARY + timedelta(hours=hour))
        assert not archive_runs(directory=tmp_path, now=NOW, batches_max=2).is_complete
        assert Run.objects.count() == 1

    def test_comes_to_every_use_case_and_month_however_many_there_are(self, tmp_path: Path) -> None:
        run_at(MARCH, use_case="test.last")
        for each in ("test.one", "test.two"):  # their runs are kept yet: each month of theirs has nothing to archive
            run_at(NOW, use_case=each)
        assert archive_runs(directory=tmp_path, now=NOW, batches_max=2).runs == {"test.last": 1}

    def test_says_where_a_run_is(self, tmp_path: Path, settings: Any) -> None:
        settings.SAGA_ARCHIVE_DIR = str(tmp_path)
        first, _, last = (run_at(JANUARY + timedelta(hours=hour)) for hour in range(3))
        other = run_at(JANUARY + timedelta(hours=1), status=RunStatus.STUCK)
        archive_runs(directory=tmp_path, now=NOW)
        assert archive.find(tmp_path, first.pk) == archive.find(tmp_path, last.pk) == archive.path_of(first.pk)
        assert archive.find(tmp_path, other.pk) is None
        assert run_state(first.pk) is None
        with pytest.raises(CommandError, match="was archived: month=2026-01"):
            call_command("saga_state", str(last.pk))


class TestWhatStays:
    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.WAITING, RunStatus.COMPENSATING, RunStatus.STUCK])
    def test_is_every_run_that_is_not_over(self, tmp_path: Path, status: str) -> None:
        live, over = run_at(JANUARY, status=status), run_at(JANUARY)
        state = run_state(live.pk)
        assert archive_runs(directory=tmp_path, now=NOW).runs == {"test.old": 1}
        assert list(Run.objects.values_list("pk", flat=True)) == [live.pk]
        assert run_state(live.pk) == state
        assert home_of("saga_run", "id", live.pk) == {"saga_run_202601"}
        assert [row["id"] for row in rows_of(tmp_path, "saga_run")] == [str(over.pk)]

    def test_is_a_branch_of_a_run_that_is_not_over(self, tmp_path: Path) -> None:
        whole = run_at(JANUARY, status=RunStatus.STUCK)
        branch, other = run_at(JANUARY), run_at(JANUARY)
        terms = {"parent_id": whole.pk, "parent_position": 0, "global_id": whole.global_id}
        Run.objects.filter(pk=branch.pk).update(**terms)
        Run.objects.filter(pk=other.pk).update(parent_id=branch.pk, parent_position=0, global_id=whole.global_id)
        assert (count(now=NOW).runs, archive_runs(directory=tmp_path, now=NOW).runs) == ({}, {})
        Run.objects.filter(pk=whole.pk).update(status=RunStatus.COMPLETED, finished_at=JANUARY + timedelta(days=1))
        assert archive_runs(directory=tmp_path, now=NOW).runs == {"test.old": 3}

    def test_is_what_ended_not_long_enough_ago(self, tmp_path: Path) -> None:
        slow = run_at(JANUARY, lasts=NOW - timedelta(days=30) - JANUARY)
        assert archive_runs(directory=tmp_path, now=NOW).runs == {}
        assert archive_runs(directory=tmp_path, now=NOW + timedelta(seconds=1)).runs == {"test.old": 1}
        assert not Run.objects.filter(pk=slow.pk).exists()

    def test_is_for_each_use_case_to_say(self, tmp_path: Path, settings: Any) -> None:
        for version, days in ((1, 1), (2, 365)):
            definitions.register(Definition("test.long", version, (), keep_days=days))
        definitions.register(Definition("test.ever", 1, (), keep_days=0))
        try:
            for use_case in ("test.long", "test.ever", "test.nobody.knows"):
                run_at(JANUARY, use_case=use_case)
            assert archive_runs(directory=tmp_path, now=NOW).runs == {"test.nobody.knows": 1}
            settings.SAGA_KEEP_DAYS = 0
            run_at(JANUARY)
            assert archive_runs(directory=tmp_path, now=NOW + timedelta(days=400)).runs == {"test.long": 1}
        finally:
            for key in (("test.long", 1), ("test.long", 2), ("test.ever", 1)):
                definitions._registry.pop(key)
        assert set(Run.objects.values_list("use_case", flat=True)) == {"test.ever", "test.old"}

    def test_is_a_run_that_somebody_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The months with it cannot go meanwhile, and that is waited for.
        briefly = partialmethod(Partitioned.drop_if_empty, lock_timeout="50ms")
        monkeypatch.setattr(Partitioned, "drop_if_empty", briefly)
        held, free = run_at(JANUARY), run_at(JANUARY)

        def archive_beside() -> None:
            assert archive_runs(directory=tmp_path, now=NOW).runs == {"test.old": 1}
            connection.close()

        with transaction.atomic():
            Run.objects.select_for_update().get(pk=held.pk)
            together(archive_beside)
        assert [row["id"] for row in rows_of(tmp_path, "saga_run")] == [str(free.pk)]


class TestMonths:
    def test_that_are_empty_are_dropped(self, tmp_path: Path) -> None:
        run_at(JANUARY)
        run_at(MARCH, status=RunStatus.STUCK)
        done = archive_runs(directory=tmp_path, now=NOW)
        gone = {f"{table.table}_20260{month}" for table in TABLES for month in (1, 2)}
        assert set(done.months) == gone
        assert old_months() == [[date(2026, 3, 1)]] * 3

    def test_of_now_and_later_are_kept(self, tmp_path: Path) -> None:
        before = [table.starts() for table in TABLES]
        archive_runs(directory=tmp_path, now=JANUARY)
        assert [table.starts() for table in TABLES] == before


class TestCrash:
    def test_before_the_commit_leaves_the_rows_and_the_next_try_replaces_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = run_at(JANUARY)
        state = run_state(run.pk)
        with monkeypatch.context() as patched:
            patched.setattr(retention, "_delete", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                archive_runs(directory=tmp_path, now=NOW)
        assert run_state(run.pk) == state
        assert not ArchivedBatch.objects.exists()
        archive_runs(directory=tmp_path, now=NOW)
        assert [row["id"] for row in rows_of(tmp_path, "saga_run")] == [str(run.pk)]
        assert ArchivedBatch.objects.get().path == archive.path_of(run.pk)

    def test_never_deletes_what_was_not_exported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run_at(JANUARY)
        write = archive.write

        def write_and_disturb(directory: Path, model: Any, path: str, rows: Any) -> None:
            write(directory, model, path, rows)
            if model is Step:
                Step.objects.create(run_id=rows[0][0], position=9, name="late", kind="PIVOT", shape="local")

        monkeypatch.setattr(archive, "write", write_and_disturb)
        with pytest.raises(RuntimeError, match="3 rows of saga_step would be deleted, and 2 were exported"):
            archive_runs(directory=tmp_path, now=NOW)
        assert Run.objects.count() == 1
        assert Step.objects.count() == 2

    def test_two_at_once_export_each_run_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH_RUNS_MAX", 1)
        runs = sorted(str(run_at(JANUARY + timedelta(hours=hour)).pk) for hour in range(6))
        one = lambda: archive_runs(directory=tmp_path, now=NOW)  # noqa: E731
        together(one, one, one)
        archive_runs(directory=tmp_path, now=NOW)
        assert sorted(row["id"] for row in rows_of(tmp_path, "saga_run")) == runs


class TestCommand:
    def test_counts_without_touching_anything(self, tmp_path: Path) -> None:
        run_at(JANUARY, use_case="test.a")
        run_at(MARCH, use_case="test.a", status=RunStatus.COMPENSATED)
        run_at(MARCH, use_case="test.b")
        run_at(MARCH, use_case="test.b", status=RunStatus.STUCK)
        assert count(now=NOW).runs == {"test.a": 2, "test.b": 1}
        out = StringIO()
        call_command("saga_archive", "--dry-run", "--directory", str(tmp_path), stdout=out)
        assert out.getvalue().splitlines() == ["test.a: 2 would be archived", "test.b: 1 would be archived"]
        assert Run.objects.count() == 4
        assert not list(tmp_path.iterdir())

    def test_archives(self, tmp_path: Path) -> None:
        run_at(JANUARY)
        out = StringIO()
        call_command("saga_archive", "--directory", str(tmp_path), stdout=out)
        told = out.getvalue().splitlines()
        assert told[0] == "test.old: 1 archived"
        assert "saga_run_202601 was empty and is dropped" in told
        out = StringIO()
        call_command("saga_archive", "--directory", str(tmp_path), stdout=out)
        assert out.getvalue().splitlines() == ["No run is older than it is kept for."]

    def test_wants_to_know_where_to(self, settings: Any) -> None:
        settings.SAGA_ARCHIVE_DIR = ""
        with pytest.raises(CommandError, match="where to"):
            call_command("saga_archive")


class TestTask:
    def test_opens_the_months_and_archives(self, tmp_path: Path, settings: Any) -> None:
        settings.SAGA_ARCHIVE_DIR = str(tmp_path)
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {months.RUNS.name(months.RUNS.starts()[-1])}")
        run_at(JANUARY)
        tasks.archive()
        assert not Run.objects.exists()
        assert len([start for start in months.RUNS.starts() if start >= timezone.now().date().replace(day=1)]) == 4

    def test_deletes_nothing_when_there_is_no_folder(self, settings: Any) -> None:
        settings.SAGA_ARCHIVE_DIR = ""
        run_at(JANUARY)
        tasks.archive()
        assert Run.objects.count() == 1
