"""At Kafka, what a tool that looks at headers alone can know of a dead letter and of its replay."""

import gc
import os
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.test.utils import override_settings
from django.utils import timezone
from kafka import KafkaConsumer, TopicPartition

from apps.messaging import replay
from apps.messaging.consumer import consume_once
from apps.messaging.corrections import Correction
from apps.messaging.dead_letters import Wanted, find
from apps.messaging.envelope import Meta
from apps.messaging.models import Message
from apps.messaging.outbox import publish_raw
from apps.messaging.relay import relay_all
from apps.messaging.transports.kafka_admin import wire_name
from apps.messaging.transports.kafka_login import client_settings
from tests.brokers.test_kafka import KafkaHarness
from tests.brokers.world import PARTITIONS, eventually, prefix
from tests.integration.messaging.letters import Refusal
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC, Note, Reader

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("kafka"),
    # kafka-python leaves the socket of a connection that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaHarness]:
    """Relay and consumer on topics that nobody else sees."""
    with override_settings(
        KAFKA_BOOTSTRAP_SERVERS=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        MESSAGING_PREFIX=prefix(),
        TOPIC_PARTITIONS=PARTITIONS,
    ):
        made = KafkaHarness()
        monkeypatch.setattr("apps.messaging.relay.transport", lambda: made.transport)
        yield made
        made.close()
    gc.collect()  # here, where such sockets may be left


@pytest.fixture
def readers() -> Iterator[dict[str, Reader]]:
    """Two groups of the topic."""
    made = {group: Reader(group) for group in ("g", "h")}
    yield made
    for one in made.values():
        one.close()


def records(name: str) -> list[tuple[int, int, dict[str, str]]]:
    """Everything in a topic as its broker has it: partition, offset and headers."""
    client = KafkaConsumer(**client_settings(), enable_auto_commit=False)
    try:
        partitions = [TopicPartition(wire_name(name), number) for number in range(PARTITIONS)]
        client.assign(partitions)
        client.seek_to_beginning(*partitions)
        ends = client.end_offsets(partitions)
        found: list[tuple[int, int, dict[str, str]]] = []

        def read_on() -> bool:
            for batch in client.poll(timeout_ms=200).values():
                found.extend((r.partition, r.offset, {name: value.decode() for name, value in r.headers}) for r in batch)
            return len(found) >= sum(ends.values())

        eventually(read_on, what=f"all of {name} is read")
        return found
    finally:
        client.close()


def consume(harness: KafkaHarness, group: str, count: int) -> None:
    """Let a group have so many more records."""
    member = harness.transport.consumer(group=group, topics=[TOPIC])
    handled: list[int] = []
    try:
        eventually(
            lambda: handled.append(consume_once(member, group=group, timeout_s=0.2)) or sum(handled) >= count,  # type: ignore[func-returns-value]
            what=f"{group} has {count} records",
        )
    finally:
        member.close()


def publish_note(*, trace: str) -> UUID:
    meta = Meta(message_id=uuid4(), schema=Note.schema, global_id="run-1", trace=trace).to_json()
    with transaction.atomic():
        publish_raw(topic=TOPIC, key="k", meta=meta, body={"n": 1})
    relay_all()
    return UUID(meta["message-id"])


class TestHeaders:
    def test_of_a_dead_letter_and_of_its_replay(self, harness: KafkaHarness, readers: dict[str, Reader]) -> None:
        readers["g"].failing[1] = [Refusal("The seat is taken")]
        publish_note(trace=TRACE)
        consume(harness, "g", 1)
        consume(harness, "h", 1)
        relay_all()
        ((partition, offset, _headers),) = records(TOPIC)
        letter = Message.objects.get(topic=ERROR_TOPIC)
        ((_, _, headers),) = records(ERROR_TOPIC)
        assert headers == {
            "id": str(letter.pk),
            "schema": Note.schema,
            "traceparent": TRACE,
            "global-id": "run-1",
            "error-reason": "Refusal: The seat is taken",
            "error-code": "R999",
            "error-attempts": "1",
            "error-group": "g",
            "error-topic": TOPIC,
            "error-partition": str(partition),
            "error-offset": str(offset),
        }
        ids = list(find(Wanted()).values_list("pk", flat=True))
        assert list(replay.replay(ids, Correction(), replay.Because(by="ana", reason="mended", now=timezone.now()))) == [1]
        relay_all()
        again = records(TOPIC)[-1][2]
        sent = Message.objects.filter(topic=TOPIC).order_by("seq").last()
        assert sent is not None
        assert again == {"id": str(sent.pk), "schema": Note.schema, "traceparent": TRACE, "global-id": "run-1"}
        consume(harness, "g", 1)
        consume(harness, "h", 1)
        assert (readers["g"].numbers(), readers["h"].numbers()) == ([1], [1]), "each group once"

    def test_of_a_record_that_was_no_envelope(self, harness: KafkaHarness, readers: dict[str, Reader]) -> None:
        harness.append_foreign(key=b"k", value=b"nonsense")
        consume(harness, "g", 1)
        relay_all()
        ((_, _, headers),) = records(ERROR_TOPIC)
        ((partition, offset, _headers),) = records(TOPIC)
        assert headers["error-reason"].startswith("InvalidMessage: The record is not JSON")
        names = ("error-code", "error-attempts", "error-group", "error-topic", "error-partition", "error-offset", "schema")
        assert [headers[name] for name in names] == [
            "R601",
            "1",
            "g",
            TOPIC,
            str(partition),
            str(offset),
            "messaging.unreadable.v1",
        ]
