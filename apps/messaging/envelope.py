"""The envelope on the wire: {"meta": {"global-id", "steps", "message-id", "trace", "schema", …}, "body": {…}}."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn
from uuid import UUID, uuid5

from apps.common.json_text import check_keepable
from apps.messaging.contracts.base import InvalidMessage

ENVELOPE_BYTES_MAX = 900_000  # Kafka's default limit is 1,048,588 for a record with its headers
DEAD_LETTER_BYTES_MAX = 950_000  # what was received, and the reason why it was buried
RECEIVED_BYTES_MAX = DEAD_LETTER_BYTES_MAX - 10_000  # so that whatever is read can be buried


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


def encode(meta: dict[str, Any], body: Any) -> bytes:
    """The bytes on the wire. Raises InvalidMessage for what is no JSON, or what nobody could keep."""
    envelope = {"meta": meta, "body": body}
    try:
        text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        check_keepable(text, envelope)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidMessage(f"The message cannot be sent: {error}.") from None


TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


Headers = tuple[tuple[str, str], ...]


def headers(*, message_id: str, schema: str, global_id: str = "", trace: str = "") -> Headers:
    """What a broker's own tools may show of a message: its id (Debezium calls it so too), schema, trace, global id."""
    found = [("id", message_id), ("schema", schema)]
    if trace:
        found.append(("traceparent" if TRACEPARENT.fullmatch(trace) else "trace", trace))
    if global_id:
        found.append(("global-id", global_id))
    return tuple(found)


def error_headers(payload: str) -> Headers:
    """Why a dead letter is one, for tools that look at headers only: reason, code, attempts, and where it came from."""
    error = json.loads(payload)["meta"].get("error") or {}
    named = {
        f"error-{name}": error.get(name) for name in ("reason", "code", "attempts", "group", "topic", "partition", "offset")
    }
    return tuple((name, str(value)) for name, value in named.items() if value not in (None, ""))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


def decode(value: bytes) -> dict[str, Any]:
    """Read the bytes from the wire into {"meta", "body"}. Raises InvalidMessage.

    Whatever passes can be stored and sent again, so a record can never be too odd to be put aside.
    """
    if len(value) > RECEIVED_BYTES_MAX:
        raise InvalidMessage(f"The record is larger than {RECEIVED_BYTES_MAX} bytes.")
    try:
        text = value.decode()
        envelope = json.loads(text, parse_float=_finite, parse_constant=_constant)
        check_keepable(text, envelope)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"The record is not JSON that we can keep: {error}.") from None
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


# The name space of ids that follow from a message, as pipes/PROTOCOL.md has it: all readers find the same one.
DERIVED = UUID("6b1f4b5e-6c0e-5a0b-9d6a-70697065730a")
OF_OTHERS = "messaging.of_others"


def complete_meta(meta: dict[str, Any], *, value: bytes) -> Meta:
    """The typed meta of an envelope that others wrote; what it lacks of ``message-id`` and ``schema`` is put into it.

    Raises InvalidMessage for names that are there and cannot be used.
    """
    if "message-id" not in meta:
        meta["message-id"] = str(uuid5(DERIVED, f"sha256\0{hashlib.sha256(value).hexdigest()}"))
    meta.setdefault("schema", OF_OTHERS)
    # What only others read (their steps, their error) may have any form.
    ours = ("message-id", "schema", "global-id", "trace", "reply-to")
    return read_meta({name: meta[name] for name in ours if name in meta})
