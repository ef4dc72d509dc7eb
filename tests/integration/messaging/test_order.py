"""From publish() to the handler with many writers, relays and consumers at once: order per key, once, nothing lost."""

import random
import threading
from collections.abc import Callable
from functools import partial

import pytest
from django.db import connection, transaction

from apps.messaging.consumer import ConsumerThread
from apps.messaging.models import Pending, Redelivery
from apps.messaging.outbox import publish
from apps.messaging.relay import relay_all
from tests.integration.messaging.world import THREADS_S_MAX, Note, Reader, leases_end, published, together

pytestmark = pytest.mark.django_db(transaction=True)

WRITERS, RELAYS, CONSUMERS, COMMITS = 8, 4, 2, 15
KEYS = [f"order-{n}" for n in range(6)]


class Aborted(Exception):
    pass


def write(writer: int, counters: dict[str, int]) -> None:
    """Publish on random aggregates, each under its lock, as verbs do; some transactions roll back."""
    chance = random.Random(writer)
    for _ in range(COMMITS):
        key = chance.choice(KEYS)
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [KEYS.index(key)])
                n = counters[key]
                for more in range(chance.randrange(1, 4)):
                    publish(Note(n=n + more, key=key), key=key)
                if chance.random() < 0.2:
                    raise Aborted
                counters[key] = n + more + 1
        except Aborted:
            pass


class TestOrder:
    @pytest.mark.parametrize("owners_stall", [False, True])
    def test_every_key_arrives_as_it_was_published(self, reader: Callable[[str], Reader], owners_stall: bool) -> None:
        one = reader("g")
        counters = dict.fromkeys(KEYS, 0)
        finished: list[int] = []
        stop = threading.Event()
        # Some handlers fail once, and their key waits for them.
        one.failing = {n: [RuntimeError("at times")] for n in range(0, 20, 7)}
        threads = [ConsumerThread("g", stop) for _ in range(CONSUMERS)]

        def writer(name: int) -> None:
            write(name, counters)
            finished.append(name)

        def relay(name: int) -> None:
            chance = random.Random(name)
            while len(finished) < WRITERS or Pending.objects.exists():
                if owners_stall and chance.random() < 0.3:
                    leases_end()  # whoever is sending or handling now has lost what it owned
                relay_all()

        for thread in threads:
            thread.start()
        try:
            together(*[partial(writer, n) for n in range(WRITERS)], *[partial(relay, n) for n in range(RELAYS)])
            _until(lambda: len(one.seen) >= sum(counters.values()) and not Redelivery.objects.exists())
        finally:
            stop.set()
            for thread in threads:
                thread.join(THREADS_S_MAX)
        for key in KEYS:
            assert published(key) == list(range(counters[key]))
            assert one.numbers(key) == published(key)


def _until(condition: Callable[[], bool]) -> None:
    """Wait for consumers to come to rest; the test fails on what they did, not on how long it took."""
    never = threading.Event()
    for _ in range(THREADS_S_MAX * 50):
        if condition():
            return
        never.wait(0.02)
    raise AssertionError("the consumers never come to rest")
