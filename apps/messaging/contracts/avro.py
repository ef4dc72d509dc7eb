"""Avro schemas as they are kept and registered: of each message, of the meta around it, and of the two together."""

import json
from typing import Any

from apps.messaging.contracts.base import Message
from apps.messaging.contracts.codec import NAMESPACE, named_once

META_SCHEMA = "messaging.meta.v1"
META: dict[str, Any] = {
    "type": "record",
    "name": "Meta",
    "namespace": NAMESPACE,
    "doc": "What travels around a body.",
    "fields": [
        {"name": "message_id", "type": {"type": "string", "logicalType": "uuid"}, "doc": "It takes effect once per id."},
        {"name": "schema", "type": "string", "doc": "Name and version of the body's contract."},
        {"name": "global_id", "type": "string", "default": "", "doc": "The saga's id, the same in all its messages."},
        {"name": "steps", "type": {"type": "array", "items": "string"}, "default": [], "doc": "The saga's list of steps."},
        {"name": "trace", "type": "string", "default": "", "doc": "W3C traceparent, or the id of the request."},
        {"name": "reply_to", "type": "string", "default": "", "doc": "The key that an answer carries back."},
        {
            "name": "extra",
            "type": {"type": "map", "values": "string"},
            "default": {},
            "doc": "What else the meta of the JSON envelope holds, each value as JSON text.",
        },
    ],
}


def envelope_schema(kind: type[Message]) -> dict[str, Any]:
    """The record on the wire: ``meta`` and ``body``. Its name has no version, because a subject's versions share it."""
    body = kind.codec().avro
    fields = [{"name": "meta", "type": META}, {"name": "body", "type": body}]
    made = {"type": "record", "name": f"{body['name']}Envelope", "namespace": body["namespace"], "doc": body["doc"]}
    found: dict[str, Any] = named_once({**made, "fields": fields}, set())
    return found


def as_text(avro: Any) -> str:
    """The schema in one line, for a registry: always the same text for the same schema."""
    return json.dumps(avro, separators=(",", ":"))


def identity(avro: Any) -> str:
    """What makes a schema itself: all of it but its docs, which may be improved at any time."""
    return json.dumps(_without_docs(avro), sort_keys=True, separators=(",", ":"))


def _without_docs(avro: Any) -> Any:
    if isinstance(avro, list):
        return [_without_docs(part) for part in avro]
    if isinstance(avro, dict):
        # A default is a value, whatever its keys are called.
        return {name: part if name == "default" else _without_docs(part) for name, part in avro.items() if name != "doc"}
    return avro
