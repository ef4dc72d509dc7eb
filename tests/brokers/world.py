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
from apps.messaging.transports.base import Consumer, DesiredTopic, Fate, IncomingRecord, OutgoingRecord, Transport
from tests.integration.messaging.world import TOPIC

GROUP = "tests"
READ_S_MAX = 40.0  # a group that begins, rebalances or waits for a dead member's session takes seconds
PARTITIONS = 4


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
    """Send what must be acknowledged."""
    outcomes = transport.send(records)
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

    def stop(self) -> None:
        """End it, and raise what it raised."""
        self._stop_requested.set()
        self.join(READ_S_MAX)
        assert not self.is_alive(), "a thread hangs"
        if self.error is not None:
            raise self.error


def relaying() -> Worker:
    """A relay that never rests."""

    idle = threading.Event()

    def act() -> None:
        if not relay_all().acknowledged:
            idle.wait(0.02)

    return Worker(act)


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
