"""RabbitMQ, by kombu: each topic is an exchange, and each group that reads it owns one queue per partition.

    <topic> (fanout) ─▶ <topic>@<group> (direct: the partition's number) ─▶ <topic>@<group>.0 … .N-1 (quorum queues)
                    └─▶ <topic>.log (a stream), when no group reads the topic: dead letters and facts are kept there

The publisher hashes the key (shares.py). The broker's own consistent-hash exchange cannot be trusted with it: in about
one of ten restarts under load of RabbitMQ 3.10.8 it sent the keys of one queue to another, behind its back.

This is the writing side; the reading side is rabbitmq_consumer.py, queues and lag are rabbitmq_admin.py.

What it gives as Kafka does: a record is stored by a quorum before it is acknowledged (publisher confirms, mandatory),
records of one topic and key reach each group in order (one queue per key, one active consumer per queue), a record is
read again until it is acknowledged after the database commit, and the members of a group share its queues evenly.

What it does not give:
- No log. What a group has handled is gone: no replay from an offset, no new group that reads the past. ``offset`` is
  the delivery tag of one member's hold on the queue, good for acknowledging and for nothing later.
- No coordinator. The members tell each other that they are there (rabbitmq_consumer.py), so the queues of one that dies
  wait for some seconds although the broker knows at once, and queues that change hands are read again from the first
  record that was not acknowledged. Consumer priorities cannot do it: before RabbitMQ 4.0 a queue with a single active
  consumer ignores them, and later they say who comes first, not how many queues each should have.
- No fencing. A member whose connection is lost in the middle of a handler is not told; another gets the same records
  meanwhile, and the inbox lets one of them wait and drop its copy. Kafka is the same; the local transport too.
- A record of a group is in its queues until it is read: nothing expires there. The lag counts what waits in the
  queues, without what a consumer has prefetched.
- The number of queues (TOPIC_PARTITIONS) may only change while they are empty: keys move to other queues.
- Set no policy with max-length on these queues: the broker drops records, or with reject-publish refuses one and takes
  the next of its key. A queue that was made before RabbitMQ 4.0 needs the policy ``delivery-limit: -1`` after an upgrade.

Note [Order per key while publishing]
Each ``send`` publishes the first record of every key, waits for the confirms, and then the rest. A quorum queue refuses
a record only while a channel has not reached its leader yet, or for lack of a binding; after a first confirm a channel
numbers what it sends to the queue, and the queue takes it in that order or not at all (rabbit_fifo_client). So what
comes later in the batch cannot overtake a refused record of its key, and a hot key costs one wait more, not one each.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import amqp  # type: ignore[import-untyped]  # it ships no types
from django.conf import settings

from apps.common.transactions import durable
from apps.messaging.transports import rabbitmq_admin
from apps.messaging.transports.base import (
    Consumer,
    DesiredTopic,
    Fate,
    OutgoingRecord,
    SendOutcome,
    TopicPlan,
    TransportDown,
    TransportMisconfigured,
)
from apps.messaging.transports.rabbitmq_admin import DOWN, KEY, connect, connected, down, exists, wire_name
from apps.messaging.transports.rabbitmq_consumer import RabbitMQMember
from apps.messaging.transports.shares import partition_of

SEND_S_MAX = 12  # one call of send(), and WRITE_S more for a write that is stuck; the relay's lease (15 s) is longer
WAIT_S_MIN = 0.001
RECORD_BYTES_MAX = 1_000_000  # as Kafka: a message that passes here passes there
UNCONFIRMED_MAX = 1_000  # records under way; what waits in the broker's and our own buffers stays bounded

_Slot = tuple[str, str]  # topic and key


class _Publisher:
    """One connection with confirms. For one thread at a time."""

    def __init__(self, deadline: float) -> None:
        self.pid = os.getpid()
        self.deadline = deadline
        self.outcomes: dict[int, SendOutcome] = {}
        self._known_topics: set[str] = set()
        self._connection = connect()
        self._channel: Any = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)
        self._published = 0
        self._waiting: OrderedDict[int, int] = OrderedDict()  # delivery tag -> place in the batch

    def is_known(self, topic: str) -> bool:
        """Is there an exchange for the topic? Publishing to none would close the channel."""
        if topic not in self._known_topics and exists(self._connection, "exchange", wire_name(topic)):
            self._known_topics.add(topic)
        return topic in self._known_topics

    def publish(self, place: int, record: OutgoingRecord) -> None:
        """Send one record; its outcome comes later."""
        if time.monotonic() >= self.deadline:
            raise TimeoutError("RabbitMQ takes too long.")
        if len(self._waiting) >= UNCONFIRMED_MAX:
            self.wait(below=UNCONFIRMED_MAX // 2)
        headers = {**dict(record.headers), KEY: record.key}
        message = amqp.Message(record.value, delivery_mode=2, message_id=str(place), application_headers=headers)
        self._published += 1
        self._waiting[self._published] = place
        partition = partition_of(record.key, partitions=settings.TOPIC_PARTITIONS)
        exchange = wire_name(record.topic)
        self._channel.basic_publish(message, exchange=exchange, routing_key=str(partition), mandatory=True)

    def wait(self, *, below: int = 1) -> None:
        """Until fewer records than this have no outcome. Raises TimeoutError."""
        while len(self._waiting) >= below:
            self._connection.drain_events(timeout=self._left())

    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), WAIT_S_MIN)

    def _take(self, tag: int, multiple: bool) -> Iterable[int]:
        if not multiple:
            return [place for place in [self._waiting.pop(tag, None)] if place is not None]
        places = []
        while self._waiting and next(iter(self._waiting)) <= tag:
            places.append(self._waiting.popitem(last=False)[1])
        return places

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
        with contextlib.suppress(*DOWN):
            self._connection.release()


class RabbitMQTransport:
    """RabbitMQ. Safe to share between threads, which take turns to publish; a fork makes its own connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: _Publisher | None = None

    @durable
    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Publish, and wait for the confirms. Within SEND_S_MAX. See Note [Order per key while publishing]."""
        with self._lock:
            publisher = self._publisher(time.monotonic() + SEND_S_MAX)
            try:
                with down():
                    _publish(publisher, records)
            except (TransportDown, TransportMisconfigured) as error:
                self._drop()
                if not publisher.outcomes:
                    raise TransportDown(str(error)) from error
            not_sent = SendOutcome(Fate.NOT_SENT)
            return [publisher.outcomes.get(place, not_sent) for place in range(len(records))]

    def _publisher(self, deadline: float) -> _Publisher:
        if self._made is None or self._made.pid != os.getpid():
            self._made = _Publisher(deadline)
        self._made.deadline, self._made.outcomes = deadline, {}
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
        return rabbitmq_admin.lag(group=group, topics=topics)

    def check(self) -> None:
        """Log in. Raises TransportMisconfigured when the broker refuses us, TransportDown when nobody answers."""
        with connected():
            pass

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        """Is every exchange and queue there, and no queue too many?"""
        return rabbitmq_admin.plan_topics(topics)

    def create_topics(self, topics: Sequence[DesiredTopic]) -> None:
        """Declare exchanges and queues."""
        rabbitmq_admin.create_topics(topics)


def _publish(publisher: _Publisher, records: Sequence[OutgoingRecord]) -> None:
    first: dict[_Slot, int] = {}
    for place, record in enumerate(records):
        first.setdefault((record.topic, record.key), place)
    blocked: set[_Slot] = set()
    _publish_wave(publisher, [(place, records[place]) for place in first.values()], blocked)
    blocked |= {slot for slot, place in first.items() if publisher.outcomes[place].fate is not Fate.ACKNOWLEDGED}
    leading = set(first.values())
    _publish_wave(publisher, [item for item in enumerate(records) if item[0] not in leading], blocked)


def _publish_wave(publisher: _Publisher, wave: Iterable[tuple[int, OutgoingRecord]], blocked: set[_Slot]) -> None:
    for place, record in wave:
        slot = (record.topic, record.key)
        if slot in blocked:
            publisher.outcomes[place] = SendOutcome(Fate.NOT_SENT)
        elif reason := _refusal(publisher, record):
            publisher.outcomes[place] = SendOutcome(Fate.REFUSED, reason)
            blocked.add(slot)
        else:
            publisher.publish(place, record)
    publisher.wait()


def _refusal(publisher: _Publisher, record: OutgoingRecord) -> str:
    if len(record.value) > RECORD_BYTES_MAX:
        return f"The record is larger than {RECORD_BYTES_MAX} bytes. Send less, or a link to it."
    if not publisher.is_known(record.topic):
        return (
            f"The topic {wire_name(record.topic)} does not exist. Run: manage.py topics --apply, then un-park the message."
        )
    return ""
