"""The envelope on the wire: whatever is read can be stored, and sent again."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.envelope import RECEIVED_BYTES_MAX, Meta, decode, encode, read_meta

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
metas = st.builds(
    Meta,
    message_id=st.uuids(),
    schema=text.filter(bool),
    global_id=text,
    steps=st.lists(text, max_size=4).map(tuple),
    trace=text,
    reply_to=text,
    error=st.dictionaries(text, text, max_size=2),
)


class TestWire:
    @given(metas, bodies)
    def test_brings_back_what_was_put_in(self, meta: Meta, body: Any) -> None:
        read = decode(encode(meta.to_json(), body))
        assert read_meta(read["meta"]) == meta
        assert read["body"] == body

    @given(metas)
    def test_uses_the_fields_own_names(self, meta: Meta) -> None:
        assert {"global-id", "steps", "message-id", "trace", "schema"} <= set(meta.to_json())

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, raw: bytes) -> None:
        with pytest.raises(InvalidMessage):
            decode(raw)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"nonsense",
            b"[]",
            b"{}",
            b'{"meta": {}}',
            b'{"meta": [], "body": {}}',
            b'{"body": {}}',
            b"\xff\xfe",
            b'{"meta": {}, "body": NaN}',
            b'{"meta": {}, "body": 1e999}',
            b'{"meta": {}, "body": -Infinity}',
            b'{"meta": {}, "body": "\\u0000"}',
            b'{"meta": {}, "body": "\\ud800"}',
            b'{"meta": {}, "body": ' + b"[" * 100_000,
            b'{"meta": {}, "body": ' + b"[" * 500 + b"]" * 500 + b"}",
            b'{"meta": {}, "body": "' + b"x" * RECEIVED_BYTES_MAX + b'"}',
            b'{"meta": {}, "body": ' + b"9" * 5000 + b"}",
        ],
        ids=lambda raw: raw[:40],
    )
    def test_refuses_what_is_no_envelope_or_cannot_be_kept(self, raw: bytes) -> None:
        with pytest.raises(InvalidMessage):
            decode(raw)

    @pytest.mark.parametrize(
        "body", ["\x00", "\ud800", float("nan"), float("inf"), Decimal("1.00"), uuid4(), {"a": {1, 2}}]
    )
    def test_refuses_to_send_what_nobody_could_keep(self, body: Any) -> None:
        with pytest.raises(InvalidMessage):
            encode({}, body)


class TestMeta:
    def minimal(self) -> dict[str, Any]:
        return {"message-id": str(uuid4()), "schema": "a.b.v1"}

    def test_needs_an_id_and_a_schema_only(self) -> None:
        meta = read_meta(self.minimal())
        assert (meta.global_id, meta.steps, meta.trace, meta.reply_to, meta.error) == ("", (), "", "", {})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"message-id": None},
            {"message-id": "x"},
            {"steps": 5},
            {"steps": True},
            {"error": "boom"},
            {"error": 3},
        ],
    )
    def test_refuses_what_is_malformed(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidMessage):
            read_meta({**self.minimal(), **wrong})

    @pytest.mark.parametrize("missing", ["message-id", "schema"])
    def test_refuses_what_lacks_the_essential(self, missing: str) -> None:
        meta = self.minimal()
        del meta[missing]
        with pytest.raises(InvalidMessage):
            read_meta(meta)

    def test_reads_an_id_however_it_is_written(self) -> None:
        written = UUID(int=7)
        for form in (str(written), str(written).upper(), written.hex, f"{{{written}}}", f"urn:uuid:{written}"):
            assert read_meta({**self.minimal(), "message-id": form}).message_id == written

    def test_writes_reply_to_and_error_only_when_there_are_any(self) -> None:
        bare = Meta(message_id=uuid4(), schema="a.b.v1").to_json()
        assert "reply-to" not in bare
        assert "error" not in bare
        assert json.dumps(bare)
