"""Messages whose handler failed, and those of the same key that wait behind them.

Note [Failing without blocking a partition]
A message whose handler fails is written to the redelivery table and its offset is committed, so the partition goes on.
Later messages of the same group, topic and key queue behind it there, so the key keeps its order. After the last
attempt the message goes to ``<topic>.error`` in the commit that removes it from the queue, and the key goes on.
"""

import json
import logging
import random
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db import transaction as django_transaction

from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.messaging import counting
from apps.messaging.dead_letters import bury, reason
from apps.messaging.inbox import handle_once
from apps.messaging.models import Redelivery
from apps.messaging.transports.base import IncomingRecord

logger = logging.getLogger(__name__)

REDELIVERIES_MAX = 100  # handled between two polls, so that a long queue does not starve fresh records
ATTEMPTS_MAX = 6  # the first one, then after about 0.2, 0.8, 3, 13 and 51 s
DELAY_MAX = timedelta(minutes=2)


def delay(attempts: int) -> timedelta:
    """How long a failed message waits after so many attempts: 0.2 s, times four each, plus or minus a quarter."""
    seconds = 0.2 * 4 ** min(attempts - 1, 10) * random.uniform(0.75, 1.25)  # noqa: S311  # jitter, not a secret
    return min(timedelta(seconds=seconds), DELAY_MAX)


def waiting_keys(records: Iterable[IncomingRecord], *, group: str) -> set[tuple[str, str]]:
    """Which topics and keys of these records have something in the group's queue.

    A question a poll is enough: only the owner of a partition, who is the caller, adds keys of it to the queue.
    """
    keys = list({record.key for record in records if "\x00" not in record.key})
    return set(Redelivery.objects.filter(group=group, key__in=keys).values_list("topic", "key").distinct())


@transaction
def queue(
    record: IncomingRecord,
    envelope: dict[str, Any],
    message_id: UUID,
    *,
    group: str,
    now: datetime,
    error: Exception | None,
) -> bool:
    """Put a message into its key's queue. With the error of its first attempt, or None when it only waits its turn.

    True when the key has something in the queue now; a message that no retry can mend is buried at once.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO messaging_redelivery
               ("group", topic, key, partition, "offset", message_id, envelope, attempts, due_at, error, created_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, 0, %s, '', %s) ON CONFLICT DO NOTHING RETURNING id""",
            [
                group,
                record.topic,
                record.key,
                record.partition,
                record.offset,
                message_id,
                json.dumps(envelope),
                now,
                now,
            ],
        )
        inserted = cursor.fetchone()
    if inserted and error is not None:
        return _count_failure(Redelivery.objects.get(pk=inserted[0]), error, now=now)
    return True


def _count_failure(row: Redelivery, error: Exception, *, now: datetime) -> bool:
    """Put the message off, or bury it; True when it is still in the queue."""
    # What is over by itself (a suspended ledger) is waited for: it takes away no attempt that an error would need.
    row.attempts += not (isinstance(error, DomainError) and error.passes and row.attempts == ATTEMPTS_MAX - 1)
    hopeless = isinstance(error, DomainError) and not error.retryable
    if hopeless or row.attempts >= ATTEMPTS_MAX:
        bury(row, error, now=now)
        return False
    logger.warning("message %s failed in %s, attempt %s", row.message_id, row.group, row.attempts, exc_info=error)
    row.error = str(reason(error)["reason"])
    row.due_at = now + delay(row.attempts)
    row.save(update_fields=["attempts", "error", "due_at"])
    return True


@transaction
def redeliver_one(*, group: str, now: datetime) -> bool:
    """Handle the next queued message that is due and first of its key. False when there is none.

    The row stays locked while its handler runs: two consumers never hold messages of one key.
    """
    heads = Redelivery.objects.raw(
        """SELECT * FROM messaging_redelivery r WHERE r."group" = %s AND r.due_at <= %s AND NOT EXISTS (
               SELECT 1 FROM messaging_redelivery e
               WHERE e."group" = r."group" AND e.topic = r.topic AND e.key = r.key AND e.id < r.id
           ) ORDER BY r.id LIMIT 1 FOR UPDATE SKIP LOCKED""",
        [group, now],
    )
    for row in heads:
        try:
            with django_transaction.atomic():
                fresh = handle_once(row.envelope, key=row.key, group=group, now=now, topic=row.topic)
                row.delete()
        except Exception as error:
            counting.failed(group=group, topic=row.topic)
            _count_failure(row, error, now=now)
        else:
            counting.redelivered(fresh, group=group, topic=row.topic)
        return True
    return False


def redeliver(*, group: str, now: datetime, stop: threading.Event | None = None) -> int:
    """Handle queued messages that are due, at most REDELIVERIES_MAX."""
    handled = 0
    while handled < REDELIVERIES_MAX and not (stop and stop.is_set()) and redeliver_one(group=group, now=now):
        handled += 1
    return handled
