"""Kafka behind a login over TLS and behind certificates: what is right works, and what is wrong says what to do."""

import gc
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from django.test.utils import override_settings
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from apps.messaging.transports import kafka_admin
from apps.messaging.transports.base import TransportDown, TransportMisconfigured
from apps.messaging.transports.kafka import KafkaTransport
from config.services.certificates import Certificates
from tests.brokers.test_kafka import grant
from tests.brokers.world import GROUP, PARTITIONS, by_key, eventually, prefix, read, record, send, topic
from tests.integration.messaging.world import TOPIC

pytestmark = [
    pytest.mark.kafka_secured,
    pytest.mark.xdist_group("kafka"),
    # kafka-python leaves the socket of a connection that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <(socket|ssl):ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _name_space() -> Iterator[None]:
    with override_settings(MESSAGING_PREFIX=prefix(), TOPIC_PARTITIONS=PARTITIONS):
        yield
    gc.collect()  # here, where such sockets may be left


def scram(**changes: str) -> Any:
    """The listener that wants a password, proven and not sent, over TLS."""
    return override_settings(
        **{
            "KAFKA_BOOTSTRAP_SERVERS": os.environ["KAFKA_SCRAM_BOOTSTRAP_SERVERS"],
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": "lastro",
            "KAFKA_SASL_PASSWORD": os.environ["KAFKA_LOGIN_PASSWORD"],
            "KAFKA_SSL_CAFILE": os.environ["SERVICES_CA_FILE"],
            **changes,
        }
    )


def mutual(**changes: str) -> Any:
    """The listener that wants a certificate."""
    return override_settings(
        **{
            "KAFKA_BOOTSTRAP_SERVERS": os.environ["KAFKA_MUTUAL_BOOTSTRAP_SERVERS"],
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CAFILE": os.environ["SERVICES_CA_FILE"],
            "KAFKA_SSL_CERTFILE": os.environ["SERVICES_CLIENT_FILE"],
            "KAFKA_SSL_KEYFILE": os.environ["SERVICES_CLIENT_FILE"],
            **changes,
        }
    )


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(TransportMisconfigured, match=words):
        yield


class TestWhoMayComeIn:
    @pytest.mark.parametrize("door", [scram, mutual])
    def test_produces_consumes_and_administers(self, door: Any) -> None:
        with door():
            transport = KafkaTransport()
            transport.check()
            transport.create_topics([topic()])
            assert [plan.state for plan in transport.plan_topics([topic()])] == ["ok"]
            send(transport, [record(n) for n in range(10)])
            member = transport.consumer(group=GROUP, topics=[TOPIC])
            assert by_key(read(member, 10)) == {"k": list(range(10))}
            member.close()
            send(transport, [record(n) for n in range(10, 13)])
            assert sum(transport.lag(group=GROUP, topics=[TOPIC]).values()) == 3
            assert transport._made is not None
            transport._made.close()
            with kafka_admin.admin() as client:
                client.delete_topics([kafka_admin.wire_name(TOPIC)])

    def test_a_login_that_may_only_look_can_check_the_topics(self) -> None:
        with scram():
            KafkaTransport().create_topics([topic()])
            pattern = ResourcePattern(ResourceType.TOPIC, kafka_admin.wire_name(TOPIC))
            operations = (ACLOperation.DESCRIBE_CONFIGS, ACLOperation.DESCRIBE)
            acls = [
                ACL("User:stranger", "*", operation, permission, pattern)
                for operation, permission in zip(operations, (ACLPermissionType.DENY, ACLPermissionType.ALLOW), strict=True)
            ]
            grant(*acls)
        with scram(KAFKA_SASL_USERNAME="stranger"):
            (plan,) = KafkaTransport().plan_topics([topic()])
        assert (plan.state, plan.detail) == ("ok", "this login may not read its settings")
        with scram(), kafka_admin.admin() as client:
            client.delete_topics([kafka_admin.wire_name(TOPIC)])


class TestLoginRefused:
    def test_a_wrong_password_and_an_unknown_user(self) -> None:
        with scram(KAFKA_SASL_PASSWORD="wrong-and-secret"), refused("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"):
            KafkaTransport().check()
        with scram(KAFKA_SASL_USERNAME="nobody"), refused("refuses the login of 'nobody' over SASL_SSL"):
            KafkaTransport().check()

    def test_a_password_is_never_in_the_sentence(self) -> None:
        with scram(KAFKA_SASL_PASSWORD="wrong-and-secret"), pytest.raises(TransportMisconfigured) as told:
            KafkaTransport().check()
        assert "wrong-and-secret" not in str(told.value)

    def test_a_mechanism_that_the_listener_does_not_take(self) -> None:
        with scram(KAFKA_SASL_MECHANISM="PLAIN"), refused("KAFKA_SASL_MECHANISM"):
            KafkaTransport().check()

    def test_a_login_where_none_is_taken(self) -> None:
        plain = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
        with (
            scram(KAFKA_BOOTSTRAP_SERVERS=plain, KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT"),
            refused("This listener takes no login: set KAFKA_SECURITY_PROTOCOL"),
        ):
            KafkaTransport().check()

    def test_a_consumer_says_the_same(self) -> None:
        with scram(KAFKA_SASL_PASSWORD="wrong"):
            said = self.last_word(lambda: KafkaTransport().consumer(group=GROUP, topics=[TOPIC]), TransportMisconfigured)
        assert "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in said

    def test_no_message_is_to_blame(self) -> None:
        with scram(KAFKA_SASL_PASSWORD="wrong"):
            said = self.last_word(lambda: KafkaTransport().send([record(1)]), TransportDown)
        assert "KAFKA_SASL_PASSWORD" in said

    @staticmethod
    def last_word(act: Callable[[], object], kind: type[Exception]) -> str:
        """A client has three seconds. On a busy machine its first words with a broker may take longer: it asks again."""
        told: list[Exception] = []

        def is_refused() -> bool:
            with pytest.raises((TransportDown, TransportMisconfigured)) as raised:
                act()
            told.append(raised.value)
            return "does not answer" not in str(raised.value)

        eventually(is_refused, what="the broker refuses us")
        assert type(told[-1]) is kind
        return str(told[-1])


class TestStart:
    """The processes that need a broker say it at their start, and end."""

    @staticmethod
    def end_of(command: str, **more: str) -> str:
        """The last line of a process that ends with 1."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DJANGO_"))}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", command],
            cwd=Path(__file__).resolve().parents[2],
            env={
                **kept,
                "DATABASE_URL": "postgresql://nobody:none@127.0.0.1:1/none",
                "LASTRO_EMBEDDED": "1",
                "MESSAGING_TRANSPORT": "kafka",
                "KAFKA_BOOTSTRAP_SERVERS": os.environ["KAFKA_SCRAM_BOOTSTRAP_SERVERS"],
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA_SASL_USERNAME": "lastro",
                "KAFKA_SASL_PASSWORD": os.environ["KAFKA_LOGIN_PASSWORD"],
                "KAFKA_SSL_CAFILE": os.environ["SERVICES_CA_FILE"],
                "MESSAGING_PREFIX": prefix(),
                **more,
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    @pytest.mark.parametrize("command", ["relay", "consume"])
    def test_a_refused_login(self, command: str) -> None:
        said = self.end_of(command, KAFKA_SASL_PASSWORD="wrong")
        assert said.startswith("CommandError: Kafka at ")
        assert "refuses the login of 'lastro' over SASL_SSL" in said
        assert "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in said

    @pytest.mark.parametrize("command", ["relay", "consume"])
    def test_missing_topics(self, command: str) -> None:
        said = self.end_of(command)
        assert said.startswith("CommandError: Topics are missing: ")
        assert said.endswith("Run: manage.py topics --apply")


class TestCertificatesRefused:
    def test_a_broker_whose_authority_we_do_not_trust(self, tmp_path: Path) -> None:
        foreign = str(Certificates(tmp_path).make().authority)
        for ca_file in (foreign, ""):
            with scram(KAFKA_SSL_CAFILE=ca_file), refused("is not trusted: set KAFKA_SSL_CAFILE"):
                KafkaTransport().check()

    def test_a_broker_whose_certificate_names_another_host(self) -> None:
        servers = os.environ["KAFKA_SCRAM_BOOTSTRAP_SERVERS"].replace("127.0.0.1", "127.1")
        with scram(KAFKA_BOOTSTRAP_SERVERS=servers), refused("another host's: use the name in it"):
            KafkaTransport().check()

    def test_no_certificate_of_ours(self) -> None:
        with mutual(KAFKA_SSL_CERTFILE="", KAFKA_SSL_KEYFILE=""), refused("set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"):
            KafkaTransport().check()

    def test_a_certificate_of_ours_that_the_broker_does_not_trust(self, tmp_path: Path) -> None:
        foreign = str(Certificates(tmp_path).make().client)
        with (
            mutual(KAFKA_SSL_CERTFILE=foreign, KAFKA_SSL_KEYFILE=foreign),
            refused("does not trust our certificate: KAFKA_SSL_CERTFILE"),
        ):
            KafkaTransport().check()


class TestWrongProtocol:
    def test_no_tls_where_it_is_spoken(self) -> None:
        with scram(KAFKA_SECURITY_PROTOCOL="PLAINTEXT"), refused("KAFKA_SECURITY_PROTOCOL"):
            KafkaTransport().check()

    def test_tls_where_it_is_not_spoken(self) -> None:
        plain = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
        with mutual(KAFKA_BOOTSTRAP_SERVERS=plain), refused("KAFKA_SECURITY_PROTOCOL"):
            KafkaTransport().check()

    def test_a_broker_that_is_away_is_no_refusal(self) -> None:
        with mutual(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"), pytest.raises(TransportDown, match="Is it running"):
            KafkaTransport().check()

    @pytest.mark.parametrize(
        "act", [lambda made: made.consumer(group=GROUP, topics=[TOPIC]), lambda made: made.send([record(1)])]
    )
    def test_a_client_that_cannot_start_leaves_nothing_behind(self, act: Any) -> None:
        process = psutil.Process()

        def held() -> tuple[int, int]:
            gc.collect()
            return process.num_fds(), threading.active_count()

        before = held()
        with scram(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"), pytest.raises(TransportDown):
            act(KafkaTransport())
        # Less, when something of the test before was still ending.
        eventually(lambda: all(map(operator.le, held(), before)), what=f"no more than {before} is held")


class TestFiles:
    """Without a broker: the client would take a file that it cannot read for a broker that is away."""

    @pytest.mark.parametrize("setting", ["KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE"])
    def test_a_file_that_is_missing_or_none(self, setting: str, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.touch()
        for path in (tmp_path / "missing.pem", empty):
            with mutual(**{setting: str(path)}), refused(f"{setting} is '{path}'"):
                KafkaTransport().check()

    def test_a_key_of_another_certificate_and_one_without_certificate(self, tmp_path: Path) -> None:
        other = str(Certificates(tmp_path).make().client)
        with mutual(KAFKA_SSL_KEYFILE=other), refused("a key that belongs to its certificate"):
            KafkaTransport().check()
        with mutual(KAFKA_SSL_CERTFILE=""), refused("They go together"):
            KafkaTransport().check()

    def test_an_encrypted_key_does_not_ask_the_terminal(self, tmp_path: Path) -> None:
        made = Certificates(tmp_path).make()
        key = serialization.load_pem_private_key(made.client.read_bytes(), None)
        locked = tmp_path / "locked.pem"
        locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with (
            mutual(KAFKA_SSL_CERTFILE=str(made.client), KAFKA_SSL_KEYFILE=str(locked)),
            refused("one without a passphrase"),
        ):
            KafkaTransport().check()

    def test_a_mechanism_that_nobody_knows(self) -> None:
        with scram(KAFKA_SASL_MECHANISM="MAGIC"), refused("it is one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"):
            KafkaTransport().check()
