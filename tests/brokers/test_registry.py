"""Avro on event topics, with a real schema registry; and over a real Kafka, where there is one."""

import gc
import io
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import fastavro
import pytest
from django.core.management import call_command
from django.test.utils import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.common.clock import uuid7
from apps.messaging import envelope as envelopes
from apps.messaging import wire
from apps.messaging.consumer import consume_once
from apps.messaging.contracts import releases
from apps.messaging.contracts.avro import as_text, envelope_schema
from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.contracts.payments import CardResult, PaymentChanged
from apps.messaging.envelope import Meta
from apps.messaging.models import Pending
from apps.messaging.relay import breaker_of, relay_all
from apps.messaging.transports import registry as registries
from apps.messaging.transports.base import TransportDown
from apps.messaging.transports.registry import Registry
from config.services import Apicurio
from tests.brokers.test_kafka import KafkaHarness
from tests.brokers.world import GROUP, PARTITIONS, READ_S_MAX, eventually, prefix, read
from tests.contracts.strategies import messages_of, texts
from tests.integration.messaging.world import TOPIC, Note, Reader, dead_letters, post

pytestmark = [pytest.mark.registry, pytest.mark.xdist_group("registry")]
EVENTS = [kind for kind in releases.declared_classes() if kind.topic.endswith(".event")]
STORY = "tests.story.of.event"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story(Message):
    """The first version of a message that evolves."""

    topic: ClassVar[str] = STORY
    schema: ClassVar[str] = "tests.story.v1"

    title: str
    price: Decimal
    note: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryV2(Message):
    """The second: one field less, others more."""

    topic: ClassVar[str] = STORY
    schema: ClassVar[str] = "tests.story.v2"

    title: str
    price: Decimal
    tax: Decimal = Decimal("1.50")
    tags: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def subjects() -> Iterator[None]:
    """Subjects of this test's own."""
    with override_settings(SCHEMA_REGISTRY_URL=os.environ["SCHEMA_REGISTRY_URL"], MESSAGING_PREFIX=prefix()):
        yield
    registries._registry.cache_clear()


def registry() -> Registry:
    """A client that remembers nothing yet."""
    registries._registry.cache_clear()
    found = registries.registry()
    assert found is not None
    return found


def payload(message: Message, **changes: Any) -> bytes:
    """A message as the outbox keeps it."""
    meta = Meta(message_id=uuid7(), schema=message.schema, global_id="g", steps=("one", "two"), trace="t").to_json()
    return envelopes.encode({**meta, **changes}, message.to_body())


def framed(message: Message, **changes: Any) -> bytes:
    """A message as it goes over the wire."""
    return wire.to_wire(topic=message.topic, schema=message.schema, payload=payload(message, **changes))


def understood(value: bytes, kind: type[Message]) -> Message:
    """What a consumer makes of a record."""
    envelope = envelopes.decode(wire.from_wire(value))
    assert envelope["meta"]["schema"] == kind.schema
    return kind.from_body(envelope["body"])


def registered(value: bytes) -> Any:
    """The schema of a framed record, as the registry gives it to anybody."""
    assert value[0] == 0
    return json.loads(registry().schema_of(int.from_bytes(value[1:5], "big")))


def forgotten(monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    """A release that has never heard of this version."""
    from apps.messaging.contracts import base

    known = {name: kind for name, kind in base._registry.items() if name != schema}
    monkeypatch.setattr(base, "_registry", known)


class TestEvents:
    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.schema)
    @settings(
        max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
    )
    @given(data=st.data())
    def test_come_back_as_they_were(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        sent = payload(message)
        value = wire.to_wire(topic=kind.topic, schema=kind.schema, payload=sent)
        assert understood(value, kind) == message
        assert json.loads(wire.from_wire(value))["meta"] == json.loads(sent)["meta"]

    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.schema)
    @settings(
        max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
    )
    @given(data=st.data())
    def test_are_read_by_any_avro_reader_with_the_registrys_own_schema(
        self, kind: type[Message], data: st.DataObject
    ) -> None:
        message = data.draw(messages_of(kind))
        value = framed(message)
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), fastavro.parse_schema(registered(value)), None)
        assert record["meta"]["schema"] == kind.schema
        assert record["meta"]["steps"] == ["one", "two"]
        for entry in fields(message):  # type: ignore[arg-type]
            if isinstance(getattr(message, entry.name), str | int | Decimal | UUID | datetime | None):
                assert record["body"][entry.name] == getattr(message, entry.name)

    def test_are_read_by_the_reference_implementation(self) -> None:
        from avro.io import BinaryDecoder, DatumReader
        from avro.schema import parse

        result = CardResult(
            operation_key="k",
            payment_id=UUID(int=7),
            kind="capture",
            status="approved",
            processor_reference="r",
            answered_at=datetime(2026, 11, 21, 12, 30, 15, 123456, tzinfo=UTC),
            amount=Decimal("-0.05"),
        )
        value = framed(result)
        reader = DatumReader(parse(json.dumps(registered(value))))
        record: Any = reader.read(BinaryDecoder(io.BytesIO(value[5:])))
        assert (record["body"]["amount"], record["body"]["answered_at"]) == (result.amount, result.answered_at)
        assert record["body"]["payment_id"] == str(result.payment_id), "it leaves an id as text"
        assert record["meta"]["extra"] == {}

    @settings(
        max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
    )
    @given(
        reply_to=texts,
        trace=texts,
        error=st.dictionaries(texts.filter(bool), st.none() | st.integers(-(2**53), 2**53) | texts | st.lists(texts)),
    )
    def test_keep_whatever_their_meta_holds(self, reply_to: str, trace: str, error: dict[str, Any]) -> None:
        more: dict[str, Any] = {"trace": trace, "error": error, "a-newer-key": ["x"]}
        more |= {"reply-to": reply_to} if reply_to else {}
        sent = payload(Story(title="t", price=Decimal("1.00")), **more)
        back = wire.from_wire(wire.to_wire(topic=STORY, schema=Story.schema, payload=sent))
        assert json.loads(back) == json.loads(sent)

    def test_are_smaller_than_their_json(self) -> None:
        story = Story(title="t", price=Decimal("1.00"))
        assert len(framed(story)) < len(payload(story)) / 2

    def test_that_break_their_contract_are_refused(self) -> None:
        # publish_raw takes anything: a replayed dead letter that somebody edited.
        meta = Meta(message_id=uuid7(), schema=Story.schema).to_json()
        for body, name in (({"title": 1, "price": "1.00"}, "title"), ({"title": "t", "price": "1.005"}, "price")):
            with pytest.raises(InvalidMessage) as refusal:
                wire.to_wire(topic=STORY, schema=Story.schema, payload=envelopes.encode(meta, body))
            assert refusal.value.field == name
        broken = envelopes.encode({**meta, "message-id": "7"}, Story(title="t", price=Decimal("1.00")).to_body())
        with pytest.raises(InvalidMessage, match="meta is malformed"):
            wire.to_wire(topic=STORY, schema=Story.schema, payload=broken)


class TestVersions:
    def test_share_a_subject(self) -> None:
        values = [framed(Story(title="a", price=Decimal("1.00"))), framed(StoryV2(title="b", price=Decimal("2.00")))]
        names = {(schema["namespace"], schema["name"]) for schema in map(registered, values)}
        assert names == {("lastro.tests", "StoryEnvelope")}
        assert registered(values[0]) != registered(values[1])

    def test_that_are_both_known_stay_what_they_are(self) -> None:
        old, new = Story(title="a", price=Decimal("1.00"), note="n"), StoryV2(title="b", price=Decimal("2.00"), tags=("x",))
        assert understood(framed(old), Story) == old
        assert understood(framed(new), StoryV2) == new

    def test_that_are_newer_than_this_release_are_read_as_the_newest_it_knows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = framed(StoryV2(title="b", price=Decimal("2.00"), tax=Decimal("9.00"), tags=("x",)))
        forgotten(monkeypatch, StoryV2.schema)
        assert understood(value, Story) == Story(title="b", price=Decimal("2.00"))

    def test_that_are_older_than_this_release_get_its_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        value = framed(Story(title="a", price=Decimal("1.00"), note="n"))
        forgotten(monkeypatch, Story.schema)
        assert understood(value, StoryV2) == StoryV2(title="a", price=Decimal("1.00"), tax=Decimal("1.50"))

    def test_are_resolved_as_avro_does_it(self) -> None:
        value = framed(StoryV2(title="b", price=Decimal("2.00"), tags=("x",)))
        schemas = [fastavro.parse_schema(schema) for schema in (registered(value), envelope_schema(Story))]
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), *schemas)
        envelope = envelopes.decode(wire.from_wire(value))
        ours = Story.from_body(envelope["body"])
        assert record["body"] == {entry.name: getattr(ours, entry.name) for entry in fields(ours)}

    def test_that_cannot_read_each_other_are_refused_by_the_registry_too(self) -> None:
        framed(Story(title="a", price=Decimal("1.00")))
        wrong = make_dataclass("Story", [("title", str), ("pages", int), ("note", str, field(default=""))])
        from apps.messaging.contracts.codec import Codec

        schema = envelope_schema(Story)
        schema["fields"][1]["type"] = {**Codec(wrong, schema=Story.schema).avro}
        for _ in range(2):
            with pytest.raises(InvalidMessage, match=r"refuses the schema for t.*-value: .*verify_contracts"):
                registry().id_of(wire.subject_of(STORY), as_text(schema))


class TestRecordsOfStrangers:
    @settings(
        max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
    )
    @given(noise=st.binary(max_size=200))
    def test_are_read_or_refused_whatever_follows_a_known_id(self, noise: bytes) -> None:
        frame = framed(Story(title="a", price=Decimal("1.00")))[:5]
        with suppress(InvalidMessage):  # and no other error
            assert envelopes.decode(wire.from_wire(frame + noise)).keys() == {"meta", "body"}

    @settings(
        max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
    )
    @given(place=st.integers(5, 100), bit=st.integers(0, 7))
    def test_are_read_or_refused_when_a_bit_has_changed(self, place: int, bit: int) -> None:
        value = bytearray(framed(Story(title="a" * 40, price=Decimal("1.00"))))
        value[place] ^= 1 << bit
        with suppress(InvalidMessage):
            assert envelopes.decode(wire.from_wire(bytes(value))).keys() == {"meta", "body"}

    def test_with_an_id_that_nobody_gave(self) -> None:
        with pytest.raises(InvalidMessage, match="knows no schema 4294967295"):
            wire.from_wire(b"\x00\xff\xff\xff\xff\x00")

    @pytest.mark.parametrize(
        ("schema", "record"),
        [
            ("string", "hello"),
            ({"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]}, {"id": 7}),
            (
                {
                    "type": "record",
                    "name": "Row",
                    "fields": [{"name": "meta", "type": "string"}, {"name": "body", "type": "long"}],
                },
                {"meta": "m", "body": 7},
            ),
            (
                {
                    "type": "record",
                    "name": "Row",
                    "fields": [
                        {
                            "name": "meta",
                            "type": {"type": "record", "name": "M", "fields": [{"name": "schema", "type": "string"}]},
                        },
                        {"name": "body", "type": "bytes"},
                    ],
                },
                {"meta": {"schema": "x"}, "body": b"7"},
            ),
        ],
        ids=["text", "a row", "another meta", "bytes"],
    )
    def test_with_a_schema_of_their_own(self, schema: Any, record: Any) -> None:
        schema_id = registry().id_of(wire.subject_of("tests.strangers.own.event"), json.dumps(schema))
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
        with pytest.raises(InvalidMessage, match="no envelope in Avro"):
            wire.from_wire(b"\x00" + schema_id.to_bytes(4, "big") + stream.getvalue())

    def test_with_less_meta_than_ours_are_envelopes_if_they_name_id_and_schema(self) -> None:
        schema = {
            "type": "record",
            "name": "Theirs",
            "fields": [
                {
                    "name": "meta",
                    "type": {
                        "type": "record",
                        "name": "M",
                        "fields": [{"name": "schema", "type": "string"}, {"name": "message_id", "type": "string"}],
                    },
                },
                {
                    "name": "body",
                    "type": {
                        "type": "record",
                        "name": "B",
                        "fields": [
                            {"name": "title", "type": "string"},
                            {"name": "price", "type": "string"},
                            {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                        ],
                    },
                },
            ],
        }
        schema_id = registry().id_of(wire.subject_of("tests.strangers.own.event"), json.dumps(schema))
        body = {"title": "t", "price": "1.00", "when": datetime(2026, 11, 21, tzinfo=UTC)}
        stream = io.BytesIO()
        meta = {"schema": Story.schema, "message_id": str(uuid7())}
        fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), {"meta": meta, "body": body})
        value = b"\x00" + schema_id.to_bytes(4, "big") + stream.getvalue()
        assert understood(value, Story) == Story(title="t", price=Decimal("1.00"))
        envelopes.read_meta(envelopes.decode(wire.from_wire(value))["meta"])


class TestCommand:
    def test_registers_what_the_relay_then_only_looks_up(self, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            call_command("verify_contracts", register=True)
        said = capsys.readouterr().out
        assert f"of {wire.subject_of(PaymentChanged.topic)}" in said
        assert said.count("registered: payments.payment_changed.v1") == 2
        framed(PAID)
        assert _versions_of(wire.subject_of(PaymentChanged.topic)) == [1], "the relay has added nothing"


def _versions_of(subject: str) -> list[int]:
    with urllib.request.urlopen(f"{os.environ['SCHEMA_REGISTRY_URL']}/subjects/{subject}/versions", timeout=60) as answer:
        found: list[int] = json.loads(answer.read())
    return found


PAID = PaymentChanged(
    payment_id=uuid7(),
    account_id="a",
    order_ref="r",
    status="approved",
    state="CAPTURED",
    currency="BRL",
    captured_amount=Decimal("10.50"),
    refunded_amount=Decimal("0.00"),
    changed_at=datetime(2026, 11, 21, tzinfo=UTC),
)


class TestRestart:
    def test_of_the_registry_keeps_its_ids_and_its_absence_is_no_records_fault(self) -> None:
        story = Story(title="a", price=Decimal("1.00"))
        value = framed(story)
        assert understood(value, Story) == story
        assert Apicurio().stop(), "the registry under test is not one of config.services"
        try:
            assert understood(value, Story) == story, "what is known needs no registry"
            registry()
            with pytest.raises(TransportDown, match="cannot be used"):
                wire.from_wire(value)
            with pytest.raises(TransportDown, match="cannot be used"):
                framed(story)
        finally:
            Apicurio().start()
        registry()
        assert understood(value, Story) == story
        assert framed(story)[:5] == value[:5]


@pytest.mark.kafka
@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
class TestOverKafka:
    @pytest.fixture
    def harness(self) -> Iterator[KafkaHarness]:
        with override_settings(KAFKA_BOOTSTRAP_SERVERS=os.environ["KAFKA_BOOTSTRAP_SERVERS"], TOPIC_PARTITIONS=PARTITIONS):
            made = KafkaHarness()
            yield made
            made.close()
        gc.collect()  # here, where kafka-python may have left sockets

    @pytest.fixture
    def wired(self, harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
        monkeypatch.setattr("apps.messaging.relay.transport", lambda: harness.transport)
        monkeypatch.setattr("apps.messaging.consumer.transport", lambda: harness.transport)
        registry()
        made = Reader(GROUP)
        yield made
        made.close()

    def test_an_event_is_avro_on_the_topic_and_a_message_to_its_handler(self, harness: KafkaHarness, wired: Reader) -> None:
        post(1, 2, 3)
        relay_all()
        bare = harness.transport.consumer(group="tests.bare", topics=[TOPIC])
        values = [record.value for record in read(bare, 3)]
        bare.close()
        schema = registered(values[0])
        assert schema["name"] == "NoteEnvelope"
        records: list[Any] = [fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None) for value in values]
        assert [record["body"]["n"] for record in records] == [1, 2, 3]
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        _consume_until(member, wired, 3)
        member.close()
        assert wired.numbers() == [1, 2, 3]
        assert {meta.schema for meta in wired.metas} == {Note.schema}

    def test_json_and_avro_share_a_topic_when_the_registry_is_switched_on(
        self, harness: KafkaHarness, wired: Reader
    ) -> None:
        with override_settings(SCHEMA_REGISTRY_URL=""):
            post(1, 2)
            relay_all()
        post(3, 4)
        relay_all()
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        _consume_until(member, wired, 4)
        member.close()
        assert wired.numbers() == [1, 2, 3, 4]

    def test_a_framed_record_of_a_stranger_is_buried_and_the_partition_goes_on(
        self, harness: KafkaHarness, wired: Reader
    ) -> None:
        harness.append_foreign(key=b"k", value=b"\x00\xff\xff\xff\xff\x00")
        harness.append_foreign(key=b"k", value=b"\x00\x00")
        post(1)
        relay_all()
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        _consume_until(member, wired, 1)
        assert len(dead_letters()) == 2
        member.close()
        assert wired.numbers() == [1]

    def test_a_registry_that_is_away_delays_everything_and_loses_nothing(
        self, harness: KafkaHarness, wired: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with override_settings(SCHEMA_REGISTRY_URL="http://127.0.0.1:1"):
            post(1, 2)
            assert relay_all().broker_down
            assert set(Pending.objects.values_list("attempts", flat=True)) == {0}, "no message is to blame"
        breaker_of(harness.transport).broker_answers()
        relay_all()
        member = harness.transport.consumer(group=GROUP, topics=[TOPIC])
        with override_settings(SCHEMA_REGISTRY_URL="http://127.0.0.1:1"):
            for _ in range(10):
                assert consume_once(member, group=GROUP, timeout_s=0.1) == 0
        _consume_until(member, wired, 2)
        member.close()
        assert wired.numbers() == [1, 2]
        assert dead_letters() == []


def _consume_until(member: Any, reader: Reader, count: int) -> None:
    def enough() -> bool:
        if len(reader.seen) < count:
            consume_once(member, group=GROUP, timeout_s=0.1)
        return len(reader.seen) >= count

    eventually(enough, what=f"{count} messages are handled", timeout_s=READ_S_MAX)
