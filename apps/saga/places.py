"""Where the runs are now: how many in each step, in which direction, and the one that has waited longest in each."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from apps.saga.definition import Definition, registered, versions_of
from apps.saga.models import Run
from apps.saga.waits import Wait, definition_of, wait_of

# Of each step so many of the oldest runs are asked how long they have been in it. A younger run cannot have waited longer
# than it is old, so the longest of these is the longest of all, or the answer says that it may not be.
OLDEST_LOOKED_AT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """The run that has been in a step for longest. ``exact`` False: another one may have been there for longer.

    ``since``: when it came to the step; ``attempt``: the number of its newest try, 0 before the first.
    """

    run_id: UUID
    business_key: str
    since: datetime
    exact: bool
    attempt: int
    wait: Wait | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The runs of one version that are in a step now, going forward or undoing it; those that are stuck count as forward.

    ``step`` is empty when the runs do not say it and their version is not registered. ``asking``: they wait for somebody
    outside; ``in_error``: their last attempt failed, and they are tried again; ``slow`` and ``late``: past the target, past
    the deadline.
    """

    use_case: str
    version: int
    position: int
    step: str
    undo: bool
    runs: int
    asking: int
    in_error: int
    held: int
    stuck: int
    slow: int
    late: int
    longest: Longest


class _Cell(NamedTuple):
    """A row of the statement."""

    use_case: str
    version: int
    cursor: int
    at_step: str
    undo: bool
    runs: int
    asking: int
    in_error: int
    held: int
    stuck: int
    slow: int
    late: int
    bound: datetime | None  # when the oldest run that was not looked at began, if there is one
    run_id: UUID
    since: datetime
    attempt: int


# The condition on the status is that of the index saga_run_open: history is not read. The steps of the few oldest runs of
# each place are looked up by their keys.
_SQL = """
WITH terms (use_case, version, slow_before, late_before) AS (
    SELECT * FROM unnest(%(names)s::text[], %(versions)s::int[], %(slow)s::timestamptz[], %(late)s::timestamptz[])
), here AS MATERIALIZED (
    SELECT id, use_case, version, cursor, at_step, status, error_code, token, held_by, started_at, deadline_at,
        status = 'COMPENSATING' AS undo,
        row_number() OVER (
            PARTITION BY use_case, version, cursor, at_step, status = 'COMPENSATING' ORDER BY id
        ) AS place
    FROM saga_run
    WHERE status IN ('RUNNING', 'WAITING', 'COMPENSATING', 'STUCK') AND (%(all)s OR use_case = %(use_case)s)
), cells AS (
    SELECT here.use_case, here.version, cursor, at_step, undo, count(*) AS runs,
        count(*) FILTER (WHERE held_by IS NULL AND (status = 'WAITING' OR token IS NOT NULL)) AS asking,
        count(*) FILTER (WHERE NOT undo AND status <> 'STUCK' AND held_by IS NULL AND error_code <> '') AS in_error,
        count(*) FILTER (WHERE held_by IS NOT NULL) AS held,
        count(*) FILTER (WHERE status = 'STUCK') AS stuck,
        count(*) FILTER (WHERE started_at < slow_before) AS slow,
        count(*) FILTER (WHERE started_at < late_before OR deadline_at < %(now)s) AS late,
        max(started_at) FILTER (WHERE place = %(oldest)s + 1) AS bound
    FROM here LEFT JOIN terms ON terms.use_case = here.use_case AND terms.version = here.version
    GROUP BY here.use_case, here.version, cursor, at_step, undo
), longest AS (
    SELECT DISTINCT ON (here.use_case, here.version, here.cursor, here.at_step, here.undo)
        here.*, now_at.since, now_at.attempt
    FROM here CROSS JOIN LATERAL (
        SELECT coalesce(
                max(CASE WHEN here.undo THEN step.undo_started_at ELSE step.started_at END)
                    FILTER (WHERE step.position = here.cursor),
                max(coalesce(step.undone_at, step.finished_at)),
                here.started_at
            ) AS since,
            coalesce(max(CASE WHEN here.undo THEN step.undo_attempts ELSE step.attempts END)
                FILTER (WHERE step.position = here.cursor), 0) AS attempt
        FROM saga_step step WHERE step.run_id = here.id
    ) now_at
    WHERE here.place <= %(oldest)s
    ORDER BY here.use_case, here.version, here.cursor, here.at_step, here.undo, now_at.since, here.id
)
SELECT cells.use_case, cells.version, cells.cursor, cells.at_step, cells.undo,
    runs, asking, in_error, held, stuck, slow, late, bound, longest.id, since, attempt
FROM cells JOIN longest ON longest.use_case = cells.use_case AND longest.version = cells.version
    AND longest.cursor = cells.cursor AND longest.at_step = cells.at_step AND longest.undo = cells.undo
ORDER BY 1, 2, 3, 4, 5
"""


def places(use_case: str = "", *, now: datetime) -> tuple[Place, ...]:
    """Every step, of one use case or of all, in which runs are now. Two statements, which read open runs alone."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL, _question(use_case, now=now))
        cells = [_Cell(*row) for row in cursor.fetchall()]
    runs = Run.objects.defer("data").in_bulk([cell.run_id for cell in cells]) if cells else {}
    # Between the two statements a run may have been archived; then the next look tells the next one.
    return tuple(_place(cell, runs[cell.run_id]) for cell in cells if cell.run_id in runs)


def _question(use_case: str, *, now: datetime) -> dict[str, Any]:
    """The parameters of the statement."""
    promised = [
        (each.use_case, each.version, now - each.sla.target, now - each.sla.deadline)
        for each in (versions_of(use_case) if use_case else registered())
        if each.sla is not None
    ]
    names, versions, slow, late = (list(column) for column in zip(*promised, strict=True)) if promised else ([], [], [], [])
    return {
        "names": names,
        "versions": versions,
        "slow": slow,
        "late": late,
        "now": now,
        "all": not use_case,
        "use_case": use_case,
        "oldest": OLDEST_LOOKED_AT,
    }


def _place(cell: _Cell, run: Run) -> Place:
    definition = definition_of(run)
    return Place(
        use_case=cell.use_case,
        version=cell.version,
        position=cell.cursor,
        step=_name(cell, definition),
        undo=cell.undo,
        runs=cell.runs,
        asking=cell.asking,
        in_error=cell.in_error,
        held=cell.held,
        stuck=cell.stuck,
        slow=cell.slow,
        late=cell.late,
        longest=Longest(
            run_id=cell.run_id,
            business_key=run.business_key,
            since=cell.since,
            exact=cell.bound is None or cell.since <= cell.bound,
            attempt=cell.attempt,
            wait=wait_of(run, definition),
        ),
    )


def _name(cell: _Cell, definition: Definition | None) -> str:
    if cell.at_step or definition is None or cell.cursor >= len(definition.steps):
        return cell.at_step
    return definition.steps[cell.cursor].name  # written before runs named their step themselves
