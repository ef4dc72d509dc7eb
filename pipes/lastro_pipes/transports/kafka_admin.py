"""Kafka's administration: which topics there are, how far a group is behind."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import KafkaAdminClient, OffsetSpec

from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.settings import Settings
from lastro_pipes.transports.base import Topic
from lastro_pipes.transports.kafka_login import client_settings, first_cause

BOOTSTRAP_S = 3.0
LOGIN_ATTEMPTS = 3  # a broker that has just started needs seconds for its first login
REQUEST_S = 3.0
CREATE_S = 30.0  # a broker that is asked for many topics at once, or has just started
COORDINATOR_S = 10.0  # a fresh cluster makes its offsets topic when the first group asks
MESSAGE_BYTES_MAX = 1_048_588  # Kafka's default, said here because a broker may have another one
DAY_MS = 86_400_000


@contextlib.contextmanager
def admin(settings: Settings, *, request_s: float = REQUEST_S) -> Iterator[Any]:
    """An admin client for a few questions. Raises BrokerDown, Misconfigured."""
    with first_cause(settings):
        client = KafkaAdminClient(
            **client_settings(settings),
            bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
            request_timeout_ms=int(request_s * 1000),
        )
    try:
        yield client
    except kafka_errors.RetriableError as error:
        raise BrokerDown(f"Kafka does not answer: {error!r}") from error
    except kafka_errors.AuthorizationError as error:
        raise Misconfigured(
            "This login may not do that at Kafka: grant it DESCRIBE on topics and groups, and CREATE to make topics. "
            f"({error!r})"
        ) from error
    finally:
        client.close()


def existing_topics(settings: Settings) -> set[str]:
    """The topics that this login can see, without the prefix. Raises BrokerDown, Misconfigured."""
    with admin(settings) as client:
        names = [name for name in client.list_topics() if name.startswith(settings.prefix)]
        return {name.removeprefix(settings.prefix) for name in names}


def log_in(settings: Settings) -> None:
    """Connect. Raises Misconfigured when the broker refuses us, BrokerDown when nobody answers."""
    attempts = 1 if settings.kafka_security_protocol == "PLAINTEXT" else LOGIN_ATTEMPTS
    for left in reversed(range(attempts)):
        try:
            existing_topics(settings)
            return
        except BrokerDown:
            if not left:
                raise


def create(settings: Settings, topics: Sequence[Topic]) -> None:
    """Create the missing ones, and wait until every partition has a leader."""
    there = existing_topics(settings)
    wanted = {
        f"{settings.prefix}{topic.name}": {
            "num_partitions": settings.partitions,
            "replication_factor": settings.replication_factor,
            "configs": {
                "retention.ms": str(topic.retention_days * DAY_MS),
                "max.message.bytes": str(MESSAGE_BYTES_MAX),
            },
        }
        for topic in topics
        if topic.name not in there
    }
    if not wanted:
        return
    with admin(settings, request_s=CREATE_S) as client:
        # Two processes may meet here; the second finds the topic made, which is what it wanted.
        with contextlib.suppress(kafka_errors.TopicAlreadyExistsError):
            client.create_topics(wanted)
        client.wait_for_topics(sorted(wanted), timeout_ms=int(CREATE_S * 1000))


def lag(settings: Settings, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """Records after the group's committed offset, per topic and partition. A new group begins at the beginning."""
    with admin(settings) as client:
        partitions = [
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in client.describe_topics([f"{settings.prefix}{topic}" for topic in topics])
            if not topic["error_code"]
            for partition in topic["partitions"]
        ]
        if not partitions:
            return {}
        ends = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        starts = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        committed = _committed(client, f"{settings.prefix}{group}")
    found = {}
    for partition in partitions:
        at = committed.get(partition)
        begin = at.offset if at is not None and at.offset >= 0 else starts[partition].offset
        found[partition.topic.removeprefix(settings.prefix), partition.partition] = max(ends[partition].offset - begin, 0)
    return found


def _committed(client: Any, group: str) -> dict[Any, Any]:
    deadline = time.monotonic() + COORDINATOR_S
    while True:
        try:
            found: dict[Any, Any] = client.list_group_offsets(group).get(group, {})
            return found
        except kafka_errors.RetriableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
