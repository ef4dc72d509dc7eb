"""The consumer: broker to inbox to handler, then the offset. One message that fails holds up its own key and no other.

Note [What shares a commit]
Consecutive messages of one partition whose handler allows it are handled in one transaction: a unit. Everything else is a
unit of one. A unit that fails as a whole is taken apart and each message handled in a transaction of its own, so the one
that is to blame is found; it alone goes to the redelivery queue (redelivery.py).
"""

import itertools
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.messaging import counting, inbox, wire
from apps.messaging import envelope as envelopes
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.dead_letters import bury_unreadable
from apps.messaging.inbox import Handling, Received, groups
from apps.messaging.outbox import KEY_CHARACTERS_MAX, is_key
from apps.messaging.redelivery import queue, redeliver, waiting_keys
from apps.messaging.transports import transport
from apps.messaging.transports.base import Consumer, IncomingRecord

logger = logging.getLogger(__name__)

POLL_RECORDS_MAX = 100  # at least; as many as a handler takes at once
POLL_TIMEOUT_S = 0.2
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 5.0  # between attempts to reach a database or a broker that is away
FAILURES_MAX = 2  # partitions that fail in one poll; then the rest of it waits too


@dataclass(frozen=True, slots=True)
class _Item:
    """A record with its envelope; then, unless it is for others or does not follow its contract, message and handler."""

    record: IncomingRecord
    envelope: dict[str, Any]
    meta: envelopes.Meta
    found: tuple[Handling, Received[Any]] | None = None
    error: InvalidMessage | None = None

    @property
    def handling(self) -> Handling | None:
        return self.found[0] if self.found else None

    @property
    def slot(self) -> tuple[str, str]:
        return self.record.topic, self.record.key


def _open(record: IncomingRecord) -> tuple[dict[str, Any], envelopes.Meta]:
    envelope = envelopes.decode(wire.from_wire(record.value))
    meta = envelopes.read_meta(envelope["meta"])
    if not is_key(record.key):
        raise InvalidMessage(f"A record's key has 1 to {KEY_CHARACTERS_MAX} characters, and no U+0000.")
    return envelope, meta


def _read(record: IncomingRecord, *, group: str) -> _Item | InvalidMessage | None:
    """A record as far as it can be read. The error itself when it is no envelope; None for what is others' business."""
    if inbox.is_listening(record.topic, group=group):
        return _overhear(record, group=group)
    try:
        envelope, meta = _open(record)
    except InvalidMessage as error:
        return error
    try:
        return _Item(record, envelope, meta, found=inbox.read(envelope, meta, key=record.key, group=group))
    except InvalidMessage as error:
        return _Item(record, envelope, meta, error=error)


def _overhear(record: IncomingRecord, *, group: str) -> _Item | None:
    """A record on a topic of others: whatever it lacks that we need follows from it."""
    try:
        envelope = envelopes.decode(wire.from_wire(record.value))
        meta = envelopes.complete_meta(envelope["meta"], value=record.value)
    except InvalidMessage as error:
        logger.info("a record of %s is left to its readers: %s", record.topic, error.detail)
        return None
    key = next((key for key in (record.key, meta.global_id) if is_key(key)), "unreadable")
    record = replace(record, key=key)
    return _Item(record, envelope, meta, found=inbox.overhear(envelope, meta, topic=record.topic, key=key, group=group))


class Delivery:
    """The records of one poll on their way to their handlers.

    What fails is queued for redelivery. What is no message's fault is raised: the database is away, or the registry of
    schemas.
    """

    def __init__(self, records: Sequence[IncomingRecord], *, group: str) -> None:
        self._group = group
        self._waiting = waiting_keys(records, group=group)

    def deliver(self, records: Sequence[IncomingRecord], *, now: datetime) -> int:
        """Handle the first of these records of one partition, and those after it that may share its commit.

        For how many of them, at least one, the offset may be committed.
        """
        first = _read(records[0], group=self._group)
        if first is None:
            self._pass_over(records[0])
            return 1
        if isinstance(first, InvalidMessage):
            bury_unreadable(records[0], group=self._group, error=first, now=now)
            return 1
        if first.slot in self._waiting:
            self._queue(first, None, now=now)
        elif first.error is not None:
            self._queue(first, first.error, now=now)
        elif first.handling is not None:
            return self._handle(self._unit(first, first.handling, records), now=now)
        else:
            self._pass_over(records[0])
        return 1

    def _pass_over(self, record: IncomingRecord) -> None:
        counting.consumed(counting.PASSED_OVER, group=self._group, topic=record.topic)

    def _unit(self, first: _Item, handling: Handling, records: Sequence[IncomingRecord]) -> list[_Item]:
        unit = [first]
        for record in itertools.islice(records, 1, handling.rows_max):
            item = _read(record, group=self._group)
            # What ends the unit is read once more, as the first of the next.
            if not isinstance(item, _Item) or item.handling is not handling or item.slot in self._waiting:
                break
            unit.append(item)
        return unit

    def _handle(self, unit: Sequence[_Item], *, now: datetime) -> int:
        if len(unit) == 1 or not self._succeeds(unit, now=now):
            for item in unit:
                self._handle_alone(item, now=now)
        return len(unit)

    def _succeeds(self, unit: Sequence[_Item], *, now: datetime) -> bool:
        for is_last in (False, True):
            try:
                _handle(unit, group=self._group, now=now)
            except Exception as error:
                _raise_if_away(error)
                # Nobody in the unit is to blame for a deadlock: once more together is cheaper than a commit each.
                if is_last or not _is_passing(error):
                    logger.info("%s messages for %s are handled one by one: %r", len(unit), self._group, error)
                    return False
            else:
                return True
        return False

    def _handle_alone(self, item: _Item, *, now: datetime) -> None:
        if item.slot in self._waiting:
            self._queue(item, None, now=now)
            return
        try:
            _handle([item], group=self._group, now=now)
        except Exception as error:
            _raise_if_away(error)
            self._queue(item, error, now=now)

    def _queue(self, item: _Item, error: Exception | None, *, now: datetime) -> None:
        waits = queue(item.record, item.envelope, item.meta.message_id, group=self._group, now=now, error=error)
        if error is not None:
            counting.failed(group=self._group, topic=item.record.topic)
        if waits:
            counting.consumed(counting.PUT_ASIDE, group=self._group, topic=item.record.topic)
            self._waiting.add(item.slot)


def _raise_if_away(error: Exception) -> None:
    """The database is away, or the handler has to stand still: no message is to blame, and the offset stays."""
    if isinstance(error, DatabaseError) and not connection.is_usable():
        raise error
    if isinstance(error, DomainError) and error.stops_queue:
        raise error


def _is_passing(error: Exception) -> bool:
    """A deadlock, a serialization failure or a lock that was not free in time."""
    cause = error.__cause__
    return isinstance(error, DatabaseError) and getattr(cause, "sqlstate", None) in {"40P01", "40001", "55P03"}


def _handle(unit: Sequence[_Item], *, group: str, now: datetime) -> None:
    with counting.commit(group):
        fresh = _handle_together(unit, group=group, now=now)
    counting.handled(fresh, of=len(unit), group=group, topic=unit[0].record.topic)


@transaction
def _handle_together(unit: Sequence[_Item], *, group: str, now: datetime) -> int:
    found = [item.found for item in unit if item.found is not None]
    return inbox.handle(found[0][0], [received for _, received in found], group=group, now=now)


def deliver(record: IncomingRecord, *, group: str, now: datetime) -> None:
    """Handle one record, or queue it for redelivery. When this returns, the record's offset may be committed."""
    Delivery([record], group=group).deliver([record], now=now)


class Pauses:
    """How long each partition of a member waits after a technical failure: from PAUSE_S_MIN, doubling to PAUSE_S_MAX."""

    def __init__(self) -> None:
        self._next_s: dict[tuple[str, int], float] = {}

    def after_failure(self, record: IncomingRecord) -> float:
        """The pause of the record's partition, in seconds; the next one is twice as long."""
        slot = (record.topic, record.partition)
        pause_s = self._next_s.get(slot, PAUSE_S_MIN)
        self._next_s[slot] = min(pause_s * 2, PAUSE_S_MAX)
        return pause_s

    def after_success(self, record: IncomingRecord) -> None:
        """The partition is well again."""
        self._next_s.pop((record.topic, record.partition), None)


class _Poll:
    """One poll of one member: its records, by partition, until all are done, put off, or the process stops."""

    def __init__(self, consumer: Consumer, *, group: str, pauses: Pauses, stop: threading.Event | None) -> None:
        self._consumer, self._group, self._pauses, self._stop = consumer, group, pauses, stop
        self.failures = 0
        self.handled = 0

    def run(self, records: Sequence[IncomingRecord]) -> None:
        by_partition: dict[tuple[str, int], list[IncomingRecord]] = {}
        for record in records:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        delivery: Delivery | None = None
        for run in by_partition.values():
            # When two partitions failed in a row the fault is everywhere: each attempt may cost a connection's timeout.
            if self.failures >= FAILURES_MAX:
                self._put_off(run[0])
                continue
            try:
                delivery = delivery or Delivery(records, group=self._group)
            except DatabaseError as error:
                self._failed(run[0], error)
                continue
            self._run_partition(delivery, run)

    def stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _run_partition(self, delivery: Delivery, run: list[IncomingRecord]) -> None:
        at = 0
        while at < len(run) and not self.stopped():
            try:
                done = delivery.deliver(run[at:], now=timezone.now())
            except Exception as error:
                self._failed(run[at], error)
                return
            at += done
            self._consumer.commit(run[at - 1])
            self._pauses.after_success(run[at - 1])
            self.handled += done

    def _failed(self, record: IncomingRecord, error: Exception) -> None:
        where = f"{record.topic}/{record.partition} at {record.offset}"
        if isinstance(error, DomainError):
            logger.info("consumer %s waits with %s: %s", self._group, where, error.detail)
        else:
            logger.warning("consumer %s cannot take %s and pauses the partition", self._group, where, exc_info=error)
            connection.close()  # The next attempt makes a fresh one.
        self.failures += 1
        self._put_off(record)

    def _put_off(self, record: IncomingRecord) -> None:
        self._consumer.retry(record, after_s=self._pauses.after_failure(record))


def consume_once(
    consumer: Consumer,
    *,
    group: str,
    timeout_s: float,
    stop: threading.Event | None = None,
    pauses: Pauses | None = None,
) -> int:
    """Poll once, handle what came, then what is due again. The offset follows the commit of the records' effects.

    Between two units it looks at ``stop``; what it leaves is read again. A record that cannot even be put aside (the
    database is away) pauses its partition; the others go on, and the member stays in its group.
    """
    records_max = max(POLL_RECORDS_MAX, inbox.rows_max(group))
    records = consumer.poll(records_max=records_max, timeout_s=timeout_s)
    poll = _Poll(consumer, group=group, pauses=pauses or Pauses(), stop=stop)
    if records:
        poll.run(records)
    if poll.failures or poll.stopped():
        return poll.handled  # The redeliveries need the same database.
    return poll.handled + redeliver(group=group, now=timezone.now(), stop=stop)


class ConsumerThread(threading.Thread):
    """One member of one group, until ``stop`` is set. A database or broker that is away is waited for."""

    def __init__(self, group: str, stop: threading.Event) -> None:
        super().__init__(name=f"consumer-{group}", daemon=True)
        self._group, self._stop_requested = group, stop
        self._pause_s = PAUSE_S_MIN

    def run(self) -> None:
        while not self._stop_requested.is_set():
            try:
                self._consume()
            except Exception:
                logger.exception("consumer %s pauses for %.1f s", self._group, self._pause_s)
                connection.close()
                self._stop_requested.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    def _consume(self) -> None:
        consumer = transport().consumer(group=self._group, topics=groups()[self._group])
        pauses = Pauses()
        try:
            while not self._stop_requested.is_set():
                try:
                    consume_once(
                        consumer, group=self._group, timeout_s=POLL_TIMEOUT_S, stop=self._stop_requested, pauses=pauses
                    )
                    self._pause_s = PAUSE_S_MIN
                except DatabaseError:
                    # A redelivery, or the local transport itself. The member stays: to leave and join costs a rebalance.
                    logger.warning("consumer %s waits for the database", self._group, exc_info=True)
                    connection.close()
                    self._stop_requested.wait(self._pause_s)
                    self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
        finally:
            consumer.close()
            connection.close()
