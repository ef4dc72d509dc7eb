"""RabbitMQ: one member of a consumer group.

Note [Who reads a queue]
Every member says once a second, on an exchange of the group, that it is there and what it reads, and hears the others.
From that alone each computes its share (shares.py), consumes from the queues in it, and lets go of the others. When two
disagree for a moment, or one is taken for dead while it is busy, they both consume from a queue; the queue has a single
active consumer, so the second stands by: order never depends on what a member believes.

Note [Letting go]
A queue is let go of by closing its channel, never by cancelling the consumer. A queue whose active consumer cancels goes
on with the next record for the next consumer while earlier ones are still with the first. A channel that closes gives
back what is not acknowledged and makes the next consumer active in one step, in order. That the order survives needs
one PREFETCH for all members: a smaller one would take a part of what was given back, and give that back behind the rest.

Note [Noted acknowledgements]
``done`` only notes; the next ``poll`` and ``close`` acknowledge what was noted. A crash in between means that records are
read again; the store knows them.
"""

import bisect
import contextlib
import itertools
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import amqp

from lastro_pipes.ids import uuid7
from lastro_pipes.settings import Settings
from lastro_pipes.transports.base import Incoming
from lastro_pipes.transports.rabbitmq_admin import (
    DOWN,
    KEY,
    connect,
    declare_group,
    down,
    members_name,
    queue_names,
)
from lastro_pipes.transports.shares import share

PREFETCH = 200  # records of a queue in a member's memory; see Note [Letting go] before you change it
SAY_S = 1.0  # a member says that it is there
SILENT_S = 5.0  # a member that was not heard for so long is taken for dead
HEARD_MAX = 1_000  # words that wait for a busy member; the latest count

_Place = tuple[str, int]  # topic and partition
_holds = itertools.count(1)


class Roster:
    """Who is in the group, as far as this member has heard. See Note [Who reads a queue]."""

    def __init__(self, connection: Any, settings: Settings, *, group: str, topics: Sequence[str]) -> None:
        self.me = str(uuid7())
        self._topics = frozenset(topics)
        self._others: dict[str, tuple[frozenset[str], float]] = {}  # what each reads, and when it was heard
        self._said_at = 0.0
        self._exchange = members_name(settings, group)
        self._channel: Any = connection.channel()
        self._channel.exchange_declare(self._exchange, "fanout", durable=True, auto_delete=False)
        arguments = {"x-max-length": HEARD_MAX, "x-message-ttl": int(SILENT_S * 1000)}
        queue = self._channel.queue_declare("", exclusive=True, auto_delete=True, arguments=arguments).queue
        self._channel.queue_bind(queue, self._exchange)
        self._channel.basic_consume(queue, no_ack=True, callback=self._heard)

    def say_sometimes(self) -> None:
        """Say that we are there, once in SAY_S."""
        if time.monotonic() - self._said_at >= SAY_S:
            self._said_at = time.monotonic()
            self._say(sorted(self._topics))

    def leave(self) -> None:
        """Say that we are gone: one that reads nothing has no share."""
        self._say([])

    def present(self) -> dict[str, frozenset[str]]:
        """Every member, and what it reads."""
        since = time.monotonic() - SILENT_S
        self._others = {name: heard for name, heard in self._others.items() if heard[1] >= since}
        return {self.me: self._topics} | {name: topics for name, (topics, _) in self._others.items()}

    def _say(self, topics: Sequence[str]) -> None:
        body = json.dumps({"member": self.me, "topics": list(topics)})
        self._channel.basic_publish(amqp.Message(body.encode()), exchange=self._exchange, routing_key="")

    def _heard(self, message: Any) -> None:
        said = json.loads(message.body)
        if said["member"] == self.me:
            return
        if said["member"] not in self._others:
            self._said_at = 0.0  # Somebody new: it should hear of us at once.
        self._others[said["member"]] = (frozenset(said["topics"]), time.monotonic())


@dataclass(slots=True)
class _Queue:
    """A queue that we consume from: a channel of its own, what has come (``fresh``) and what was given out."""

    channel: Any
    hold: int
    fresh: deque[Incoming] = field(default_factory=deque)
    given: set[int] = field(default_factory=set)  # delivery tags
    done: list[int] = field(default_factory=list)
    paused_until: float = 0.0

    def acknowledge(self) -> None:
        """All up to the first that is not done in one word, the others one by one."""
        if not self.done:
            return
        first_open = min(itertools.chain(self.given, (record.offset for record in self.fresh)), default=None)
        done = sorted(self.done)
        until = len(done) if first_open is None else bisect.bisect_left(done, first_open)
        if until:
            self.channel.basic_ack(done[until - 1], multiple=True)
        for tag in done[until:]:
            self.channel.basic_ack(tag)
        self.done.clear()


class RabbitMQMember:
    """See the module. For one thread."""

    def __init__(self, settings: Settings, *, group: str, topics: Sequence[str]) -> None:
        self._settings, self._group, self._topics = settings, group, sorted(topics)
        self._queues: dict[_Place, _Queue] = {}
        self._present: dict[str, frozenset[str]] = {}
        self._connection = connect(settings)
        try:
            with down():
                self._roster = self._join()
        except Exception:
            self._disconnect()
            raise

    def _join(self) -> Roster:
        asking = self._connection.channel()
        for topic in self._topics:
            asking.exchange_declare(f"{self._settings.prefix}{topic}", "fanout", passive=True)
            declare_group(self._connection, self._settings, topic, self._group)
        asking.close()
        return Roster(self._connection, self._settings, group=self._group, topics=self._topics)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Incoming]:
        """See Member. Acknowledges what was noted, takes and lets go of queues, and reads them in turns."""
        deadline = time.monotonic() + timeout_s
        with down():
            for queue in self._queues.values():
                queue.acknowledge()
            found = self._look(0, records_max)
            self._connection.heartbeat_check()
            while not found and (left_s := deadline - time.monotonic()) > 0:
                found = self._look(left_s, records_max)
            return found

    def _look(self, wait_s: float, records_max: int) -> list[Incoming]:
        self._drain(wait_s)
        self._roster.say_sometimes()
        self._settle()
        return self._take(records_max)

    def _drain(self, wait_s: float) -> None:
        """Read what has arrived; wait for the first of it."""
        for _ in range(len(self._queues) * PREFETCH + HEARD_MAX):
            try:
                self._connection.drain_events(timeout=wait_s)
            except TimeoutError:
                return
            wait_s = 0

    def _settle(self) -> None:
        """Consume from the queues of our share, and from no other."""
        present = self._roster.present()
        if present == self._present:
            return
        wanted = {(topic, index) for topic in self._topics for index in self._share(topic, present)}
        for place in set(self._queues) - wanted:
            self._queues.pop(place).channel.close()
        for place in sorted(wanted - set(self._queues)):
            self._consume(place)
        self._present = present

    def _share(self, topic: str, present: dict[str, frozenset[str]]) -> frozenset[int]:
        members = [name for name, topics in present.items() if topic in topics]
        return share(topic, partitions=self._settings.partitions, members=members, member=self._roster.me)

    def _consume(self, place: _Place) -> None:
        topic, index = place
        channel = self._connection.channel()
        channel.auto_decode = False
        queue = _Queue(channel, next(_holds))

        def hold(message: Any) -> None:
            queue.fresh.append(_record(place, message, hold=queue.hold))

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(queue_names(self._settings, topic, self._group)[index], callback=hold)
        self._queues[place] = queue

    def _take(self, records_max: int) -> list[Incoming]:
        found: list[Incoming] = []
        now = time.monotonic()
        ready = [queue for queue in self._queues.values() if queue.paused_until <= now]
        while ready and len(found) < records_max:
            ready = [queue for queue in ready if queue.fresh]
            for queue in ready[: records_max - len(found)]:
                record = queue.fresh.popleft()
                queue.given.add(record.offset)
                found.append(record)
        return found

    def done(self, record: Incoming) -> None:
        """See Member. One who works on one batch for long says that it lives."""
        if not self.holds(record):
            return
        queue = self._queues[record.place]
        queue.given.discard(record.offset)
        queue.done.append(record.offset)
        with down():
            self._roster.say_sometimes()

    def give_back(self, records: Sequence[Incoming], *, after_s: float) -> None:
        """See Member. They are kept, unacknowledged, and handed out again later."""
        by_place: dict[_Place, list[Incoming]] = {}
        for record in records:
            if self.holds(record):
                by_place.setdefault(record.place, []).append(record)
        for place, mine in by_place.items():
            queue = self._queues[place]
            queue.given -= {record.offset for record in mine}
            queue.fresh.extendleft(sorted(mine, key=lambda record: record.offset, reverse=True))
            queue.paused_until = time.monotonic() + after_s

    def holds(self, record: Incoming) -> bool:
        """See Member."""
        queue = self._queues.get(record.place)
        return queue is not None and queue.hold == record.hold

    def close(self) -> None:
        """See Member. What is not acknowledged goes back to its queue, in order."""
        with contextlib.suppress(*DOWN):
            for queue in self._queues.values():
                queue.acknowledge()
            self._roster.leave()
        self._disconnect()

    def _disconnect(self) -> None:
        with contextlib.suppress(*DOWN):
            self._connection.release()


def _record(place: _Place, message: Any, *, hold: int) -> Incoming:
    # A record without a readable key came from somebody else; it must still get to the dead letters.
    headers = {name: _text(value) for name, value in (message.properties.get("application_headers") or {}).items()}
    sent_at = message.properties.get("timestamp")
    return Incoming(
        topic=place[0],
        partition=place[1],
        offset=message.delivery_info["delivery_tag"],
        key=headers.get(KEY, ""),
        value=message.body.encode() if isinstance(message.body, str) else bytes(message.body),
        headers=headers,
        sent_at=_moment(sent_at),
        hold=hold,
    )


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", errors="backslashreplace") if isinstance(value, bytes | bytearray) else str(value)


def _moment(value: Any) -> datetime | None:
    """AMQP's timestamp, whole seconds."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) and value > 0 else None
