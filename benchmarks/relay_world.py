"""The message, the handler and the table of benchmarks/relay.py."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from psycopg.conninfo import make_conninfo

from apps.common.clock import uuid7
from apps.messaging import envelope, inbox, topics
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


def register_group(
    group: str,
    *,
    kind: type[Load] | type[Ping] = Load,
    on_message: Callable[[int], object] | None = None,
    shares_commit: bool = False,
) -> None:
    """A handler that writes one row, for a group of this run."""

    def handle(message: Load | Ping, _meta: Meta) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO bench_effect (number) VALUES (%s)", [message.number])
        if on_message is not None:
            on_message(message.number)

    inbox.handles(kind, group=group, shares_commit=shares_commit)(handle)


def wire_form(number: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The value and the headers that the relay would send for this message."""
    meta = Meta(message_id=uuid7(), schema=Load.schema)
    body: dict[str, Any] = Load(number=number, text="x" * 180).to_body()
    headers = envelope.headers(message_id=str(meta.message_id), schema=meta.schema)
    return envelope.encode(meta.to_json(), body), [(name, value.encode()) for name, value in headers]


def dsn() -> str:
    """Where PostgreSQL is, for psycopg."""
    database = settings.DATABASES["default"]
    return make_conninfo(
        host=database["HOST"],
        port=database["PORT"] or None,
        user=database["USER"],
        password=database.get("PASSWORD") or None,
        dbname=database["NAME"],
    )


def prepare() -> None:
    """Tables, topics without records, and nothing left over from an earlier run."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    from apps.messaging.transports.kafka_login import client_settings

    call_command("migrate", verbosity=0, interactive=False)
    topics.apply()  # without them `manage.py relay` refuses to start
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS bench_effect (id bigserial PRIMARY KEY, number bigint NOT NULL)")
        cursor.execute("TRUNCATE bench_effect, messaging_message, messaging_pending, messaging_inbox, messaging_bucket")
        cursor.execute("VACUUM ANALYZE")
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
