"""Celery on RabbitMQ: quorum queues, with the same promises as on Redis."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest
from django.test.utils import override_settings
from kombu import Connection

from config import celery_broker
from config.celery_settings import DELIVERIES_MAX, QUEUES
from config.services import RabbitMQ
from config.services.certificates import Certificates
from tests.brokers import celery_tasks
from tests.brokers.celery_world import CeleryContract, sender, told, worker
from tests.brokers.world import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("celery-rabbitmq"), pytest.mark.timeout(600)]


class RabbitMQBroker:
    """A virtual host of the server of RABBITMQ_URL."""

    def __init__(self) -> None:
        self.server = RabbitMQ()
        assert self.server.pid() is not None, "the broker under test is not one of config.services"
        self.vhost = f"tests-{secrets.token_hex(4)}"
        self.server.control("add_vhost", self.vhost)
        self.server.control("set_permissions", "-p", self.vhost, "lastro", ".*", ".*", ".*")
        self.url = os.environ["RABBITMQ_URL"].removesuffix("//") + f"/{self.vhost}"
        self.ca_file = ""

    def ask(self, what: str) -> dict[str, str]:
        """A column of list_queues, by queue."""
        table = self.server.control("list_queues", "--no-table-headers", "-p", self.vhost, "name", what)
        return dict(line.split("\t") for line in table.splitlines() if "\t" in line)

    def waiting(self, queue: str) -> int:
        with Connection(self.url) as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except amqp.exceptions.NotFound:
                return 0

    def taken(self, queue: str) -> int:
        return int(self.ask("messages_unacknowledged").get(queue, "0"))

    def close(self) -> None:
        self.server.control("delete_vhost", self.vhost)


@pytest.fixture
def broker() -> Iterator[RabbitMQBroker]:
    made = RabbitMQBroker()
    yield made
    made.close()


class TestCeleryOnRabbitMQ(CeleryContract):
    def test_every_queue_is_a_quorum_queue_with_a_bound_and_delays_block_nobody(
        self, broker: RabbitMQBroker, tmp_path: Path
    ) -> None:
        app = sender(broker)
        with worker(broker, tmp_path, queues=",".join(QUEUES)):
            types, arguments = broker.ask("type"), broker.ask("arguments")
            app.tasks[celery_tasks.write.name].apply_async(("delayed",), countdown=3)
            eventually(lambda: told(tmp_path, "ran", "delayed") == 1, what="the delayed task")
        assert {name: types[name] for name in QUEUES} == dict.fromkeys(QUEUES, "quorum")
        assert all(f'"x-delivery-limit",{DELIVERIES_MAX}' in arguments[name].replace("{", "") for name in QUEUES)

    def test_a_message_that_kills_every_worker_ends(self, broker: RabbitMQBroker) -> None:
        app = sender(broker)
        app.tasks[celery_tasks.write.name].apply_async(("a",))
        for _ in range(DELIVERIES_MAX + 1):
            eventually(lambda: broker.waiting("ledger") == 1, what="the message is there")
            with app.connection_for_write() as connection:
                assert connection.channel().basic_get("ledger") is not None
            # The connection has ended without an acknowledgement, as a killed worker's does.
        app.tasks[celery_tasks.write.name].apply_async(("b",))
        with app.connection_for_write() as connection:
            next_one = connection.channel().basic_get("ledger")
            assert "'b'" in next_one.headers["argsrepr"]
            assert next_one.delivery_info["message_count"] == 0

    def test_a_publication_that_is_not_confirmed_is_an_error(self, broker: RabbitMQBroker) -> None:
        with sender(broker).connection_for_write() as connection:
            assert connection.transport_options["confirm_publish"]
            channel = connection.default_channel
            with pytest.raises(amqp.exceptions.NotFound):
                channel.basic_publish(amqp.Message("x"), exchange="there.is.none", routing_key="x")


class TestRefusals:
    def refusal(self, url: str, ca_file: str = "") -> str:
        with override_settings(CELERY_BROKER_URL=url, CELERY_BROKER_CA_FILE=ca_file):
            return celery_broker.refusal(sender(_At(url, ca_file)))

    def test_a_wrong_password_and_a_missing_virtual_host(self) -> None:
        url = os.environ["RABBITMQ_URL"]
        assert self.refusal(url) == ""
        wrong = urlsplit(url)._replace(netloc=f"lastro:wrong@{urlsplit(url).hostname}:{urlsplit(url).port}").geturl()
        assert "refuses the login of 'lastro'. Check user, password and virtual host" in self.refusal(wrong)
        assert "vhost nowhere not found" in self.refusal(url.removesuffix("//") + "/nowhere")

    def test_a_certificate_is_verified_with_its_name(self, tmp_path: Path) -> None:
        url, ca_file = os.environ["RABBITMQ_TLS_URL"], os.environ["SERVICES_CA_FILE"]
        assert self.refusal(url, ca_file) == ""
        assert "is not trusted. Set CELERY_BROKER_CA_FILE" in self.refusal(
            url, str(Certificates(tmp_path).make().authority)
        )
        # The same server by an address that its certificate does not name.
        assert "is another host's" in self.refusal(url.replace("127.0.0.1", "127.1"), ca_file)

    def test_a_port_without_tls(self) -> None:
        plain = os.environ["RABBITMQ_URL"].replace("amqp://", "amqps://")
        assert "does not speak TLS" in self.refusal(plain, os.environ["SERVICES_CA_FILE"])


class _At:
    """An address, for those who only connect."""

    def __init__(self, url: str, ca_file: str) -> None:
        self.url, self.ca_file = url, ca_file

    def waiting(self, queue: str) -> int:
        raise NotImplementedError

    def taken(self, queue: str) -> int:
        raise NotImplementedError
