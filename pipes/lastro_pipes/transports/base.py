"""What pipes ask of a broker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol


class Outgoing(NamedTuple):
    """A record to append."""

    topic: str
    key: str
    value: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A record as a member reads it. ``hold``: the member's hold on the partition; another after it had lost it."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    sent_at: datetime | None = None
    hold: int = 0

    @property
    def place(self) -> tuple[str, int]:
        """Topic and partition."""
        return self.topic, self.partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as it should be. ``group``: who reads it; "" when nobody here does."""

    name: str
    retention_days: int
    group: str = ""


class Member(Protocol):
    """One member of a consumer group. For one thread."""

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Incoming]:
        """The next records of the partitions that this member holds, in order per partition; maybe none.

        Raises BrokerDown, Misconfigured.
        """

    def done(self, record: Incoming) -> None:
        """This record need not be read again. In any order: what is before it and not done is still read again."""

    def give_back(self, records: Sequence[Incoming], *, after_s: float) -> None:
        """These could not be worked on now: they come again, in order, when so much time has passed."""

    def holds(self, record: Incoming) -> bool:
        """Is the record still this member's? Else another reads it again."""

    def close(self) -> None:
        """Leave the group, so that another member may take over at once."""


class Transport(Protocol):
    """A broker."""

    def send(self, records: Sequence[Outgoing]) -> Sequence[str]:
        """Append, and wait for every acknowledgement. For each record "", or why the broker refuses it.

        No two of them have the same topic and key. Raises BrokerDown when the fate of any is not known: send all again.
        """

    def member(self, *, group: str, topics: Sequence[str]) -> Member:
        """Join a consumer group. Raises BrokerDown, Misconfigured."""

    def check(self) -> None:
        """Log in. Raises Misconfigured when the broker refuses us, BrokerDown when nobody answers."""

    def missing(self, topics: Sequence[Topic]) -> list[str]:
        """Which topics are not there. Raises BrokerDown, Misconfigured."""

    def create(self, topics: Sequence[Topic]) -> None:
        """Create those that are missing; what exists is not changed. Safe to repeat. Raises BrokerDown, Misconfigured."""

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """How many records of each topic and partition the group has not worked on. Raises BrokerDown, Misconfigured."""

    def close(self) -> None:
        """Let go of the connections."""
