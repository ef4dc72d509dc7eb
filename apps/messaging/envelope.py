"""The envelope on the wire: {"meta": {"global-id", "steps", "message-id", "trace", "schema", …}, "body": {…}}."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from apps.messaging.contracts.base import InvalidMessage

ENVELOPE_BYTES_MAX = 900_000  # Kafka's default limit is 1,048,588 for a record with its headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What travels around a body. ``steps`` is the saga's list; ``reply_to`` is the key an answer must carry back."""

    message_id: UUID
    schema: str
    global_id: str = ""
    steps: tuple[str, ...] = ()
    trace: str = ""
    reply_to: str = ""
    error: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The ``meta`` object of the envelope."""
        values: dict[str, Any] = {
            "global-id": self.global_id,
            "steps": list(self.steps),
            "message-id": str(self.message_id),
            "trace": self.trace,
            "schema": self.schema,
        }
        if self.reply_to:
            values["reply-to"] = self.reply_to
        if self.error:
            values["error"] = self.error
        return values


def encode(meta: dict[str, Any], body: dict[str, Any]) -> bytes:
    """The bytes on the wire."""
    return json.dumps({"meta": meta, "body": body}, ensure_ascii=False, separators=(",", ":")).encode()


def decode(value: bytes) -> dict[str, Any]:
    """Read the bytes from the wire into {"meta", "body"}. Raises InvalidMessage."""
    try:
        envelope = json.loads(value)
    except ValueError:
        raise InvalidMessage("The record is not JSON.") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("meta"), dict) or "body" not in envelope:
        raise InvalidMessage("The record is not an envelope with meta and body.")
    return envelope


def read_meta(meta: dict[str, Any]) -> Meta:
    """The typed meta of an envelope. Raises InvalidMessage."""
    try:
        steps = tuple(str(step) for step in meta.get("steps") or ())
        return Meta(
            message_id=UUID(str(meta["message-id"])),
            schema=str(meta["schema"]),
            global_id=str(meta.get("global-id") or ""),
            steps=steps,
            trace=str(meta.get("trace") or ""),
            reply_to=str(meta.get("reply-to") or ""),
            error=dict(meta.get("error") or {}),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidMessage(f"The envelope's meta is malformed: {error}.") from None
