"""The local transport: a partitioned log in PostgreSQL, for one machine. It promises what Kafka promises.

Order within a partition, offsets without gaps, one owner per group and partition, and records that survive a crash
between the relay and the consumer.
"""

import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.transactions import durable, transaction
from apps.messaging import wakeup
from apps.messaging.transports.base import (
    Consumer,
    DesiredTopic,
    Fate,
    IncomingRecord,
    OutgoingRecord,
    SendOutcome,
    TopicPlan,
    TransportDown,
)

PARTITIONS = 4
RECORD_BYTES_MAX = 1_000_000
LEASE = timedelta(seconds=10)  # how long a killed consumer keeps its partitions from the others; renewed with each record

_NEXT_OFFSETS = """
INSERT INTO messaging_localpartition (topic, partition, next_offset) VALUES (%s, %s, %s)
ON CONFLICT (topic, partition) DO UPDATE SET next_offset = messaging_localpartition.next_offset + excluded.next_offset
RETURNING next_offset
"""
_APPEND = """
INSERT INTO messaging_localrecord (topic, partition, "offset", key, value, appended_at)
SELECT %s, %s, o, k, v, %s FROM unnest(%s::bigint[], %s::text[], %s::bytea[]) AS r(o, k, v)
"""
# Only what is new, free, or ours and half over: to touch a row costs a write, and a consumer looks several times a second.
_OWN = """
INSERT INTO messaging_localcursor AS mine ("group", topic, partition, next_offset, token, lease_until)
SELECT %(group)s, topic, partition, 0, %(token)s, %(until)s FROM messaging_localpartition p
WHERE topic = ANY(%(topics)s) AND NOT EXISTS (
    SELECT FROM messaging_localcursor c WHERE c."group" = %(group)s AND c.topic = p.topic AND c.partition = p.partition
    AND c.lease_until > CASE WHEN c.token = %(token)s THEN %(half)s ELSE %(now)s END
) ORDER BY topic, partition
ON CONFLICT ("group", topic, partition) DO UPDATE SET token = excluded.token, lease_until = excluded.lease_until
WHERE mine.token = excluded.token OR mine.lease_until <= %(now)s
"""
# In turns: the first record of every partition, then the second, so that a busy partition does not starve the others.
_READ = """
SELECT r.topic, r.partition, r."offset", r.key, r.value FROM messaging_localcursor c
CROSS JOIN LATERAL (
    SELECT * FROM messaging_localrecord r
    WHERE r.topic = c.topic AND r.partition = c.partition AND r."offset" >= c.next_offset
    ORDER BY r."offset" LIMIT %(records_max)s
) r
WHERE c."group" = %(group)s AND c.topic = ANY(%(topics)s) AND c.token = %(token)s
  AND NOT EXISTS (
    SELECT FROM unnest(%(paused_topics)s::text[], %(paused_partitions)s::int[]) AS paused (topic, partition)
    WHERE paused.topic = c.topic AND paused.partition = c.partition
  )
ORDER BY r."offset" - c.next_offset, r.topic, r.partition LIMIT %(records_max)s
"""
_COMMIT = """
UPDATE messaging_localcursor SET next_offset = %s, lease_until = %s
WHERE "group" = %s AND topic = %s AND partition = %s AND token = %s AND next_offset < %s
"""
_LAG = """
SELECT p.topic, p.partition, p.next_offset - coalesce(c.next_offset, 0) FROM messaging_localpartition p
LEFT JOIN messaging_localcursor c ON c.topic = p.topic AND c.partition = p.partition AND c."group" = %s
WHERE p.topic = ANY(%s)
"""
# Locked in the order of _OWN, which another member may be at.
_LEAVE = """
UPDATE messaging_localcursor SET lease_until = %(now)s WHERE token = %(token)s AND id = ANY(ARRAY(
    SELECT id FROM messaging_localcursor WHERE "group" = %(group)s AND token = %(token)s
    ORDER BY topic, partition FOR UPDATE
))
"""


def partition_of(key: str) -> int:
    """The partition of a key."""
    return zlib.crc32(key.encode()) % PARTITIONS


@transaction
def _append(records: Sequence[OutgoingRecord]) -> None:
    by_partition: dict[tuple[str, int], list[OutgoingRecord]] = defaultdict(list)
    for record in records:
        by_partition[record.topic, partition_of(record.key)].append(record)
    with connection.cursor() as cursor:
        # Sorted, so that two writers never wait for each other in a circle.
        for (topic, partition), batch in sorted(by_partition.items(), key=lambda item: item[0]):
            cursor.execute(_NEXT_OFFSETS, [topic, partition, len(batch)])
            (end,) = cursor.fetchone()
            offsets = list(range(end - len(batch), end))
            values = [record.value for record in batch]
            cursor.execute(_APPEND, [topic, partition, timezone.now(), offsets, [r.key for r in batch], values])


class LocalTransport:
    """The log's writing side."""

    @durable
    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Append in one commit. A record over RECORD_BYTES_MAX is refused, as a broker would."""
        outcomes: list[SendOutcome] = []
        accepted: list[OutgoingRecord] = []
        blocked: set[tuple[str, str]] = set()
        for record in records:
            if (record.topic, record.key) in blocked:
                outcomes.append(SendOutcome(Fate.NOT_SENT))
            elif len(record.value) > RECORD_BYTES_MAX:
                blocked.add((record.topic, record.key))
                outcomes.append(SendOutcome(Fate.REFUSED, f"larger than {RECORD_BYTES_MAX} bytes"))
            else:
                accepted.append(record)
                outcomes.append(SendOutcome(Fate.ACKNOWLEDGED))
        try:
            _append(accepted)
        except (OperationalError, InterfaceError) as error:
            raise TransportDown(str(error)) from error
        wakeup.records_were_appended()
        return outcomes

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Join a group: this member takes every partition whose owner's lease is over."""
        return LocalConsumer(group=group, topics=list(topics), token=uuid7())

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """The log's end minus the group's cursor."""
        with connection.cursor() as cursor:
            cursor.execute(_LAG, [group, list(topics)])
            return {(topic, partition): behind for topic, partition, behind in cursor.fetchall()}

    def check(self) -> None:
        """The broker is our own database: nothing to log in to."""

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        """A topic comes into being with its first record."""
        return [TopicPlan(topic.name, "ok", "local: made with its first record") for topic in topics]

    def create_topics(self, topics: Sequence[DesiredTopic]) -> None:
        """Nothing to do."""


class LocalConsumer:
    """The log's reading side: one member of a group."""

    def __init__(self, *, group: str, topics: list[str], token: UUID) -> None:
        self._group, self._topics, self._token = group, topics, token
        self._paused: dict[tuple[str, int], float] = {}  # topic and partition -> when it goes on

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """Renew the leases and read; wait for up to ``timeout_s`` when there is nothing."""
        seen = wakeup.appended_count()
        found = self._read(records_max)
        if not found and timeout_s > 0:
            wakeup.wait_for_records(seen, timeout_s=timeout_s)
            found = self._read(records_max)
        return found

    def _read(self, records_max: int) -> list[IncomingRecord]:
        now = timezone.now()
        mine: dict[str, Any] = {"group": self._group, "topics": self._topics, "token": self._token}
        with connection.cursor() as cursor:
            cursor.execute(_OWN, {**mine, "now": now, "half": now + LEASE / 2, "until": now + LEASE})
            cursor.execute(_READ, {**mine, **self._still_paused(), "records_max": records_max})
            return [IncomingRecord(t, p, o, k, bytes(v)) for t, p, o, k, v in cursor.fetchall()]

    def _still_paused(self) -> dict[str, list[Any]]:
        now = time.monotonic()
        self._paused = {partition: until for partition, until in self._paused.items() if until > now}
        return {
            "paused_topics": [topic for topic, _ in self._paused],
            "paused_partitions": [partition for _, partition in self._paused],
        }

    def retry(self, record: IncomingRecord, *, after_s: float) -> None:
        """The cursor has not moved, so the partition only waits."""
        self._paused[record.topic, record.partition] = time.monotonic() + after_s

    def commit(self, record: IncomingRecord) -> None:
        """Move the cursor. A member that lost the partition moves nothing."""
        after = record.offset + 1
        with connection.cursor() as cursor:
            cursor.execute(
                _COMMIT, [after, timezone.now() + LEASE, self._group, record.topic, record.partition, self._token, after]
            )

    def close(self) -> None:
        """Give the partitions back."""
        with connection.cursor() as cursor:
            cursor.execute(_LEAVE, {"group": self._group, "token": self._token, "now": timezone.now()})
