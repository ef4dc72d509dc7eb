"""What the post office asks of a broker."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class TransportDown(Exception):
    """The broker cannot be reached. No message is to blame, so no attempt is counted."""


class Fate(Enum):
    """What became of a record."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the broker answered, and will not take this record
    NOT_SENT = "not sent"  # a record of the same topic and key before it was refused


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to append."""

    topic: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """The fate of one record and, when it was refused, why."""

    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IncomingRecord:
    """A record as a consumer reads it."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes


class Consumer(Protocol):
    """One member of a consumer group."""

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """The next records of the partitions that this member owns, in order per partition; maybe none."""

    def commit(self, record: IncomingRecord) -> None:
        """This record and those before it in its partition need not be read again."""

    def close(self) -> None:
        """Leave the group, so that another member may take over at once."""


class Transport(Protocol):
    """A broker."""

    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Append records in order, and wait for the acknowledgements. One outcome per record.

        After a record that is refused, later ones of its topic and key are not sent. Raises TransportDown.
        """

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Join a consumer group."""
