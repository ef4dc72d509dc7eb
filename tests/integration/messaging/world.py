"""What the tests of the post office share: a message, a handler that remembers, a broker that fails on demand, threads."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from django.db import connections, transaction
from django.utils import timezone

from apps.messaging import inbox
from apps.messaging.contracts.base import Message
from apps.messaging.envelope import Meta
from apps.messaging.models import Bucket, LocalMember, Pending, Redelivery
from apps.messaging.models import Message as MessageRow
from apps.messaging.outbox import bucket_of, publish
from apps.messaging.transports.base import Consumer, Fate, OutgoingRecord, SendOutcome, TransportDown

TOPIC = "tests.post.office.event"
ERROR_TOPIC = "tests.post.office.error"
THREADS_S_MAX = 90  # a thread that takes longer hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Message):
    """A numbered message."""

    topic: ClassVar[str] = TOPIC
    schema: ClassVar[str] = "tests.note.v1"

    n: int
    key: str = ""


def post(*numbers: int, key: str = "k") -> None:
    """Publish notes, one commit each."""
    for n in numbers:
        with transaction.atomic():
            publish(Note(n=n, key=key), key=key)


class _Aborted(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    """A transaction, or a savepoint, that fails at its end."""
    with suppress(_Aborted), transaction.atomic():
        yield
        raise _Aborted


def again(row: MessageRow) -> None:
    """The relay sends a message once more: the same id arrives twice."""
    values = {"message_id": row.pk, "topic": row.topic, "key": row.key, "bucket": bucket_of(row.key)}
    Pending.objects.get_or_create(seq=row.seq, defaults={**values, "due_at": timezone.now()})


def published(key: str | None = None) -> list[int]:
    """The numbers of all notes, in the order in which they were published."""
    rows = MessageRow.objects.filter(topic=TOPIC).order_by("seq")
    return [row.body["n"] for row in (rows if key is None else rows.filter(key=key))]


def dead_letters() -> list[MessageRow]:
    """What was buried, oldest first."""
    return list(MessageRow.objects.filter(topic=ERROR_TOPIC).order_by("seq"))


class Reader:
    """A handler for a group: it remembers what it handled, and fails when told to."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.seen: list[tuple[str, int]] = []
        self.metas: list[Meta] = []
        self.failing: dict[int, list[Exception]] = {}
        self.before: Callable[[Note], None] = lambda note: None
        inbox._handlers[group][Note.schema] = inbox.Handling(self.handle)
        inbox._topics[group].add(TOPIC)

    def handle(self, note: Note, meta: Meta) -> None:
        self.before(note)
        if self.failing.get(note.n):
            raise self.failing[note.n].pop(0)
        self.seen.append((note.key, note.n))
        self.metas.append(meta)

    def numbers(self, key: str | None = None) -> list[int]:
        return [n for seen_key, n in self.seen if key in (None, seen_key)]

    def close(self) -> None:
        inbox._handlers.pop(self.group, None)
        inbox._topics.pop(self.group, None)


class ScriptedTransport:
    """A broker that keeps a log and, on demand, refuses a record, is away, or stalls."""

    def __init__(self) -> None:
        self.log: list[OutgoingRecord] = []
        self.refused_keys: set[str] = set()
        self.down = False
        self.stalls: list[Callable[[], None]] = []  # called once each, before a send appends anything
        self.half_way: list[Callable[[], None]] = []  # called once each, after the first half was appended

    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        if self.stalls:
            self.stalls.pop(0)()
        if self.down:
            raise TransportDown("nobody answers")
        outcomes = []
        blocked: set[str] = set()
        half_way = self.half_way.pop(0) if self.half_way else None
        for index, record in enumerate(records):
            if half_way is not None and index == len(records) // 2:
                half_way()
            if record.key in blocked:
                outcomes.append(SendOutcome(Fate.NOT_SENT))
            elif record.key in self.refused_keys:
                blocked.add(record.key)
                outcomes.append(SendOutcome(Fate.REFUSED, "not this one"))
            else:
                self.log.append(record)
                outcomes.append(SendOutcome(Fate.ACKNOWLEDGED))
        return outcomes

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        raise NotImplementedError

    def numbers(self, key: str | None = None) -> list[int]:
        return [json.loads(record.value)["body"]["n"] for record in self.log if key in (None, record.key)]


class BackgroundTransport(ScriptedTransport):
    """The same broker with a client that sends while its caller does something else."""

    def begin(self, records: Sequence[OutgoingRecord]) -> "BackgroundTransport.Sending":
        return self.Sending(self, records)

    class Sending:
        """A batch under way: it arrives when somebody waits for it, as late as it can."""

        def __init__(self, broker: "BackgroundTransport", records: Sequence[OutgoingRecord]) -> None:
            self._broker, self._records = broker, records

        def outcomes(self) -> Sequence[SendOutcome]:
            return self._broker.send(self._records)


def once(numbers: Iterable[int]) -> list[int]:
    """What is left when the inbox has dropped the copies."""
    return list(dict.fromkeys(numbers))


def leases_end() -> None:
    """Every lease of a relay or a consumer is over."""
    past = timezone.now() - timedelta(seconds=1)
    # One by one: a statement that locks many rows in an order of its own would deadlock with relays and consumers.
    for bucket in Bucket.objects.all():
        Bucket.objects.filter(pk=bucket.pk).update(lease_until=past)
    for member in LocalMember.objects.all():
        LocalMember.objects.filter(pk=member.pk).update(lease_until=past)


def all_is_due() -> None:
    """Every redelivery is due."""
    Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def together(*functions: Callable[[], None]) -> None:
    """Run functions in threads that start at once; raise what any of them raised."""
    barrier = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            barrier.wait(THREADS_S_MAX)
            function()
        except BaseException as error:  # handed to the test's own thread below
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(THREADS_S_MAX)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
