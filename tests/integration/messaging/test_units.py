"""Several messages in one commit: what is shared, and that one that fails costs the others nothing."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from psycopg.errors import DeadlockDetected

from apps.common.errors import DomainError
from apps.messaging import inbox
from apps.messaging.consumer import consume_once
from apps.messaging.inbox import Received
from apps.messaging.models import Inbox, Redelivery
from apps.messaging.redelivery import ATTEMPTS_MAX, redeliver
from apps.messaging.transports.base import IncomingRecord
from tests.integration.messaging.test_consumer import record
from tests.integration.messaging.world import TOPIC, Note, all_is_due, dead_letters

pytestmark = pytest.mark.django_db

GROUP = "units"


class Batches:
    """A handler that remembers its calls, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.handled: list[int] = []
        self.poisoned: set[int] = set()
        self.before: list[Callable[[], None]] = []

    def handle(self, received: Sequence[Received[Note]]) -> None:
        numbers = [one.message.n for one in received]
        self.calls.append(numbers)
        if self.before:
            self.before.pop(0)()
        if self.poisoned & set(numbers):
            raise RuntimeError("poison")
        self.handled += numbers


@pytest.fixture
def batches() -> Iterator[Batches]:
    made = Batches()
    inbox.handles_batch(Note, group=GROUP, rows_max=4)(made.handle)
    yield made
    inbox._handlers.pop(GROUP)
    inbox._topics.pop(GROUP)


class Fed:
    """A member that was given its records."""

    def __init__(self, records: Sequence[IncomingRecord]) -> None:
        self._records = list(records)
        self.committed: list[int] = []
        self.retried: list[int] = []

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        given, self._records = self._records[:records_max], self._records[records_max:]
        return given

    def commit(self, one: IncomingRecord) -> None:
        self.committed.append(one.offset)

    def retry(self, one: IncomingRecord, *, after_s: float) -> None:
        self.retried.append(one.offset)

    def close(self) -> None:
        pass


def feed(*records: IncomingRecord) -> Fed:
    member = Fed([IncomingRecord(one.topic, one.partition, at, one.key, one.value) for at, one in enumerate(records)])
    consume_once(member, group=GROUP, timeout_s=0)
    return member


class TestBatch:
    def test_takes_as_many_as_it_may_in_order_and_commits_the_last_offset_of_each(self, batches: Batches) -> None:
        member = feed(*(record(n, key=f"k{n}") for n in range(10)))
        assert batches.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert member.committed == [3, 7, 9]
        assert Inbox.objects.filter(group=GROUP).count() == 10

    def test_takes_no_message_that_took_effect_before_and_no_copy(self, batches: Batches) -> None:
        one, two, three = record(1), record(2), record(3)
        feed(one)
        feed(one, two, two, three, one)
        assert batches.calls == [[1], [2, 3]]

    def test_finds_the_poisoned_one_and_handles_the_others(self, batches: Batches) -> None:
        batches.poisoned = {2}
        member = feed(*(record(n, key=f"k{n}") for n in range(4)))
        assert batches.calls == [[0, 1, 2, 3], [0], [1], [2], [3]]
        assert batches.handled == [0, 1, 3]
        assert member.committed == [3]
        row = Redelivery.objects.get()
        assert (row.key, row.attempts, row.partition, row.offset) == ("k2", 1, 0, 2)

    def test_the_poisoned_ones_key_waits_behind_it(self, batches: Batches) -> None:
        batches.poisoned = {1}
        feed(record(1, key="a"), record(2, key="b"), record(3, key="a"))
        assert batches.handled == [2]
        batches.poisoned = set()
        all_is_due()
        feed(record(4, key="a"))
        all_is_due()
        feed()
        assert batches.handled[1:] == [1, 3, 4]

    def test_leaves_out_what_cannot_be_read_and_goes_on(self, batches: Batches) -> None:
        broken = IncomingRecord(TOPIC, 0, 0, "k", b"{")
        wrong = record(5, value=record(5).value.replace(b'"n": 5', b'"n": "x"').replace(b'"n":5', b'"n":"x"'))
        member = feed(record(1), broken, record(2), wrong, record(3, key="other"))
        assert batches.handled == [1, 2, 3]
        assert member.committed == [0, 1, 2, 3, 4]
        assert len(dead_letters()) == 2

    def test_a_partition_does_not_share_with_another(self, batches: Batches) -> None:
        second = record(2, key="x")
        feed(record(1), IncomingRecord(second.topic, 1, 0, second.key, second.value), record(3))
        assert sorted(batches.calls) == [[1, 3], [2]]

    def test_a_deadlock_is_tried_once_more_together(self, batches: Batches) -> None:
        def deadlock() -> None:
            raise OperationalError("deadlock detected") from DeadlockDetected()

        batches.before = [deadlock]
        feed(record(1, key="a"), record(2, key="b"))
        assert batches.calls == [[1, 2], [1, 2]]
        assert not Redelivery.objects.exists()

    def test_everything_of_a_failed_unit_is_rolled_back(self, batches: Batches) -> None:
        batches.poisoned = {2}
        feed(record(1, key="a"), record(2, key="b"))
        assert set(Inbox.objects.values_list("group", flat=True)) == {GROUP}
        assert Inbox.objects.count() == 1


class TestSharedCommit:
    @pytest.fixture
    def seen(self) -> Iterator[list[Any]]:
        made: list[Any] = []

        def handle(note: Note, _meta: Any) -> None:
            if note.n < 0:
                raise RuntimeError("poison")
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_xact_id()::text")
                made.append((note.n, cursor.fetchone()[0]))

        inbox.handles(Note, group=GROUP, shares_commit=True)(handle)
        yield made
        inbox._handlers.pop(GROUP)
        inbox._topics.pop(GROUP)

    @pytest.mark.django_db(transaction=True)
    def test_several_messages_are_one_transaction(self, seen: list[Any]) -> None:
        feed(*(record(n, key=f"k{n}") for n in range(5)))
        assert [n for n, _ in seen] == list(range(5))
        assert len({xid for _, xid in seen}) == 1

    @pytest.mark.django_db(transaction=True)
    def test_when_one_fails_each_has_its_own(self, seen: list[Any]) -> None:
        feed(record(1, key="a"), record(-1, key="b"), record(2, key="c"))
        effects = dict(seen[1:])  # the first attempt was rolled back
        assert set(effects) == {1, 2}
        assert len(set(effects.values())) == 2
        assert Inbox.objects.count() == 2

    def test_a_handler_shares_nothing_unless_it_says_so(self) -> None:
        inbox.handles(Note, group=GROUP)(lambda note, meta: None)
        assert inbox.rows_max(GROUP) == 1
        inbox._handlers.pop(GROUP)
        inbox._topics.pop(GROUP)


class StandsStill(DomainError):
    """A refusal that is over by itself."""

    code, retryable, passes = "R999", True, True


class TestWhatPassesByItself:
    def refuse(self, *, stops_queue: bool) -> Callable[[], None]:
        def stand_still() -> None:
            error = StandsStill()
            error.stops_queue = stops_queue
            raise error

        return stand_still

    def test_is_redelivered_as_often_as_it_takes(self, batches: Batches) -> None:
        batches.before = [self.refuse(stops_queue=False)] * (2 * ATTEMPTS_MAX)
        feed(record(1))
        for _ in range(2 * ATTEMPTS_MAX - 1):
            all_is_due()
            redeliver(group=GROUP, now=timezone.now())
        assert (dead_letters(), batches.handled) == ([], [])
        all_is_due()
        redeliver(group=GROUP, now=timezone.now())
        assert batches.handled == [1]

    def test_leaves_an_attempt_to_what_fails_then(self, batches: Batches) -> None:
        batches.before = [self.refuse(stops_queue=False)] * (2 * ATTEMPTS_MAX)
        batches.poisoned = {1}
        feed(record(1))
        for _ in range(2 * ATTEMPTS_MAX):
            all_is_due()
            redeliver(group=GROUP, now=timezone.now())
        assert len(dead_letters()) == 1

    def test_keeps_the_partition_waiting_when_all_would_end_so(self, batches: Batches) -> None:
        batches.before = [self.refuse(stops_queue=True)]
        member = feed(record(1), record(2))
        assert (member.committed, member.retried, batches.calls) == ([], [0], [[1, 2]])
        assert Redelivery.objects.count() == 0
