"""The local broker promises what Kafka promises."""

import threading

import pytest
from django.db import OperationalError, connection, transaction

from apps.common.transactions import TransactionMisuse
from apps.messaging.models import LocalCursor, LocalRecord
from apps.messaging.transports import local, transport
from apps.messaging.transports.base import Fate, IncomingRecord, OutgoingRecord, TransportDown
from apps.messaging.transports.local import PARTITIONS, RECORD_BYTES_MAX, LocalConsumer, LocalTransport, partition_of
from tests.integration.messaging.world import THREADS_S_MAX, leases_end, together

pytestmark = pytest.mark.django_db

TOPIC = "tests.local.log.event"
KEYS = [next(k for k in map(str, range(1000)) if partition_of(k) == p) for p in range(PARTITIONS)]  # one per partition


def send(*values: str, key: str = "k", topic: str = TOPIC) -> None:
    LocalTransport().send([OutgoingRecord(topic, key, value.encode()) for value in values])


def join(group: str = "g") -> LocalConsumer:
    member = LocalTransport().consumer(group=group, topics=[TOPIC])
    assert isinstance(member, LocalConsumer)
    return member


def read(member: LocalConsumer, records_max: int = 100) -> list[IncomingRecord]:
    return list(member.poll(records_max=records_max, timeout_s=0))


def values(records: list[IncomingRecord]) -> list[str]:
    return [record.value.decode() for record in records]


class TestSend:
    def test_appends_in_order_with_offsets_without_gaps(self) -> None:
        send("a", "b")
        send("c")
        found = read(join())
        assert values(found) == ["a", "b", "c"]
        assert [record.offset for record in found] == [0, 1, 2]
        assert {record.partition for record in found} == {partition_of("k")}

    def test_refuses_what_is_too_large_and_holds_back_the_rest_of_its_key(self) -> None:
        large = b"x" * (RECORD_BYTES_MAX + 1)
        batch = [
            OutgoingRecord(TOPIC, "k", b"1"),
            OutgoingRecord(TOPIC, "k", large),
            OutgoingRecord(TOPIC, "k", b"3"),
            OutgoingRecord(TOPIC, "other", b"4"),
        ]
        fates = [outcome.fate for outcome in LocalTransport().send(batch)]
        assert fates == [Fate.ACKNOWLEDGED, Fate.REFUSED, Fate.NOT_SENT, Fate.ACKNOWLEDGED]
        assert sorted(values(read(join()))) == ["1", "4"]

    def test_refuses_to_run_inside_a_transaction(self) -> None:
        with transaction.atomic(), pytest.raises(TransactionMisuse):
            send("a")

    def test_says_that_it_is_down_when_its_database_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(_records: object) -> None:
            raise OperationalError("gone")

        monkeypatch.setattr(local, "_append", away)
        with pytest.raises(TransportDown):
            send("a")


class TestGroup:
    def test_reads_on_after_the_last_commit(self) -> None:
        send("a", "b", "c")
        member = join()
        member.commit(read(member)[1])
        assert values(read(member)) == ["c"]

    def test_never_moves_back(self) -> None:
        send("a", "b", "c")
        member = join()
        found = read(member)
        member.commit(found[2])
        member.commit(found[0])
        assert read(member) == []

    def test_two_groups_read_everything_each(self) -> None:
        send("a")
        assert values(read(join("g"))) == values(read(join("h"))) == ["a"]

    def test_a_partition_has_one_owner(self) -> None:
        for key in KEYS:
            send("a", key=key)
        one, two = join(), join()
        assert len(read(one)) == PARTITIONS
        assert read(two) == []

    def test_two_members_share_what_appears_while_both_are_there(self) -> None:
        one, two = join(), join()
        send("a", key=KEYS[0])
        assert values(read(one)) == ["a"]
        send("b", key=KEYS[1])
        assert values(read(two)) == ["b"]
        send("c", key=KEYS[0])
        assert values(read(two)) == ["b"]
        assert values(read(one)) == ["a", "c"]

    def test_another_member_takes_over_at_once_when_one_leaves(self) -> None:
        send("a", "b")
        one, two = join(), join()
        one.commit(read(one)[0])
        one.close()
        assert values(read(two)) == ["b"]

    def test_another_member_takes_over_when_the_lease_of_a_dead_one_is_over(self) -> None:
        send("a", "b")
        dead, heir = join(), join()
        dead.commit(read(dead)[0])
        assert read(heir) == []
        leases_end()
        assert values(read(heir)) == ["b"]

    def test_a_member_that_lost_its_partition_reads_and_moves_nothing(self) -> None:
        send("a", "b")
        stale, heir = join(), join()
        found = read(stale)
        leases_end()
        assert values(read(heir)) == ["a", "b"]
        stale.commit(found[1])
        assert read(stale) == []
        assert values(read(heir)) == ["a", "b"], "the stale member's commit moved nothing"

    def test_leaving_twice_or_after_losing_disturbs_nobody(self) -> None:
        send("a")
        stale, heir = join(), join()
        read(stale)
        leases_end()
        assert values(read(heir)) == ["a"]
        stale.close()
        stale.close()
        assert read(join()) == [], "the heir still owns it"

    def test_looking_again_writes_nothing_while_the_lease_is_young(self) -> None:
        send("a")
        member = join()
        read(member)
        before = LocalCursor.objects.values_list("lease_until", flat=True).get()
        read(member)
        assert LocalCursor.objects.values_list("lease_until", flat=True).get() == before

    def test_an_old_lease_is_renewed_by_looking(self) -> None:
        send("a")
        member = join()
        read(member)
        leases_end()
        read(member)
        assert read(join()) == []

    def test_a_busy_partition_does_not_starve_the_others(self) -> None:
        send(*map(str, range(50)), key=KEYS[0])
        send("rare", key=KEYS[1])
        assert "rare" in values(read(join(), records_max=2))

    def test_keeps_the_order_of_a_partition_in_a_small_page(self) -> None:
        for key in KEYS:
            send(*map(str, range(5)), key=key)
        member = join()
        seen: dict[int, list[str]] = {}
        while found := read(member, records_max=3):
            for record in found:
                seen.setdefault(record.partition, []).append(record.value.decode())
                member.commit(record)
        assert list(seen.values()) == [list("01234")] * PARTITIONS


@pytest.mark.django_db(transaction=True)
class TestConcurrently:
    def test_writers_leave_no_gaps_and_readers_miss_nothing(self) -> None:
        writing = threading.Semaphore(0)
        seen: list[tuple[int, int]] = []

        def writer(name: str) -> None:
            for n in range(20):
                batch = [OutgoingRecord(TOPIC, key, f"{name}{n}".encode()) for key in reversed(KEYS)]
                LocalTransport().send(batch)
            writing.release()

        def reader() -> None:
            member = join()
            finished = 0
            while True:
                found = read(member)
                for record in found:
                    seen.append((record.partition, record.offset))
                    member.commit(record)
                if not found and finished == 4:
                    return
                finished += writing.acquire(timeout=0.01)

        together(reader, *[lambda name=name: writer(name) for name in "abcd"])  # type: ignore[misc]
        assert LocalRecord.objects.count() == 4 * 20 * PARTITIONS
        for partition in range(PARTITIONS):
            assert [offset for at, offset in seen if at == partition] == list(range(80))

    def test_a_member_that_comes_while_another_takes_a_partition_does_not_take_it_too(self) -> None:
        send("a")
        taken = threading.Event()
        found: dict[str, list[str]] = {}

        def first() -> None:
            with transaction.atomic():
                found["first"] = values(read(join()))
                taken.set()
                _until_somebody_waits_for_a_lock()

        def second() -> None:
            assert taken.wait(THREADS_S_MAX)
            found["second"] = values(read(join()))

        together(first, second)
        assert found == {"first": ["a"], "second": []}

    def test_a_waiting_member_is_woken_by_a_record(self) -> None:
        found: list[str] = []
        member = join()
        send("first")
        member.commit(read(member)[0])

        def wait() -> None:
            found.extend(values(list(member.poll(records_max=10, timeout_s=20))))

        together(wait, lambda: send("second"))
        assert found == ["second"]


class TestChoice:
    def test_is_made_by_a_setting(self, settings: object) -> None:
        assert isinstance(transport(), LocalTransport)


def _until_somebody_waits_for_a_lock() -> None:
    pause = threading.Event()
    for _ in range(THREADS_S_MAX * 50):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            if cursor.fetchone():
                return
        pause.wait(0.01)
    raise AssertionError("nobody waits: the race is not set up")
