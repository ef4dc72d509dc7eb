"""What is on the bus. Messages written by an older release, and by a newer one, must be readable."""

import dataclasses
import io
import json
from functools import cache
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.messaging.contracts import releases
from apps.messaging.contracts.base import InvalidMessage, Message
from tests.contracts.strategies import messages_of

CLASSES = releases.declared_classes()
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.schema)


class TestFiles:
    def test_are_what_the_classes_say_and_every_version_reads_every_other(self) -> None:
        assert [*releases.Files().problems(), *releases.topic_problems()] == []

    def test_name_the_topic_and_every_field(self) -> None:
        assert CLASSES
        for kind in CLASSES:
            kept = json.loads((releases.FOLDER / f"{kind.schema}.avsc").read_text())
            assert kept["topic"] == kind.topic
            assert kept["fields"], kind
            assert kept["doc"], kind

    def test_never_name_a_card_number(self) -> None:
        secret = {"card_number", "pan", "cvv", "number"}
        for path in releases.FOLDER.glob("*.avsc"):
            assert not {f'"name": "{name}"' for name in secret} & {
                line.strip(" ,") for line in path.read_text().splitlines()
            }

    def test_tell_the_first_release(self) -> None:
        """What other tests build on: the messages of the first release are frozen."""
        assert {"payments.authorise.v1", "payments.card_result.v1"} <= set(releases.Files().released())


@every_class
class TestEveryMessage:
    @given(data=st.data())
    def test_comes_back_as_it_was(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        assert kind.from_body(json.loads(json.dumps(message.to_body()))) == message

    @given(data=st.data())
    def test_is_what_its_file_lets_avro_write_and_read(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        schema = schema_of(kind)
        record = kind.codec().record(message.to_body())
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, record, strict=True)
        stream.seek(0)
        assert fastavro.schemaless_reader(stream, schema, None) == json_lists(record)

    @given(data=st.data())
    def test_may_say_more_than_we_know(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        assert kind.from_body(_with_more(message.to_body())) == message

    @given(data=st.data())
    def test_may_leave_out_what_has_a_default(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        defaults = {field["name"] for field in kind.codec().avro["fields"] if "default" in field}
        gone = data.draw(st.sets(st.sampled_from(sorted(defaults)))) if defaults else set()
        kept = {name: value for name, value in message.to_body().items() if name not in gone}
        rest = {field.name: getattr(message, field.name) for field in dataclasses.fields(message) if field.name in kept}  # type: ignore[arg-type]
        assert kind.from_body(kept) == kind(**rest)

    @given(data=st.data())
    def test_names_the_field_that_has_another_type(self, kind: type[Message], data: st.DataObject) -> None:
        body = data.draw(messages_of(kind)).to_body()
        name = data.draw(st.sampled_from(sorted(body)))
        body[name] = {"of another": "type"}
        with pytest.raises(InvalidMessage) as refusal:
            kind.from_body(body)
        assert refusal.value.field == name
        assert refusal.value.detail.startswith(f"{kind.schema}: {name}: expected ")

    @given(data=st.data())
    def test_is_not_sent_with_a_field_of_another_type(self, kind: type[Message], data: st.DataObject) -> None:
        message = data.draw(messages_of(kind))
        name = data.draw(st.sampled_from(sorted(message.to_body())))
        object.__setattr__(message, name, 1.5)
        with pytest.raises(InvalidMessage) as refusal:
            message.to_body()
        assert refusal.value.field == name


@cache
def schema_of(kind: type[Message]) -> Any:
    return fastavro.schema.load_schema(str(releases.FOLDER / f"{kind.schema}.avsc"))


def json_lists(value: Any) -> Any:
    """Avro reads arrays as lists."""
    if isinstance(value, dict):
        return {name: json_lists(part) for name, part in value.items()}
    return [json_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _with_more(value: Any) -> Any:
    if isinstance(value, dict):
        return {"a_newer_field": {"x": [1]}} | {name: _with_more(part) for name, part in value.items()}
    return [_with_more(part) for part in value] if isinstance(value, list) else value
