"""A broker in this process: topics with partitions, groups with offsets, and what a test may do behind its back."""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from lastro_pipes.errors import BrokerDown
from lastro_pipes.transports.base import Incoming, Outgoing, Topic

PARTITIONS = 4


class MemoryBroker:
    """The log itself. Every process of a test has a MemoryTransport to it."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.log: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
        self.committed: dict[tuple[str, str, int], int] = defaultdict(int)
        self.is_down = False

    def append(self, record: Outgoing) -> None:
        partition = zlib.crc32(record.key.encode()) % PARTITIONS
        self.log[record.topic, partition].append(record)

    def all(self, *kinds: str) -> list[Outgoing]:
        """Everything on topics of these kinds."""
        return [record for (topic, _), log in sorted(self.log.items()) if topic.endswith(kinds) for record in log]

    def pairs(self) -> list[tuple[str, bytes]]:
        """For the state manager's fold."""
        return [(record.topic, record.value.encode()) for record in self.all("")]

    def lag(self, group: str, topics: Sequence[str]) -> int:
        return sum(
            len(self.log[topic, partition]) - self.committed[group, topic, partition]
            for topic in topics
            for partition in range(PARTITIONS)
        )


class MemoryTransport:
    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.down_after: int | None = None  # sends that still work
        self.calls: list[int] = []

    def send(self, records: Sequence[Outgoing]) -> Sequence[str]:
        assert len({(record.topic, record.key) for record in records}) == len(records), "two of a slot in one call"
        self.calls.append(len(records))
        if self.broker.is_down or self.down_after == 0:
            raise BrokerDown("the broker is away")
        if self.down_after:
            self.down_after -= 1
        reasons = []
        for record in records:
            is_known = record.topic in self.broker.topics
            reasons.append("" if is_known else f"no topic {record.topic}")
            if is_known:
                self.broker.append(record)
        return reasons

    def member(self, *, group: str, topics: Sequence[str]) -> "MemoryMember":
        return MemoryMember(self.broker, group, topics)

    def check(self) -> None: ...

    def missing(self, topics: Sequence[Topic]) -> list[str]:
        return [topic.name for topic in topics if topic.name not in self.broker.topics]

    def create(self, topics: Sequence[Topic]) -> None:
        self.broker.topics |= {topic.name for topic in topics}

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        return {}

    def close(self) -> None: ...


class MemoryMember:
    """One member, which owns every partition. A second one may take them away by ``broker.committed`` alone."""

    def __init__(self, broker: MemoryBroker, group: str, topics: Sequence[str]) -> None:
        self._broker, self._group, self._topics = broker, group, topics
        self._at = {(t, p): broker.committed[group, t, p] for t in topics for p in range(PARTITIONS)}
        self._open: dict[tuple[str, int], dict[int, bool]] = defaultdict(dict)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Incoming]:
        found = []
        for place, at in self._at.items():
            for offset, record in enumerate(self._broker.log[place][at:], start=at):
                if len(found) >= records_max:
                    return found
                self._open[place][offset] = False
                self._at[place] = offset + 1
                found.append(incoming(record, *place, offset))
        return found

    def done(self, record: Incoming) -> None:
        opened = self._open[record.place]
        if record.offset in opened:
            opened[record.offset] = True
        while opened and opened[first := min(opened)]:
            del opened[first]
            self._broker.committed[self._group, *record.place] = first + 1

    def give_back(self, records: Sequence[Incoming], *, after_s: float) -> None:
        for record in records:
            first = min(self._at[record.place], record.offset)
            self._at[record.place] = first
            self._open[record.place] = {o: d for o, d in self._open[record.place].items() if o < first}

    def holds(self, record: Incoming) -> bool:
        return True

    def close(self) -> None: ...


def incoming(record: Outgoing, topic: str, partition: int = 0, offset: int = 0) -> Incoming:
    """A record as it is read."""
    return Incoming(
        topic, partition, offset, record.key, record.value.encode(), dict(record.headers), datetime(2026, 1, 1, tzinfo=UTC)
    )
