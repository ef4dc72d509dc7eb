"""The facts in their table."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from apps.common.clock import uuid7
from apps.saga.choreography.facts import Fact, What
from apps.saga.models import PipeFact, PipeRun, Run
from apps.saga.rows import AttemptRow

FACTS_MAX = 2_000  # of a run: a hundred steps that are tried twenty times; what says no end is left out beyond that
_COLUMNS = (
    "position",
    "undo",
    "message_id",
    "what",
    "at",
    "attempt",
    "asked_at",
    "started_at",
    "finished_at",
    "retry_at",
    "code",
    "reason",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message as it was, to be sent again."""

    key: str
    meta: dict[str, Any]
    body: Any


def run_of(global_id: str, branch: str) -> UUID | None:
    """The run of a saga; None when nothing was heard of it."""
    return PipeRun.objects.filter(global_id=global_id, branch=branch).values_list("run_id", flat=True).first()


def name_of(run_id: UUID) -> tuple[str, str]:
    """The global id and branch of a run, as they stand in its messages."""
    row = PipeRun.objects.get(pk=run_id)
    return row.global_id, row.branch


def is_named(run_id: UUID) -> bool:
    """Is it known what the run is called by in messages?"""
    return PipeRun.objects.filter(pk=run_id).exists()


def claim(global_id: str, branch: str, run_id: UUID) -> bool:
    """Make this the saga's run. False when it has one: then that one is committed, and can be read."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO saga_piperun (run_id, global_id, branch) VALUES (%s, %s, %s) "
            "ON CONFLICT (global_id, branch) DO NOTHING",
            [run_id, global_id, branch],
        )
        return bool(cursor.rowcount == 1)


def add(run_id: UUID, fact: Fact, *, key: str = "", envelope: str = "") -> bool:
    """Write a fact down. False when it is known."""
    values = [getattr(fact, name) for name in _COLUMNS]
    columns = ", ".join(_COLUMNS)
    marks = ", ".join(["%s"] * len(_COLUMNS))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO saga_pipefact (run_id, {columns}, key, envelope) VALUES (%s, {marks}, %s, %s) "  # noqa: S608  # names
            "ON CONFLICT DO NOTHING",
            [run_id, *values, key, envelope],
        )
        return bool(cursor.rowcount == 1)


def facts_of(run_id: UUID) -> list[Fact]:
    """All facts of a run, in the order in which they were heard. Its row is locked, so nobody adds to them."""
    rows = PipeFact.objects.filter(run_id=run_id).order_by("at", "position", "undo", "what", "attempt", "message_id")
    names = _COLUMNS
    return [
        Fact(**{**dict(zip(names, values, strict=True)), "what": What(values[names.index("what")])})
        for values in rows.values_list(*names)[: 2 * FACTS_MAX]
    ]


def kept(run_id: UUID, *, position: int | None = None, undo: bool = False) -> Kept | None:
    """The last message that asked a step (None: any step) to do or to undo; None when none was heard."""
    rows = PipeFact.objects.filter(run_id=run_id).exclude(envelope="")
    if position is not None:
        rows = rows.filter(position=position, undo=undo)
    # The message itself before its dead letter, which has its error in it.
    row = rows.order_by("what", "-at").values_list("key", "envelope").first()
    if row is None:
        return None
    found = json.loads(row[1])
    return Kept(key=row[0], meta=found["meta"], body=found["body"])


def set_data(run_id: UUID, data: dict[str, Any]) -> None:
    """What a run began with, which is known when its first message is heard."""
    Run.objects.filter(pk=run_id).update(data=data)


_ATTEMPTS = """
INSERT INTO saga_attempt (run_id, position, undo, number, outcome, error_code, error_detail, started_at, finished_at)
SELECT %(run)s, position, undo, number, outcome, error_code, error_detail, started_at, finished_at
FROM jsonb_to_recordset(%(rows)s::jsonb) AS given (
    position smallint, undo boolean, number smallint, outcome text, error_code text, error_detail text,
    started_at timestamptz, finished_at timestamptz)
ON CONFLICT (run_id, position, undo, number) DO UPDATE SET outcome = excluded.outcome, error_code = excluded.error_code,
    error_detail = excluded.error_detail, started_at = excluded.started_at, finished_at = excluded.finished_at
"""


def write_attempts(run_id: UUID, rows: list[AttemptRow]) -> None:
    """Write attempts as the facts have them by now: a fact that comes late may put one before those that are there."""
    if not rows:
        return
    names = AttemptRow.__slots__
    given = [{name: getattr(row, name) for name in names} for row in rows]
    with connection.cursor() as cursor:
        cursor.execute(_ATTEMPTS, {"run": run_id, "rows": json.dumps(given, default=lambda moment: moment.isoformat())})


def new_id() -> UUID:
    """A message's id, or a run's."""
    return uuid7()
