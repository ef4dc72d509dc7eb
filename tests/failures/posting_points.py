"""Consumers of the ledger's queue that die at every point, one after the other, each over a batch of its own.

    python -m tests.failures.posting_points <batch> <how> <moment>

A point is an exchange with PostgreSQL (a statement, a COPY and its end, a pipeline, a commit) or the sending of the offsets
to the broker. A consumer counts its exchanges from its first poll to its leaving the group; the n-th one dies at the n-th:

    before      SIGKILL before anything is sent
    in_flight   SIGKILL when it is sent and not answered: what the server does with it nobody hears
    cut         it does not die; the server's connection is gone, at this point

Then another consumer finishes what it left. A consumer that comes to its end unharmed has found no n-th point: that was the
last. Prints what the points were, and every answer as it lies on the topic, as JSON.
"""

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

KINDS_S = 240  # of one consumer: a limit for a broken build
POINTS_MAX = 400
ASK_S = 1.0  # between two questions to a server for its offsets
AT_ONCE = 48  # on a server, where a dead member's partitions are given away after seconds: these seconds pass together
HOWS = ("before", "in_flight", "cut")


class Points:
    """Counts this process's exchanges, and acts at one of them."""

    def __init__(self, at: int, how: str, tell: Callable[[str], None]) -> None:
        self._at, self._how, self._tell = at, how, tell
        self.count = 0
        self.paused = False

    def watch(self) -> None:
        """Count every exchange of every connection, and what is sent to the broker, if there is a point to come."""
        if not self._at:
            return
        import psycopg
        from django.conf import settings
        from django.db.backends.postgresql.base import DatabaseWrapper as Djangos

        from apps.common import prepared
        from config.database.base import DatabaseWrapper

        # Nobody can die within one call of libpq: psycopg says the same, and can be stopped between sending and hearing.
        # The classes themselves are changed (hence the ignores): the process is a fork that ends with its consumer.
        prepared.Cursor._maybe_prepare_gen = psycopg.Cursor._maybe_prepare_gen  # type: ignore[method-assign]
        DatabaseWrapper._commit = Djangos._commit  # type: ignore[attr-defined, method-assign]
        waits = psycopg.Connection.wait
        points = self

        def wait(connection: Any, exchange: Any, *rest: Any, **options: Any) -> Any:
            if points._is_here():
                points._tell(_label(exchange))
                points._act(connection, exchange)
            return waits(connection, exchange, *rest, **options)

        psycopg.Connection.wait = wait  # type: ignore[method-assign]
        self._watch_copies()
        if settings.MESSAGING_TRANSPORT == "kafka":
            self._watch_offsets()

    def _watch_copies(self) -> None:
        """What is said to libpq itself: a COPY's beginning and rows, and waiting with work at hand."""
        from apps.common import meanwhile, prepared
        from apps.ledger import rows

        points, copy_in, until_answered = self, meanwhile.copy_in, meanwhile.until_answered

        def copy(pgconn: Any, statement: str, blocks: Iterable[str | bytes], work: Any) -> None:
            if points._is_here():
                points._tell(_shortened(statement))
                if points._how == "in_flight":
                    blocks = _dying(pgconn, blocks)
                else:
                    points._cut_or_die(pgconn)
            copy_in(pgconn, statement, blocks, work)

        def wait(pgconn: Any, work: Any) -> None:
            if points._is_here():
                points._tell("answer")
                while points._how == "in_flight" and pgconn.flush():
                    pgconn.consume_input()
                points._cut_or_die(pgconn)
            until_answered(pgconn, work)

        rows.copy_in = copy  # type: ignore[attr-defined]
        meanwhile.until_answered = prepared.until_answered = wait  # type: ignore[attr-defined]

    def _watch_offsets(self) -> None:
        from apps.messaging.transports.kafka_consumer import KafkaMember

        points = self
        send: Any = KafkaMember._commit_noted

        def commit_noted(member: Any) -> None:
            here = bool(member._noted) and points._is_here()
            if here:
                points._tell("OFFSETS")
            if here and points._how == "before":
                _die()
            send(member)
            if here and points._how == "in_flight":
                _die()

        KafkaMember._commit_noted = commit_noted  # type: ignore[method-assign]

    def _is_here(self) -> bool:
        if self.paused:
            return False
        self.count += 1
        return self.count == self._at

    def _act(self, connection: Any, exchange: Any) -> None:
        if self._how == "in_flight":
            with suppress(StopIteration):
                next(exchange)
        self._cut_or_die(connection.pgconn)

    def _cut_or_die(self, pgconn: Any) -> None:
        if self._how != "cut":
            _die()
        with socket.socket(fileno=os.dup(pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying(pgconn: Any, blocks: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """A COPY of which the server has some rows, and never the end."""
    yield from blocks
    while pgconn.flush():
        pgconn.consume_input()
    _die()


def _label(exchange: Any) -> str:
    """What is exchanged: the statement's first words, or the name of what the driver does."""
    frame = getattr(exchange, "gi_frame", None)
    found = dict(frame.f_locals) if frame else {}
    text = found.get("query") or found.get("statement") or getattr(exchange, "__qualname__", "answer")
    return _shortened(text.decode() if isinstance(text, bytes) else str(text))


def _shortened(text: str) -> str:
    return " ".join(text.split())[:60]


class Consumer:
    """The project's own consumer of the group, in this process, until nothing is left to do.

    On a server the records of a batch may come in two fetches, and the polls before them may have made a connection or
    not. The n-th exchange must be the same one in every consumer, or a point is met twice and another never: there it
    begins with all ``records`` of its batch in hand and no connection.
    """

    def __init__(self, points: Points, *, records: int = 0) -> None:
        self._points = points
        self._records = records if on_server() else 0
        self._stop = threading.Event()
        self._ask_at = 0.0

    def run(self) -> None:
        from apps.messaging.consumer import ConsumerThread
        from apps.messaging.transports import transport

        broker: Any = transport()
        join = broker.consumer
        broker.consumer = lambda **who: self._draining(join(**who))
        self._points.watch()
        try:
            ConsumerThread("ledger", self._stop).run()
        finally:
            del broker.consumer

    def _draining(self, member: Any) -> Any:
        poll = member.poll
        # On a server it takes some polls to join, and nobody knows how many: they are no points.
        self._points.paused = on_server()

        def poll_until_done(**limits: Any) -> Any:
            found = list(poll(**limits))
            if found:
                while len(found) < self._records:
                    found += poll(**limits)
                self._begin()
            elif self._is_done():
                self._stop.set()
            return found

        member.poll = poll_until_done
        return member

    def _begin(self) -> None:
        from django.db import connections

        if self._records:
            connections.close_all()
        self._records = 0
        self._points.paused = False

    def _is_done(self) -> bool:
        """Has the group an offset behind every record, and is nothing to be handled again? Not counted."""
        from django.db import Error, connection

        from apps.messaging.lag import consumer_lag
        from apps.messaging.models import Redelivery

        if time.monotonic() < self._ask_at:
            return False
        self._ask_at = time.monotonic() + (ASK_S if on_server() else 0)
        paused, self._points.paused = self._points.paused, True
        try:
            lag = consumer_lag("ledger")
            return bool(lag) and not any(lag.values()) and not Redelivery.objects.exists()
        except Error:
            connection.close()
            return False
        finally:
            self._points.paused = paused


@dataclass
class Child:
    """A forked consumer, and the label of the point at which it died."""

    pid: int
    said: int

    def ended(self) -> tuple[int, str]:
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self.said) as said:
            return os.waitstatus_to_exitcode(status), said.read()


def start(at: int, how: str, prefix: str, *, records: int = 0) -> Child:
    """Fork a consumer of a batch of so many records that is to die at a point; 0: at none, and of what is left."""
    from django.conf import settings
    from django.db import connections

    from apps.messaging.transports import transport

    connections.close_all()
    said, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        return Child(pid, said)
    status = 1
    try:
        signal.alarm(KINDS_S)
        settings.MESSAGING_PREFIX = prefix
        transport.cache_clear()
        Consumer(Points(at, how, lambda text: void(os.write(tell, text.encode()))), records=records).run()
        connections.close_all()
        status = 0
    finally:
        os._exit(status)


def on_server() -> bool:
    """Is the broker a server?"""
    from django.conf import settings

    return bool(settings.MESSAGING_TRANSPORT != "local")


def void(_: object) -> None:
    """Nothing."""


def send(batch: str, name: str, prefix: str, now: datetime) -> int:
    """Put a batch on the topic, as any client would. How many records it has."""
    from django.conf import settings

    from apps.messaging import topics
    from apps.messaging.contracts.ledger import POSTING_IN
    from apps.messaging.transports import transport
    from apps.messaging.transports.base import Fate
    from tests.failures.postings import all_of

    settings.MESSAGING_PREFIX = prefix
    topics.apply([topic for topic in topics.desired_topics() if topic.name == POSTING_IN])
    ((_, asked),) = all_of(batch, [name], now=now)
    transport.cache_clear()  # a producer remembers the topics' names
    outcomes = transport().send([one.record for one in asked])
    assert {outcome.fate for outcome in outcomes} == {Fate.ACKNOWLEDGED}
    return len(outcomes)


def bury_the_dead() -> None:
    """On the local transport a member's lease is a row: let it be over."""
    from django.db import connection
    from django.utils import timezone

    with connection.cursor() as cursor:
        cursor.execute("UPDATE messaging_localmember SET lease_until = %s", [timezone.now() - timedelta(seconds=1)])


def wave(batch: str, how: str, numbers: list[int], now: datetime) -> list[dict[str, Any]]:
    """Some points at once: a consumer dies at each, and one finishes each. Whoever found no point is ``unharmed``."""
    from django.conf import settings

    from apps.messaging.transports import transport

    base = settings.MESSAGING_PREFIX
    names = [f"{how}-{number}" for number in numbers]
    prefixes = [f"{base}{batch}-{name}." if on_server() else base for name in names]
    sent = [send(batch, name, prefix, now) for name, prefix in zip(names, prefixes, strict=True)]
    transport.cache_clear()
    children = [
        start(number, how, prefix, records=records) for number, prefix, records in zip(numbers, prefixes, sent, strict=True)
    ]
    ends = [child.ended() for child in children]
    if on_server():
        finishers = [start(0, how, prefix) for prefix in prefixes]
        finished = [child.ended()[0] for child in finishers]
        assert finished == [0] * len(numbers), f"a consumer could not finish {names}: {finished}"
    else:
        bury_the_dead()
        Consumer(Points(0, how, void)).run()
    settings.MESSAGING_PREFIX = base
    points = []
    for name, (status, label) in zip(names, ends, strict=True):
        expected = 0 if how == "cut" or not label else -signal.SIGKILL
        assert status == expected, f"{name} ended with {status} at {label!r}"
        points.append({"name": name, "label": label, "unharmed": not label})
    return points


def answers() -> list[list[Any]]:
    """What lies on the answers' topic: tracekey and body of every record, however often."""
    from apps.messaging.envelope import decode
    from apps.messaging.relay import relay_all
    from apps.messaging.transports import transport
    from apps.messaging.wire import from_wire
    from tests.failures.postings import ANSWERS

    while relay_all().acknowledged:
        pass
    member = transport().consumer(group=f"tests.answers-{os.getpid()}", topics=[ANSWERS])
    found: list[list[Any]] = []
    end = time.monotonic() + KINDS_S
    try:
        while time.monotonic() < end:
            records = member.poll(records_max=1_000, timeout_s=0.1)
            for record in records:
                body = decode(from_wire(record.value))["body"]
                found.append([body["tracekey"], body])
                member.commit(record)
            lag = None if records else transport().lag(group=f"tests.answers-{os.getpid()}", topics=[ANSWERS])
            if lag and not any(lag.values()):
                return found
    finally:
        member.close()
    raise AssertionError("the answers never come to an end")


def hurry() -> None:
    """Wait for nothing: pauses of a moment, two attempts instead of six, and children that have nothing to import."""
    import kombu.transport.memory  # noqa: F401

    from apps.messaging import consumer, lag, redelivery, tasks  # noqa: F401

    if not on_server():
        consumer.POLL_TIMEOUT_S = 0.0
    consumer.PAUSE_S_MIN = consumer.PAUSE_S_MAX = 0.01
    redelivery.ATTEMPTS_MAX = 2
    redelivery.delay = lambda attempts: timedelta(0)


def main(batch: str, how: str, moment: str) -> None:
    """All points of a batch."""
    import django

    django.setup()
    hurry()
    gc.freeze()  # what is shared with the children need not be looked at, and copied, by each
    now = datetime.fromisoformat(moment)
    size = AT_ONCE if on_server() else 1
    points: list[dict[str, Any]] = []
    while len(points) < POINTS_MAX and not any(point["unharmed"] for point in points):
        points += wave(batch, how, list(range(len(points) + 1, len(points) + 1 + size)), now)
    sys.stdout.write(json.dumps({"points": points, "answers": answers()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
