"""Runs in numbers. What they are called is in apps/observability/metrics.py."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone

from apps.observability import metrics
from apps.observability.metrics import Reading
from apps.saga.models import LIVE, RunStatus

COUNT_MAX = 100_000
OVER_SINCE = timedelta(hours=24)

# Two partial indexes hold what is live and what is stuck, however long the history is.
_LIVE = """
SELECT status, count(*) FROM (SELECT status FROM saga_run WHERE due_at IS NOT NULL LIMIT %(most)s) AS few GROUP BY 1
UNION ALL
SELECT 'STUCK', count(*) FROM (SELECT FROM saga_run WHERE status = 'STUCK' LIMIT %(most)s) AS few
"""
_OVER = """
SELECT status, count(*) FROM (
    SELECT status FROM saga_run WHERE started_at >= %(since)s AND due_at IS NULL AND status <> 'STUCK' LIMIT %(most)s
) AS few GROUP BY 1
"""


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("saga", _runs, queries=True)


def _runs() -> Iterator[Reading]:
    values: dict[str, int | datetime] = {"most": COUNT_MAX, "since": timezone.now() - OVER_SINCE}
    with connection.cursor() as cursor:
        cursor.execute(_LIVE, values)
        live = dict.fromkeys((*LIVE, RunStatus.STUCK), 0) | dict(cursor.fetchall())
        cursor.execute(_OVER, values)
        over = dict.fromkeys((RunStatus.COMPLETED, RunStatus.COMPENSATED, RunStatus.HANDLED), 0) | dict(cursor.fetchall())
    # Zeros too: an alert on a status that there is not yet would never fire.
    for gauge, counts in ((metrics.SAGA_RUNS, live), (metrics.SAGA_RUNS_OVER, over)):
        for status, count in counts.items():
            yield Reading(gauge, count, (str(status),))
