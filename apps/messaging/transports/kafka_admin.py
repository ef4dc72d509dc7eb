"""Kafka's administration: which topics there are, how far a group is behind."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec

from apps.messaging.transports.base import DesiredTopic, TopicPlan, TransportDown, TransportMisconfigured
from apps.messaging.transports.kafka_login import client_settings, first_cause

BOOTSTRAP_S = 3.0
LOGIN_ATTEMPTS = 3  # at a process's start: a broker that has just started needs seconds for its first login
REQUEST_S = 3.0
CREATE_S = 30.0  # a broker that is asked for many topics at once, or has just started
COORDINATOR_S = 10.0  # a fresh cluster makes its offsets topic when the first group asks
MESSAGE_BYTES_MAX = 1_048_588  # Kafka's default, said here because a broker may have another one
DAY_MS = 86_400_000


def wire_name(name: str) -> str:
    """A topic's or group's name at the broker."""
    return f"{settings.MESSAGING_PREFIX}{name}"


def our_name(name: str) -> str:
    """A topic's name in our contracts."""
    return name.removeprefix(settings.MESSAGING_PREFIX)


@contextlib.contextmanager
def admin(*, request_s: float = REQUEST_S) -> Iterator[Any]:
    """An admin client for a few questions. Raises TransportDown, TransportMisconfigured."""
    with first_cause():
        client = KafkaAdminClient(
            **client_settings(),
            bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
            request_timeout_ms=int(request_s * 1000),
        )
    try:
        yield client
    except kafka_errors.RetriableError as error:
        raise TransportDown(f"Kafka does not answer: {error!r}") from error
    except kafka_errors.AuthorizationError as error:
        raise TransportMisconfigured(
            f"This login may not do that at Kafka: grant it DESCRIBE on topics and groups, and CREATE and DESCRIBE_CONFIGS "
            f"to apply topics. ({error!r})"
        ) from error
    finally:
        client.close()


def existing_topics() -> set[str]:
    """Our names of the topics that this login can see. Raises TransportDown, TransportMisconfigured."""
    with admin() as client:
        return {our_name(name) for name in client.list_topics() if name.startswith(settings.MESSAGING_PREFIX)}


def log_in() -> None:
    """Connect. Raises TransportMisconfigured when the broker refuses us, TransportDown when nobody answers."""
    attempts = 1 if settings.KAFKA_SECURITY_PROTOCOL == "PLAINTEXT" else LOGIN_ATTEMPTS
    for left in reversed(range(attempts)):
        try:
            existing_topics()
            return
        except TransportDown:
            if not left:
                raise


def lag(*, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """Records after the group's committed offset, per topic and partition. A new group begins at the beginning."""
    with admin() as client:
        partitions = [
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in client.describe_topics([wire_name(topic) for topic in topics])
            if not topic["error_code"]
            for partition in topic["partitions"]
        ]
        if not partitions:
            return {}
        ends = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        starts = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        committed = _committed(client, wire_name(group))
    found = {}
    for partition in partitions:
        at = committed.get(partition)
        begin = at.offset if at is not None and at.offset >= 0 else starts[partition].offset
        found[our_name(partition.topic), partition.partition] = max(ends[partition].offset - begin, 0)
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


def _configs(topic: DesiredTopic) -> dict[str, str]:
    return {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_days * DAY_MS),
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
    }


def plan_topics(topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
    """Compare what the contracts want with what the broker has."""
    with admin() as client:
        names = {wire_name(topic.name) for topic in topics}
        existing = sorted(names & set(client.list_topics()))
        described = {found["name"]: found for found in client.describe_topics(existing)} if existing else {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, list(_configs(topics[0]))) for name in existing]
        configs = client.describe_configs(resources, config_filter="all")["topic"] if existing else {}
    plans = []
    for topic in topics:
        name = wire_name(topic.name)
        if name not in described:
            plans.append(TopicPlan(name, "create"))
            continue
        readable = configs.get(name, {})
        differences = _differences(topic, described[name], readable)
        unread = "" if readable else "this login may not read its settings"
        plans.append(TopicPlan(name, "differs" if differences else "ok", "; ".join(differences) or unread))
    return plans


def _differences(topic: DesiredTopic, described: dict[str, Any], configs: dict[str, Any]) -> list[str]:
    partitions = described["partitions"]
    wanted = {
        "partitions": topic.partitions,
        "replication factor": topic.replication_factor,
        **(_configs(topic) if configs else {}),
    }
    found = {
        "partitions": len(partitions),
        "replication factor": len(partitions[0]["replica_nodes"]) if partitions else 0,
        **{name: configs[name]["value"] for name in _configs(topic) if name in configs},
    }
    return [f"{name} is {found.get(name)}, not {value}" for name, value in wanted.items() if found.get(name) != value]


def create_topics(topics: Sequence[DesiredTopic]) -> None:
    """Create the missing ones and wait until every partition has a leader."""
    missing = {plan.name for plan in plan_topics(topics) if plan.state == "create"}
    wanted = {
        wire_name(topic.name): {
            "num_partitions": topic.partitions,
            "replication_factor": topic.replication_factor,
            "configs": _configs(topic),
        }
        for topic in topics
        if wire_name(topic.name) in missing
    }
    if not wanted:
        return
    with admin(request_s=CREATE_S) as client:
        # Two processes may meet here; the second finds the topic made, which is what it wanted.
        with contextlib.suppress(kafka_errors.TopicAlreadyExistsError):
            client.create_topics(wanted)
        client.wait_for_topics(sorted(wanted), timeout_ms=int(CREATE_S * 1000))
