"""What the post office asks of a broker."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable


class TransportDown(Exception):
    """The broker cannot be reached. No message is to blame, so no attempt is counted."""


class TransportMisconfigured(Exception):
    """The broker cannot be used as it is configured: a start-up error. The message says what to do."""


class Fate(Enum):
    """What became of a record."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the broker answered, and will not take this record
    NOT_SENT = "not sent"  # one before it of its topic and key was refused, or nobody knows: send it again


class OutgoingRecord(NamedTuple):  # quicker to make than a dataclass, and the relay makes thousands a second
    """A record to append."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...] = ()  # what tools on the broker show; a consumer reads the envelope


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredTopic:
    """A topic as the contracts want it. ``groups``: who reads it."""

    name: str
    partitions: int
    replication_factor: int
    retention_days: int
    compacted: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic's state at the broker: "ok", "create" or "differs", and then in what."""

    name: str
    state: str
    detail: str = ""


class Consumer(Protocol):
    """One member of a consumer group."""

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """The next records of the partitions that this member owns, in order per partition; maybe none."""

    def commit(self, record: IncomingRecord) -> None:
        """This record and those before it in its partition need not be read again."""

    def retry(self, record: IncomingRecord, *, after_s: float) -> None:
        """This record could not be handled now: give it, and those after it in its partition, again when so much
        time has passed. The other partitions go on, and the member stays in its group.

        The caller drops what it still holds of this partition from the same poll.
        """

    def close(self) -> None:
        """Leave the group, so that another member may take over at once."""


class Sending(Protocol):
    """A batch under way."""

    def outcomes(self) -> Sequence[SendOutcome]:
        """Wait for the last word about every record. Raises TransportDown as ``Transport.send`` does."""


@runtime_checkable
class SendsInBackground(Protocol):
    """A broker's client that sends while its caller does something else."""

    def begin(self, records: Sequence[OutgoingRecord]) -> Sending:
        """Begin to append records in order. The next batch is begun when this one's outcomes are known."""


class Transport(Protocol):
    """A broker."""

    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Append records in order, and wait for the acknowledgements. One outcome per record.

        After a record that is refused, later ones of its topic and key are not sent. Raises TransportDown when
        nothing was acknowledged because the broker is away.
        """

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Join a consumer group."""

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """How many records of each topic and partition the group has not handled yet. Raises TransportDown."""

    def check(self) -> None:
        """Can this process use the broker? Raises TransportMisconfigured, with a sentence that says what to do."""

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        """What is there beside what should be there. Raises TransportDown."""

    def create_topics(self, topics: Sequence[DesiredTopic]) -> None:
        """Create those that are missing; what exists is not changed. Safe to repeat. Raises TransportDown."""
