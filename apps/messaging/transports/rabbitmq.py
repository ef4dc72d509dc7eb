"""RabbitMQ, by kombu: each topic is an exchange, and each group that reads it owns a ring of queues.

    <topic> (fanout) ─▶ <topic>@<group> (consistent hash of the key) ─▶ <topic>@<group>.0 … .N-1 (quorum queues)
                    └─▶ <topic>.log (a stream), when no group reads the topic: dead letters and facts are kept there

What it gives as Kafka does: a record is stored by a quorum before it is acknowledged (publisher confirms, mandatory),
records of one topic and key reach each group in order (one queue per key, one active consumer per queue, one record of
a key under way at a time while publishing), a record is read again until it is acknowledged after the database commit.

What it does not give:
- No log. What a group has handled is gone: no replay from an offset, no new group that reads the past. ``offset`` is
  the delivery tag of this connection, good for acknowledging and for nothing later.
- No sharing of load inside a group. A queue's active consumer is the first that came; a second member stands by and
  takes over queue by queue. Members that start together ask for the queues in random order, and so share them roughly.
- A hot key is slow to publish: each of its records waits for the one before it, 1 to 5 ms each.
- A record of a group is in its queues until it is read: nothing expires there. The lag counts what waits in the
  queues, without what a consumer has prefetched.
- The number of queues (TOPIC_PARTITIONS) may only change while they are empty: keys move to other queues.
"""

import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import amqp  # type: ignore[import-untyped]  # it ships no types
from django.conf import settings
from kombu.connection import Connection

from apps.common.transactions import durable
from apps.messaging.transports.base import (
    Consumer,
    DesiredTopic,
    Fate,
    IncomingRecord,
    OutgoingRecord,
    SendOutcome,
    TopicPlan,
    TransportDown,
    TransportMisconfigured,
)

CONNECT_S = 3
SEND_S_MAX = 12  # one call of send(); the relay's lease (15 s) is longer
HEARTBEAT_S = 60  # a consumer that handles one batch for longer than two of these loses its connection
PREFETCH = 50  # per queue: what a member holds in memory, and what a stand-by gets again when the member dies
RECORD_BYTES_MAX = 1_000_000  # as Kafka: a message that passes here passes there
RING_POINTS = "20"  # of each queue on the hash ring; more of them share the keys more evenly
KEY = "key"  # the header that is hashed: a routing key ends at 255 bytes

_DOWN = (OSError, amqp.exceptions.ConnectionError, amqp.exceptions.RecoverableChannelError)


def _name(name: str) -> str:
    return f"{settings.MESSAGING_PREFIX}{name}"


def _queues(topic: str, group: str) -> list[str]:
    return [f"{_name(topic)}@{_name(group)}.{index}" for index in range(settings.TOPIC_PARTITIONS)]


@contextlib.contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except amqp.exceptions.AccessRefused as error:
        raise TransportMisconfigured(
            f"RabbitMQ refuses the login, or what this login wants to do: check RABBITMQ_URL and its permissions. ({error})"
        ) from error
    except amqp.exceptions.NotFound as error:
        raise TransportMisconfigured(
            f"RabbitMQ has no such exchange or queue. Run: manage.py topics --apply ({error})"
        ) from error
    except _DOWN as error:
        raise TransportDown(f"RabbitMQ does not answer: {error!r}") from error


def _connect() -> Any:
    if not settings.RABBITMQ_URL:
        raise TransportMisconfigured("RABBITMQ_URL is empty. Set it to amqp://user:password@host:port/vhost.")
    with _down():
        connection = Connection(settings.RABBITMQ_URL, connect_timeout=CONNECT_S, heartbeat=HEARTBEAT_S)  # type: ignore[no-untyped-call]
        connection.connect()  # type: ignore[no-untyped-call]
        return connection


@contextlib.contextmanager
def _channel() -> Iterator[Any]:
    """A connection for a few questions."""
    connection = _connect()
    try:
        with _down():
            yield connection.channel()
    finally:
        with contextlib.suppress(*_DOWN):
            connection.release()


def _exists(connection: Any, kind: str, name: str) -> bool:
    """Ask without creating. A refusal closes its channel, so each question has one of its own."""
    channel = connection.channel()
    try:
        if kind == "exchange":
            channel.exchange_declare(name, "fanout", passive=True)
        else:
            channel.queue_declare(name, passive=True)
    except amqp.exceptions.NotFound:
        return False
    channel.close()
    return True


class _Publisher:
    """One connection with confirms. For one thread at a time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.known_topics: set[str] = set()
        self.connection = _connect()
        self._channel: Any = self.connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)
        self._published = 0
        self._waiting: dict[int, int] = {}  # delivery tag -> place in the batch
        self.outcomes: dict[int, SendOutcome] = {}

    def is_known(self, topic: str) -> bool:
        """Is there an exchange for the topic? Publishing to none would close the channel."""
        if topic not in self.known_topics and _exists(self.connection, "exchange", _name(topic)):
            self.known_topics.add(topic)
        return topic in self.known_topics

    def publish(self, place: int, record: OutgoingRecord) -> None:
        """Send one record; its outcome comes later."""
        headers = {**dict(record.headers), KEY: record.key}
        message = amqp.Message(record.value, delivery_mode=2, message_id=str(place), application_headers=headers)
        self._published += 1
        self._waiting[self._published] = place
        self._channel.basic_publish(message, exchange=_name(record.topic), routing_key="", mandatory=True)

    def wait(self, deadline: float) -> None:
        """Until every record that was published has its outcome. Raises TimeoutError."""
        while self._waiting:
            self.connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))

    def _take(self, tag: int, multiple: bool) -> list[int]:
        tags = [waiting for waiting in self._waiting if waiting <= tag] if multiple else [tag]
        return [place for place in (self._waiting.pop(waiting, None) for waiting in tags) if place is not None]

    def _acked(self, tag: int, multiple: bool) -> None:
        for place in self._take(tag, multiple):
            self.outcomes.setdefault(place, SendOutcome(Fate.ACKNOWLEDGED))  # a return came before its acknowledgement

    def _nacked(self, tag: int, multiple: bool) -> None:
        for place in self._take(tag, multiple):
            self.outcomes[place] = SendOutcome(Fate.REFUSED, "RabbitMQ could not store the record. Its log says why.")

    def _returned(self, error: Any, exchange: str, _routing_key: str, message: Any) -> None:
        reason = f"No queue is bound to {exchange}. Run: manage.py topics --apply, then un-park the message. ({error})"
        self.outcomes[int(message.properties["message_id"])] = SendOutcome(Fate.REFUSED, reason)

    def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(*_DOWN):
            self.connection.release()


class RabbitMQTransport:
    """RabbitMQ. Safe to share between threads, which take turns to publish; a fork makes its own connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: _Publisher | None = None

    @durable
    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Publish in waves, at most one record of a key in each, and wait for the confirms. Within SEND_S_MAX."""
        deadline = time.monotonic() + SEND_S_MAX
        with self._lock:
            publisher = self._publisher()
            publisher.outcomes = {}
            try:
                with _down():
                    _publish_in_waves(publisher, records, deadline)
            except (TransportDown, TransportMisconfigured) as error:
                self._drop()
                if not publisher.outcomes:
                    raise TransportDown(str(error)) from error
            not_sent = SendOutcome(Fate.NOT_SENT)
            return [publisher.outcomes.get(place, not_sent) for place in range(len(records))]

    def _publisher(self) -> _Publisher:
        if self._made is None or self._made.pid != os.getpid():
            self._made = _Publisher()
        return self._made

    def _drop(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Join a group."""
        return RabbitMQMember(group=group, topics=topics)

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """What waits in the group's queues; what a consumer has prefetched is not counted."""
        found = {}
        with _channel() as channel:
            for topic in topics:
                for index, queue in enumerate(_queues(topic, group)):
                    found[topic, index] = channel.queue_declare(queue, passive=True).message_count
        return found

    def check(self) -> None:
        """Log in. Raises TransportMisconfigured when the broker refuses us, TransportDown when nobody answers."""
        with _channel():
            pass

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        """Is every exchange and queue there, and no queue too many?"""
        connection = _connect()
        try:
            with _down():
                return [_plan(connection, topic) for topic in topics]
        finally:
            connection.release()

    def create_topics(self, topics: Sequence[DesiredTopic]) -> None:
        """Declare exchanges, rings and queues."""
        with _channel() as channel:
            for topic in topics:
                channel.exchange_declare(_name(topic.name), "fanout", durable=True, auto_delete=False)
                for group in topic.groups:
                    _declare_ring(channel, topic.name, group)
                if not topic.groups:
                    log = f"{_name(topic.name)}.log"
                    arguments = {"x-queue-type": "stream", "x-max-age": f"{topic.retention_days}D"}
                    channel.queue_declare(log, durable=True, auto_delete=False, arguments=arguments)
                    channel.queue_bind(log, _name(topic.name))


def _publish_in_waves(publisher: _Publisher, records: Sequence[OutgoingRecord], deadline: float) -> None:
    left = deque(enumerate(records))
    blocked: set[tuple[str, str]] = set()
    while left:
        under_way: dict[tuple[str, str], int] = {}
        later: deque[tuple[int, OutgoingRecord]] = deque()
        while left:
            place, record = left.popleft()
            slot = (record.topic, record.key)
            if slot in under_way:
                later.append((place, record))
            elif slot in blocked:
                publisher.outcomes[place] = SendOutcome(Fate.NOT_SENT)
            elif reason := _refusal(publisher, record):
                publisher.outcomes[place] = SendOutcome(Fate.REFUSED, reason)
                blocked.add(slot)
            else:
                under_way[slot] = place
                publisher.publish(place, record)
        publisher.wait(deadline)
        blocked |= {slot for slot, place in under_way.items() if publisher.outcomes[place].fate is not Fate.ACKNOWLEDGED}
        left = later


def _refusal(publisher: _Publisher, record: OutgoingRecord) -> str:
    if len(record.value) > RECORD_BYTES_MAX:
        return f"The record is larger than {RECORD_BYTES_MAX} bytes. Send less, or a link to it."
    if not publisher.is_known(record.topic):
        return f"The topic {_name(record.topic)} does not exist. Run: manage.py topics --apply, then un-park the message."
    return ""


def _declare_ring(channel: Any, topic: str, group: str) -> None:
    ring = f"{_name(topic)}@{_name(group)}"
    channel.exchange_declare(ring, "x-consistent-hash", durable=True, auto_delete=False, arguments={"hash-header": KEY})
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    for queue in _queues(topic, group):
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind(queue, ring, RING_POINTS)
    channel.exchange_bind(ring, _name(topic))  # last: nothing comes in before the ring is whole


def _plan(connection: Any, topic: DesiredTopic) -> TopicPlan:
    wanted = [queue for group in topic.groups for queue in _queues(topic.name, group)] or [f"{_name(topic.name)}.log"]
    missing = [queue for queue in wanted if not _exists(connection, "queue", queue)]
    if not _exists(connection, "exchange", _name(topic.name)) or missing:
        return TopicPlan(_name(topic.name), "create", f"{len(missing)} queues are missing")
    extra = [f"{_name(topic.name)}@{_name(group)}.{settings.TOPIC_PARTITIONS}" for group in topic.groups]
    if any(_exists(connection, "queue", queue) for queue in extra):
        return TopicPlan(_name(topic.name), "differs", f"there are more than {settings.TOPIC_PARTITIONS} queues per group")
    return TopicPlan(_name(topic.name), "ok")


@dataclass(slots=True)
class _Queue:
    """What a member holds of one queue, in order: the first ``given`` records were handed out by ``poll``."""

    held: deque[IncomingRecord] = field(default_factory=deque)
    given: int = 0
    paused_until: float = 0.0


class RabbitMQMember:
    """One member of a group: it asks for every queue, and is active or stands by. For one thread."""

    def __init__(self, *, group: str, topics: Sequence[str]) -> None:
        self._held: dict[tuple[str, int], _Queue] = {}
        self._connection = _connect()
        with _down():
            self._channel: Any = self._connection.channel()
            self._channel.auto_decode = False
            for topic in topics:
                self._channel.exchange_declare(_name(topic), "fanout", passive=True)
                _declare_ring(self._channel, topic, group)
            self._channel.basic_qos(0, PREFETCH, False)
            places = [(topic, index, queue) for topic in topics for index, queue in enumerate(_queues(topic, group))]
            random.shuffle(places)
            for topic, index, queue in places:
                self._consume(topic, index, queue)

    def _consume(self, topic: str, index: int, queue: str) -> None:
        holder = self._held[topic, index] = _Queue()

        def hold(message: Any) -> None:
            headers = message.properties.get("application_headers") or {}
            body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
            key = headers.get(KEY, "")
            text = key if isinstance(key, str) else bytes(key).decode("utf-8", errors="backslashreplace")
            holder.held.append(IncomingRecord(topic, index, message.delivery_info["delivery_tag"], text, body))

        self._channel.basic_consume(queue, callback=hold)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """What is held and not paused, in turns between the queues; wait for up to ``timeout_s`` when there is nothing."""
        deadline = time.monotonic() + timeout_s
        with _down():
            self._connection.heartbeat_check()
            self._drain(0.001)
            while not (found := self._take(records_max)) and time.monotonic() < deadline:
                self._drain(deadline - time.monotonic())
            return found

    def _drain(self, timeout_s: float) -> None:
        """Read what has arrived, and wait for the first of it."""
        wait_s = max(timeout_s, 0.001)
        for _ in range(len(self._held) * PREFETCH + 1):
            try:
                self._connection.drain_events(timeout=wait_s)
            except TimeoutError:
                return
            wait_s = 0.001

    def _take(self, records_max: int) -> list[IncomingRecord]:
        found: list[IncomingRecord] = []
        now = time.monotonic()
        ready = [holder for holder in self._held.values() if holder.paused_until <= now]
        while ready and len(found) < records_max:
            ready = [holder for holder in ready if holder.given < len(holder.held)]
            for holder in ready[: records_max - len(found)]:
                found.append(holder.held[holder.given])
                holder.given += 1
        return found

    def commit(self, record: IncomingRecord) -> None:
        """Acknowledge this record and those before it in its queue."""
        holder = self._held[record.topic, record.partition]
        with _down():
            while holder.held and holder.held[0].offset <= record.offset:
                self._channel.basic_ack(holder.held.popleft().offset)
                holder.given = max(holder.given - 1, 0)

    def retry(self, record: IncomingRecord, *, after_s: float) -> None:
        """Keep it, unacknowledged, and hand it out again later."""
        holder = self._held[record.topic, record.partition]
        holder.given = sum(1 for held in holder.held if held.offset < record.offset)
        holder.paused_until = time.monotonic() + after_s

    def close(self) -> None:
        """Leave. What is not acknowledged goes back to the head of its queue, in order."""
        with contextlib.suppress(*_DOWN):
            self._channel.close()
        with contextlib.suppress(*_DOWN):
            self._connection.release()
