"""All runs at a glance: how many are on the way, and which ones need a person."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet

from apps.saga.care import silenced_runs
from apps.saga.models import LIVE, Run, RunStatus

# An undo asks for a few seconds and retries with backoff; after this long somebody should look why.
UNDOING_LONG = timedelta(minutes=5)
# Every live run is woken when it is due. One that is overdue this long shows that nobody sweeps.
OVERDUE = timedelta(minutes=1)
# A page names groups, and reads at most so many rows to make them: beyond this the cause is common, and the list opens.
NEEDS_ROWS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsNow:
    """How many runs are on the way. Exact: live runs have an index of their own. ``held``: by a pause, and not counted
    among the others.
    """

    in_flight: int
    waiting: int
    undoing: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsInNeed:
    """Runs with the same trouble. ``kind``: stuck, undoing or overdue; ``since``: the start of the oldest."""

    kind: str
    failed_step: str
    error_code: str
    runs: int
    subject_ids: tuple[UUID, ...]
    since: datetime


def runs_now() -> RunsNow:
    """The runs on the way, counted through the index of open runs."""
    going = Q(held_by__isnull=True)
    counted = Run.objects.filter(status__in=LIVE).aggregate(
        in_flight=Count("pk", filter=going),
        waiting=Count("pk", filter=going & Q(status=RunStatus.WAITING)),
        undoing=Count("pk", filter=going & Q(status=RunStatus.COMPENSATING)),
        held=Count("pk", filter=~going),
    )
    return RunsNow(**counted)


def in_need(kind: str, *, now: datetime) -> Q:
    """The condition of a kind of need: stuck, undoing (for long), overdue, or any. Raises KeyError for another word."""
    conditions = {
        "stuck": Q(status=RunStatus.STUCK),
        "undoing": Q(status=RunStatus.COMPENSATING, held_by__isnull=True, started_at__lt=now - UNDOING_LONG),
        "overdue": Q(status__in=LIVE, due_at__lt=now - OVERDUE),
    }
    conditions["any"] = conditions["stuck"] | conditions["undoing"] | conditions["overdue"]
    return conditions[kind]


def runs_in_need(*, now: datetime) -> tuple[RunsInNeed, ...]:
    """What needs a person, grouped by kind, step and code. At most NEEDS_ROWS_MAX runs of each kind are read.

    Those of a silenced incident are left out.
    """
    groups: dict[tuple[str, str, str], list[tuple[UUID, datetime]]] = {}
    seen: set[UUID] = set()
    for kind in ("stuck", "undoing", "overdue"):
        rows: QuerySet[Run, Any] = Run.objects.filter(in_need(kind, now=now) & ~silenced_runs(now=now))
        columns = rows.order_by("started_at").values_list("pk", "failed_step", "error_code", "subject_id", "started_at")
        for run_id, step, code, subject_id, started_at in columns[:NEEDS_ROWS_MAX]:
            if run_id not in seen:
                seen.add(run_id)
                groups.setdefault((kind, step, code), []).append((subject_id, started_at))
    return tuple(
        RunsInNeed(
            kind=kind,
            failed_step=step,
            error_code=code,
            runs=len(found),
            subject_ids=tuple(subject_id for subject_id, _ in found),
            since=min(started_at for _, started_at in found),
        )
        for (kind, step, code), found in groups.items()
    )


def runs_in_need_count(*, now: datetime) -> int:
    """How many runs need a person, at most NEEDS_ROWS_MAX: for a badge. Those of a silenced incident are left out."""
    return Run.objects.filter(in_need("any", now=now) & ~silenced_runs(now=now)).order_by()[:NEEDS_ROWS_MAX].count()


def run_input(run_id: UUID) -> dict[str, Any]:
    """The input with which a run began; empty when there is no such run."""
    return Run.objects.filter(pk=run_id).values_list("data", flat=True).first() or {}
