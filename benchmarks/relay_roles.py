"""The processes of benchmarks/relay.py: each says "ready", waits for "go", works, and prints what it has measured.

The bare ones know nothing of Django: they are what somebody would write against Kafka and PostgreSQL without us.
"""

import json
import os
import sys
import time
from typing import Any

TOPIC = "bench.relay.load.event"
WARM_UP = 4_000  # messages that are not counted: connections, metadata, caches
CONSUMER_S_MAX = 120


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _done(messages: int, seconds: float) -> None:
    print(json.dumps({"messages": messages, "seconds": seconds, "ended_at": time.time()}), flush=True)


def _load_django() -> None:
    import django

    django.setup()


def relay(_arguments: dict[str, Any]) -> None:
    """``manage.py relay`` until nothing is pending. The first batch is not counted."""
    _load_django()
    from apps.common.processes import settle_down
    from apps.messaging.models import Pending
    from apps.messaging.relay import relay_all

    settle_down()
    _ready()
    relay_all(rounds_max=1)
    started, sent = time.perf_counter(), 0
    deadline = started + CONSUMER_S_MAX
    while time.perf_counter() < deadline:
        moved = relay_all().acknowledged
        sent += moved
        if not moved and not Pending.objects.exists():
            break
    _done(sent, time.perf_counter() - started)


def bare_producer(arguments: dict[str, Any]) -> None:
    """kafka-python sends the same records, acks=all, and looks at every future."""
    from kafka import KafkaProducer

    records = [
        (key.encode(), value.encode(), [(name, text.encode()) for name, text in headers])
        for key, value, headers in json.load(open(arguments["records"]))  # noqa: SIM115  # one process, one file
    ]
    producer = KafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        acks="all",
        enable_idempotence=True,
        linger_ms=arguments["linger_ms"],
        batch_size=131_072,
        compression_type="lz4",
    )

    def send(batch: list[Any]) -> None:
        futures = [producer.send(TOPIC, key=key, value=value, headers=headers) for key, value, headers in batch]
        producer.flush(60)
        for future in futures:
            future.get(10)

    _ready()
    send(records[:WARM_UP])
    started = time.perf_counter()
    send(records[WARM_UP:])
    _done(len(records) - WARM_UP, time.perf_counter() - started)
    producer.close(10)


def consumer(arguments: dict[str, Any]) -> None:
    """Inbox and a handler that writes one row."""
    _load_django()
    from apps.common.processes import settle_down
    from apps.messaging.consumer import consume_once
    from apps.messaging.transports import transport
    from benchmarks import relay_world

    relay_world.register_group(arguments["group"], shares_commit=arguments["shares_commit"])
    settle_down()
    member = transport().consumer(group=arguments["group"], topics=[TOPIC])
    _ready()
    seen, started, deadline = 0, 0.0, time.monotonic() + CONSUMER_S_MAX
    while seen < arguments["messages"] and time.monotonic() < deadline:
        moved = consume_once(member, group=arguments["group"], timeout_s=0.5)
        if moved and not started:
            started, moved = time.perf_counter(), 0  # joining the group is not counted, nor is its first batch
        seen += moved
    _done(seen, time.perf_counter() - started)
    member.close()


def bare_consumer(arguments: dict[str, Any]) -> None:
    """kafka-python and psycopg: one committed row per message, the offsets after each poll."""
    import psycopg
    from kafka import KafkaConsumer

    member = KafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=arguments["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    _ready()
    seen, started, deadline = 0, 0.0, time.monotonic() + CONSUMER_S_MAX
    with psycopg.connect(arguments["dsn"], autocommit=True) as database:
        while seen < arguments["messages"] and time.monotonic() < deadline:
            batches = member.poll(timeout_ms=500, max_records=100)
            for records in batches.values():
                for record in records:
                    number = json.loads(record.value)["body"]["number"]
                    database.execute("INSERT INTO bench_effect (number) VALUES (%s)", [number])
                    seen += bool(started)
            if batches:
                member.commit()
                started = started or time.perf_counter()
    _done(seen, time.perf_counter() - started)
    member.close()


if __name__ == "__main__":
    roles = {role.__name__: role for role in (relay, bare_producer, consumer, bare_consumer)}
    roles[sys.argv[1]](json.loads(sys.argv[2]))
