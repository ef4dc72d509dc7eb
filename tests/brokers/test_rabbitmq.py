"""RabbitMQ keeps the contract, as far as its module says."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import amqp  # type: ignore[import-untyped]  # it ships no types
import pytest
from django.test.utils import override_settings

from apps.messaging.transports import rabbitmq_admin, rabbitmq_consumer
from apps.messaging.transports.base import Consumer, Fate, IncomingRecord, TransportDown, TransportMisconfigured
from apps.messaging.transports.rabbitmq import RabbitMQTransport
from apps.messaging.transports.rabbitmq_admin import KEY, members_name, queue_names, spread_name, strangers_name, wire_name
from apps.messaging.transports.rabbitmq_consumer import RabbitMQMember
from config.services import RabbitMQ
from config.services.certificates import Certificates
from tests.brokers.contract import ServerContract
from tests.brokers.world import GROUP, PARTITIONS, READ_S_MAX, prefix, read, record, send, topic
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC

pytestmark = [pytest.mark.rabbitmq, pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("rabbitmq")]


class RabbitMQHarness:
    """A name space at the broker of RABBITMQ_URL."""

    def __init__(self) -> None:
        self.transport = RabbitMQTransport()
        self.transport.create_topics([topic(), topic(ERROR_TOPIC)])

    def append_foreign(self, *, key: bytes | None, value: bytes) -> None:
        headers = {} if key is None else {KEY: key}
        with rabbitmq_admin.connected() as connection:
            message = amqp.Message(value, application_headers=headers)
            connection.channel().basic_publish(message, exchange=wire_name(TOPIC), routing_key="")

    def vanish(self, member: Consumer) -> None:
        assert isinstance(member, RabbitMQMember)
        member._connection.collect()  # the socket alone: no word to the broker or the others

    def restart(self) -> None:
        assert RabbitMQ().stop(), "the broker under test is not one of config.services"
        RabbitMQ().start()

    def close(self) -> None:
        self.transport._drop()
        with rabbitmq_admin.connected() as connection:
            channel = connection.channel()
            for group in (GROUP, "tests.others"):
                for name in (TOPIC, ERROR_TOPIC):
                    for queue in queue_names(name, group):
                        channel.queue_delete(queue)
                    channel.exchange_delete(spread_name(name, group))
                    channel.exchange_delete(strangers_name(name, group))
                channel.exchange_delete(members_name(group))
            for name in (TOPIC, ERROR_TOPIC):
                channel.exchange_delete(wire_name(name))


@pytest.fixture
def harness() -> Iterator[RabbitMQHarness]:
    """A harness whose queues nobody else sees."""
    with override_settings(RABBITMQ_URL=os.environ["RABBITMQ_URL"], MESSAGING_PREFIX=prefix(), TOPIC_PARTITIONS=PARTITIONS):
        made = RabbitMQHarness()
        yield made
        made.close()


class TestRabbitMQTransport(ServerContract):
    """With the broker of ``make services``."""

    def test_a_refused_login_is_an_error_that_says_what_to_do(self, harness: RabbitMQHarness) -> None:
        parts = urlsplit(os.environ["RABBITMQ_URL"])
        wrong = parts._replace(netloc=f"lastro:wrong@{parts.hostname}:{parts.port}").geturl()
        with override_settings(RABBITMQ_URL=wrong), pytest.raises(TransportMisconfigured, match="RABBITMQ_URL"):
            RabbitMQTransport().check()
        RabbitMQTransport().check()

    def test_a_certificate_is_verified_with_its_name(self, harness: RabbitMQHarness, tmp_path: Path) -> None:
        url, authority = os.environ["RABBITMQ_TLS_URL"], os.environ["SERVICES_CA_FILE"]
        with override_settings(RABBITMQ_URL=url, RABBITMQ_CA_FILE=authority):
            harness.transport._drop()
            assert harness.transport.send([record(1)])[0].fate is Fate.ACKNOWLEDGED
        harness.transport._drop()
        stranger = str(Certificates(tmp_path).make().authority)
        by_another_name = url.replace("127.0.0.1", "127.1")
        for address, file in ((url, stranger), (by_another_name, authority), (url, str(tmp_path / "none.pem"))):
            named = override_settings(RABBITMQ_URL=address, RABBITMQ_CA_FILE=file)
            with named, pytest.raises(TransportMisconfigured, match="RABBITMQ_CA_FILE"):
                harness.transport.check()

    def test_nobody_answers(self, harness: RabbitMQHarness) -> None:
        with override_settings(RABBITMQ_URL="amqp://a:b@127.0.0.1:1//"), pytest.raises(TransportDown):
            RabbitMQTransport().send([record(1)])

    def test_queues_are_planned_created_and_compared(self, harness: RabbitMQHarness) -> None:
        assert [plan.state for plan in harness.transport.plan_topics([topic()])] == ["ok"]
        assert [plan.state for plan in harness.transport.plan_topics([topic("tests.other.topic.in")])] == ["create"]
        with override_settings(TOPIC_PARTITIONS=PARTITIONS - 1):
            assert [plan.state for plan in harness.transport.plan_topics([topic()])] == ["differs"]

    def test_a_group_joins_queues_that_were_declared_with_other_arguments(self, harness: RabbitMQHarness) -> None:
        with rabbitmq_admin.connected() as connection:
            channel = connection.channel()
            queue = queue_names(TOPIC, GROUP)[0]
            channel.queue_delete(queue)
            arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 100}
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
            channel.queue_bind(queue, spread_name(TOPIC, GROUP), "0")
        harness.transport.create_topics([topic()])
        send(harness.transport, [record(n, key=f"k{n}") for n in range(60)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        assert len({one.partition for one in read(member, 60)}) == PARTITIONS
        member.close()

    def test_an_exchange_of_another_kind_is_an_error_that_says_what_to_do(self, harness: RabbitMQHarness) -> None:
        with rabbitmq_admin.connected() as connection:
            channel = connection.channel()
            channel.exchange_declare(spread_name(TOPIC, "tests.others"), "fanout", durable=True, auto_delete=False)
        with pytest.raises(TransportMisconfigured, match="delete it while it is empty"):
            harness.transport.consumer(group="tests.others", topics=[TOPIC])

    def test_a_topic_without_a_queue_refuses_the_first_record_of_a_key_and_sends_none_after_it(
        self, harness: RabbitMQHarness
    ) -> None:
        with rabbitmq_admin.connected() as connection:
            connection.channel().exchange_unbind(spread_name(TOPIC, GROUP), wire_name(TOPIC))
        outcomes = harness.transport.send([record(1), record(2), record(1, key="other")])
        assert [outcome.fate for outcome in outcomes] == [Fate.REFUSED, Fate.NOT_SENT, Fate.REFUSED]
        assert "manage.py topics --apply" in outcomes[0].reason

    def test_a_member_that_is_busy_for_long_keeps_its_queues(
        self, harness: RabbitMQHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rabbitmq_consumer, "SILENT_S", 0.2)
        send(harness.transport, [record(n) for n in range(10)])
        busy = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        held = read(busy, 10, commit=False)
        other = RabbitMQMember(group=GROUP, topics=[TOPIC])
        deadline = time.monotonic() + READ_S_MAX
        while len(other.assignment()) < PARTITIONS:
            assert other.poll(records_max=100, timeout_s=0.1) == []
            assert time.monotonic() < deadline, "the busy one is not taken for dead"
        send(harness.transport, [record(n) for n in range(10, 20)])
        assert other.poll(records_max=100, timeout_s=0.5) == [], "it stands by"
        busy.commit(held[-1])
        busy.close()
        assert [int(one.value) for one in read(other, 10)] == list(range(10, 20))
        other.close()

    def test_acknowledges_once_a_queue(self, harness: RabbitMQHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        send(harness.transport, [record(n) for n in range(50)])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        acknowledged: list[tuple[int, bool]] = []

        def note(_channel: object, tag: int, multiple: bool = False) -> None:
            acknowledged.append((tag, multiple))

        polls = 0
        poll = member.poll

        def counted(**more: Any) -> Sequence[IncomingRecord]:
            nonlocal polls
            polls += 1
            return poll(**more)

        monkeypatch.setattr(amqp.Channel, "basic_ack", note)
        monkeypatch.setattr(member, "poll", counted)
        read(member, 50)
        member.close()
        assert len(acknowledged) <= polls, "they are in one queue, and may come a few at a time"
        assert acknowledged[-1] == (50, True)


class TestQueueArguments:
    """What a newer broker needs to be told."""

    @pytest.mark.parametrize(("version", "limit"), [("3.10.8", None), ("3.13.7", None), ("4.0.5", -1), ("4.3.0", -1)])
    def test_no_record_is_dropped_for_being_delivered_often(self, version: str, limit: int | None) -> None:
        connection = SimpleNamespace(connection=SimpleNamespace(server_properties={"version": version}))
        assert rabbitmq_admin._queue_arguments(connection).get("x-delivery-limit") == limit
