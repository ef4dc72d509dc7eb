"""The members of a group share the local broker's partitions, and never own one at the same time."""

import random
import threading
from collections.abc import Sequence

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.messaging.models import LocalCursor, LocalMember
from apps.messaging.transports import local_consumer
from apps.messaging.transports.base import IncomingRecord
from apps.messaging.transports.local_consumer import PARTITIONS, LocalConsumer
from tests.integration.messaging.local_world import KEYS, OTHER, TOPIC, end, fill, join, owned, read, send, settle, values
from tests.integration.messaging.world import THREADS_S_MAX, leases_end, together

pytestmark = pytest.mark.django_db


class TestCommit:
    def test_is_one_statement_for_all_records_of_a_poll(self) -> None:
        for key in KEYS:
            send(*map(str, range(5)), key=key)
        member = join()
        with CaptureQueriesContext(connection) as queries:
            for record in read(member):
                member.commit(record)
            read(member)
        assert sum("SET next_offset" in query["sql"] for query in queries) == 1

    def test_is_written_in_between_by_one_who_handles_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        send("a", "b")
        member = join()
        found = read(member)
        leases_end()
        monkeypatch.setattr(local_consumer, "RENEW_S", 0)
        member.commit(found[0])
        assert read(join()) == [], "the lease was renewed too"
        assert LocalCursor.objects.filter(next_offset=1).exists()

    def test_is_written_when_the_member_leaves(self) -> None:
        send("a", "b")
        member = join()
        member.commit(read(member)[0])
        member.close()
        assert values(read(join())) == ["b"]

    def test_of_one_who_lost_the_partition_moves_nothing(self) -> None:
        send("a", "b")
        stale, heir = join(), join()
        found = read(stale)
        end(stale)
        assert values(read(heir)) == ["a", "b"]
        stale.commit(found[1])
        assert read(stale) == []
        assert LocalCursor.objects.get().next_offset == 0


class TestSharing:
    def test_the_first_member_owns_everything(self) -> None:
        fill()
        member = join()
        read(member)
        assert len(member.assignment()) == 2 * PARTITIONS

    def test_two_members_own_half_of_each_topic(self) -> None:
        fill()
        members = [join(), join()]
        settle(members)
        assert [owned(member) for member in members] == [[2, 2], [2, 2]]

    def test_every_one_of_three_owns_some(self) -> None:
        fill()
        members = [join(), join(), join()]
        settle(members)
        for of_topic in zip(*map(owned, members), strict=True):
            assert sorted(of_topic) == [1, 1, 2]
        everything = [place for member in members for place in member.assignment()]
        assert len(everything) == len(set(everything)) == 2 * PARTITIONS

    def test_members_that_are_too_many_wait_for_one_to_leave(self) -> None:
        fill(topics=[TOPIC])
        members = [join(topics=[TOPIC]) for _ in range(PARTITIONS + 2)]
        settle(members)
        assert sorted(len(member.assignment()) for member in members) == [0, 0, 1, 1, 1, 1]
        working = next(member for member in members if member.assignment())
        working.close()
        settle([member for member in members if member is not working])
        assert sorted(len(member.assignment()) for member in members) == [0, 0, 1, 1, 1, 1]

    def test_a_partition_is_handed_over_between_two_polls_of_its_owner(self) -> None:
        fill()
        busy, other = join(), join()
        read(busy)
        assert read(other) == read(other) == [], "the busy one is in the middle of handling"
        read(busy)
        assert len(read(other)) == PARTITIONS

    def test_what_was_committed_is_not_read_again_by_the_next_owner(self) -> None:
        fill("a", "b")
        one, two = join(), join()
        first = read(one)
        for record in first:
            if record.value == b"a":
                one.commit(record)
        read(two)
        assert values(read(one) + read(two)) == ["b"] * 2 * PARTITIONS

    def test_the_others_take_over_at_once_when_one_leaves(self) -> None:
        fill()
        one, two = join(), join()
        settle([one, two])
        one.close()
        read(two)
        assert len(two.assignment()) == 2 * PARTITIONS

    def test_the_others_take_over_when_the_lease_of_a_dead_one_is_over(self) -> None:
        fill("a", "b")
        dead, heir = join(), join()
        settle([dead, heir])
        read(heir)
        assert len(heir.assignment()) == PARTITIONS
        end(dead)
        read(heir)
        assert len(heir.assignment()) == 2 * PARTITIONS

    def test_one_whose_lease_was_over_comes_back_as_a_new_member(self) -> None:
        fill()
        late, heir = join(), join()
        settle([late, heir])
        end(late)
        read(heir)
        assert len(heir.assignment()) == 2 * PARTITIONS
        assert read(late) == [], "what it owned is not its any more"
        settle([heir, late])
        assert [owned(member) for member in (late, heir)] == [[2, 2], [2, 2]]

    def test_a_late_renewal_keeps_everything_while_nobody_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fill()
        late, heir = join(), join()
        read(late)
        end(late)
        monkeypatch.setattr(local_consumer, "RENEW_S", 0)
        read(late)
        assert read(heir) == []
        assert len(late.assignment()) == 2 * PARTITIONS

    def test_leaving_twice_or_after_losing_disturbs_nobody(self) -> None:
        fill()
        stale, heir = join(), join()
        read(stale)
        end(stale)
        read(heir)
        stale.close()
        stale.close()
        read(heir)
        assert len(heir.assignment()) == 2 * PARTITIONS

    def test_a_topic_is_shared_by_those_who_read_it(self) -> None:
        fill()
        both, one = join(), join(topics=[OTHER])
        settle([both, one])
        assert {place for place in both.assignment() if place[0] == TOPIC} == {(TOPIC, p) for p in range(PARTITIONS)}
        assert len(one.assignment()) == PARTITIONS // 2
        assert both.assignment().isdisjoint(one.assignment())

    def test_a_pause_ends_with_the_ownership(self) -> None:
        fill("a", topics=[TOPIC])
        one, two = join(topics=[TOPIC]), join(topics=[TOPIC])
        for record in read(one):
            one.retry(record, after_s=3600)
        assert read(one) == []
        one.close()
        assert len(read(two)) == PARTITIONS

    def test_one_who_has_nothing_to_do_looks_once_a_poll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_consumer, "JUST_NOW_S", 60)
        send("a")
        member = join()
        member.commit(read(member)[0])
        read(member)
        with CaptureQueriesContext(connection) as queries:
            for _ in range(3):
                assert member.poll(records_max=10, timeout_s=0.001) == []
        assert sum("FROM messaging_localpartition" in query["sql"] for query in queries) == 3
        send("b")
        assert values(member.poll(records_max=10, timeout_s=0.001)) == ["b"]

    def test_looking_writes_nothing_while_nothing_changes(self) -> None:
        fill()
        members = [join(), join()]
        settle(members)
        with CaptureQueriesContext(connection) as queries:
            for member in members:
                read(member)
        assert {query["sql"].split()[0] for query in queries} == {"SELECT"}


@pytest.mark.django_db(transaction=True)
class TestConcurrently:
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

    def test_members_that_come_and_go_read_every_record_once_and_in_order(self) -> None:
        rounds, in_a_round = 40, 3
        seen = _Handled()
        written = threading.Event()

        def write() -> None:
            for n in range(rounds):
                fill(*(f"{n}.{m}" for m in range(in_a_round)))
            written.set()

        def come_and_go(seed: int) -> None:
            chance = random.Random(seed)
            while not (written.is_set() and seen.count() == rounds * in_a_round * 2 * PARTITIONS):
                member = join()
                for _ in range(chance.randint(1, 8)):
                    seen.handled_by(member)
                    for record in seen.given_to(
                        member, member.poll(records_max=chance.choice((1, 5, 50)), timeout_s=0.005)
                    ):
                        member.commit(record)
                seen.handled_by(member)
                member.close()

        together(write, *[lambda seed=seed: come_and_go(seed) for seed in range(4)])
        assert seen.at_the_same_time == []
        assert set(seen.offsets.values()) == {tuple(range(rounds * in_a_round))}
        assert not LocalMember.objects.exists()


class _Handled:
    """What was given to whom, in order, and what was given to two members at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[tuple[str, int], LocalConsumer] = {}
        self.offsets: dict[tuple[str, int], tuple[int, ...]] = {}
        self.at_the_same_time: list[tuple[str, int]] = []

    def given_to(self, member: LocalConsumer, records: Sequence[IncomingRecord]) -> Sequence[IncomingRecord]:
        with self._lock:
            for record in records:
                place = (record.topic, record.partition)
                if self._holders.setdefault(place, member) is not member:
                    self.at_the_same_time.append(place)
                self.offsets[place] = (*self.offsets.get(place, ()), record.offset)
        return records

    def handled_by(self, member: LocalConsumer) -> None:
        with self._lock:
            self._holders = {place: holder for place, holder in self._holders.items() if holder is not member}

    def count(self) -> int:
        with self._lock:
            return sum(map(len, self.offsets.values()))


def _until_somebody_waits_for_a_lock() -> None:
    pause = threading.Event()
    for _ in range(THREADS_S_MAX * 50):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            if cursor.fetchone():
                return
        pause.wait(0.01)
    raise AssertionError("nobody waits: the race is not set up")
