"""Kafka keeps the contract, and what is Kafka's own."""

import gc
import os
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test.utils import override_settings
from kafka import KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from apps.messaging.ownership import LEASE
from apps.messaging.transports import kafka_admin
from apps.messaging.transports.base import Consumer, Fate, OutgoingRecord, TransportDown, TransportMisconfigured
from apps.messaging.transports.kafka import SEND_S_MAX, KafkaTransport
from apps.messaging.transports.kafka_admin import wire_name
from config.services import Kafka
from tests.brokers.contract import ServerContract
from tests.brokers.world import (
    GROUP,
    PARTITIONS,
    READ_S_MAX,
    by_key,
    eventually,
    prefix,
    read,
    read_until,
    record,
    send,
    topic,
)
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("kafka"),
    # kafka-python leaves the socket of a connection that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def administration() -> Any:
    """An admin client with the patience that a busy machine asks for."""
    return kafka_admin.admin(request_s=READ_S_MAX)


def grant(*acls: ACL) -> None:
    """Permissions of one topic, when the broker goes by them: the controller has answered long before."""
    pattern = acls[0].resource_pattern
    everything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)
    with administration() as client:
        client.create_acls(list(acls))
        eventually(
            lambda: (
                {(acl.operation, acl.permission_type) for acl in client.describe_acls(everything)[0]}
                >= {(acl.operation, acl.permission_type) for acl in acls}
            ),
            what="the broker knows the permissions",
        )


class KafkaHarness:
    """A name space at the broker of KAFKA_BOOTSTRAP_SERVERS."""

    def __init__(self) -> None:
        self.transport = KafkaTransport()
        self.transport.create_topics([topic(), topic(ERROR_TOPIC)])
        self.configure(TOPIC, "max.message.bytes", 4_000_000)

    def configure(self, name: str, setting: str, value: object) -> None:
        """The controller answers; the broker hears of it a moment later, on a busy machine much later.

        It shows a value before the topic's log goes by it. What it shows of the next change, it shows after that.
        """
        with administration() as client:
            after = {"file.delete.delay.ms": str(secrets.randbelow(1_000_000))}
            for changes in ({setting: str(value)}, {setting: str(value), **after}):
                client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, wire_name(name), changes)])
                asked = ConfigResource(ConfigResourceType.TOPIC, wire_name(name), list(changes))

                def is_so(asked: ConfigResource = asked, changes: dict[str, str] = changes) -> bool:
                    found = client.describe_configs([asked])["topic"][wire_name(name)]
                    return all(found.get(key, {}).get("value") == wanted for key, wanted in changes.items())

                eventually(is_so, what=f"{setting} is {value}")

    def append_foreign(self, *, key: bytes | None, value: bytes) -> None:
        producer = KafkaProducer(**kafka_admin.client_settings(), max_request_size=4_000_000)
        partition = 0 if key is None else None
        producer.send(wire_name(TOPIC), key=key, value=value, partition=partition).get(READ_S_MAX)
        producer.close(READ_S_MAX)

    def vanish(self, member: Consumer) -> None:
        member._noted.clear()  # type: ignore[attr-defined]
        member.close()

    def restart(self) -> None:
        assert Kafka().stop(), "the broker under test is not one of config.services"
        Kafka().start()

    def close(self) -> None:
        made = self.transport._made
        if made is not None:
            made.close()
        with administration() as client:
            names = [name for name in client.list_topics() if name.startswith(wire_name(""))]
            client.delete_topics(names)


@pytest.fixture
def harness() -> Iterator[KafkaHarness]:
    """A harness whose topics nobody else sees."""
    with override_settings(
        KAFKA_BOOTSTRAP_SERVERS=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        MESSAGING_PREFIX=prefix(),
        TOPIC_PARTITIONS=PARTITIONS,
    ):
        made = KafkaHarness()
        yield made
        made.close()
    gc.collect()  # here, where such sockets may be left


def login(**changes: str) -> Any:
    """The listener that asks for a login."""
    return override_settings(
        KAFKA_BOOTSTRAP_SERVERS=os.environ["KAFKA_LOGIN_BOOTSTRAP_SERVERS"],
        **{
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "lastro",
            "KAFKA_SASL_PASSWORD": os.environ["KAFKA_LOGIN_PASSWORD"],
            **changes,
        },
    )


class TestKafkaTransport(ServerContract):
    """With the broker of ``make services``."""

    def test_no_record_overtakes_one_that_the_broker_refuses(self, harness: KafkaHarness) -> None:
        # The producer takes them all; the topic's own limit refuses number 3, in one batch with its neighbours.
        harness.configure(TOPIC, "max.message.bytes", 20_000)
        batch = [_incompressible(3, 30_000) if n == 3 else record(n) for n in range(60)]
        outcomes = harness.transport.send(batch)
        fates = [outcome.fate for outcome in outcomes]
        assert fates[3] is Fate.REFUSED
        assert "max.message.bytes" in outcomes[3].reason
        assert set(fates[4:]) == {Fate.NOT_SENT}
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        sent = fates.count(Fate.ACKNOWLEDGED)
        assert by_key(read(member, sent)) == ({"k": list(range(sent))} if sent else {})
        send(harness.transport, [record(n) for n in range(sent, 60)])
        assert by_key(read(member, 60 - sent)) == {"k": list(range(sent, 60))}
        member.close()

    def test_only_the_refused_record_is_to_blame_and_the_rest_goes_on(self, harness: KafkaHarness) -> None:
        # Many batches: those after the refused one must not leave the producer, and are not refused with it.
        harness.configure(TOPIC, "max.message.bytes", 200_000)
        batch = [record(n, key=f"k{n % 5}", size=60_000) for n in range(40)]
        batch[2] = _incompressible(2, 300_000)._replace(key="k2")
        outcomes = harness.transport.send(batch)
        assert [n for n, outcome in enumerate(outcomes) if outcome.fate is Fate.REFUSED] == [2]
        of_key = [outcome.fate for outcome, one in zip(outcomes, batch, strict=True) if one.key == "k2"]
        assert set(of_key[1:]) == {Fate.NOT_SENT}
        left = [n for n, outcome in enumerate(outcomes) if outcome.fate is Fate.NOT_SENT and n % 5 != 2]
        if left:
            send(harness.transport, [batch[n] for n in left])
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        # What was under way may have been stored without an answer: a copy is allowed, another order is not.
        found = by_key(read_until(member, lambda keys: all(len(set(keys.get(f"k{k}", ()))) == 8 for k in (0, 1, 3, 4))))
        member.close()
        assert {key: list(dict.fromkeys(numbers)) for key, numbers in found.items()} == {
            f"k{k}": list(range(k, 40, 5)) for k in (0, 1, 3, 4)
        }

    def test_a_topic_that_this_login_may_not_write_is_refused_and_others_go_on(self, harness: KafkaHarness) -> None:
        pattern = ResourcePattern(ResourceType.TOPIC, wire_name(ERROR_TOPIC))
        denied = ACL("User:stranger", "*", ACLOperation.WRITE, ACLPermissionType.DENY, pattern)
        allowed = ACL("User:stranger", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern)
        grant(denied, allowed)
        with login(KAFKA_SASL_USERNAME="stranger"):
            transport = KafkaTransport()
            batch = [record(1, name=ERROR_TOPIC), record(2, name=ERROR_TOPIC), record(1)]
            outcomes = transport.send(batch)
            assert [outcome.fate for outcome in outcomes[:2]] == [Fate.REFUSED, Fate.NOT_SENT]
            assert "Grant it WRITE" in outcomes[0].reason
            if outcomes[2].fate is not Fate.ACKNOWLEDGED:  # it was under way when the producer stopped
                send(transport, batch[2:])
            if transport._made is not None:
                transport._made.close()

    def test_a_refused_login_is_an_error_that_says_what_to_do(self, harness: KafkaHarness) -> None:
        with login(KAFKA_SASL_PASSWORD="wrong"), pytest.raises(TransportMisconfigured, match="KAFKA_SASL_PASSWORD"):
            KafkaTransport().check()
        with login(KAFKA_SECURITY_PROTOCOL="PLAINTEXT"), pytest.raises(TransportMisconfigured, match="SECURITY_PROTOCOL"):
            KafkaTransport().check()
        with login(KAFKA_SASL_PASSWORD="wrong"), pytest.raises(TransportDown, match="KAFKA_SASL_PASSWORD"):
            KafkaTransport().send([record(1)])
        with login():
            KafkaTransport().check()

    def test_nobody_answers(self, harness: KafkaHarness) -> None:
        with override_settings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"):
            with pytest.raises(TransportDown, match="Is it running"):
                KafkaTransport().check()
            with pytest.raises(TransportDown):
                KafkaTransport().send([record(1)])

    def test_a_broker_that_goes_away_while_a_member_begins_leaves_nothing_running(
        self, harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refused in a moment that no test can choose: between the first connection and the first question."""

        def refused(*_: object) -> None:
            raise kafka_errors.KafkaConnectionError("refused")

        before = set(threading.enumerate())
        monkeypatch.setattr(KafkaConsumer, "partitions_for_topic", refused)
        with pytest.raises(TransportDown, match="Is it running"):
            harness.transport.consumer(group=GROUP, topics=[TOPIC])
        assert set(threading.enumerate()) <= before

    def test_topics_are_planned_created_and_compared(self, harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.messaging.topics.transport", lambda: harness.transport)
        with pytest.raises(CommandError, match="not as the contracts want"):
            call_command("topics", "--plan", verbosity=0)
        wanted = [topic("tests.other.topic.in")]
        assert [plan.state for plan in harness.transport.plan_topics(wanted)] == ["create"]
        harness.transport.create_topics(wanted)
        harness.transport.create_topics(wanted)
        assert [plan.state for plan in harness.transport.plan_topics(wanted)] == ["ok"]
        (plan,) = harness.transport.plan_topics([topic("tests.other.topic.in", partitions=9)])
        assert (plan.state, plan.detail) == ("differs", "partitions is 4, not 9")

    def test_a_send_ends_before_the_relays_lease(self) -> None:
        assert LEASE.total_seconds() > SEND_S_MAX


def _incompressible(n: int, size: int) -> OutgoingRecord:
    return record(n)._replace(value=os.urandom(size))
