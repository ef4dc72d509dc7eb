"""The outbox and its relay against bare kafka-python, on one broker and one PostgreSQL, in one run.

    make bench-relay

Ratios: ``of_bare_producer`` (relay, end to end: claim, read, send with acks=all, settle; against a bare producer that sends
the same bytes), ``of_bare_consumer`` (inbox and a handler that writes one row, against a bare consumer that commits one row
per message), ``relays2_vs_1`` (two relay processes against one). Figures: latency from commit to consumer at 200 messages a
second, and what one published message costs a transaction.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["MESSAGING_TRANSPORT"] = "kafka"
os.environ["CELERY_BROKER_URL"] = "memory://"  # the relay is driven here; its wake-ups would only queue up

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MESSAGES = 10_000
CONSUMED = 3_000
KEYS = 500
RATE = 200  # messages a second of the latency figure
LATENCY_S = 10
COMMITS = 1_500
TOPIC = "bench.relay.load.event"
BODY = {"text": "x" * 180}
RELAY_CODE = "import benchmarks.relay as b; b.setup(); b.relay_until_empty()"


def setup() -> None:
    """Django, and the benchmark's own message and tables."""
    import django

    django.setup()
    from benchmarks import relay_world

    relay_world.register()


def relay_until_empty() -> None:
    """Relay until nothing is pending: several processes may do it together."""
    from apps.messaging.models import Pending
    from apps.messaging.relay import relay_all

    deadline = time.monotonic() + 120
    while Pending.objects.exists() and time.monotonic() < deadline:
        relay_all()


def fill(messages: int) -> None:
    """Publish: rows in the outbox, nothing sent."""
    from django.db import transaction

    from apps.messaging.public import publish
    from benchmarks.relay_world import Load

    for first in range(0, messages, 500):
        with transaction.atomic():
            for number in range(first, min(first + 500, messages)):
                publish(Load(number=number, text=BODY["text"]), key=f"k{number % KEYS}")


def bare_send(messages: int) -> None:
    """The limit: the same bytes by a bare producer with the relay's settings."""
    from kafka import KafkaProducer

    from apps.messaging.transports import kafka as ours
    from benchmarks.relay_world import wire_bytes

    producer = KafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        acks="all",
        enable_idempotence=True,
        linger_ms=ours.LINGER_MS,
        batch_size=ours.BATCH_BYTES,
        compression_type="lz4",
    )
    records = [(f"k{number % KEYS}".encode(), wire_bytes(number)) for number in range(messages)]
    started = time.perf_counter()
    futures = [producer.send(TOPIC, key=key, value=value) for key, value in records]
    producer.flush(60)
    for future in futures:
        future.get(10)
    bare_send.seconds = time.perf_counter() - started  # type: ignore[attr-defined]
    producer.close(10)


def two_processes(count: int) -> float:
    """Messages a second of so many relay processes."""
    fill(MESSAGES)
    started = time.perf_counter()
    relays = [subprocess.Popen([sys.executable, "-c", RELAY_CODE], cwd=ROOT) for _ in range(count)]
    for relay in relays:
        relay.wait(180)
    # A process takes a second to load Django; both counts pay it once, so it only makes the ratio smaller.
    return MESSAGES / (time.perf_counter() - started)


def consume_ours(group: str) -> float:
    """Messages a second through inbox and handler."""
    from apps.messaging.consumer import consume_once
    from apps.messaging.transports import transport
    from benchmarks import relay_world

    relay_world.register_group(group)
    consumer = transport().consumer(group=group, topics=[TOPIC])
    seen, started = 0, 0.0
    deadline = time.monotonic() + 120
    while seen < CONSUMED and time.monotonic() < deadline:
        moved = consume_once(consumer, group=group, timeout_s=0.5)
        if moved and not started:
            started, moved = time.perf_counter(), 0  # joining the group is not counted, nor is its first batch
        seen += moved
    seconds = time.perf_counter() - started
    consumer.close()
    return seen / seconds


def consume_bare(group: str) -> float:
    """The limit: a bare consumer that commits one row per message."""
    from django.db import connection
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    seen, started = 0, 0.0
    deadline = time.monotonic() + 120
    with connection.cursor() as cursor:
        while seen < CONSUMED and time.monotonic() < deadline:
            batches = consumer.poll(timeout_ms=500, max_records=100)
            for records in batches.values():
                for record in records:
                    cursor.execute("INSERT INTO bench_effect (number) VALUES (%s)", [record.offset])
                    seen += bool(started)
            if batches:
                consumer.commit()
                started = started or time.perf_counter()
    seconds = time.perf_counter() - started
    consumer.close()
    return seen / seconds


def latency_ms() -> list[float]:
    """Milliseconds from each commit to its handler, at RATE messages a second, with the relay as a process."""
    from django.db import transaction

    from apps.messaging.consumer import ConsumerThread
    from apps.messaging.public import publish
    from benchmarks import relay_world
    from benchmarks.relay_world import Ping

    group, stop = f"latency-{uuid4().hex[:8]}", threading.Event()
    arrived: dict[int, float] = {}
    relay_world.register_group(group, kind=Ping, on_message=lambda number: arrived.setdefault(number, time.perf_counter()))
    relay = subprocess.Popen([sys.executable, "manage.py", "relay"], cwd=ROOT)
    consumer = ConsumerThread(group, stop)
    consumer.start()
    committed: dict[int, float] = {}
    first = 10_000_000
    begin = time.perf_counter() + 8  # the relay starts, the group is joined
    total = RATE * (LATENCY_S + 8)
    for number in range(total):
        wait = begin - 8 + number / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        with transaction.atomic():
            publish(Ping(number=first + number, text=BODY["text"]), key=f"k{number % KEYS}")
        committed[first + number] = time.perf_counter()
    time.sleep(2)
    stop.set()
    consumer.join(15)
    relay.terminate()
    relay.wait(15)
    counted = [number for number, at in committed.items() if at >= begin and number in arrived]
    return [(arrived[number] - committed[number]) * 1000 for number in counted]


def commits_per_s(*, publishing: bool) -> float:
    """Transactions a second that write one business row, with or without a message."""
    from django.db import connection, transaction

    from apps.messaging.public import publish
    from benchmarks.relay_world import Load

    started = time.perf_counter()
    for number in range(COMMITS):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO bench_effect (number) VALUES (%s)", [number])
            if publishing:
                publish(Load(number=number, text=BODY["text"]), key=f"k{number % KEYS}")
    return COMMITS / (time.perf_counter() - started)


def main() -> None:
    """Run everything and print the report."""
    from benchmarks.harness import median, percentile, report, say, timed

    setup()
    from benchmarks import relay_world

    relay_world.prepare()
    producer_ratios, relay_rates, bare_rates = [], [], []
    for round_ in range(ROUNDS):
        fill(MESSAGES)
        relay_rate = MESSAGES / timed(relay_until_empty)
        bare_send(MESSAGES)
        bare_rate = MESSAGES / bare_send.seconds  # type: ignore[attr-defined]
        producer_ratios.append(relay_rate / bare_rate)
        relay_rates.append(relay_rate)
        bare_rates.append(bare_rate)
        say(f"round {round_ + 1}: relay {relay_rate:,.0f}/s, bare producer {bare_rate:,.0f}/s")
    consumer_ratios, ours, bare = [], [], []
    for round_ in range(3):
        ours.append(consume_ours(f"ours-{uuid4().hex[:8]}"))
        bare.append(consume_bare(f"bare-{uuid4().hex[:8]}"))
        consumer_ratios.append(ours[-1] / bare[-1])
        say(f"round {round_ + 1}: inbox and handler {ours[-1]:,.0f}/s, bare consumer {bare[-1]:,.0f}/s")
    relays = []
    for round_ in range(3):
        one, two = two_processes(1), two_processes(2)
        relays.append(two / one)
        say(f"round {round_ + 1}: one relay {one:,.0f}/s, two relays {two:,.0f}/s")
    without, with_message = [], []
    for _ in range(3):
        without.append(commits_per_s(publishing=False))
        with_message.append(commits_per_s(publishing=True))
    relay_until_empty()
    waits = latency_ms()
    if not waits:
        raise SystemExit("no message arrived while the latency was measured: the consumer cannot keep up")
    report(
        "relay",
        ratios={
            "of_bare_producer": median(producer_ratios),
            "of_bare_consumer": median(consumer_ratios),
            "relays2_vs_1": median(relays),
        },
        figures={
            "relay_messages_per_s": round(median(relay_rates)),
            "bare_producer_messages_per_s": round(median(bare_rates)),
            "consumer_messages_per_s": round(median(ours)),
            "bare_consumer_messages_per_s": round(median(bare)),
            "commit_to_consumer_p50_ms": round(percentile(waits, 50), 1),
            "commit_to_consumer_p99_ms": round(percentile(waits, 99), 1),
            "commits_per_s_without_message": round(median(without)),
            "commits_per_s_with_message": round(median(with_message)),
        },
    )


if __name__ == "__main__":
    main()
