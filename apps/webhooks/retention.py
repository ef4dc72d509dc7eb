"""How long events and their deliveries are kept: WEBHOOKS_KEEP_DAYS, whatever became of them."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from apps.common.transactions import transaction

EVENTS_MAX = 1_000  # of one batch: a short transaction
BATCHES_MAX = 100  # of one call, which comes every hour

# By the primary key, in whose order the rows were made. What is under way belongs to younger events, or to none.
_OLD = "SELECT sequence FROM webhooks_event WHERE created_at < %s ORDER BY sequence LIMIT %s"
_ATTEMPTS = """
DELETE FROM webhooks_attempt WHERE delivery_id IN (SELECT id FROM webhooks_delivery WHERE event_id = ANY(%s))
"""
_DELIVERIES = "DELETE FROM webhooks_delivery WHERE event_id = ANY(%s)"
_EVENTS = "DELETE FROM webhooks_event WHERE sequence = ANY(%s)"
_ENDPOINTS = """
DELETE FROM webhooks_endpoint e WHERE e.deleted_at < %s
AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.endpoint_id = e.id)
"""


@transaction
def _batch(before: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_OLD, [before, EVENTS_MAX])
        events = [sequence for (sequence,) in cursor.fetchall()]
        for statement in (_ATTEMPTS, _DELIVERIES, _EVENTS) if events else ():
            cursor.execute(statement, [events])
    return len(events)


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
