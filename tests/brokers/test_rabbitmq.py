"""RabbitMQ keeps the contract, as far as its module says."""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import amqp
import pytest
from django.test.utils import override_settings

from apps.messaging.transports import rabbitmq
from apps.messaging.transports.base import Consumer, TransportDown, TransportMisconfigured
from apps.messaging.transports.rabbitmq import RabbitMQTransport
from config.services import RabbitMQ
from tests.brokers.contract import ServerContract
from tests.brokers.world import GROUP, PARTITIONS, prefix, record, topic
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC

pytestmark = [pytest.mark.rabbitmq, pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("rabbitmq")]


class RabbitMQHarness:
    """A name space at the broker of RABBITMQ_URL."""

    def __init__(self) -> None:
        self.transport = RabbitMQTransport()
        self.transport.create_topics([topic(), topic(ERROR_TOPIC)])

    def append_foreign(self, *, key: bytes | None, value: bytes) -> None:
        headers = {} if key is None else {rabbitmq.KEY: key}
        with rabbitmq._channel() as channel:
            message = amqp.Message(value, application_headers=headers)
            channel.basic_publish(message, exchange=rabbitmq._name(TOPIC), routing_key="")

    def vanish(self, member: Consumer) -> None:
        member.close()

    def restart(self) -> None:
        assert RabbitMQ().stop(), "the broker under test is not one of config.services"
        RabbitMQ().start()

    def close(self) -> None:
        self.transport._drop()
        with rabbitmq._channel() as channel:
            for name in (TOPIC, ERROR_TOPIC):
                for group in (GROUP, "tests.others"):
                    for queue in rabbitmq._queues(name, group):
                        channel.queue_delete(queue)
                    channel.exchange_delete(f"{rabbitmq._name(name)}@{rabbitmq._name(group)}")
                channel.exchange_delete(rabbitmq._name(name))


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

    def test_nobody_answers(self, harness: RabbitMQHarness) -> None:
        with override_settings(RABBITMQ_URL="amqp://a:b@127.0.0.1:1//"), pytest.raises(TransportDown):
            RabbitMQTransport().send([record(1)])

    def test_queues_are_planned_created_and_compared(self, harness: RabbitMQHarness) -> None:
        assert [plan.state for plan in harness.transport.plan_topics([topic()])] == ["ok"]
        assert [plan.state for plan in harness.transport.plan_topics([topic("tests.other.topic.in")])] == ["create"]
        with override_settings(TOPIC_PARTITIONS=PARTITIONS - 1):
            assert [plan.state for plan in harness.transport.plan_topics([topic()])] == ["differs"]
