"""The loop: what waits, what is given back, what is published together."""

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lastro_pipes import control, retries, worker
from lastro_pipes.errors import BrokerDown, StoreDown
from lastro_pipes.retries import WaitingRoom, delay
from lastro_pipes.stores.base import Key, Row
from lastro_pipes.stores.sqlite import SqliteStore
from lastro_pipes.transports.base import Incoming
from tests.memory import MemoryMember
from tests.world import CHAIN, World, meta_of

FIRST, SECOND, _ = CHAIN
ONCE = {"first": ["done"], "second": ["done"], "third": ["done"]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(worker, "PAUSE_S_MIN", 0.001)
    made = World(tmp_path)
    yield made
    made.close()


def gids(world: World, topic: str) -> list[str]:
    return [meta_of(record)["global-id"] for record in world.broker.all(topic)]


class TestPublishing:
    def test_messages_of_one_poll_are_published_in_few_calls(self, world: World) -> None:
        for _ in range(20):
            world.begin({})
        world.first.worker._flush_s = 60.0  # however slow the machine is
        world.first.turn()
        assert len(world.broker.all("second.in")) == 20
        assert len(world.first.transport.calls) < 20

    def test_what_a_key_says_later_does_not_overtake_what_the_broker_refuses(self, world: World) -> None:
        world.broker.topics.remove(f"{SECOND}.in")
        begun = [world.begin({}, key="k") for _ in range(3)]
        world.first.turn()
        world.broker.topics.add(f"{SECOND}.in")
        world.settle()
        assert gids(world, "second.in") == begun

    def test_a_broker_that_is_lost_in_the_middle_of_a_batch_loses_nothing(self, world: World) -> None:
        begun = [world.begin({}, key=f"k{n % 3}") for n in range(9)]
        for lost_after in range(4):
            world.first.transport.down_after = lost_after
            world.first.turn()
        world.first.transport.down_after = None
        world.settle()
        for k in range(3):
            seen = list(dict.fromkeys(gid for gid in gids(world, "second.in") if gid in begun[k::3]))
            assert seen == begun[k::3]
        assert all(world.effects(gid) == ONCE for gid in begun)


class AwayStore(SqliteStore):
    """A store that is away now and then."""

    is_away = False

    def attempt(self, key: Key, message_id: str) -> Row:
        if self.is_away:
            raise StoreDown("away")
        return super().attempt(key, message_id)

    def is_usable(self) -> bool:
        return not self.is_away and super().is_usable()


class TestStoreAway:
    def test_counts_no_attempt_and_goes_on_in_order(self, world: World, tmp_path: Path) -> None:
        world.first.store.close()
        store = AwayStore(world.first._path)
        world.first.start(store)
        begun = [world.begin({}, key="k") for _ in range(4)]
        store.is_away = True
        for _ in range(10):
            world.first.turn()
        assert world.first.step.calls == []
        assert world.first.worker.status.trouble == "away"
        store.is_away = False
        world.settle()
        assert world.first.step.calls == [("do", gid, 1) for gid in begun]
        assert not world.broker.all(".error")

    def test_that_goes_away_under_a_step_is_not_the_step_s_fault(self, world: World) -> None:
        world.first.store.close()
        store = AwayStore(world.first._path)
        world.first.start(store)
        gid = world.begin({"plan": {"first": ["fail", "do"]}})
        handle = world.first.step.handle

        def fails_because_of_the_store(message):  # type: ignore[no-untyped-def]
            store.is_away = True
            return handle(message)

        world.first.step.handle = fails_because_of_the_store  # type: ignore[method-assign]
        world.first.start(store)
        world.first.turn()
        assert not world.broker.all("first.event"), "no failure is told"
        world.first.step.handle = handle  # type: ignore[method-assign]
        world.first.start(store)
        store.is_away = False
        world.settle()
        assert world.saga(gid).status == "COMPLETED"


class TestBrokerAway:
    def test_that_refuses_a_poll_is_joined_again_and_nothing_is_lost(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = [world.begin({}, key="k") for _ in range(4)]
        stop, polls, poll = threading.Event(), count(), MemoryMember.poll

        def refused_every_other_time(member: MemoryMember, **how: Any) -> Sequence[Incoming]:
            if next(polls) % 2 == 0:
                raise BrokerDown("refused")
            if not (found := poll(member, **how)):
                stop.set()
            return found

        monkeypatch.setattr(MemoryMember, "poll", refused_every_other_time)
        world.first.worker.run(stop)
        assert world.first.step.calls == [("do", gid, 1) for gid in begun]
        assert gids(world, "second.in") == begun


class TestRefusedStep:
    def test_is_not_compensated_when_somebody_asks(self, world: World) -> None:
        gid = world.begin({"plan": {"third": "refuse"}})
        world.settle()
        world.broker.append(control.compensate(CHAIN, global_id=gid, position=2, code="C", reason="r", seek_end=False))
        world.settle()
        assert world.effects(gid)["third"] == []
        assert [way for way, _, _ in world.third.step.calls] == ["do"]


class TestWaitingRoom:
    def record(self, offset: int, key: str = "k") -> Incoming:
        return Incoming("a.b.in", 0, offset, key, b"")

    def test_a_full_room_leaves_the_rest_with_the_broker(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retries, "WAITING_MAX", 3)
        failing = [world.begin({"plan": {"first": ["fail", "fail", "do"]}}, key=f"k{n}") for n in range(8)]
        world.first.turn()
        assert len(world.first.worker._room) == 3
        world.settle()
        assert all(world.saga(gid).status == "COMPLETED" for gid in failing)

    def test_those_behind_wait_until_the_head_is_settled(self) -> None:
        room = WaitingRoom()
        assert not room.join(self.record(1))
        room.put_off(self.record(1), due_at=5.0)
        assert room.join(self.record(2))
        assert not room.join(self.record(3, key="other"))
        assert room.heads(4.9) == []
        (head,) = room.heads(5.0)
        room.take(head)
        assert room.heads(99) == [], "its successor waits until it is published"
        assert room.join(self.record(4))
        room.settled(head)
        assert [record.offset for record in room.heads(99)] == [2]
        assert len(room) == 2

    def test_forgets_what_went_to_another_member(self) -> None:
        room = WaitingRoom()
        room.put_off(self.record(1), due_at=0)
        room.join(self.record(2))
        room.put_off(self.record(3, key="other"), due_at=0)
        room.keep(lambda record: record.key == "other")
        assert [record.offset for record in room] == [3]
        assert len(room) == 1
        assert not room.join(self.record(4))


class TestDelay:
    def test_grows_has_jitter_and_an_end(self) -> None:
        for attempts, wanted in ((1, 0.2), (2, 0.8), (3, 3.2), (10, 60), (10_000, 60)):
            found = [delay(attempts, first_s=0.2, most_s=60) for _ in range(200)]
            assert wanted * 0.75 <= min(found) < max(found) <= wanted * 1.25


class TestPurge:
    def test_is_done_now_and_then(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.first.worker, "_settings", world.first.settings)
        calls: list[float] = []
        monkeypatch.setattr(world.first.store, "purge", lambda *, older_than_s, rows_max: calls.append(older_than_s) or 0)
        for _ in range(3):
            world.first.turn()
        assert calls == [90 * 86_400]
        world.first.worker._purged_at = time.monotonic() - worker.PURGE_EVERY_S - 1
        world.first.turn()
        assert len(calls) == 2
