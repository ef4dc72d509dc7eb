"""What the tests of the local transport share: two topics with a key for each partition, and members."""

from collections.abc import Sequence
from datetime import timedelta

from django.utils import timezone

from apps.messaging.models import LocalMember
from apps.messaging.transports.base import IncomingRecord, OutgoingRecord
from apps.messaging.transports.local import LocalTransport
from apps.messaging.transports.local_consumer import PARTITIONS, LocalConsumer
from apps.messaging.transports.shares import partition_of

TOPIC = "tests.local.log.event"
OTHER = "tests.local.other.event"
KEYS = [
    next(k for k in map(str, range(1000)) if partition_of(k, partitions=PARTITIONS) == p) for p in range(PARTITIONS)
]  # one per partition


def send(*values: str, key: str = "k", topic: str = TOPIC) -> None:
    LocalTransport().send([OutgoingRecord(topic, key, value.encode()) for value in values])


def fill(*numbers: str, topics: Sequence[str] = (TOPIC, OTHER)) -> None:
    """A record, or more, in every partition."""
    for topic in topics:
        for key in KEYS:
            send(*numbers or "a", key=key, topic=topic)


def join(group: str = "g", topics: Sequence[str] = (TOPIC, OTHER)) -> LocalConsumer:
    member = LocalTransport().consumer(group=group, topics=topics)
    assert isinstance(member, LocalConsumer)
    return member


def read(member: LocalConsumer, records_max: int = 100) -> list[IncomingRecord]:
    return list(member.poll(records_max=records_max, timeout_s=0))


def settle(members: Sequence[LocalConsumer]) -> None:
    """Each looks twice: to let go, and to take what the others let go of. Whatever is given is given again later."""
    for member in [*members, *members]:
        read(member)


def owned(member: LocalConsumer) -> list[int]:
    """How many partitions of each topic."""
    return [sum(name == topic for name, _ in member.assignment()) for topic in (TOPIC, OTHER)]


def end(member: LocalConsumer) -> None:
    """This member's lease is over."""
    LocalMember.objects.filter(token=member._token).update(lease_until=timezone.now() - timedelta(seconds=1))


def values(records: list[IncomingRecord]) -> list[str]:
    return [record.value.decode() for record in records]
