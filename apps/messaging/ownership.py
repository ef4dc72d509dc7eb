"""Who relays what: the buckets that one relay owns, and its transactions on the pending rows.

Note [Order with several relays]
A relay owns buckets, not rows: it takes a lease with a token on buckets that nobody owns, so one key is never in two
hands. SKIP LOCKED on rows would hand m1 to one relay and m2 of the same key to another. If a relay stalls past its
lease, the next owner sends the same rows again in the same order; the inbox drops the copies. Rows are marked by the ids
that were read, never by a range: a row with a lower seq may commit in between.

Note [Giving the buckets back]
The transaction that marks a relay's last batch finds nothing more and gives the buckets back, all in one commit: a row
that was committed before it is in its snapshot, and the wake-up of one committed after it finds the buckets free. In
between lie a few milliseconds in which a wake-up finds them taken; that is why a relay looks a second time.

Note [Several relays share]
A relay that finds due rows and no free bucket leaves a request, one at a time, and waits a moment. An owner looks for
requests when it reads, and then keeps only its fair share of the buckets. So two relays soon own half each, and one alone
owns all.
"""

import logging
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from apps.common.clock import uuid7
from apps.common.transactions import transaction
from apps.messaging.outbox import BUCKETS
from apps.messaging.transports.base import Fate, SendOutcome

logger = logging.getLogger(__name__)

BATCH_ROWS_MAX = 4_000
BATCH_BYTES_MAX = 32_000_000  # of the payloads that one batch holds in memory; a row larger than it goes alone
# Longer than a batch may take (transports/kafka.py: SEND_S_MAX, 12 s); a killed relay delays its buckets by this much.
LEASE = timedelta(seconds=15)
REQUEST_FOR = timedelta(seconds=2)  # longer than the wait; what a killed relay has asked for is nobody's for so long
ATTEMPTS_MAX = 8  # of a row that the broker refuses by itself; with the delays below about four minutes
DELAY_MAX = timedelta(minutes=1)

# A row waits while an earlier one of its topic and key is put off or parked: the key is blocked, nobody else.
_DUE = """
p.parked_at IS NULL AND p.due_at <= %(now)s AND NOT EXISTS (
    SELECT FROM messaging_pending e WHERE e.attempts > 0 AND e.topic = p.topic AND e.key = p.key AND e.seq < p.seq
    AND (e.parked_at IS NOT NULL OR e.due_at > %(now)s)
)
"""
_ANY_DUE = f"SELECT EXISTS (SELECT FROM messaging_pending p WHERE {_DUE})"  # noqa: S608  # our own text
# One message is looked up at a time, in the partition of its day: a join would be planned by the statistics of a table
# that is empty in one moment and holds a million rows in the next.
_READ = f"""
SELECT p.seq, p.topic, p.key, p.attempts, m.id::text, m.type, m.global_id, m.trace, m.payload FROM (
    SELECT * FROM messaging_pending p
    WHERE p.bucket = ANY(%(buckets)s::int[]) AND p.seq <> ALL(%(without)s::bigint[]) AND {_DUE}
    ORDER BY p.seq LIMIT %(rows_max)s
) p CROSS JOIN LATERAL (SELECT * FROM messaging_message m WHERE m.id = p.message_id LIMIT 1) m
ORDER BY p.seq
"""  # noqa: S608  # our own text
# In the order of buckets: two that lock in different orders would wait for each other.
_CLAIM = """
INSERT INTO messaging_bucket AS b (bucket, token, lease_until)
SELECT n, %(token)s, %(until)s FROM generate_series(0, %(last)s) AS buckets (n) WHERE NOT EXISTS (
    SELECT FROM messaging_bucket taken WHERE taken.bucket = n AND taken.lease_until > %(now)s
) ORDER BY n
ON CONFLICT (bucket) DO UPDATE SET token = excluded.token, lease_until = excluded.lease_until
WHERE b.lease_until <= %(now)s RETURNING bucket
"""
# By a relay that holds locks on buckets already: it must not wait for more, or two could wait for each other.
_CLAIM_MORE = """
UPDATE messaging_bucket b SET token = %(token)s, lease_until = %(until)s FROM (
    SELECT bucket FROM messaging_bucket WHERE lease_until <= %(now)s ORDER BY bucket FOR UPDATE SKIP LOCKED
) free WHERE b.bucket = free.bucket RETURNING b.bucket
"""
_RENEW = """
UPDATE messaging_bucket b SET lease_until = %(until)s FROM (
    SELECT bucket FROM messaging_bucket WHERE token = %(token)s ORDER BY bucket FOR UPDATE
) mine WHERE b.bucket = mine.bucket AND b.token = %(token)s RETURNING b.bucket
"""
# Nobody's token: else its former owner would renew what it has given back.
_LET_GO = """
UPDATE messaging_bucket b SET lease_until = 'epoch', token = '00000000-0000-0000-0000-000000000000' FROM (
    SELECT bucket FROM messaging_bucket WHERE token = %(token)s AND bucket = ANY(%(buckets)s) ORDER BY bucket FOR UPDATE
) mine WHERE b.bucket = mine.bucket AND b.token = %(token)s
"""
_SHARERS = """
SELECT (SELECT count(DISTINCT token) FROM messaging_bucket WHERE lease_until > %(now)s AND token <> %(token)s),
       (SELECT count(*) FROM messaging_relayrequest WHERE asked_until > %(now)s AND token <> %(token)s)
"""
_ASK = """
INSERT INTO messaging_relayrequest (token, asked_until) SELECT %(token)s, %(until)s
WHERE NOT EXISTS (SELECT FROM messaging_relayrequest)
"""


class Row(NamedTuple):  # a frozen dataclass costs six times as much to make, and there are many
    seq: int
    topic: str
    key: str
    attempts: int
    message_id: str
    schema: str
    global_id: str
    trace: str
    payload: str


class Owner:
    """One relay at work: its token, the buckets that it owns, and its transactions."""

    def __init__(self) -> None:
        self.token = uuid7()
        self.buckets: list[int] = []
        self.giving_up: list[int] = []  # when what is under way is marked

    @transaction
    def begin(self, *, now: datetime) -> list[Row] | None:
        """Claim what is free and read; None when there is work and others own its buckets."""
        with connection.cursor() as cursor:
            cursor.execute(_ANY_DUE, {"now": now})
            if not cursor.fetchone()[0]:
                return []
            self._claim(cursor, now)
            if not self.buckets:
                return None
            # The next statement, and so a new snapshot: it sees what the former owner of a bucket has deleted.
            return self._read_or_let_go(cursor, now)

    @transaction
    def read_ahead(self, under_way: Sequence[Row], *, now: datetime) -> list[Row]:
        """What comes after a batch that is under way, in the buckets that are to be kept."""
        with connection.cursor() as cursor:
            self._share(cursor, now)
            return self._read(cursor, now, without=[row.seq for row in under_way])

    @transaction
    def settle(self, rows: Sequence[Row], outcomes: Sequence[SendOutcome], *, now: datetime) -> None:
        """Mark a batch, while the next one is under way."""
        with connection.cursor() as cursor:
            self._mark(cursor, rows, outcomes, now)
            self._let_go(cursor, self.giving_up)
            self.giving_up = []

    @transaction
    def settle_and_read(self, rows: Sequence[Row], outcomes: Sequence[SendOutcome], *, now: datetime) -> list[Row]:
        """Mark a batch, and read the next one; when there is none, give everything back."""
        with connection.cursor() as cursor:
            self._mark(cursor, rows, outcomes, now)
            self._share(cursor, now)
            self._let_go(cursor, self.giving_up)
            self.giving_up = []
            return self._read_or_let_go(cursor, now)

    @transaction
    def settle_and_leave(self, rows: Sequence[Row], outcomes: Sequence[SendOutcome], *, now: datetime) -> None:
        """Mark the last batch, and give everything back."""
        with connection.cursor() as cursor:
            self._mark(cursor, rows, outcomes, now)
            self._let_go(cursor, [*self.buckets, *self.giving_up])

    @transaction
    def leave(self) -> None:
        """Give everything back."""
        with connection.cursor() as cursor:
            self._let_go(cursor, [*self.buckets, *self.giving_up])

    @transaction
    def ask(self, *, now: datetime) -> bool:
        """Ask the owners for a share. False when another relay does so already."""
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM messaging_relayrequest WHERE asked_until <= %s", [now])
            cursor.execute(_ASK, {"token": self.token, "until": now + REQUEST_FOR})
            return bool(cursor.rowcount)

    @transaction
    def withdraw(self) -> None:
        """Take the request back."""
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM messaging_relayrequest WHERE token = %s", [self.token])

    def _mark(self, cursor: Any, rows: Sequence[Row], outcomes: Sequence[SendOutcome], now: datetime) -> None:
        cursor.execute(_RENEW, {"token": self.token, "until": now + LEASE})
        mine = {bucket for (bucket,) in cursor.fetchall()}
        self.buckets = [bucket for bucket in self.buckets if bucket in mine]
        # Acknowledged is acknowledged, even if the lease was lost meanwhile.
        acknowledged = [row.seq for row, outcome in zip(rows, outcomes, strict=True) if outcome.fate is Fate.ACKNOWLEDGED]
        cursor.execute("DELETE FROM messaging_pending WHERE seq = ANY(%s::bigint[])", [acknowledged])
        if len(acknowledged) < len(rows):
            for row, outcome in zip(rows, outcomes, strict=True):
                if outcome.fate is Fate.REFUSED:
                    _put_off(cursor, row, outcome.reason, token=self.token, now=now)

    def _claim(self, cursor: Any, now: datetime, statement: str = _CLAIM) -> None:
        cursor.execute(statement, {"token": self.token, "now": now, "until": now + LEASE, "last": BUCKETS - 1})
        self.buckets += [bucket for (bucket,) in cursor.fetchall()]

    def _share(self, cursor: Any, now: datetime) -> None:
        """Choose what to give up above a fair share, or take what is free."""
        cursor.execute(_SHARERS, {"token": self.token, "now": now})
        owners, requests = cursor.fetchone()
        fair = math.ceil(BUCKETS / (1 + owners + requests))
        if requests:
            self.giving_up += self.buckets[fair:]
            self.buckets = self.buckets[:fair]
        elif len(self.buckets) + len(self.giving_up) + owners < BUCKETS:
            self._claim(cursor, now, _CLAIM_MORE)

    def _read(self, cursor: Any, now: datetime, *, without: Sequence[int] = ()) -> list[Row]:
        values = {"buckets": self.buckets, "now": now, "without": list(without), "rows_max": BATCH_ROWS_MAX}
        cursor.execute(_READ, values)
        return _within(list(map(Row._make, cursor.fetchall())), BATCH_BYTES_MAX)

    def _read_or_let_go(self, cursor: Any, now: datetime) -> list[Row]:
        rows = self._read(cursor, now)
        if not rows:
            self._let_go(cursor, self.buckets)
        return rows

    def _let_go(self, cursor: Any, buckets: Sequence[int]) -> None:
        if buckets:
            cursor.execute(_LET_GO, {"token": self.token, "buckets": list(buckets)})


def _within(rows: list[Row], bytes_max: int) -> list[Row]:
    total = 0
    for index, row in enumerate(rows):
        total += len(row.payload)
        if total > bytes_max and index:
            return rows[:index]
    return rows


def delay(attempts: int) -> timedelta:
    """How long a refused row waits before its next attempt: 2, 4, 8 … seconds, at most DELAY_MAX."""
    return min(timedelta(seconds=2**attempts), DELAY_MAX)


def _put_off(cursor: Any, row: Row, reason: str, *, token: UUID, now: datetime) -> None:
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
        logger.error("message %s on %s is parked: %s", row.message_id, row.topic, reason)
