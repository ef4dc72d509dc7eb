"""What the tests of the brokers share: a harness for each transport, and loops with an end."""

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from django.db import connections

from apps.messaging.consumer import ConsumerThread
from apps.messaging.relay import relay_all
from apps.messaging.transports.base import (
    Consumer,
    DesiredTopic,
    Fate,
    IncomingRecord,
    OutgoingRecord,
    Transport,
    TransportDown,
)
from tests.integration.messaging.world import TOPIC

GROUP = "tests"
# A group that begins, rebalances or waits for a dead member's session takes seconds, on a busy machine many.
READ_S_MAX = 120.0
PARTITIONS = 4
UNREAD_ROUNDS_MAX = 20


class Harness(Protocol):
    """A transport with a topic of this test's own, and what a test may do behind its back."""

    transport: Transport

    def append_foreign(self, *, key: bytes | None, value: bytes) -> None:
        """Append a record that is none of ours."""

    def vanish(self, member: Consumer) -> None:
        """End a member as a crash would: nothing that it noted is committed."""

    def restart(self) -> None:
        """Stop the broker and start it again."""


def prefix() -> str:
    """A name space of this test's own at a shared broker."""
    return f"t{secrets.token_hex(4)}."


def topic(name: str = TOPIC, *, partitions: int = PARTITIONS) -> DesiredTopic:
    """The tests' topic."""
    return DesiredTopic(name=name, partitions=partitions, replication_factor=1, retention_days=1, groups=(GROUP,))


def record(n: int, *, key: str = "k", size: int = 1, name: str = TOPIC) -> OutgoingRecord:
    """A numbered record of at least ``size`` bytes."""
    return OutgoingRecord(name, key, str(n).encode().rjust(size, b"0"), (("id", str(n)),))


def send(transport: Transport, records: Sequence[OutgoingRecord]) -> None:
    """Send what must be acknowledged. A broker on a busy machine may not answer in the time that a relay gives it."""
    deadline = time.monotonic() + READ_S_MAX
    while True:
        try:
            outcomes = transport.send(records)
            break
        except TransportDown:
            if time.monotonic() > deadline:
                raise
    assert {outcome.fate for outcome in outcomes} == {Fate.ACKNOWLEDGED}, outcomes


def read(member: Consumer, count: int, *, commit: bool = True) -> list[IncomingRecord]:
    """The next ``count`` records. What comes beyond is a failure too, so one more poll looks for it.

    Without ``commit`` the caller must not poll on: whether a member gives again what it was not told to be done is open.
    """
    found: list[IncomingRecord] = []
    deadline = time.monotonic() + READ_S_MAX
    while len(found) < count and time.monotonic() < deadline:
        for one in member.poll(records_max=100, timeout_s=0.2):
            found.append(one)
            if commit:
                member.commit(one)
    if commit:
        found += member.poll(records_max=100, timeout_s=0.2)
    assert len(found) == count, f"{len(found)} records came instead of {count}"
    return found


def read_until(member: Consumer, enough: Callable[[dict[str, list[int]]], bool]) -> list[IncomingRecord]:
    """Records, until there are enough by key."""
    found: list[IncomingRecord] = []
    deadline = time.monotonic() + READ_S_MAX
    while not enough(by_key(found)):
        assert time.monotonic() < deadline, f"only {by_key(found)} came"
        for one in member.poll(records_max=100, timeout_s=0.2):
            found.append(one)
            member.commit(one)
    return found


def by_key(records: Sequence[IncomingRecord]) -> dict[str, list[int]]:
    """The numbers of each key, in the order in which they came."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in records:
        found[one.key].append(int(one.value[-8:]))  # Python refuses to read a number of so many digits
    return dict(found)


def eventually(condition: Callable[[], bool], *, what: str, timeout_s: float = READ_S_MAX) -> None:
    """Wait for something that a thread or a server is about to do."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s still not: {what}"
        threading.Event().wait(0.02)


class Worker(threading.Thread):
    """A thread that does one thing again and again until it is stopped; its error is the test's error."""

    def __init__(self, act: Callable[[], object], end: Callable[[], None] = lambda: None) -> None:
        super().__init__(daemon=True)
        self._act, self._end = act, end
        self._stop_requested = threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self._stop_requested.is_set():
                self._act()
            self._end()
        except BaseException as error:  # raised in stop()
            self.error = error
        finally:
            connections.close_all()

    def end(self) -> None:
        """End it. Safe to repeat."""
        self._stop_requested.set()
        self.join(READ_S_MAX)
        assert not self.is_alive(), "a thread hangs"

    def stop(self) -> None:
        """End it, and raise what it raised."""
        self.end()
        if self.error is not None:
            raise self.error


def relaying() -> Worker:
    """A relay that never rests."""

    idle = threading.Event()

    def act() -> None:
        if not relay_all().acknowledged:
            idle.wait(0.02)

    return Worker(act)


class Crew:
    """Members of one group, each in a thread of its own, and what was given to whom.

    A member holds what a poll gave it until its next poll. A round of records has one of every key.
    """

    def __init__(self, transport: Transport, *, keys: int) -> None:
        self._transport, self._keys = transport, [f"k{k}" for k in range(keys)]
        self._lock = threading.Lock()
        self._numbers: dict[str, list[int]] = {key: [] for key in self._keys}  # without copies
        self._seen: set[tuple[str, int]] = set()
        self._owners: dict[int, dict[int, Hand]] = defaultdict(dict)  # round -> partition -> who read it
        self._holders: dict[str, Hand] = {}
        self._workers: list[Worker] = []
        self.rounds = 0
        self.copies = 0  # records that were given again
        self.at_the_same_time: list[str] = []  # keys that two members held

    def join(self) -> "Hand":
        """One more member."""
        hand = Hand(self, self._transport)
        self._workers.append(hand)
        return hand

    def close(self) -> None:
        """End whoever is left, so that a test that failed does not disturb the next one."""
        for worker in self._workers:
            worker.end()

    def send_round(self) -> None:
        """One record of every key."""
        send(self._transport, [record(self.rounds, key=key) for key in self._keys])
        self.rounds += 1

    def load(self) -> Worker:
        """Rounds, as long as there are not too many that nobody has read."""
        pause = threading.Event()

        def act() -> None:
            if self.rounds - self.rounds_read() < UNREAD_ROUNDS_MAX:
                self.send_round()
            else:
                pause.wait(0.01)

        worker = Worker(act)
        self._workers.append(worker)
        return worker

    def note(self, hand: "Hand", records: Sequence[IncomingRecord]) -> None:
        """A poll gave these."""
        with self._lock:
            for one in records:
                number = int(one.value)
                if self._holders.setdefault(one.key, hand) is not hand:
                    self.at_the_same_time.append(one.key)
                if (one.key, number) in self._seen:
                    self.copies += 1
                else:
                    self._seen.add((one.key, number))
                    self._numbers[one.key].append(number)
                    self._owners[number][one.partition] = hand

    def forget(self, hand: "Hand") -> None:
        """The member has handled what it held."""
        with self._lock:
            self._holders = {key: holder for key, holder in self._holders.items() if holder is not hand}

    def rounds_read(self) -> int:
        """How many rounds were given to somebody, whatever their order."""
        with self._lock:
            return min(map(len, self._numbers.values()))

    def in_disorder(self) -> list[str]:
        """The keys whose records did not come in their order."""
        with self._lock:
            return [key for key, numbers in self._numbers.items() if numbers != list(range(len(numbers)))]

    def wait_for_all(self) -> None:
        """Until every record was given to somebody."""
        eventually(lambda: self.rounds_read() == self.rounds, what="every record is read")

    def wait_for_more(self, rounds: int = 10) -> None:
        """Until so many more rounds than were sent by now are read."""
        target = self.rounds + rounds
        eventually(lambda: self.rounds_read() >= target, what="what was sent after the change is read")

    def wait_for_shares(self, *shares: int) -> None:
        """Send rounds until the partitions are shared out like this. Each round is read before the next is sent."""
        found: list[int] = []
        deadline = time.monotonic() + READ_S_MAX
        while found != sorted(shares):
            assert time.monotonic() < deadline, f"the members own {found} partitions"
            self.send_round()
            self.wait_for_all()
            owners = list(self._owners[self.rounds - 1].values())
            found = sorted(owners.count(hand) for hand in set(owners))


class Hand(Worker):
    """A bare member that polls, commits and polls again."""

    def __init__(self, crew: Crew, transport: Transport) -> None:
        self._crew = crew
        self.member = transport.consumer(group=GROUP, topics=[TOPIC])
        self._leaves = True
        super().__init__(self._work, self._leave)

    def _work(self) -> None:
        records = self.member.poll(records_max=20, timeout_s=0.05)
        self._crew.note(self, records)
        for one in records:
            self.member.commit(one)
        self._crew.forget(self)

    def _leave(self) -> None:
        if self._leaves:
            self.member.close()

    def vanish(self, harness: Harness) -> None:
        """Die between two polls."""
        self._leaves = False
        self.stop()
        harness.vanish(self.member)


class Member:
    """A member as ``make run`` has it, which survives a broker that goes away."""

    def __init__(self) -> None:
        self._stop_requested = threading.Event()
        self._thread = ConsumerThread(GROUP, self._stop_requested)
        self._thread.start()

    def stop(self) -> None:
        """Leave the group."""
        self._stop_requested.set()
        self._thread.join(READ_S_MAX)
        assert not self._thread.is_alive(), "a consumer hangs"
