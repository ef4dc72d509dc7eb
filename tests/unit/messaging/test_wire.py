"""What goes over the wire where there is no registry. With one: tests/brokers/test_registry.py."""

import pytest
from django.test.utils import override_settings
from hypothesis import given
from hypothesis import strategies as st

from apps.messaging import wire
from apps.messaging.contracts.base import InvalidMessage

ENVELOPE = b'{"meta":{"message-id":"0"},"body":{}}'
no_registry = override_settings(SCHEMA_REGISTRY_URL="")
some_registry = override_settings(SCHEMA_REGISTRY_URL="http://127.0.0.1:1")


class TestToWire:
    @no_registry
    def test_is_the_envelope_itself_without_a_registry(self) -> None:
        assert wire.to_wire(topic="a.b.c.event", schema="a.b.v1", payload=ENVELOPE) is ENVELOPE

    @some_registry
    @pytest.mark.parametrize("topic", ["a.b.c.in", "a.b.c.compensate", "a.b.c.error"])
    def test_is_the_envelope_itself_on_topics_that_are_ours_alone(self, topic: str) -> None:
        assert wire.to_wire(topic=topic, schema="a.b.v1", payload=ENVELOPE) is ENVELOPE

    @some_registry
    def test_refuses_an_event_without_a_contract(self) -> None:
        with pytest.raises(InvalidMessage, match=r"No contract here is called 'messaging\.unreadable\.v1'"):
            wire.to_wire(topic="a.b.c.event", schema="messaging.unreadable.v1", payload=ENVELOPE)


class TestFromWire:
    @given(st.binary().filter(lambda value: value[:1] != b"\x00"))
    def test_passes_on_what_is_not_framed(self, value: bytes) -> None:
        assert wire.from_wire(value) is value

    @some_registry
    @pytest.mark.parametrize("value", [b"\x00", b"\x00\x00\x00\x00"])
    def test_refuses_half_a_frame(self, value: bytes) -> None:
        with pytest.raises(InvalidMessage, match="ends before its schema's id"):
            wire.from_wire(value)

    @no_registry
    def test_says_what_is_missing_for_a_framed_record(self) -> None:
        with pytest.raises(InvalidMessage, match="Set SCHEMA_REGISTRY_URL, then replay it"):
            wire.from_wire(b"\x00\x00\x00\x00\x01Avro")


class TestSubject:
    @override_settings(MESSAGING_PREFIX="staging.")
    def test_is_the_topics_name_at_the_broker(self) -> None:
        assert wire.subject_of("a.b.c.event") == "staging.a.b.c.event-value"
