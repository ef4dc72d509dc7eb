"""The outbox and its relay against bare kafka-python, on one broker and one PostgreSQL, in one run.

    make bench-relay

Every side is a process of its own that does nothing else (relay_roles.py). Ratios:
``of_bare_producer``: the relay, end to end (claim, read, send with acks=all, settle), against a bare producer of the same
records. ``of_bare_consumer``: inbox and a handler that writes one row, and so may share its commit with others of its
partition, against a bare consumer that commits one row per message; ``…_commit_each``: that handler with a commit each.
``relays2_vs_1``: two relay processes against one.
Figures: latency from commit to consumer at 200 messages a second, and what one published message costs a transaction.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from benchmarks.processes import Role

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["MESSAGING_TRANSPORT"] = "kafka"
os.environ["CELERY_BROKER_URL"] = "memory://"  # the relay is driven here; its wake-ups would only queue up

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MESSAGES = 44_000  # of which the first 4,000 are not counted
CONSUMED = 4_000
KEYS = 2_000
RATE = 200  # messages a second of the latency figure
LATENCY_S = 10
COMMITS = 2_000
TEXT = "x" * 180


def _role(name: str, **given: Any) -> "Role":
    """A process of relay_roles.py."""
    from benchmarks.processes import Role

    return Role("relay_roles", name, **given)


def rate(name: str, **given: Any) -> float:
    """Messages a second of such a process, when it is done."""
    found = _role(name, **given).go().result()
    return float(found["messages"] / found["seconds"])


def fill(messages: int) -> None:
    """Publish: rows in the outbox, nothing sent."""
    from django.db import transaction

    from apps.messaging.public import publish_many
    from benchmarks.relay_world import Load

    for first in range(0, messages, 1_000):
        with transaction.atomic():
            numbers = range(first, min(first + 1_000, messages))
            publish_many([(Load(number=number, text=TEXT), f"k{number % KEYS}") for number in numbers])


def write_records(path: Path) -> None:
    """The same records for the bare producer."""
    from benchmarks.relay_world import wire_form

    records = []
    for number in range(MESSAGES):
        value, headers = wire_form(number)
        records.append((f"k{number % KEYS}", value.decode(), [(name, text.decode()) for name, text in headers]))
    path.write_text(json.dumps(records))


def relays(count: int) -> float:
    """Messages a second of so many relay processes together."""
    fill(MESSAGES)
    roles = [_role("relay") for _ in range(count)]
    started = time.time()
    for role in roles:
        role.go()
    ended: float = max(role.result()["ended_at"] for role in roles)
    return MESSAGES / (ended - started)


def latency_ms() -> list[float]:
    """Milliseconds from each commit to its handler, at RATE messages a second, with the relay as a process."""
    from django.db import transaction

    from apps.messaging.consumer import ConsumerThread
    from apps.messaging.public import publish
    from apps.messaging.transports import transport
    from benchmarks import relay_world
    from benchmarks.relay_world import Ping

    group, stop = f"latency-{uuid4().hex[:8]}", threading.Event()
    arrived: dict[int, float] = {}
    relay_world.register_group(group, kind=Ping, on_message=lambda number: arrived.setdefault(number, time.perf_counter()))
    relay = subprocess.Popen([sys.executable, "manage.py", "relay"], cwd=ROOT)
    consumer = ConsumerThread(group, stop)
    consumer.start()
    deadline = time.monotonic() + 120
    while sum(transport().lag(group=group, topics=[Ping.topic]).values()) and time.monotonic() < deadline:
        time.sleep(0.5)  # what earlier runs have left in the topic is read first
    committed: dict[int, float] = {}
    first = time.time_ns() // 1_000  # an earlier run has left its messages in the topic
    begin = time.perf_counter() + 8  # the relay starts, the group is joined
    total = RATE * (LATENCY_S + 8)
    for number in range(total):
        wait = begin - 8 + number / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        with transaction.atomic():
            publish(Ping(number=first + number, text=TEXT), key=f"k{number % KEYS}")
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
                publish(Load(number=number, text=TEXT), key=f"k{number % KEYS}")
    return COMMITS / (time.perf_counter() - started)


def producers() -> tuple[list[float], list[float]]:
    """Rates of the relay and of the bare producer, in pairs."""
    from apps.messaging.transports.kafka import LINGER_MS
    from benchmarks.harness import say

    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        write_records(path)
        for round_ in range(ROUNDS):
            fill(MESSAGES)
            ours.append(rate("relay"))
            # The better of two settings, so that the peer is not made slow by ours.
            settings = [{"records": str(path), "linger_ms": linger_ms} for linger_ms in (5, LINGER_MS)]
            bare.append(max(rate("bare_producer", **one) for one in settings))
            say(f"round {round_ + 1}: relay {ours[-1]:,.0f}/s, bare producer {bare[-1]:,.0f}/s")
    return ours, bare


def consumers() -> tuple[list[float], list[float], list[float]]:
    """Rates of our consumer with a commit each, with shared commits, and of the bare consumer."""
    from benchmarks.harness import say
    from benchmarks.relay_world import dsn

    alone: list[float] = []
    shared: list[float] = []
    bare: list[float] = []
    for round_ in range(ROUNDS):
        for rates, shares_commit in ((alone, False), (shared, True)):
            group = f"ours-{uuid4().hex[:8]}"
            rates.append(rate("consumer", group=group, messages=CONSUMED, shares_commit=shares_commit))
        group = f"bare-{uuid4().hex[:8]}"
        bare.append(rate("bare_consumer", group=group, messages=CONSUMED, dsn=dsn()))
        say(
            f"round {round_ + 1}: inbox and handler {alone[-1]:,.0f}/s with a commit each, {shared[-1]:,.0f}/s with "
            f"shared commits, bare consumer {bare[-1]:,.0f}/s"
        )
    return alone, shared, bare


def main() -> None:
    """Run everything and print the report."""
    import django

    django.setup()
    from benchmarks import relay_world
    from benchmarks.harness import median, percentile, report, say

    relay_world.prepare()
    relay_rates, producer_rates = producers()
    alone, shared, bare = consumers()
    shares = []
    for round_ in range(ROUNDS):
        one, two = relays(1), relays(2)
        shares.append(two / one)
        say(f"round {round_ + 1}: one relay {one:,.0f}/s, two relays {two:,.0f}/s")
    without, with_message = [], []
    for _ in range(ROUNDS):
        without.append(commits_per_s(publishing=False))
        with_message.append(commits_per_s(publishing=True))
    rate("relay")
    waits = latency_ms()
    if not waits:
        raise SystemExit("no message arrived while the latency was measured: the consumer cannot keep up")
    report(
        "relay",
        ratios={
            "of_bare_producer": median([ours / limit for ours, limit in zip(relay_rates, producer_rates, strict=True)]),
            "of_bare_consumer": median([ours / limit for ours, limit in zip(shared, bare, strict=True)]),
            "of_bare_consumer_commit_each": median([ours / limit for ours, limit in zip(alone, bare, strict=True)]),
            "relays2_vs_1": median(shares),
        },
        figures={
            "relay_messages_per_s": round(median(relay_rates)),
            "bare_producer_messages_per_s": round(median(producer_rates)),
            "consumer_messages_per_s": round(median(shared)),
            "consumer_commit_each_messages_per_s": round(median(alone)),
            "bare_consumer_messages_per_s": round(median(bare)),
            "commit_to_consumer_p50_ms": round(percentile(waits, 50), 1),
            "commit_to_consumer_p99_ms": round(percentile(waits, 99), 1),
            "commits_per_s_without_message": round(median(without)),
            "commits_per_s_with_message": round(median(with_message)),
        },
    )


if __name__ == "__main__":
    main()
