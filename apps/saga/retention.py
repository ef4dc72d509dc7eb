"""How long runs are kept: finished ones that are older than their use case says are exported, deleted, and their months
dropped when they are empty. A run that is live or stuck is never touched, however old it is, nor a branch of one: it may
have to be undone yet.

Note [Exported once]
One transaction takes a batch of runs, writes its files to the disk, deletes the rows and notes the batch. A crash before
the commit leaves the rows, and files that no note knows; the next try begins with the same run, and replaces them.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from apps.common.clock import time_of_uuid7
from apps.common.transactions import transaction
from apps.saga import archive, months
from apps.saga.definition import registered
from apps.saga.models import ArchivedBatch, PipeFact, PipeRun, Run

logger = logging.getLogger(__name__)

BATCH_RUNS_MAX = 5_000  # in one transaction and in memory: with their steps and attempts about 50 MB
BATCHES_MAX = 40  # of one call: the task is over within a minute, and the next one is an hour away
USE_CASES_MAX = 10_000  # names that the table may know and this process not
FINISHED = ("COMPLETED", "COMPENSATED", "HANDLED")
_LOCK = "saga.archive"

# Over an index that begins with the use case: a look-up for each name, whatever the number of runs.
_USE_CASES = """
WITH RECURSIVE known AS (
    (SELECT use_case FROM saga_run ORDER BY use_case LIMIT 1)
    UNION ALL
    SELECT (SELECT use_case FROM saga_run WHERE use_case > known.use_case ORDER BY use_case LIMIT 1)
    FROM known WHERE known.use_case IS NOT NULL
) SELECT use_case FROM known WHERE use_case IS NOT NULL LIMIT %s
"""
_OLD = """
FROM {partition} AS run WHERE use_case = %(use_case)s AND started_at < %(before)s AND finished_at < %(before)s
AND status = ANY(%(finished)s) AND (parent_id IS NULL OR NOT EXISTS (
    SELECT FROM saga_run whole WHERE whole.global_id = run.global_id AND whole.finished_at IS NULL
))
"""


@dataclass(slots=True)
class Archived:
    """What one call has done, or in a dry run what there is to do."""

    runs: dict[str, int] = field(default_factory=dict)  # by use case
    months: list[str] = field(default_factory=list)  # partitions that were dropped
    is_complete: bool = True  # False: there is more, or another process is at it


def days_kept(use_case: str) -> int:
    """For how many days after their end the runs of a use case are kept. 0: for ever."""
    said = [definition.keep_days for definition in registered() if definition.use_case == use_case]
    return settings.SAGA_KEEP_DAYS if not said or said[-1] is None else said[-1]  # the newest version decides


def count(*, now: datetime) -> Archived:
    """How many runs are older than they are kept for. Reads only."""
    found = Archived()
    for use_case, before in _ages(now):
        for partition in _partitions():
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) {_OLD.format(partition=partition)}", _given(use_case, before))
                runs = int(cursor.fetchone()[0])
            if runs:
                found.runs[use_case] = found.runs.get(use_case, 0) + runs
    return found


def archive_runs(*, directory: Path, now: datetime, batches_max: int = BATCHES_MAX) -> Archived:
    """Export and delete what is older than it is kept for, and drop the months that are empty then. Safe to repeat."""
    done, left = Archived(), batches_max
    for use_case, before in _ages(now):
        for partition in _partitions():
            runs = BATCH_RUNS_MAX
            while runs and left:
                runs = _batch(partition, use_case, before, directory=directory, now=now)
                if runs < 0:
                    done.is_complete = False
                    return done
                done.runs[use_case] = done.runs.get(use_case, 0) + runs
                left -= bool(runs)  # most use cases have nothing in most months: that costs a look, not a batch
    done.runs = {use_case: runs for use_case, runs in done.runs.items() if runs}
    done.is_complete = left > 0
    done.months = _drop_empty_months(now)
    return done


def _ages(now: datetime) -> Iterator[tuple[str, datetime]]:
    with connection.cursor() as cursor:
        cursor.execute(_USE_CASES, [USE_CASES_MAX])
        names = [name for (name,) in cursor.fetchall()]
    for use_case in names:
        if days := days_kept(use_case):
            yield use_case, now - timedelta(days=days)


def _partitions() -> list[str]:
    return [*(months.RUNS.name(start) for start in months.RUNS.starts()), months.RUNS.default]


def _given(use_case: str, before: datetime) -> dict[str, Any]:
    return {"use_case": use_case, "before": before, "finished": list(FINISHED)}


@transaction
def _batch(partition: str, use_case: str, before: datetime, *, directory: Path, now: datetime) -> int:
    """Export and delete one batch; how many runs it had. -1: another process is at it. See Note [Exported once]."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext(%s))", [_LOCK])
        if not cursor.fetchone()[0]:
            return -1
        names = archive.columns(Run)
        # An answer that comes very late may have the row; it is archived next time.
        cursor.execute(
            f"SELECT {', '.join(names)} {_OLD.format(partition=partition)} ORDER BY started_at LIMIT %(rows)s "
            "FOR UPDATE SKIP LOCKED",
            {**_given(use_case, before), "rows": BATCH_RUNS_MAX},
        )
        runs = _of_one_month(cursor.fetchall(), key=names.index("id"))
        if not runs:
            return 0
        ids = [run[names.index("id")] for run in runs]
        path = archive.path_of(ids[0])
        archive.write(directory, Run, path, runs)
        for model in archive.TABLES[1:]:
            table, wanted = model._meta.db_table, ", ".join(archive.columns(model))
            cursor.execute(
                f"SELECT {wanted} FROM {table} WHERE run_id = ANY(%s) ORDER BY run_id, position",  # noqa: S608  # names
                [ids],
            )
            rows = cursor.fetchall()
            archive.write(directory, model, path, rows)
            _delete(cursor, table, "run_id", ids, expected=len(rows))
        for model in (PipeFact, PipeRun):  # what was heard is in the attempts
            cursor.execute(f"DELETE FROM {model._meta.db_table} WHERE run_id = ANY(%s)", [ids])  # noqa: S608  # names
        _delete(cursor, Run._meta.db_table, "id", ids, expected=len(ids))
    ArchivedBatch.objects.create(
        use_case=use_case, path=path, runs=len(ids), first_run_id=min(ids), last_run_id=max(ids), archived_at=now
    )
    return len(ids)


def _of_one_month(rows: list[tuple[Any, ...]], *, key: int) -> list[tuple[Any, ...]]:
    """Those of the first one's month: a file lies in the folder of its month. The others are the next batch's."""
    wanted = {time_of_uuid7(row[key]).strftime("%Y-%m") for row in rows[:1]}
    return [row for row in rows if time_of_uuid7(row[key]).strftime("%Y-%m") in wanted]


def _delete(cursor: Any, table: str, key: str, ids: list[UUID], *, expected: int) -> None:
    cursor.execute(f"DELETE FROM {table} WHERE {key} = ANY(%s)", [ids])  # noqa: S608  # names of ours
    if cursor.rowcount != expected:
        raise RuntimeError(f"{cursor.rowcount} rows of {table} would be deleted, and {expected} were exported")


def _drop_empty_months(now: datetime) -> list[str]:
    dropped = []
    for table in months.TABLES:
        for start in table.starts():
            if start < table.span.start(now) and table.quietly(table.drop_if_empty, start):
                dropped.append(table.name(start))
    return dropped
