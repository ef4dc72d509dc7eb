"""The relay: rows to the broker, in order per topic and key, marked only after the broker's acknowledgement.

Note [Order with several relays]
A relay owns buckets, not rows: it takes a lease with a token on every bucket that has due rows and that nobody owns, so
one key is never in two hands. SKIP LOCKED on rows would hand m1 to one relay and m2 of the same key to another. If a
relay stalls past its lease, the next owner sends the same rows again in the same order; the inbox drops the copies.
Rows are marked by the ids that were read, never by a range: a row with a lower seq may commit in between.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.transactions import durable, transaction
from apps.messaging import envelope
from apps.messaging.transports import transport
from apps.messaging.transports.base import Fate, OutgoingRecord, SendOutcome, TransportDown

logger = logging.getLogger(__name__)

BATCH_ROWS_MAX = 500
# Longer than a batch may take (transports/kafka.py: SEND_S_MAX, 12 s); a killed relay delays its buckets by this much.
LEASE = timedelta(seconds=15)
ATTEMPTS_MAX = 8  # of a row that the broker refuses by itself; with the delays below about four minutes
DELAY_MAX = timedelta(minutes=1)

_CLAIM = """
INSERT INTO messaging_bucket AS mine (bucket, token, lease_until)
SELECT DISTINCT bucket, %(token)s::uuid, %(until)s::timestamptz FROM messaging_pending
WHERE parked_at IS NULL AND due_at <= %(now)s ORDER BY bucket
ON CONFLICT (bucket) DO UPDATE SET token = excluded.token, lease_until = excluded.lease_until
WHERE mine.lease_until <= %(now)s OR mine.token = excluded.token
RETURNING bucket
"""
# A row waits while an earlier one of its topic and key is put off or parked: the key is blocked, nobody else.
_READ = """
SELECT p.seq, p.topic, p.key, p.attempts, m.meta, m.body FROM messaging_pending p JOIN messaging_message m USING (seq)
WHERE p.bucket = ANY(%(buckets)s) AND p.parked_at IS NULL AND p.due_at <= %(now)s AND NOT EXISTS (
    SELECT 1 FROM messaging_pending e WHERE e.topic = p.topic AND e.key = p.key AND e.seq < p.seq
    AND (e.parked_at IS NOT NULL OR e.due_at > %(now)s)
)
ORDER BY p.seq LIMIT %(rows_max)s
"""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What one round did. ``broker_down``: nothing was counted against any row."""

    acknowledged: int = 0
    refused: int = 0
    broker_down: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    seq: int
    topic: str
    key: str
    attempts: int
    meta: dict[str, Any]
    body: Any

    def record(self) -> OutgoingRecord:
        return OutgoingRecord(self.topic, self.key, envelope.encode(self.meta, self.body), envelope.headers(self.meta))


# In the order of buckets, as _CLAIM locks them: a claim locks also the rows that it may not take, and two that lock in
# different orders would wait for each other.
_LET_GO = """
UPDATE messaging_bucket SET lease_until = %(now)s WHERE bucket = ANY(ARRAY(
    SELECT bucket FROM messaging_bucket WHERE token = %(token)s ORDER BY bucket FOR UPDATE
)) AND token = %(token)s
"""


@transaction
def _claim(*, token: UUID, now: datetime) -> list[_Row]:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"token": token, "now": now, "until": now + LEASE})
        buckets = [bucket for (bucket,) in cursor.fetchall()]
        if not buckets:
            return []
        # The next statement, and so a new snapshot: it sees what the former owner of a bucket has deleted.
        cursor.execute(_READ, {"buckets": buckets, "now": now, "rows_max": BATCH_ROWS_MAX})
        return [
            _Row(seq, topic, key, attempts, json.loads(meta), json.loads(body))
            for seq, topic, key, attempts, meta, body in cursor.fetchall()
        ]


def delay(attempts: int) -> timedelta:
    """How long a refused row waits before its next attempt: 2, 4, 8 … seconds, at most DELAY_MAX."""
    return min(timedelta(seconds=2**attempts), DELAY_MAX)


@transaction
def _settle(rows: Sequence[_Row], outcomes: Sequence[SendOutcome], *, token: UUID, now: datetime) -> None:
    acknowledged = [row.seq for row, outcome in zip(rows, outcomes, strict=True) if outcome.fate is Fate.ACKNOWLEDGED]
    with connection.cursor() as cursor:
        # Acknowledged is acknowledged, even if the lease was lost meanwhile.
        cursor.execute("DELETE FROM messaging_pending WHERE seq = ANY(%s)", [acknowledged])
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.fate is Fate.REFUSED:
                _put_off(cursor, row, outcome.reason, token=token, now=now)
        cursor.execute(_LET_GO, {"token": token, "now": now})


def _put_off(cursor: Any, row: _Row, reason: str, *, token: UUID, now: datetime) -> None:
    attempts = row.attempts + 1
    cursor.execute(
        """UPDATE messaging_pending p SET attempts = %(attempts)s, error = %(reason)s, due_at = %(due_at)s,
           parked_at = %(parked_at)s
           WHERE seq = %(seq)s AND EXISTS (
               SELECT 1 FROM messaging_bucket b WHERE b.bucket = p.bucket AND b.token = %(token)s
           )
           RETURNING parked_at""",
        {
            "reason": reason[:1000],
            "attempts": attempts,
            "due_at": now + delay(attempts),
            "parked_at": now if attempts >= ATTEMPTS_MAX else None,
            "seq": row.seq,
            "token": token,
        },
    )
    parked = cursor.fetchone()
    if parked and parked[0]:
        logger.error("message %s on %s is parked: %s", row.meta.get("message-id"), row.topic, reason)


@transaction
def _release(*, token: UUID, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_LET_GO, {"token": token, "now": now})


@durable
def relay_once(*, now: datetime | None = None) -> Relayed:
    """Send one batch of what is due. Safe to run anywhere, any number of times, at the same time."""
    now = now or timezone.now()
    token = uuid7()
    rows = _claim(token=token, now=now)
    if not rows:
        _release(token=token, now=now)
        return Relayed()
    try:
        outcomes = transport().send([row.record() for row in rows])
    except TransportDown as error:
        logger.warning("the broker is away: %s", error)
        _release(token=token, now=now)
        return Relayed(broker_down=True)
    except Exception:
        _release(token=token, now=now)  # A bug: the next relay need not wait for the lease to see it too.
        raise
    _settle(rows, outcomes, token=token, now=now)
    fates = [outcome.fate for outcome in outcomes]
    return Relayed(acknowledged=fates.count(Fate.ACKNOWLEDGED), refused=fates.count(Fate.REFUSED))


@durable
def relay_all(*, rounds_max: int = 100) -> Relayed:
    """Send until nothing is due, the broker is away, or ``rounds_max`` batches are through."""
    acknowledged = refused = 0
    for _ in range(rounds_max):
        round_ = relay_once()
        acknowledged, refused = acknowledged + round_.acknowledged, refused + round_.refused
        if round_.broker_down or not round_.acknowledged:
            return Relayed(acknowledged, refused, round_.broker_down)
    return Relayed(acknowledged, refused)
