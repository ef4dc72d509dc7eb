"""The message, the handler and the table of benchmarks/relay.py."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from django.core.management import call_command
from django.db import connection

from apps.common.clock import uuid7
from apps.messaging import envelope, inbox
from apps.messaging.public import Message, Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Message):
    """About 300 bytes on the wire."""

    topic: ClassVar[str] = "bench.relay.load.event"
    schema: ClassVar[str] = "bench.load.v1"

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """The same size, on a topic of its own: a new group has no backlog to read first."""

    topic: ClassVar[str] = "bench.relay.ping.event"
    schema: ClassVar[str] = "bench.ping.v1"

    number: int
    text: str


def register() -> None:
    """Nothing more than importing this module: the class registers itself."""


def register_group(
    group: str, *, kind: type[Load] | type[Ping] = Load, on_message: Callable[[int], object] | None = None
) -> None:
    """A handler that writes one row, for a group of this run."""

    def handle(message: Load | Ping, _meta: Meta) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO bench_effect (number) VALUES (%s)", [message.number])
        if on_message is not None:
            on_message(message.number)

    inbox.handles(kind, group=group)(handle)


def wire_bytes(number: int) -> bytes:
    """The bytes that the relay would send for this message."""
    meta = Meta(message_id=uuid7(), schema=Load.schema)
    body: dict[str, Any] = Load(number=number, text="x" * 180).to_body()
    return envelope.encode(meta.to_json(), body)


def prepare() -> None:
    """Tables, topics without records, and nothing left over from an earlier run."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    from apps.messaging.transports.kafka_admin import client_settings

    call_command("migrate", verbosity=0, interactive=False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bench_effect (id bigserial PRIMARY KEY, number bigint NOT NULL)")
        cursor.execute("TRUNCATE bench_effect, messaging_message, messaging_pending, messaging_inbox, messaging_bucket")
    admin = KafkaAdminClient(**client_settings())
    try:
        for topic in (Load.topic, Ping.topic):
            try:
                admin.create_topics([NewTopic(topic, num_partitions=12, replication_factor=1)])
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()
    time.sleep(1)
