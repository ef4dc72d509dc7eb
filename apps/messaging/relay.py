"""The relay: rows to the broker, in order per topic and key, marked only after the broker's acknowledgement.

Note [The database works while the broker does]
While a full batch is under way the next one is read, and it is marked while the next one is under way. At no time are
two batches under way: the next is begun when every row of the one before is acknowledged, so a row that fails is
overtaken by none of its key. One that was not acknowledged wholly is marked first, and what comes next is read anew.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from weakref import WeakKeyDictionary

from django.utils import timezone

from apps.common.transactions import durable
from apps.messaging import counting, envelope, ownership, wire
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.ownership import Owner, Row
from apps.messaging.transports import transport
from apps.messaging.transports.base import (
    Fate,
    OutgoingRecord,
    Sending,
    SendOutcome,
    SendsInBackground,
    Transport,
    TransportDown,
)

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.01
WAIT_FOR_SHARE_S = 1.0  # a few batches of the others
BREAKER_S_MIN, BREAKER_S_MAX = 0.5, 5.0  # after a broker that did not answer, nobody of this process asks it for so long


@dataclass(frozen=True, slots=True)
class Relayed:
    """What the rounds did. ``broker_down``: nothing was counted against any row."""

    acknowledged: int = 0
    refused: int = 0
    broker_down: bool = False


class _Breaker:
    """Leaves a broker alone for a while that has not answered: every question would cost a connection's timeout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pause_s, self._closed_at = BREAKER_S_MIN, 0.0

    def is_open(self) -> bool:
        return time.monotonic() < self._closed_at

    def broker_is_down(self) -> None:
        with self._lock:
            self._closed_at = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, BREAKER_S_MAX)

    def broker_answers(self) -> None:
        self._pause_s, self._closed_at = BREAKER_S_MIN, 0.0


_breakers: WeakKeyDictionary[Transport, _Breaker] = WeakKeyDictionary()


def breaker_of(broker: Transport) -> _Breaker:
    """The breaker in front of a broker."""
    return _breakers.setdefault(broker, _Breaker())


def _record(row: Row) -> OutgoingRecord:
    _seq, topic, key, _attempts, message_id, schema, global_id, trace, payload = row
    headers = envelope.headers(message_id=message_id, schema=schema, global_id=global_id, trace=trace)
    if topic.endswith(".error"):
        headers += envelope.error_headers(payload)
    return OutgoingRecord(topic, key, wire.to_wire(topic=topic, schema=schema, payload=payload.encode()), headers)


class _Batch:
    """Rows on their way to the broker. A row that cannot be brought into its wire form is refused, and blocks its key."""

    def __init__(self, rows: Sequence[Row], broker: Transport) -> None:
        self.rows = rows
        self.began_at = time.monotonic()
        self._broker = broker
        self._decided: dict[int, SendOutcome] = {}
        self._sending: Sending | None = None
        self._down: TransportDown | None = None
        try:
            self._records = self._make()
            if isinstance(broker, SendsInBackground):
                self._sending = broker.begin(self._records)
        except TransportDown as error:
            self._down = error

    def _make(self) -> list[OutgoingRecord]:
        records: list[OutgoingRecord] = []
        blocked: set[tuple[str, str]] = set()
        for row in self.rows:
            if blocked and (row.topic, row.key) in blocked:
                self._decided[row.seq] = SendOutcome(Fate.NOT_SENT)
                continue
            try:
                records.append(_record(row))
            except InvalidMessage as error:
                blocked.add((row.topic, row.key))
                self._decided[row.seq] = SendOutcome(Fate.REFUSED, str(error))
        return records

    def outcomes(self) -> list[SendOutcome]:
        """Wait for the last word about every row. Raises TransportDown."""
        if self._down is not None:
            raise self._down
        sent = self._sending.outcomes() if self._sending is not None else self._broker.send(self._records)
        if not self._decided:
            return list(sent)
        answers = iter(sent)
        return [self._decided[row.seq] if row.seq in self._decided else next(answers) for row in self.rows]


def _first_rows(owner: Owner, now: datetime | None) -> list[Row]:
    """What is due and nobody else's; when others own all of it, wait for a share of it."""
    rows = owner.begin(now=now or timezone.now())
    if rows is None:
        asked = owner.ask(now=now or timezone.now())
        deadline = time.monotonic() + (WAIT_FOR_SHARE_S if asked else LOOK_AGAIN_S)
        while rows is None and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
            rows = owner.begin(now=now or timezone.now())
        if asked:
            owner.withdraw()
    return rows or []


class _Work:
    """Batch after batch, while there is something to send."""

    def __init__(self, owner: Owner, broker: Transport, rounds_max: int, now: datetime | None) -> None:
        self._owner, self._broker, self._rounds_max, self._fixed_now = owner, broker, rounds_max, now
        self.relayed = Relayed()

    def run(self, rows: list[Row]) -> None:
        """Raises TransportDown; ``relayed`` tells what was done until then."""
        batch: _Batch | None = _Batch(rows, self._broker)
        rounds = 0
        while batch is not None:
            rounds += 1
            batch = self._round(batch, is_last=rounds >= self._rounds_max)

    def _now(self) -> datetime:
        return self._fixed_now or timezone.now()

    def _round(self, batch: _Batch, *, is_last: bool) -> _Batch | None:
        """See one batch through. The next one, if there is one, is under way before this one is marked."""
        ahead: list[Row] = []
        if not is_last and len(batch.rows) >= ownership.BATCH_ROWS_MAX:
            ahead = self._owner.read_ahead(batch.rows, now=self._now())
        outcomes = batch.outcomes()
        counting.relayed(batch.rows, outcomes, took_s=time.monotonic() - batch.began_at)
        self._count(outcomes)
        fates = {outcome.fate for outcome in outcomes}
        if ahead and fates == {Fate.ACKNOWLEDGED}:
            following = _Batch(ahead, self._broker)
            self._owner.settle(batch.rows, outcomes, now=self._now())
            return following
        # When nothing was acknowledged, the next round would find the same rows.
        if is_last or Fate.ACKNOWLEDGED not in fates:
            self._owner.settle_and_leave(batch.rows, outcomes, now=self._now())
            return None
        rows = self._owner.settle_and_read(batch.rows, outcomes, now=self._now())
        return _Batch(rows, self._broker) if rows else None

    def _count(self, outcomes: Sequence[SendOutcome]) -> None:
        fates = [outcome.fate for outcome in outcomes]
        self.relayed = Relayed(
            self.relayed.acknowledged + fates.count(Fate.ACKNOWLEDGED), self.relayed.refused + fates.count(Fate.REFUSED)
        )


@durable
def relay_once(*, now: datetime | None = None) -> Relayed:
    """Send one batch of what is due. Safe to run anywhere, any number of times, at the same time."""
    return relay_all(rounds_max=1, now=now)


@durable
def relay_all(*, rounds_max: int = 100, now: datetime | None = None) -> Relayed:
    """Send until nothing is due, the broker is away, or ``rounds_max`` batches are through.

    Safe to run anywhere, any number of times, at the same time. ``now`` stands still for tests.
    """
    broker = transport()
    breaker = breaker_of(broker)
    if breaker.is_open():
        return Relayed(broker_down=True)
    owner = Owner()
    rows = _first_rows(owner, now)
    if not rows:
        return Relayed()
    work = _Work(owner, broker, rounds_max, now)
    try:
        work.run(rows)
    except TransportDown as error:
        logger.warning("the broker is away: %s", error)
        counting.relay_failed(counting.BROKER_DOWN)
        breaker.broker_is_down()
        owner.leave()
        return replace(work.relayed, broker_down=True)
    except Exception:
        counting.relay_failed(counting.ERROR)
        owner.leave()  # A bug: the next relay need not wait for the lease to see it too.
        raise
    breaker.broker_answers()
    return work.relayed
