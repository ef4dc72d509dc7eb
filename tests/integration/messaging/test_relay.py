"""The relay on a scripted broker: order per key, whatever the broker does."""

import logging
import random
import threading
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.models import Bucket, Message, Pending
from apps.messaging.outbox import BUCKETS, bucket_of, publish
from apps.messaging.ownership import ATTEMPTS_MAX, DELAY_MAX, REQUEST_FOR, Owner, delay
from apps.messaging.relay import breaker_of, relay_all, relay_once
from apps.messaging.transports.base import Fate, SendOutcome
from tests.integration.messaging.world import THREADS_S_MAX, Note, ScriptedTransport, leases_end, once, post, together

pytestmark = pytest.mark.django_db

# Two keys of one bucket: the harder case for "blocks only its key".
NEIGHBOURS = [key for key in (f"n{n}" for n in range(200)) if bucket_of(key) == 0][:2]


class TestRelay:
    def test_sends_in_the_order_of_publishing_and_forgets_what_was_acknowledged(self, broker: ScriptedTransport) -> None:
        post(1, 2, 3)
        result = relay_all()
        assert (result.acknowledged, result.refused, result.broker_down) == (3, 0, False)
        assert broker.numbers() == [1, 2, 3]
        assert not Pending.objects.exists()

    def test_sends_nothing_twice(self, broker: ScriptedTransport) -> None:
        post(1)
        relay_all()
        assert relay_all().acknowledged == 0
        assert broker.numbers() == [1]

    def test_sends_more_than_one_batch(self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.messaging.ownership.BATCH_ROWS_MAX", 3)
        post(*range(10))
        assert relay_all().acknowledged == 10
        assert broker.numbers() == list(range(10))

    def test_overtakes_no_row_that_failed_when_the_next_batch_was_read_already(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.ownership.BATCH_ROWS_MAX", 2)
        bad, good = NEIGHBOURS
        post(1, key=good)
        post(2, key=bad)
        post(3, key=bad)
        post(4, key=good)
        broker.refused_keys = {bad}
        result = relay_all()
        assert (result.acknowledged, result.refused) == (2, 1)
        assert broker.numbers() == [1, 4]
        assert list(Pending.objects.order_by("seq").values_list("key", "attempts")) == [(bad, 1), (bad, 0)]

    def test_sends_what_is_committed_while_it_works(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.ownership.BATCH_ROWS_MAX", 2)
        post(1, 2, 3)
        broker.stalls.append(lambda: post(4))
        assert relay_all().acknowledged == 4
        assert broker.numbers() == [1, 2, 3, 4]

    def test_takes_no_more_into_memory_than_a_batch_may_hold(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.ownership.BATCH_BYTES_MAX", 1)
        post(1, 2, 3)
        assert relay_once().acknowledged == 1
        assert relay_all().acknowledged == 2
        assert broker.numbers() == [1, 2, 3]

    def test_refuses_a_row_that_has_no_wire_form_and_sends_the_rest(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def to_wire(*, topic: str, schema: str, payload: bytes) -> bytes:
            if b'"n":2' in payload:
                raise InvalidMessage("no form")
            return payload

        monkeypatch.setattr("apps.messaging.wire.to_wire", to_wire)
        bad, good = NEIGHBOURS
        post(1, 2, 3, key=bad)
        post(4, key=good)
        result = relay_all()
        assert (result.acknowledged, result.refused) == (2, 1)
        assert broker.numbers() == [1, 4]
        assert Pending.objects.order_by("seq").first().error == "no form"  # type: ignore[union-attr]

    def test_gives_its_buckets_back(self, broker: ScriptedTransport) -> None:
        post(1)
        relay_once()
        assert not Bucket.objects.filter(lease_until__gt=timezone.now()).exists()

    def test_gives_its_buckets_back_after_a_bug_too(self, broker: ScriptedTransport) -> None:
        def bug() -> None:
            raise ZeroDivisionError

        post(1)
        broker.stalls.append(bug)
        with pytest.raises(ZeroDivisionError):
            relay_once()
        assert relay_all().acknowledged == 1

    def test_leaves_the_bucket_of_another_relay_alone(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.relay.WAIT_FOR_SHARE_S", 0.05)  # the other one lets go of nothing meanwhile
        post(1, key=NEIGHBOURS[0])
        seen: list[int] = []
        broker.stalls.append(lambda: seen.append(relay_all().acknowledged))
        assert relay_once().acknowledged == 1
        assert seen == [0]


class TestBrokerDown:
    def test_consumes_no_attempts_and_loses_nothing(
        self, broker: ScriptedTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        post(1, 2)
        broker.down = True
        with caplog.at_level(logging.ERROR):
            for _ in range(ATTEMPTS_MAX + 2):
                breaker_of(broker).broker_answers()
                assert relay_all().broker_down
        assert set(Pending.objects.values_list("attempts", "parked_at", "error")) == {(0, None, "")}
        broker.down = False
        breaker_of(broker).broker_answers()  # in life its pause is over
        assert relay_all().acknowledged == 2
        assert broker.numbers() == [1, 2]


class TestRefused:
    def refuse_until_parked(self, broker: ScriptedTransport) -> list[timedelta]:
        delays = []
        for _ in range(ATTEMPTS_MAX):
            now = timezone.now()
            Pending.objects.filter(parked_at=None, attempts__gt=0).update(due_at=now)
            assert relay_once(now=now).refused == 1
            delays.append(Pending.objects.order_by("seq").first().due_at - now)  # type: ignore[union-attr]
        return delays

    def test_blocks_its_key_and_no_other(self, broker: ScriptedTransport) -> None:
        bad, good = NEIGHBOURS
        broker.refused_keys = {bad}
        post(1, 2, key=bad)
        post(3, 4, key=good)
        relay_all()
        assert broker.numbers() == [3, 4]
        post(5, key=good)
        post(6, key=bad)
        relay_all()
        assert broker.numbers() == [3, 4, 5]
        assert list(Pending.objects.order_by("seq").values_list("key", "attempts")) == [(bad, 1), (bad, 0), (bad, 0)]

    def test_is_tried_again_with_a_growing_delay(self, broker: ScriptedTransport) -> None:
        broker.refused_keys = {"k"}
        post(1)
        delays = self.refuse_until_parked(broker)
        assert delays[:3] == [delay(1), delay(2), delay(3)]
        assert delays == sorted(delays)
        assert delays[-1] == DELAY_MAX

    def test_is_not_tried_before_its_time(self, broker: ScriptedTransport) -> None:
        broker.refused_keys = {"k"}
        post(1)
        relay_once()
        broker.refused_keys = set()
        assert relay_all().acknowledged == 0
        assert relay_once(now=timezone.now() + delay(1)).acknowledged == 1

    def test_is_parked_with_its_reason_while_other_keys_flow(self, broker: ScriptedTransport) -> None:
        bad, good = NEIGHBOURS
        broker.refused_keys = {bad}
        post(1, 2, key=bad)
        self.refuse_until_parked(broker)
        row = Pending.objects.order_by("seq")[0]
        assert row.parked_at is not None
        assert (row.attempts, row.error) == (ATTEMPTS_MAX, "not this one")
        broker.refused_keys = set()
        post(3, key=good)
        assert relay_once(now=timezone.now() + timedelta(days=1)).acknowledged == 1
        assert broker.numbers() == [3], "the second message of the key waits behind the parked one"

    def test_flows_in_order_again_when_an_operator_lets_it(self, broker: ScriptedTransport) -> None:
        broker.refused_keys = {"k"}
        post(1, 2)
        self.refuse_until_parked(broker)
        broker.refused_keys = set()
        Pending.objects.update(parked_at=None, due_at=timezone.now())
        relay_all()
        assert broker.numbers() == [1, 2]

    def test_an_old_owner_counts_no_attempt(self, broker: ScriptedTransport) -> None:
        post(1)
        broker.refused_keys = {"k"}

        def another_takes_over() -> None:
            leases_end()
            broker.refused_keys = set()
            relay_all()
            post(2)
            broker.refused_keys = {"k"}

        broker.stalls.append(another_takes_over)
        relay_once()
        assert list(Pending.objects.values_list("attempts", flat=True)) == [0]


class TestLeaseLost:
    """A relay stalls while it sends; its lease is over, and another one does its work."""

    def test_gives_copies_and_nothing_worse_when_it_stalls_before_sending(self, broker: ScriptedTransport) -> None:
        post(1, 2, 3)

        def another() -> None:
            leases_end()
            post(4)
            assert relay_all().acknowledged == 4

        broker.stalls.append(another)
        relay_once()
        assert broker.numbers() == [1, 2, 3, 4, 1, 2, 3]
        assert once(broker.numbers()) == [1, 2, 3, 4]
        assert not Pending.objects.exists()

    def test_gives_copies_and_nothing_worse_when_it_stalls_half_way(self, broker: ScriptedTransport) -> None:
        post(1, 2, 3, 4)

        def another() -> None:
            leases_end()
            post(5)
            assert relay_all().acknowledged == 5

        broker.half_way.append(another)
        relay_once()
        post(6)
        relay_all()
        assert broker.numbers() == [1, 2, 1, 2, 3, 4, 5, 3, 4, 6]
        assert once(broker.numbers()) == [1, 2, 3, 4, 5, 6]

    def test_loses_nothing_when_a_relay_dies_after_the_acknowledgement(
        self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.relay.WAIT_FOR_SHARE_S", 0.05)  # a dead one lets go of nothing

        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        post(1, 2)
        broker.half_way.append(die)
        with pytest.raises(Killed):
            relay_once()
        assert relay_all().acknowledged == 0, "the dead relay's lease lasts"
        leases_end()
        relay_all()
        assert broker.numbers() == [1, 1, 2]

    @pytest.mark.parametrize("seed", range(5))
    def test_holds_for_any_place_of_the_stall(self, broker: ScriptedTransport, seed: int) -> None:
        chance = random.Random(seed)
        keys = ["a", "b", *NEIGHBOURS]
        wanted: dict[str, list[int]] = {key: [] for key in keys}
        for n in range(40):
            key = chance.choice(keys)
            wanted[key].append(n)
            post(n, key=key)

            def another() -> None:
                leases_end()
                relay_once()

            if chance.random() < 0.4:
                (broker.half_way if chance.random() < 0.5 else broker.stalls).append(another)
            if chance.random() < 0.3:
                relay_once()
        leases_end()
        relay_all()
        leases_end()
        relay_all()
        assert not Pending.objects.exists()
        for key, numbers in wanted.items():
            assert once(broker.numbers(key)) == numbers


@pytest.mark.django_db(transaction=True)
class TestCommitOrder:
    """The row with the lower number may commit later: nothing may be read by "greater than the last one seen"."""

    def test_sends_a_row_that_commits_after_later_ones_were_sent(self, broker: ScriptedTransport) -> None:
        early, late = NEIGHBOURS
        published, relayed = threading.Event(), threading.Event()

        def slow_publisher() -> None:
            with transaction.atomic():
                publish(Note(n=1), key=early)
                published.set()
                assert relayed.wait(THREADS_S_MAX)
                publish(Note(n=4), key=early)

        def quick_publisher_and_relay() -> None:
            assert published.wait(THREADS_S_MAX)
            post(2, 3, key=late)
            assert relay_all().acknowledged == 2
            relayed.set()

        together(slow_publisher, quick_publisher_and_relay)
        first = Pending.objects.order_by("seq")[0]
        assert first.seq < next(row.seq for row in Message.objects.all() if row.body["n"] == 2), (
            "the trap is not set: the numbers are in commit order"
        )
        assert relay_all().acknowledged == 2
        assert broker.numbers() == [2, 3, 1, 4]
        assert not Pending.objects.exists()


class TestSharing:
    """Two relays, step by step."""

    def owned(self, owner: Owner) -> int:
        return Bucket.objects.filter(token=owner.token, lease_until__gt=timezone.now()).count()

    def test_an_owner_gives_a_half_to_one_who_asks(self) -> None:
        post(*range(40), key="k")
        for n in range(40):
            post(n, key=f"k{n}")
        first, second, now = Owner(), Owner(), timezone.now()
        rows = first.begin(now=now)
        assert rows
        assert second.begin(now=now) is None
        assert second.ask(now=now)
        ahead = first.read_ahead(rows, now=now)
        assert not {bucket_of(row.key) for row in ahead} & set(first.giving_up), "these rows are under way too late"
        assert self.owned(first) == BUCKETS, "what is under way keeps its bucket"
        first.settle(rows, [SendOutcome(Fate.ACKNOWLEDGED)] * len(rows), now=now)
        assert (self.owned(first), self.owned(second)) == (BUCKETS // 2, 0)
        first.settle([], [], now=now)
        assert self.owned(first) == BUCKETS // 2, "what was given up is not renewed"
        for n in range(40):
            post(n, key=f"k{n}")
        assert second.begin(now=timezone.now())
        assert (self.owned(first), self.owned(second)) == (BUCKETS // 2, BUCKETS // 2)

    def test_only_one_asks_at_a_time(self) -> None:
        first, second, now = Owner(), Owner(), timezone.now()
        assert first.ask(now=now)
        assert not second.ask(now=now)
        first.withdraw()
        assert second.ask(now=now)

    def test_the_request_of_a_relay_that_died_is_forgotten(self) -> None:
        now = timezone.now()
        assert Owner().ask(now=now)
        assert Owner().ask(now=now + REQUEST_FOR)

    def test_who_is_alone_again_takes_everything(self) -> None:
        post(*range(3), key="k")
        first, second, now = Owner(), Owner(), timezone.now()
        rows = first.begin(now=now) or []
        second.ask(now=now)
        first.read_ahead(rows, now=now)
        first.settle(rows[:1], [SendOutcome(Fate.NOT_SENT)], now=now)
        second.withdraw()
        first.read_ahead(rows, now=now)
        assert self.owned(first) == BUCKETS


@pytest.mark.django_db(transaction=True)
class TestManyRelays:
    def test_share_the_work_without_sending_anything_twice(self, broker: ScriptedTransport) -> None:
        for n in range(60):
            post(n, key=f"k{n % 20}")

        def relay() -> None:
            for _ in range(5):
                relay_all()

        together(relay, relay, relay, relay)
        assert sorted(broker.numbers()) == list(range(60))
        for key in range(20):
            assert broker.numbers(f"k{key}") == [key, key + 20, key + 40]
