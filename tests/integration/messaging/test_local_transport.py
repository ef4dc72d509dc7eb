"""The local broker promises what Kafka promises: the writing side, and reading."""

import threading

import pytest
from django.db import OperationalError, transaction

from apps.common.transactions import TransactionMisuse
from apps.messaging.models import LocalRecord
from apps.messaging.transports import local, transport
from apps.messaging.transports.base import Fate, OutgoingRecord, TransportDown
from apps.messaging.transports.local import RECORD_BYTES_MAX, LocalTransport
from apps.messaging.transports.local_consumer import PARTITIONS
from apps.messaging.transports.shares import partition_of
from tests.integration.messaging.local_world import KEYS, TOPIC, join, read, send, values
from tests.integration.messaging.world import together

pytestmark = pytest.mark.django_db


class TestSend:
    def test_appends_in_order_with_offsets_without_gaps(self) -> None:
        send("a", "b")
        send("c")
        found = read(join())
        assert values(found) == ["a", "b", "c"]
        assert [record.offset for record in found] == [0, 1, 2]
        assert {record.partition for record in found} == {partition_of("k", partitions=PARTITIONS)}

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


class TestReading:
    def test_begins_after_the_last_commit(self) -> None:
        send("a", "b", "c")
        member = join()
        member.commit(read(member)[1])
        assert values(read(member)) == ["c"]

    def test_never_moves_back(self) -> None:
        send("a", "b", "c")
        member = join()
        found = read(member)
        member.commit(found[2])
        assert read(member) == []
        member.commit(found[0])
        assert read(member) == []

    def test_gives_everything_to_each_of_two_groups(self) -> None:
        send("a")
        assert values(read(join("g"))) == values(read(join("h"))) == ["a"]

    def test_lets_no_busy_partition_starve_the_others(self) -> None:
        send(*map(str, range(50)), key=KEYS[0])
        send("rare", key=KEYS[1])
        assert "rare" in values(read(join(), records_max=2))

    def test_fills_the_page_where_there_is_enough(self) -> None:
        send(*map(str, range(50)), key=KEYS[0])
        send("x", "y", "z", key=KEYS[1])
        assert len(read(join(), records_max=20)) == 20

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

    def test_goes_on_after_records_that_are_forgotten(self) -> None:
        send("a", "b", "c")
        LocalRecord.objects.filter(offset__lt=2).delete()
        assert values(read(join(), records_max=1)) == ["c"]


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

        together(reader, *[lambda name=name: writer(name) for name in "abcd"])
        assert LocalRecord.objects.count() == 4 * 20 * PARTITIONS
        for partition in range(PARTITIONS):
            assert [offset for at, offset in seen if at == partition] == list(range(80))

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
