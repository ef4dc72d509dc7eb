"""What every transport promises. Each broker's test file makes a class of it with a harness of its own."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from apps.messaging.consumer import Delivery, consume_once, deliver
from apps.messaging.models import Inbox, Pending, Redelivery
from apps.messaging.relay import relay_all
from apps.messaging.transports.base import Fate
from tests.brokers.world import (
    GROUP,
    READ_S_MAX,
    Crew,
    Harness,
    Member,
    by_key,
    eventually,
    read,
    record,
    relaying,
    send,
)
from tests.integration.messaging.world import TOPIC, Note, Reader, all_is_due, dead_letters, post

KEYS = 12
KEYS_EVERYWHERE = 60  # enough for some in every partition, however the broker hashes
BATCH = 4_000  # as many as a relay hands over at once
HUGE_BYTES = 2_000_000


class BrokerContract:
    """The promises. ``harness`` is each subclass's own fixture."""

    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        """A handler of the tests' group."""
        made = Reader(GROUP)
        yield made
        made.close()

    @pytest.fixture
    def wired(self, harness: Harness, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Reader:
        """Relay and consumer on this transport, and the group's handler."""
        monkeypatch.setattr("apps.messaging.relay.transport", lambda: harness.transport)
        monkeypatch.setattr("apps.messaging.consumer.transport", lambda: harness.transport)
        return reader

    @pytest.fixture
    def crew(self, harness: Harness) -> Iterator[Crew]:
        """Members in threads."""
        made = Crew(harness.transport, keys=KEYS_EVERYWHERE)
        yield made
        made.close()

    def test_each_key_keeps_its_order(self, harness: Harness) -> None:
        for start in (0, 100, 200):
            send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(start, start + 100)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        found = by_key(read(member, 300))
        member.close()
        assert found == {f"k{k}": list(range(k, 300, KEYS)) for k in range(KEYS)}

    def test_a_key_with_thousands_of_records_in_one_batch_keeps_its_order(self, harness: Harness) -> None:
        send(harness.transport, [record(n, key="hot" if n % 4 else f"k{n % KEYS}") for n in range(BATCH)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        found = by_key(read(member, BATCH))
        member.close()
        assert found["hot"] == [n for n in range(BATCH) if n % 4]

    def test_records_of_one_key_are_in_one_partition(self, harness: Harness) -> None:
        send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(120)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        places = {(one.key, one.partition) for one in read(member, 120)}
        member.close()
        assert len(places) == KEYS
        assert len({partition for _, partition in places}) > 1, "all keys are in one partition"

    def test_what_was_committed_is_not_read_again_and_what_was_not_is(self, harness: Harness) -> None:
        send(harness.transport, [record(n) for n in range(20)])
        first = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        found = read(first, 20, commit=False)
        first.commit(found[12])
        first.close()
        second = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        assert [int(one.value) for one in read(second, 7)] == list(range(13, 20))
        second.close()

    def test_two_groups_read_the_same_records(self, harness: Harness) -> None:
        members = [harness.transport.consumer(group=group, topics=[TOPIC]) for group in (GROUP, "tests.others")]
        send(harness.transport, [record(n) for n in range(10)])
        for member in members:
            assert [int(one.value) for one in read(member, 10)] == list(range(10))
            member.close()

    def test_a_refused_record_blocks_its_own_key_and_no_other(self, harness: Harness) -> None:
        outcomes = harness.transport.send(
            [
                record(1, key="good"),
                record(1, key="bad", size=HUGE_BYTES),
                record(2, key="bad"),
                record(2, key="good"),
                record(3, key="bad"),
            ]
        )
        assert [outcome.fate for outcome in outcomes] == [
            Fate.ACKNOWLEDGED,
            Fate.REFUSED,
            Fate.NOT_SENT,
            Fate.ACKNOWLEDGED,
            Fate.NOT_SENT,
        ]
        assert "larger" in outcomes[1].reason
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        assert by_key(read(member, 2)) == {"good": [1, 2]}
        member.close()

    def test_retry_gives_a_record_and_those_after_it_again_while_other_partitions_go_on(self, harness: Harness) -> None:
        send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(60)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        found = read(member, 60, commit=False)
        stuck = found[0].partition
        place = next(index for index, one in enumerate(found) if one.partition == stuck and index > 0)
        again = [one for one in found[place:] if one.partition == stuck]
        member.commit(found[0])
        for one in found:
            if one.partition != stuck:
                member.commit(one)
        member.retry(found[place], after_s=0.3)
        send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(60, 72)])
        others = 12 - sum(1 for n in range(60, 72) if self._partition_of(found, f"k{n % KEYS}") == stuck)
        fresh = read(member, 72 - 60 + len(again))
        member.close()
        assert [one.value for one in fresh if one.partition == stuck][: len(again)] == [one.value for one in again]
        assert sum(1 for one in fresh if one.partition != stuck) == others
        assert by_key(fresh) == by_key(sorted(fresh, key=lambda one: int(one.value)))

    @staticmethod
    def _partition_of(records: list, key: str) -> int:  # type: ignore[type-arg]
        return next(one.partition for one in records if one.key == key)

    def test_a_technical_failure_neither_skips_a_record_nor_loses_the_group(
        self, harness: Harness, wired: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(*range(10))
        relay_all()
        failures = [OperationalError("the database is away")] * 2

        delivers = Delivery.deliver

        def fails_twice(self: Delivery, *args: Any, **kwargs: Any) -> int:
            if failures:
                raise failures.pop()
            return delivers(self, *args, **kwargs)

        monkeypatch.setattr(Delivery, "deliver", fails_twice)
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        deadline = time.monotonic() + READ_S_MAX
        while len(wired.seen) < 10 and time.monotonic() < deadline:
            consume_once(member, group=GROUP, timeout_s=0.2)
        member.close()
        assert wired.numbers() == list(range(10))
        assert not failures
        assert not Redelivery.objects.exists()

    def test_a_crash_between_the_database_and_the_offset_handles_a_message_once(
        self, harness: Harness, wired: Reader
    ) -> None:
        post(*range(5))
        relay_all()
        first = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        for one in read(first, 5, commit=False):
            deliver(one, group=GROUP, now=timezone.now())
        harness.vanish(first)
        second = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        again = read(second, 5, commit=False)
        for one in again:
            deliver(one, group=GROUP, now=timezone.now())
            second.commit(one)
        second.close()
        assert wired.numbers() == list(range(5))
        assert Inbox.objects.filter(group=GROUP).count() == 5

    def test_a_failing_message_is_redelivered_before_the_next_of_its_key(self, harness: Harness, wired: Reader) -> None:
        wired.failing[1] = [RuntimeError("not now")]
        post(0, 1, 2, key="a")
        post(10, 11, key="b")
        relay_all()
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        deadline = time.monotonic() + READ_S_MAX
        while len(wired.seen) < 5 and time.monotonic() < deadline:
            consume_once(member, group=GROUP, timeout_s=0.2)
            all_is_due()
        member.close()
        assert wired.numbers("a") == [0, 1, 2]
        assert wired.numbers("b") == [10, 11]

    def test_records_of_strangers_are_buried_readable_and_the_partition_goes_on(
        self, harness: Harness, wired: Reader
    ) -> None:
        harness.append_foreign(key=None, value=b'{"meta": {}, "body": {}}')
        harness.append_foreign(key=b"\xff\xfe", value=b"no JSON")
        harness.append_foreign(key=b"big", value=b"x" * HUGE_BYTES)
        post(1, 2, 3)
        relay_all()
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        deadline = time.monotonic() + READ_S_MAX
        while (len(wired.seen) < 3 or len(dead_letters()) < 3) and time.monotonic() < deadline:
            consume_once(member, group=GROUP, timeout_s=0.2)
        member.close()
        assert wired.numbers() == [1, 2, 3]
        assert sorted(letter.body["bytes"] for letter in dead_letters()) == [7, 24, HUGE_BYTES]

    def test_two_members_and_a_rebalance_in_the_middle_keep_order_and_count(self, harness: Harness, wired: Reader) -> None:
        relay = relaying()
        first = Member()
        self._post_rounds(range(10))
        eventually(lambda: len(wired.seen) >= KEYS, what="the first member reads")
        second = Member()
        self._post_rounds(range(10, 20))
        eventually(lambda: len(wired.seen) >= KEYS * 15, what="both members read")
        first.stop()
        self._post_rounds(range(20, 30))
        eventually(lambda: len(wired.seen) >= KEYS * 30, what="the second member reads all")
        second.stop()
        relay.stop()
        self._assert_in_order(wired, rounds=30)
        assert not Pending.objects.exists()

    @staticmethod
    def _assert_in_order(wired: Reader, *, rounds: int) -> None:
        found = {f"k{k}": wired.numbers(f"k{k}") for k in range(KEYS)}
        wrong = {key: numbers for key, numbers in found.items() if numbers != list(range(rounds))}
        assert not wrong, wrong

    @staticmethod
    def _post_rounds(rounds: range) -> None:
        for n in rounds:
            for k in range(KEYS):
                post(n, key=f"k{k}")

    def test_members_share_the_partitions_as_they_come_leave_and_die(self, harness: Harness, crew: Crew) -> None:
        first, second = crew.join(), crew.join()
        crew.wait_for_shares(2, 2)
        third = crew.join()
        crew.wait_for_shares(1, 1, 2)
        second.stop()
        crew.wait_for_shares(2, 2)
        first.vanish(harness)
        crew.wait_for_shares(4)
        third.stop()
        assert crew.at_the_same_time == []
        assert crew.in_disorder() == []

    def test_a_hand_over_under_load_keeps_order_and_gives_no_key_to_two_members(self, harness: Harness, crew: Crew) -> None:
        load = crew.load()
        leaves, dies, stays = (crew.join() for _ in range(3))
        crew.wait_for_more()
        leaves.stop()
        crew.wait_for_more()
        comes = crew.join()
        dies.vanish(harness)
        crew.wait_for_more()
        load.stop()
        crew.wait_for_all()
        for hand in (stays, comes):
            hand.stop()
        assert crew.at_the_same_time == []
        assert crew.in_disorder() == []

    def test_lag_counts_what_is_not_handled(self, harness: Harness) -> None:
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(30)])
        read(member, 30)
        member.close()
        send(harness.transport, [record(n, key=f"k{n % KEYS}") for n in range(30, 42)])
        lag: Callable[[], dict[tuple[str, int], int]] = lambda: harness.transport.lag(group=GROUP, topics=[TOPIC])  # noqa: E731
        eventually(lambda: sum(lag().values()) == 12, what="a lag of 12")
        assert {name for name, _ in lag()} == {TOPIC}


class ServerContract(BrokerContract):
    """What only a broker of its own can show."""

    def test_a_topic_that_does_not_exist_is_refused_with_advice_and_others_go_on(self, harness: Harness) -> None:
        outcomes = harness.transport.send(
            [record(1, name="no.such.topic.in"), record(1), record(2, name="no.such.topic.in")]
        )
        assert [outcome.fate for outcome in outcomes] == [Fate.REFUSED, Fate.ACKNOWLEDGED, Fate.NOT_SENT]
        assert "manage.py topics --apply" in outcomes[0].reason

    def test_a_restart_under_load_loses_nothing_and_counts_no_attempt(self, harness: Harness, wired: Reader) -> None:
        relay, member = relaying(), Member()
        self._post_rounds(range(10))
        eventually(lambda: len(wired.seen) >= KEYS, what="the member reads")
        harness.restart()
        self._post_rounds(range(10, 30))
        eventually(lambda: len(wired.seen) >= KEYS * 30, what="everything is read")
        assert not Pending.objects.filter(attempts__gt=0).exists()
        member.stop()
        relay.stop()
        self._assert_in_order(wired, rounds=30)
        assert not Pending.objects.exists()


__all__ = ["BrokerContract", "Note", "ServerContract"]
