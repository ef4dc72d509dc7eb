"""What goes over the wire: the JSON envelope, or, on ``.event`` topics where there is a schema registry, Avro.

Note [Avro on event topics]
Events are read by others: Kafka Connect, ksqlDB and Flink, which know a topic's schema from its subject ``<topic>-value``.
So an event is one record ``{meta, body}`` in Confluent's framing: a zero byte, four bytes of schema id, Avro. Requests,
compensations and dead letters stay JSON: they go between steps, several kinds share a topic, and a person reads them.

The outbox keeps JSON always, so a log row needs no registry to be read; the relay translates when it sends and the
consumer when it reads. A JSON envelope never begins with a zero byte, so each record tells its form by itself: topics
keep what was sent before the registry was switched on.

Note [The writer's schema and the reader's]
A record is decoded by its writer's schema, which the registry keeps, and what comes out is JSON again. From there it is
read as any other: the reader's class takes the fields that it knows, fills those that are missing and refuses what has
another type, which is Avro's resolution as far as FULL_TRANSITIVE versions need it. A version that is not known here is
read as the closest one that is, so an older release understands what a newer one sends.
"""

import functools
import io
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from apps.common.transactions import durable
from apps.messaging import envelope as envelopes
from apps.messaging.contracts.avro import as_text, envelope_schema
from apps.messaging.contracts.base import InvalidMessage, Message, closest_class, message_class
from apps.messaging.contracts.scalars import Misfit
from apps.messaging.transports.registry import registry

MAGIC = b"\x00"
FRAME = struct.Struct(">BI")  # Confluent's: the zero byte and the schema's id
AVRO_TOPICS = ".event"
# The meta's names in JSON and in Avro, whose names have no dashes. What is not here travels in ``extra``.
META_NAMES = {
    "global-id": "global_id",
    "steps": "steps",
    "message-id": "message_id",
    "trace": "trace",
    "schema": "schema",
    "reply-to": "reply_to",
}
WRITERS_MAX = 1_000  # schemas of records that were read, kept parsed


@dataclass(frozen=True, slots=True)
class _Schema:
    parsed: Any  # by fastavro
    text: str  # for the registry


def to_wire(*, topic: str, schema: str, payload: bytes) -> bytes:
    """The value of a record, of the JSON envelope that the outbox keeps.

    Raises InvalidMessage for what the contract or the registry refuses, TransportDown while the registry is away.
    """
    if not settings.SCHEMA_REGISTRY_URL or not topic.endswith(AVRO_TOPICS):
        return payload
    found = registry()
    kind = message_class(schema)
    if found is None or kind is None:
        raise InvalidMessage(f"No contract here is called {schema!r}, and an event is sent as its contract's Avro.")
    ours = _schema_of(kind)
    frame = FRAME.pack(0, found.id_of(subject_of(topic), ours.text))
    return frame + _encode(kind, ours, payload)


def from_wire(value: bytes) -> bytes:
    """The JSON envelope of a record's value. What is not framed is passed on as it is.

    Raises InvalidMessage for a framed record that cannot be read, TransportDown while the registry is away.
    """
    if value[:1] != MAGIC:
        return value
    meta, body = _read(value)
    return envelopes.encode(meta, body)


def subject_of(topic: str) -> str:
    """The registry's name for what a topic carries."""
    return f"{settings.MESSAGING_PREFIX}{topic}-value"


@durable
def register_schemas(kinds: Sequence[type[Message]]) -> list[tuple[str, str, int]]:
    """Register the schemas of all event messages: subject, schema and id of each. Safe to repeat.

    A deployment may call it with a login that may register, and run with one that may only read. Raises InvalidMessage
    when the registry refuses a schema, TransportDown when it cannot be asked.
    """
    found = registry()
    if found is None:
        raise InvalidMessage("SCHEMA_REGISTRY_URL is empty. Set it to the registry's address.")
    events = [kind for kind in kinds if kind.topic.endswith(AVRO_TOPICS)]
    subjects = [(subject_of(kind.topic), kind) for kind in events]
    return [(subject, kind.schema, found.id_of(subject, _schema_of(kind).text)) for subject, kind in subjects]


def _schema_of(kind: type[Message]) -> _Schema:
    found = _schemas.get(kind.schema)
    if found is None:
        avro = envelope_schema(kind)
        found = _schemas[kind.schema] = _Schema(parse_schema(avro), as_text(avro))
    return found


_schemas: dict[str, _Schema] = {}  # one per message class


def _encode(kind: type[Message], ours: _Schema, payload: bytes) -> bytes:
    envelope = envelopes.decode(payload)
    try:
        body = kind.codec().record(envelope["body"])
    except Misfit as misfit:
        raise kind.refusal(misfit) from None
    stream = io.BytesIO()
    try:
        schemaless_writer(stream, ours.parsed, {"meta": _meta_record(envelope["meta"]), "body": body})
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidMessage(f"{kind.schema}: the envelope cannot be written as Avro: {error}.") from None
    return stream.getvalue()


def _meta_record(meta: dict[str, Any]) -> dict[str, Any]:
    envelopes.read_meta(meta)
    record = {avro: meta[name] for name, avro in META_NAMES.items() if meta.get(name)}
    return record | {"extra": {name: json.dumps(value) for name, value in meta.items() if name not in META_NAMES}}


def _read(value: bytes) -> tuple[dict[str, Any], Any]:
    if len(value) < FRAME.size:
        raise InvalidMessage("The record begins like framed Avro, and ends before its schema's id does.")
    parsed = _writer(int(FRAME.unpack_from(value)[1]))
    try:
        record = _decode(value, parsed)
        meta, body = _meta_json(record["meta"]), _plain(record["body"])
    except Exception as error:
        # The bytes may be anything, and the schema anybody's: fastavro raises what it likes.
        raise InvalidMessage(f"The record is no envelope in Avro: {type(error).__name__}: {error}.") from None
    kind = closest_class(meta["schema"])
    return meta if kind is None else {**meta, "schema": kind.schema}, body


def _decode(value: bytes, parsed: Any) -> Any:
    stream = io.BytesIO(value)
    stream.seek(FRAME.size)
    record = schemaless_reader(stream, parsed, None)
    if stream.read(1):
        raise ValueError("there are bytes behind its end")
    return record


def _meta_json(record: dict[str, Any]) -> dict[str, Any]:
    meta = {name: record.get(avro, "") for name, avro in META_NAMES.items()}
    meta["message-id"] = str(meta["message-id"])
    if not meta["reply-to"]:
        del meta["reply-to"]
    return meta | {name: json.loads(value) for name, value in record.get("extra", {}).items()}


def _plain(value: Any) -> Any:
    """What Avro decoded, as JSON says it."""
    to_text = _TEXTS.get(type(value))
    if to_text is not None:
        return to_text(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        raise ValueError("a contract has no field of bytes")  # caught where it is told
    return value


_TEXTS: dict[type, Callable[[Any], str]] = {
    Decimal: str,
    UUID: str,
    date: date.isoformat,
    datetime: datetime.isoformat,
}


def _writer(schema_id: int) -> Any:
    found = registry()
    if found is None:
        raise InvalidMessage("The record is Avro in Confluent's framing. Set SCHEMA_REGISTRY_URL, then replay it.")
    return _parsed(found.schema_of(schema_id))


@functools.lru_cache(maxsize=WRITERS_MAX)
def _parsed(text: str) -> Any:
    try:
        return parse_schema(json.loads(text))
    except Exception as error:
        # Anybody may register anything, and fastavro has an error of its own for each thing that can be wrong.
        raise InvalidMessage(f"The schema of the record cannot be used: {type(error).__name__}: {error}.") from None
