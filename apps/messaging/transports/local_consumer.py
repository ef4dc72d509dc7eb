"""The local transport: one member of a consumer group.

Note [Who owns a partition]
A cursor's row names the member that owns the partition. A member is a row with a lease that it renews; when it leaves,
or when the others find its lease over, the row goes, and what it owned is free. Each poll compares what the member owns
with its share (shares.py): it lets go of what is not in it, and takes what is in it and free. So a partition changes
hands only between two polls of its owner, or when its owner is gone. Two members may see different members for a
moment and want the same partition. The cursor's row decides: it is taken only if it still names whom it was seen to
name. A token is never used twice, so nobody comes back to what was taken from him.

Note [Noted offsets]
``commit(record)`` only notes; the next ``poll`` and ``close`` write what was noted, in one statement and before anything
is let go: what was committed is not read by the next owner. A member that handles one batch for long writes and renews
in between. A crash means that records are read again; the inbox drops the copies.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from apps.common.clock import uuid7
from apps.messaging import wakeup
from apps.messaging.transports.base import IncomingRecord
from apps.messaging.transports.shares import share

PARTITIONS = 4
LEASE = timedelta(seconds=10)  # how long a killed member keeps its partitions; also the longest time in one handler
RENEW_S = 2.5  # so that three quarters of the lease are left for what a poll gives
JUST_NOW_S = 0.05  # a look that is not older is good enough for whoever waits anyway
VIEWS_MAX = 3  # of the group in one poll: as it is, without those whose lease is over, and with us back in it
NOBODY = UUID(int=0)

_JOIN = 'INSERT INTO messaging_localmember (token, "group", topics, lease_until) VALUES (%s, %s, %s, %s)'
_RENEW = "UPDATE messaging_localmember SET lease_until = %s WHERE token = %s"
_LEAVE = "DELETE FROM messaging_localmember WHERE token = %s"
# A member that renews at this moment holds its row: it is skipped, and is not gone.
_BURY = """
DELETE FROM messaging_localmember WHERE token = ANY(ARRAY(
    SELECT token FROM messaging_localmember WHERE "group" = %(group)s AND lease_until <= %(now)s FOR UPDATE SKIP LOCKED
))
"""
_VIEW = """
SELECT p.topic, p.partition, p.next_offset, coalesce(c.next_offset, 0), c.token, m.tokens, m.expired
FROM messaging_localpartition p
LEFT JOIN messaging_localcursor c ON c."group" = %(group)s AND c.topic = p.topic AND c.partition = p.partition
LEFT JOIN (
    SELECT topic, array_agg(token) AS tokens, bool_or(lease_until <= %(now)s) AS expired
    FROM messaging_localmember, unnest(topics) AS topic WHERE "group" = %(group)s GROUP BY topic
) m ON m.topic = p.topic
WHERE p.topic = ANY(%(topics)s)
"""
# Where several rows are locked, it is in the order of topic and partition: two members never wait in a circle.
_ADVANCE = """
WITH mine AS (
    SELECT c.id, n.next_offset FROM messaging_localcursor c
    JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(offsets)s::bigint[]) AS n (topic, partition, next_offset)
      ON c.topic = n.topic AND c.partition = n.partition
    WHERE c."group" = %(group)s AND c.token = %(token)s AND c.next_offset < n.next_offset
    ORDER BY c.topic, c.partition FOR UPDATE OF c
)
UPDATE messaging_localcursor c SET next_offset = mine.next_offset FROM mine WHERE c.id = mine.id
"""
_LET_GO = """
UPDATE messaging_localcursor SET token = %(nobody)s WHERE id = ANY(ARRAY(
    SELECT c.id FROM messaging_localcursor c
    JOIN unnest(%(topics)s::text[], %(partitions)s::int[]) AS n (topic, partition)
      ON c.topic = n.topic AND c.partition = n.partition
    WHERE c."group" = %(group)s AND c.token = %(token)s ORDER BY c.topic, c.partition FOR UPDATE OF c
))
"""
_OPEN = """
INSERT INTO messaging_localcursor ("group", topic, partition, next_offset, token)
SELECT %(group)s, topic, partition, 0, %(nobody)s
FROM unnest(%(topics)s::text[], %(partitions)s::int[]) AS n (topic, partition) ORDER BY topic, partition
ON CONFLICT ("group", topic, partition) DO NOTHING
"""
_TAKE = """
UPDATE messaging_localcursor SET token = %(token)s WHERE id = ANY(ARRAY(
    SELECT c.id FROM messaging_localcursor c
    JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(seen)s::uuid[]) AS n (topic, partition, seen)
      ON c.topic = n.topic AND c.partition = n.partition
    WHERE c."group" = %(group)s AND c.token = n.seen FOR UPDATE OF c SKIP LOCKED
)) RETURNING topic, partition, next_offset
"""
_READ = """
SELECT r.topic, r.partition, r."offset", r.key, r.value FROM messaging_localcursor c
JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(rows_max)s::int[]) AS n (topic, partition, rows_max)
  ON c.topic = n.topic AND c.partition = n.partition
CROSS JOIN LATERAL (
    SELECT * FROM messaging_localrecord r
    WHERE r.topic = c.topic AND r.partition = c.partition AND r."offset" >= c.next_offset
    ORDER BY r."offset" LIMIT n.rows_max
) r
WHERE c."group" = %(group)s AND c.token = %(token)s ORDER BY r.topic, r.partition, r."offset"
"""

_Place = tuple[str, int]  # topic and partition


@dataclass(frozen=True, slots=True)
class _Partition:
    """A partition as the group sees it. ``owner`` may be gone; None: nobody in the group has ever read it."""

    topic: str
    number: int
    end: int
    next_offset: int
    owner: UUID | None
    members: frozenset[UUID]

    @property
    def place(self) -> _Place:
        return self.topic, self.number

    def is_in_share_of(self, member: UUID) -> bool:
        names = [str(one) for one in self.members]
        return self.number in share(self.topic, partitions=PARTITIONS, members=names, member=str(member))


class LocalConsumer:
    """One member of a group. For one thread."""

    def __init__(self, *, group: str, topics: Sequence[str]) -> None:
        self._group, self._topics = group, sorted(topics)
        self._token = NOBODY  # until the first poll
        self._renewed_at = 0.0
        self._noted: dict[_Place, int] = {}  # the offset after the last record that is done
        self._paused: dict[_Place, float] = {}  # when it goes on
        self._owned: frozenset[_Place] = frozenset()
        self._empty_at = (-1, 0.0)  # of the last look, when it found nothing: how much this process had appended, and when

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """Write what was noted, let go of and take what the group's members make necessary, and read.

        Waits for up to ``timeout_s`` when there is nothing. Who polls again and again looks once a poll: the look with
        which the poll before has ended stands for the first of the next.
        """
        seen = wakeup.appended_count()
        found = [] if timeout_s > 0 and self._has_just_looked(seen) else self._look(records_max)
        if not found and timeout_s > 0:
            wakeup.wait_for_records(seen, timeout_s=timeout_s)
            found = self._look(records_max)
        return found

    def _has_just_looked(self, appended: int) -> bool:
        counted, at = self._empty_at
        return counted == appended and time.monotonic() - at < JUST_NOW_S

    def _look(self, records_max: int) -> list[IncomingRecord]:
        seen = wakeup.appended_count()
        found = self._poll(records_max)
        self._empty_at = (-1, 0.0) if found else (seen, time.monotonic())
        return found

    def commit(self, record: IncomingRecord) -> None:
        """Note the offset; see Note [Noted offsets]."""
        self._noted[record.topic, record.partition] = record.offset + 1
        if self._is_due():
            self._advance()
            self._renew()  # If we were buried meanwhile, the next poll finds out.

    def retry(self, record: IncomingRecord, *, after_s: float) -> None:
        """The cursor stays at the record, so the partition only waits."""
        self._paused[record.topic, record.partition] = time.monotonic() + after_s

    def close(self) -> None:
        """Write what was noted, and leave."""
        self._advance()
        self._execute(_LEAVE, [self._token])
        self._token, self._owned = NOBODY, frozenset()

    def assignment(self) -> frozenset[_Place]:
        """The partitions that this member owned at its last poll."""
        return self._owned

    def _poll(self, records_max: int) -> list[IncomingRecord]:
        self._advance()
        now = timezone.now()
        if self._token == NOBODY or (self._is_due() and not self._renew()):
            self._join(now)
        available = self._settle(self._view(now))
        self._owned = frozenset(available)
        return self._read(self._not_paused(available), records_max)

    def _is_due(self) -> bool:
        return time.monotonic() - self._renewed_at >= RENEW_S

    def _renew(self) -> bool:
        renewed = self._execute(_RENEW, [timezone.now() + LEASE, self._token])
        self._renewed_at = time.monotonic()
        return bool(renewed)

    def _join(self, now: datetime) -> None:
        self._token, self._renewed_at = uuid7(), time.monotonic()
        self._execute(_JOIN, [self._token, self._group, self._topics, now + LEASE])

    def _view(self, now: datetime) -> list[_Partition]:
        """The group's partitions and members, all of them alive and we among them."""
        asked: dict[str, Any] = {"group": self._group, "topics": self._topics, "now": now}
        found: list[_Partition] = []
        for _ in range(VIEWS_MAX):
            with connection.cursor() as cursor:
                cursor.execute(_VIEW, asked)
                rows = cursor.fetchall()
            found = [_Partition(t, p, end, at, owner, frozenset(tokens or ())) for t, p, end, at, owner, tokens, _ in rows]
            if any(expired for *_, expired in rows):
                self._execute(_BURY, asked)
            elif any(self._token not in partition.members for partition in found):
                self._join(now)  # We were buried, and what we owned is not ours any more.
            else:
                break
        return found

    def _settle(self, partitions: Sequence[_Partition]) -> dict[_Place, int]:
        """Let go and take. What is ours then, and how many records wait there."""
        mine = {partition.place: partition for partition in partitions if partition.owner == self._token}
        share = {partition.place: partition for partition in partitions if partition.is_in_share_of(self._token)}
        if surplus := [place for place in mine if place not in share]:
            self._execute(_LET_GO, {**self._at(surplus), "nobody": NOBODY})
        offsets = {place: partition.next_offset for place, partition in mine.items() if place in share}
        if free := [one for one in share.values() if one.owner not in one.members]:
            offsets |= self._take(free)
        return {place: max(share[place].end - offset, 0) for place, offset in offsets.items()}

    def _take(self, free: Sequence[_Partition]) -> dict[_Place, int]:
        if fresh := [partition.place for partition in free if partition.owner is None]:
            self._execute(_OPEN, {**self._at(fresh), "nobody": NOBODY})
        seen = [partition.owner or NOBODY for partition in free]
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, {**self._at([partition.place for partition in free]), "seen": seen})
            return {(topic, partition): offset for topic, partition, offset in cursor.fetchall()}

    def _read(self, available: dict[_Place, int], records_max: int) -> list[IncomingRecord]:
        rows_max = evenly(available, records_max)
        if not rows_max:
            return []
        with connection.cursor() as cursor:
            cursor.execute(_READ, {**self._at(list(rows_max)), "rows_max": list(rows_max.values())})
            return [IncomingRecord(t, p, o, k, bytes(v)) for t, p, o, k, v in cursor.fetchall()]

    def _not_paused(self, available: dict[_Place, int]) -> dict[_Place, int]:
        now = time.monotonic()
        self._paused = {place: until for place, until in self._paused.items() if until > now and place in available}
        return {place: records for place, records in available.items() if place not in self._paused}

    def _advance(self) -> None:
        if self._noted:
            self._execute(_ADVANCE, {**self._at(list(self._noted)), "offsets": list(self._noted.values())})
            self._noted.clear()

    def _at(self, places: Sequence[_Place]) -> dict[str, Any]:
        """The parameters of a statement about some of the partitions."""
        return {
            "group": self._group,
            "token": self._token,
            "topics": [topic for topic, _ in places],
            "partitions": [partition for _, partition in places],
        }

    @staticmethod
    def _execute(sql: str, parameters: Any) -> int:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)


def evenly(available: dict[_Place, int], records_max: int) -> dict[_Place, int]:
    """How many records to read of each partition: a busy one does not starve the others, and nothing is left unused."""
    found: dict[_Place, int] = {}
    left = records_max
    waiting = sorted((records, place) for place, records in available.items() if records)
    for index, (records, place) in enumerate(waiting):
        fair = -(-left // (len(waiting) - index))
        if rows := min(records, fair):
            found[place] = rows
            left -= rows
    return found
