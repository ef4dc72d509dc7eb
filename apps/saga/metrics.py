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
_INCIDENTS = """
SELECT count(*), count(*) FILTER (WHERE owner = '' AND NOT coalesce(silenced_until > %(now)s, false)),
    count(*) FILTER (WHERE silenced_until > %(now)s)
FROM saga_incident WHERE status = 'OPEN'
"""
# The same runs as the incidents affect, through the index of those that are not over.
_AT_RISK = """
SELECT coalesce(sum(CASE WHEN attributes->>'amount' ~ '^-?[0-9]+[.][0-9]+$'
                         THEN (attributes->>'amount')::numeric END), 0)
FROM (SELECT attributes FROM saga_run WHERE finished_at IS NULL AND error_code <> ''
    AND (error_code <> '' OR status IN ('COMPENSATING', 'STUCK')) LIMIT %(most)s) AS few
"""
_ACTIONS = """
SELECT a.status, count(*) FROM saga_bulk_action a
CROSS JOIN LATERAL (SELECT FROM saga_bulk_item i WHERE i.action_id = a.id AND i.status = 'PENDING' LIMIT %(most)s) few
WHERE a.status IN ('ASKED', 'RUNNING') GROUP BY 1
"""


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("saga", _runs, queries=True)
    metrics.register("triage", _triage, queries=True)


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


def _triage() -> Iterator[Reading]:
    values: dict[str, int | datetime] = {"most": COUNT_MAX, "now": timezone.now()}
    with connection.cursor() as cursor:
        cursor.execute(_INCIDENTS, values)
        opened = cursor.fetchone()
        cursor.execute(_AT_RISK, values)
        (at_risk,) = cursor.fetchone()
        cursor.execute(_ACTIONS, values)
        waiting = {"ASKED": 0, "RUNNING": 0} | dict(cursor.fetchall())
    for state, count in zip(("open", "unowned", "silenced"), opened, strict=True):
        yield Reading(metrics.SAGA_INCIDENTS, count, (state,))
    yield Reading(metrics.SAGA_AT_RISK, float(at_risk), ())  # a metric is a float by its format; money is not decided on it
    for status, count in waiting.items():
        yield Reading(metrics.SAGA_ACTION_ITEMS, count, (status,))
