"""How the runs of a use case fared lately: how long they were in each step and why, what failed, how they ended.

Of the newest runs, found by their ids, which begin with their time: no index on times is needed, and nothing is read of
runs that are older than asked for. A wait that has not ended counts with what it has lasted so far: else a step that hangs
would look fast.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from apps.common.clock import first_uuid7
from apps.saga.definition import versions_of
from apps.saga.models import AttemptOutcome

# Runs that are looked at for one answer. The 99th percentile of so many is told by thirty of them, and they are read in
# a fraction of a second.
RUNS_MAX = 3000
# How far a person looks back: at what happens, at this shift, at the same hour yesterday, at the same day of last week.
WINDOWS = {
    "15min": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
# Outcomes that count as errors; a refusal by business is an answer.
ERRORS = (AttemptOutcome.FAILED, AttemptOutcome.NO_ANSWER, AttemptOutcome.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Spread:
    """Half of them took at most ``p50``, and so on."""

    p50: timedelta
    p95: timedelta
    p99: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPace:
    """How long the runs were in a step, and on what the time went.

    ``whole``: from the first attempt until it was done. ``queue``: before that, after the step before it; ``work``: our own
    attempts; ``outside``: attempts that wait for somebody else; ``between``: from an attempt to the next. None: there is no
    such time. ``entered``: runs that began it.
    """

    step: str
    shape: str
    position: int
    entered: int
    undone: int
    whole: Spread | None
    queue: Spread | None
    work: Spread | None
    outside: Spread | None
    between: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Runs whose attempts at a step, or at its undo, ended in this way. ``since``: the first of these attempts."""

    step: str
    undo: bool
    outcome: str
    code: str
    runs: int
    since: datetime

    @property
    def refused(self) -> bool:
        """A refusal by business is an answer, and not an error."""
        return self.outcome == AttemptOutcome.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How many runs met a refusal, or else an error, at a step or at its undo; one with several errors counts once."""

    step: str
    undo: bool
    refused: bool
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Runs that are in this state, because of this step. ``standing``: within, slow or late, of those that are over."""

    status: str
    failed_step: str
    standing: str
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The runs of a use case that began since then. ``cut``: there are more, and only the newest are told of."""

    use_case: str
    since: datetime
    runs: int
    cut: bool
    steps: tuple[StepPace, ...]
    failures: tuple[Failures, ...]
    troubles: tuple[Trouble, ...]
    endings: tuple[Ending, ...]


_SAMPLE = """
WITH sample AS MATERIALIZED (
    SELECT id, status, cursor, failed_step, started_at, finished_at FROM saga_run
    WHERE use_case = %(use_case)s AND id >= %(first)s ORDER BY id DESC LIMIT %(runs_max)s
)"""
# An attempt that was never closed lasts until its run is over, or until now.
_STEPS = """, tries AS (
    SELECT run_id, position, min(attempt.started_at) AS began,
        max(coalesce(attempt.finished_at, sample.finished_at, %(now)s)) AS ended,
        sum(coalesce(attempt.finished_at, sample.finished_at, %(now)s) - attempt.started_at) AS busy
    FROM sample JOIN saga_attempt attempt ON run_id = id AND run_id >= %(first)s
    WHERE NOT undo GROUP BY run_id, position
), steps AS (
    SELECT step.run_id, step.position, name, shape, undone_at, busy, began, ended,
        sample.cursor = step.position AND sample.status IN ('RUNNING', 'WAITING', 'STUCK') AS is_here,
        lag(step.finished_at, 1, sample.started_at) OVER (PARTITION BY step.run_id ORDER BY step.position) AS ready
    FROM sample JOIN saga_step step ON step.run_id = id AND step.run_id >= %(first)s
    LEFT JOIN tries ON tries.run_id = step.run_id AND tries.position = step.position
), spans AS (
    SELECT name, shape, position, began, undone_at,
        CASE WHEN is_here THEN %(now)s ELSE ended END - began AS whole,
        greatest(coalesce(began, %(now)s) - ready, interval '0') AS queue,
        CASE WHEN shape = 'local' THEN busy END AS work,
        CASE WHEN shape <> 'local' THEN busy END AS outside,
        greatest(CASE WHEN is_here THEN %(now)s ELSE ended END - began - busy, interval '0') AS between_tries,
        began IS NOT NULL OR is_here AS counts
    FROM steps
)
SELECT name, max(shape), min(position), count(began), count(undone_at),
    percentile_cont(%(shares)s::float8[]) WITHIN GROUP (ORDER BY whole),
    percentile_cont(%(shares)s::float8[]) WITHIN GROUP (ORDER BY CASE WHEN counts THEN queue END),
    percentile_cont(%(shares)s::float8[]) WITHIN GROUP (ORDER BY work),
    percentile_cont(%(shares)s::float8[]) WITHIN GROUP (ORDER BY outside),
    percentile_cont(%(shares)s::float8[]) WITHIN GROUP (ORDER BY CASE WHEN began IS NOT NULL THEN between_tries END)
FROM spans GROUP BY name ORDER BY 3, 1
"""
# Two questions of the same runs in one statement: how their attempts failed, and how they stand.
_ENDS = """
SELECT CASE WHEN grouping(attempt.error_code) = 1 THEN 'step' ELSE 'attempt' END, step.name, attempt.undo,
    coalesce(attempt.outcome, CASE WHEN bool_and(attempt.outcome = 'REFUSED') THEN 'REFUSED' ELSE 'FAILED' END),
    coalesce(attempt.error_code, ''), count(DISTINCT attempt.run_id), min(attempt.started_at)
FROM sample JOIN saga_attempt attempt ON attempt.run_id = id AND attempt.run_id >= %(first)s
JOIN saga_step step ON step.run_id = attempt.run_id AND step.run_id >= %(first)s AND step.position = attempt.position
WHERE attempt.outcome IN ('FAILED', 'NO_ANSWER', 'UNKNOWN', 'REFUSED')
GROUP BY GROUPING SETS (
    (step.name, attempt.undo, attempt.outcome, attempt.error_code), (step.name, attempt.undo, attempt.outcome = 'REFUSED')
)
UNION ALL
SELECT 'run', failed_step, false, status, CASE
        WHEN finished_at IS NULL OR %(target)s::interval IS NULL THEN ''
        WHEN finished_at - started_at <= %(target)s THEN 'within'
        WHEN finished_at - started_at <= %(deadline)s THEN 'slow' ELSE 'late' END,
    count(*), min(started_at)
FROM sample GROUP BY 2, 4, 5
"""
_SHARES = [0.5, 0.95, 0.99]


def pace(use_case: str, *, since: datetime, now: datetime) -> Pace:
    """How the runs that began since then fared. Two statements, which read at most the newest RUNS_MAX of them."""
    asked = _question(use_case, since=since, now=now)
    with connection.cursor() as cursor:
        cursor.execute(_SAMPLE + _STEPS, asked)
        steps = tuple(_step(row) for row in cursor.fetchall())
        cursor.execute(_SAMPLE + _ENDS, asked)
        ends = cursor.fetchall()
    troubles = [
        Trouble(step=step, undo=undo, outcome=outcome, code=code, runs=runs, since=first)
        for kind, step, undo, outcome, code, runs, first in ends
        if kind == "attempt"
    ]
    failures = tuple(
        Failures(step=step, undo=undo, refused=outcome == AttemptOutcome.REFUSED, runs=runs)
        for kind, step, undo, outcome, _, runs, _ in ends
        if kind == "step"
    )
    endings = [
        (Ending(failed_step=step, status=status, standing=standing, runs=runs), first)
        for kind, step, _, status, standing, runs, first in ends
        if kind == "run"
    ]
    total = sum(ending.runs for ending, _ in endings)
    cut = total >= RUNS_MAX
    return Pace(
        use_case=use_case,
        since=min(first for _, first in endings) if cut else since,
        runs=total,
        cut=cut,
        steps=steps,
        failures=failures,
        troubles=tuple(sorted(troubles, key=lambda each: (-each.runs, each.step, each.code))),
        endings=tuple(ending for ending, _ in endings),
    )


def _question(use_case: str, *, since: datetime, now: datetime) -> dict[str, Any]:
    newest = next(reversed(versions_of(use_case)), None)
    sla = newest.sla if newest is not None else None
    return {
        "use_case": use_case,
        "first": first_uuid7(since),
        "now": now,
        "runs_max": RUNS_MAX,
        "shares": _SHARES,
        "target": sla.target if sla else None,
        "deadline": sla.deadline if sla else None,
    }


def _step(row: tuple[Any, ...]) -> StepPace:
    name, shape, position, entered, undone, *spreads = row
    whole, queue, work, outside, between = (_spread(each) for each in spreads)
    return StepPace(
        step=name,
        shape=shape,
        position=position,
        entered=entered,
        undone=undone,
        whole=whole,
        queue=queue,
        work=work,
        outside=outside,
        between=between,
    )


def _spread(found: list[timedelta] | None) -> Spread | None:
    return Spread(*found) if found else None
