"""RabbitMQ, by kombu: the writing side, with confirms and ``mandatory``. The reading side is rabbitmq_member.py."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import amqp

from lastro_pipes.errors import BrokerDown
from lastro_pipes.settings import Settings
from lastro_pipes.transports import rabbitmq_admin
from lastro_pipes.transports.base import Member, Outgoing, Topic
from lastro_pipes.transports.rabbitmq_admin import DOWN, KEY, connect, connected, down, exists
from lastro_pipes.transports.rabbitmq_member import RabbitMQMember
from lastro_pipes.transports.shares import partition_of

SEND_S_MAX = 4  # one call of send(), and WRITE_S more for a write that is stuck; a stop has to be over within 10 s
WAIT_S_MIN = 0.001
RECORD_BYTES_MAX = 1_000_000  # as Kafka: a message that passes here passes there


class _Publisher:
    """One connection with confirms."""

    def __init__(self, settings: Settings) -> None:
        self._prefix, self._partitions = settings.prefix, settings.partitions
        self._known: set[str] = set()
        self._reasons: dict[int, str] = {}  # place in the batch -> "" or why not
        self._waiting: dict[int, int] = {}  # delivery tag -> place in the batch
        self._published = 0
        # Nobody would answer a heartbeat between two calls; a connection that is dead is found out by the next one.
        self._connection = connect(settings, heartbeat_s=0)
        self._channel: Any = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)

    def send(self, records: Sequence[Outgoing]) -> list[str]:
        """Publish, and wait for the confirms."""
        deadline = time.monotonic() + SEND_S_MAX
        self._reasons = {place: self._refusal(record) for place, record in enumerate(records)}
        for place, record in enumerate(records):
            if not self._reasons[place]:
                self._publish(place, record)
        while self._waiting:
            self._connection.drain_events(timeout=_left(deadline))
        return [self._reasons[place] for place in range(len(records))]

    def _publish(self, place: int, record: Outgoing) -> None:
        message = amqp.Message(
            record.value.encode(),
            delivery_mode=2,
            message_id=str(place),
            timestamp=int(time.time()),
            application_headers={**dict(record.headers), KEY: record.key},
        )
        self._published += 1
        self._waiting[self._published] = place
        partition = partition_of(record.key, partitions=self._partitions)
        exchange = f"{self._prefix}{record.topic}"
        self._channel.basic_publish(message, exchange=exchange, routing_key=str(partition), mandatory=True)

    def _refusal(self, record: Outgoing) -> str:
        if len(record.value.encode()) > RECORD_BYTES_MAX:
            return f"The record is larger than {RECORD_BYTES_MAX} bytes."
        exchange = f"{self._prefix}{record.topic}"
        # Publishing to none would close the channel.
        if exchange not in self._known and exists(self._connection, "exchange", exchange):
            self._known.add(exchange)
        return "" if exchange in self._known else f"The topic {exchange} does not exist. {_ADVICE}"

    def _take(self, tag: int, multiple: bool) -> Iterable[int]:
        tags = [waiting for waiting in self._waiting if waiting <= tag] if multiple else [tag]
        return [place for place in (self._waiting.pop(one, None) for one in tags) if place is not None]

    def _acked(self, tag: int, multiple: bool) -> None:
        self._take(tag, multiple)  # What was returned came before its acknowledgement, and keeps its reason.

    def _nacked(self, tag: int, multiple: bool) -> None:
        for place in self._take(tag, multiple):
            self._reasons[place] = "RabbitMQ could not store the record. Its log says why."

    def _returned(self, error: Any, exchange: str, _routing_key: str, message: Any) -> None:
        self._reasons[int(message.properties["message_id"])] = f"No queue is bound to {exchange}. {_ADVICE} ({error})"

    def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(*DOWN):
            self._connection.release()


_ADVICE = "Its service makes it: pipes topics --apply"


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), WAIT_S_MIN)


class RabbitMQTransport:
    """See the module. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: _Publisher | None = None

    def send(self, records: Sequence[Outgoing]) -> Sequence[str]:
        """See Transport."""
        try:
            with down():
                self._made = self._made or _Publisher(self._settings)
                return self._made.send(records)
        except BrokerDown:
            self.close()
            raise

    def member(self, *, group: str, topics: Sequence[str]) -> Member:
        """See Transport."""
        return RabbitMQMember(self._settings, group=group, topics=topics)

    def check(self) -> None:
        """See Transport."""
        with connected(self._settings):
            pass

    def missing(self, topics: Sequence[Topic]) -> list[str]:
        """See Transport."""
        return rabbitmq_admin.missing(self._settings, topics)

    def create(self, topics: Sequence[Topic]) -> None:
        """See Transport."""
        rabbitmq_admin.create(self._settings, topics)

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """See Transport."""
        return rabbitmq_admin.lag(self._settings, group=group, topics=topics)

    def close(self) -> None:
        """See Transport."""
        made, self._made = self._made, None
        if made is not None:
            made.close()
