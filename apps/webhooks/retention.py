"""How long events and their deliveries are kept: WEBHOOKS_KEEP_DAYS, whatever became of them."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from apps.common.transactions import transaction

EVENTS_MAX = 1_000  # of one batch: a short transaction
BATCHES_MAX = 100  # of one call, which comes every hour

# Of the first rows by the primary key, in whose order they were made: no more are read to know that none is old.
_OLD = """
SELECT sequence FROM (SELECT sequence, created_at FROM webhooks_event ORDER BY sequence LIMIT %(most)s) AS first
WHERE created_at < %(before)s
"""
# A delivery before its attempts, as whoever sends it does; that they belong to it is looked at with the commit. One may be
# under way: an old event is delivered again, or its endpoint was disabled for long.
_DELIVERIES = "DELETE FROM webhooks_delivery WHERE event_id = ANY(%s) RETURNING id"
_ATTEMPTS = "DELETE FROM webhooks_attempt WHERE delivery_id = ANY(%s)"
_EVENTS = "DELETE FROM webhooks_event WHERE sequence = ANY(%s)"
_ENDPOINTS = """
DELETE FROM webhooks_endpoint e WHERE e.deleted_at < %s
AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.endpoint_id = e.id)
"""


@transaction
def _batch(before: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_OLD, _old_values(before))
        events = [sequence for (sequence,) in cursor.fetchall()]
        if events:
            cursor.execute(_DELIVERIES, [events])
            cursor.execute(_ATTEMPTS, [[delivery for (delivery,) in cursor.fetchall()]])
            cursor.execute(_EVENTS, [events])
    return len(events)


def _old_values(before: datetime) -> dict[str, Any]:
    return {"before": before, "most": EVENTS_MAX}


@transaction
def _endpoints(before: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_ENDPOINTS, [before])


def forget(*, now: datetime) -> int:
    """Delete old events with all that belongs to them, and deleted endpoints. How many events; safe to repeat, bounded."""
    before, deleted = now - timedelta(days=settings.WEBHOOKS_KEEP_DAYS), 0
    for _ in range(BATCHES_MAX):
        found = _batch(before)
        deleted += found
        if found < EVENTS_MAX:
            break
    _endpoints(before)
    return deleted
