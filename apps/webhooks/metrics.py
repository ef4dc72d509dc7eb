"""Webhooks in numbers. What they are called is in apps/observability/metrics.py."""

from collections.abc import Iterator

from django.db import connection
from django.utils import timezone

from apps.observability import metrics
from apps.observability.metrics import Reading

COUNT_MAX = 100_000

_ENDPOINTS = """
SELECT count(*) FILTER (WHERE disabled_at IS NULL AND failing_since IS NULL),
    count(*) FILTER (WHERE disabled_at IS NULL AND failing_since IS NOT NULL),
    count(*) FILTER (WHERE disabled_at IS NOT NULL)
FROM (SELECT disabled_at, failing_since FROM webhooks_endpoint WHERE deleted_at IS NULL LIMIT %(most)s) AS few
"""
# Those of endpoints that are told now: what waits for a disabled one is no backlog of ours.
_WAITING = """
SELECT count(*), coalesce(extract(epoch FROM %(now)s - min(due_at)), 0) FROM (
    SELECT d.due_at FROM webhooks_delivery d JOIN webhooks_endpoint e ON e.id = d.endpoint_id
    WHERE d.state = 'PENDING' AND d.due_at <= %(now)s AND e.deleted_at IS NULL AND e.disabled_at IS NULL
      AND e.failing_since IS NULL LIMIT %(most)s
) AS few
"""


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("webhooks", _rows, queries=True)


def _rows() -> Iterator[Reading]:
    with connection.cursor() as cursor:
        cursor.execute(_ENDPOINTS, {"most": COUNT_MAX})
        for state, count in zip(("well", "failing", "disabled"), cursor.fetchone(), strict=True):
            yield Reading(metrics.WEBHOOK_ENDPOINTS, count, (state,))
        cursor.execute(_WAITING, {"now": timezone.now(), "most": COUNT_MAX})
        waiting, oldest_s = cursor.fetchone()
        yield Reading(metrics.WEBHOOKS_WAITING, waiting)
        yield Reading(metrics.WEBHOOKS_OLDEST, float(oldest_s))
