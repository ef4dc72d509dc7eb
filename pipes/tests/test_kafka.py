"""The chain over Kafka, the transport, and what is Kafka's own."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import errors as kafka_errors

from lastro_pipes import Misconfigured, Settings, from_environment, transports
from lastro_pipes.errors import BrokerDown
from lastro_pipes.transports.base import Member, Transport
from tests.chain import Chain
from tests.contract import FIRST, ONCE, ChainContract
from tests.transport_contract import TransportContract, numbers, read, record

group = pytest.mark.xdist_group("pipes-kafka")


@group
@pytest.mark.kafka
class TestChain(ChainContract):
    broker = "kafka"

    @pytest.mark.parametrize("moment", ["after-commit", "after-publish"])
    def test_a_kill_leaves_one_effect_also_with_postgresql(self, tmp_path: Path, postgres: str, moment: str) -> None:
        chain = Chain(tmp_path, stores=postgres, PIPES_BROKER=self.broker)
        try:
            chain.wish(moment)
            (first,) = chain.start(FIRST)
            gid = chain.begin({})
            chain.until(lambda: first.process.poll() is not None, what="the process is killed")
            chain.start()
            chain.until_status(gid, "COMPLETED")
            assert chain.effects(gid) == ONCE
        finally:
            chain.close()


@group
@pytest.mark.kafka
class TestTransport(TransportContract):
    broker = "kafka"

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (kafka_errors.KafkaConnectionError("refused"), BrokerDown),
            (kafka_errors.NodeNotReadyError("coordinator"), BrokerDown),
            (kafka_errors.GroupAuthorizationFailedError("g"), Misconfigured),
        ],
    )
    def test_what_the_client_raises_is_a_broker_that_is_away_or_a_refusal(
        self, join: Callable[[], Member], transport: Transport, error: Exception, said: type[Exception]
    ) -> None:
        """A connection that is refused in a moment that no test can choose; the worker joins again."""
        member: Any = join()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(member._client, "poll", Mock(side_effect=error))
            with pytest.raises(said):
                member.poll(records_max=1, timeout_s=0.1)
        transport.send([record(7)])
        assert numbers(read(member, 1)) == [7]


@group
@pytest.mark.kafka_secured
class TestLogin:
    @pytest.fixture
    def settings(self) -> Settings:
        return from_environment(
            {
                "PIPES_SERVICE": "shop.test.alone",
                "PIPES_KAFKA_BOOTSTRAP_SERVERS": os.environ["KAFKA_SCRAM_BOOTSTRAP_SERVERS"],
                "PIPES_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "PIPES_KAFKA_SASL_USERNAME": "lastro",
                "PIPES_KAFKA_SASL_PASSWORD": os.environ["KAFKA_LOGIN_PASSWORD"],
                "PIPES_KAFKA_SSL_CAFILE": os.environ["SERVICES_CA_FILE"],
            }
        )

    def test_over_tls_with_a_password(self, settings: Settings) -> None:
        transports.make(settings).check()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"kafka_sasl_password": "wrong"}, "PIPES_KAFKA_SASL_"),
            ({"kafka_ssl_cafile": ""}, "PIPES_KAFKA_SSL_CAFILE"),
            ({"kafka_ssl_cafile": "/no/such.pem"}, "PIPES_KAFKA_SSL_CAFILE"),
            ({"kafka_security_protocol": "PLAINTEXT"}, "PIPES_KAFKA_SECURITY_PROTOCOL"),
        ],
    )
    def test_what_is_wrong_is_told_with_what_to_do(self, settings: Settings, changes: dict[str, str], words: str) -> None:
        with pytest.raises(Misconfigured, match=words):
            transports.make(replace(settings, **changes)).check()  # type: ignore[arg-type]
