"""The chain over RabbitMQ, the transport, and what is RabbitMQ's own."""

import os
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from lastro_pipes import Misconfigured, Settings, transports
from lastro_pipes.process import topics_of
from lastro_pipes.transports import rabbitmq_admin
from lastro_pipes.transports.base import Transport
from tests.contract import ChainContract
from tests.transport_contract import IN, SERVICE, TransportContract, record

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("pipes-rabbitmq")]


class TestChain(ChainContract):
    broker = "rabbitmq"


class TestTransport(TransportContract):
    broker = "rabbitmq"

    def test_a_refused_login_says_what_to_do(self, settings: Settings) -> None:
        parts = urlsplit(os.environ["RABBITMQ_URL"])
        wrong = parts._replace(netloc=f"lastro:wrong@{parts.hostname}:{parts.port}").geturl()
        with pytest.raises(Misconfigured, match="PIPES_RABBITMQ_URL"):
            transports.make(replace(settings, rabbitmq_url=wrong)).check()

    def test_a_topic_that_nobody_reads_yet_refuses(self, transport: Transport, settings: Settings) -> None:
        with rabbitmq_admin.connected(settings) as connection:
            spread = rabbitmq_admin.spread_name(settings, IN, SERVICE)
            connection.channel().exchange_unbind(spread, f"{settings.prefix}{IN}")
        assert "No queue is bound" in transport.send([record(1)])[0]

    def test_a_connection_that_was_cut_is_made_again(self, transport: Transport, settings: Settings) -> None:
        assert transport.send([record(1)]) == [""]
        transport._made._connection.collect()  # type: ignore[attr-defined]
        with pytest.raises(rabbitmq_admin.BrokerDown):
            transport.send([record(2)])
        assert transport.send([record(2)]) == [""]

    def test_dead_letters_that_no_group_reads_are_kept(self, transport: Transport, settings: Settings) -> None:
        assert transport.send([record(1, topic=f"{SERVICE}.error")]) == [""]
        assert transport.missing(topics_of(settings)) == []


class TestQueueArguments:
    @pytest.mark.parametrize(("version", "limit"), [("3.10.8", None), ("4.0.5", -1), ("4.3.0", -1)])
    def test_no_record_is_dropped_for_being_delivered_often(self, version: str, limit: int | None) -> None:
        from types import SimpleNamespace

        connection = SimpleNamespace(connection=SimpleNamespace(server_properties={"version": version}))
        assert rabbitmq_admin._queue_arguments(connection).get("x-delivery-limit") == limit
