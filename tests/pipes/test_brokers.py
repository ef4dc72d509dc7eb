"""The SDK and our transports on one broker: each reads what the other has sent, with the same keys in the same places."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from django.test.utils import override_settings
from lastro_pipes import process, transports
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.transports.base import Outgoing

from apps.messaging.transports.base import DesiredTopic, OutgoingRecord, Transport
from apps.messaging.transports.kafka import KafkaTransport
from apps.messaging.transports.rabbitmq import RabbitMQTransport

SERVICE, GROUP = "shop.stock.reserve", "tests"
IN = f"{SERVICE}.in"
PARTITIONS = 4
READ_S_MAX = 120.0
KEYS = [f"k{n}" for n in range(20)]


class BothContract:
    """A broker with a pipe's topics, that our transport knows too."""

    broker: ClassVar[str]
    kind: ClassVar[type[Any]]

    @pytest.fixture
    def settings(self) -> Settings:
        values = {"PIPES_BROKER": self.broker, "PIPES_PREFIX": f"t{secrets.token_hex(4)}.", "PIPES_SERVICE": SERVICE}
        return from_environment({**os.environ, **values, "PIPES_PARTITIONS": str(PARTITIONS)})

    @pytest.fixture
    def theirs(self, settings: Settings) -> Iterator[Any]:
        """The SDK's transport."""
        made = transports.make(settings)
        made.create(process.topics_of(settings))
        yield made
        self.clean(settings)
        made.close()

    @pytest.fixture
    def ours(self, settings: Settings, theirs: Any) -> Iterator[Transport]:
        """The post office's transport."""
        with override_settings(
            KAFKA_BOOTSTRAP_SERVERS=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", ""),
            RABBITMQ_URL=os.environ.get("RABBITMQ_URL", ""),
            MESSAGING_PREFIX=settings.prefix,
            TOPIC_PARTITIONS=PARTITIONS,
        ):
            made = self.kind()
            yield made
            self.end(made)

    def clean(self, settings: Settings) -> None:
        raise NotImplementedError

    def end(self, transport: Any) -> None:
        raise NotImplementedError

    def read(self, poll: Callable[[], Sequence[Any]], count: int) -> list[Any]:
        found: list[Any] = []
        deadline = time.monotonic() + READ_S_MAX
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} came"
            found += poll()
        return found

    def test_a_pipe_reads_what_we_send_and_we_what_it_sends(self, ours: Transport, theirs: Any) -> None:
        pipe = theirs.member(group=SERVICE, topics=[IN])
        us = ours.consumer(group=GROUP, topics=[IN])
        outcomes = ours.send([OutgoingRecord(IN, key, b"ours", (("traceparent", "t"),)) for key in KEYS])
        assert {outcome.fate.value for outcome in outcomes} == {"acknowledged"}
        assert theirs.send([Outgoing(IN, key, "theirs") for key in KEYS]) == [""] * len(KEYS)
        by_pipe = self.read(lambda: pipe.poll(records_max=100, timeout_s=0.2), 2 * len(KEYS))
        by_us = self.read(lambda: us.poll(records_max=100, timeout_s=0.2), 2 * len(KEYS))
        pipe.close()
        us.close()
        for found in (by_pipe, by_us):
            assert sorted((one.key, one.value) for one in found) == sorted(
                (key, value) for key in KEYS for value in (b"ours", b"theirs")
            )
            places = {(one.key, one.partition) for one in found}
            assert len(places) == len(KEYS), "both put a key into the same partition"
        assert {one.headers.get("traceparent") for one in by_pipe if one.value == b"ours"} == {"t"}

    def test_topics_that_a_pipe_made_are_as_we_want_them(self, ours: Transport, theirs: Any) -> None:
        days = {"in": 7, "compensate": 7, "event": 30, "error": 90}
        wanted = [
            DesiredTopic(
                name=topic.name,
                partitions=PARTITIONS,
                replication_factor=1,
                retention_days=days[topic.name.rsplit(".", 1)[1]],
                groups=(topic.group,) if topic.group else (),
            )
            for topic in process.topics_of(from_environment(self.values()))
        ]
        assert [(plan.state, plan.detail) for plan in ours.plan_topics(wanted)] == [("ok", "")] * 4

    def values(self) -> dict[str, str]:
        return {**os.environ, "PIPES_BROKER": self.broker, "PIPES_SERVICE": SERVICE}


@pytest.mark.kafka
@pytest.mark.xdist_group("kafka")
# kafka-python leaves the socket of a connection that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
class TestKafka(BothContract):
    broker, kind = "kafka", KafkaTransport

    def clean(self, settings: Settings) -> None:
        from lastro_pipes.transports import kafka_admin

        with kafka_admin.admin(settings) as client:
            client.delete_topics([f"{settings.prefix}{topic.name}" for topic in process.topics_of(settings)])

    def end(self, transport: Any) -> None:
        if transport._made is not None:
            transport._made.close()


@pytest.mark.rabbitmq
@pytest.mark.xdist_group("rabbitmq")
class TestRabbitMQ(BothContract):
    broker, kind = "rabbitmq", RabbitMQTransport

    def clean(self, settings: Settings) -> None:
        from lastro_pipes.transports import rabbitmq_admin as admin

        with admin.connected(settings) as connection:
            channel = connection.channel()
            for topic in process.topics_of(settings):
                for group in (SERVICE, GROUP):
                    for queue in admin.queue_names(settings, topic.name, group):
                        channel.queue_delete(queue)
                    channel.exchange_delete(admin.spread_name(settings, topic.name, group))
                    channel.exchange_delete(admin.strangers_name(settings, topic.name, group))
                    channel.exchange_delete(admin.members_name(settings, group))
                channel.queue_delete(f"{settings.prefix}{topic.name}.log")
                channel.exchange_delete(f"{settings.prefix}{topic.name}")

    def end(self, transport: Any) -> None:
        transport._drop()
