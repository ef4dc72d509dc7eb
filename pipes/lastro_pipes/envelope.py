"""The envelope on the wire: {"meta": {"global-id", "steps", "position", "message-id", "trace", "schema", …}, "body": …}."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from lastro_pipes import ids, trace
from lastro_pipes.errors import Code, Invalid

ENVELOPE_BYTES_MAX = 900_000  # Kafka's default limit is 1,048,588 for a record with its headers
DEAD_LETTER_BYTES_MAX = 950_000  # what was received, and the reason why it was buried
RECEIVED_BYTES_MAX = DEAD_LETTER_BYTES_MAX - 10_000  # so that whatever is read can be buried
NESTING_MAX = 32  # what walks a document afterwards is recursive
GLOBAL_ID_CHARACTERS_MAX = 200
KEY_CHARACTERS_MAX = 200
BRANCH = re.compile(r"[A-Za-z0-9._:-]{1,100}")

STEP, UNDO, REPORT = "pipes.step.v1", "pipes.undo.v1", "pipes.step_reported.v1"  # what a message is, by its schema
# Said anew by whoever publishes; all other names in a meta are carried on as they came.
PER_MESSAGE = frozenset({"message-id", "trace", "schema", "steps", "position", "error", "seek-end", "for-group"})

Headers = tuple[tuple[str, str], ...]
# An escaped NUL, an odd number of backslashes before u0000: PostgreSQL's text cannot hold it.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as it was read. ``message_id`` follows from the bytes when the meta has none."""

    meta: Mapping[str, Any]
    body: Any
    message_id: UUID

    @property
    def global_id(self) -> str:
        """The saga's id."""
        return str(self.meta["global-id"])

    @property
    def branch(self) -> str:
        """Which of several routes of one saga; "" for the only one."""
        return str(self.meta.get("branch") or "")

    @property
    def trace(self) -> str:
        """A traceparent, somebody's own correlation id, or nothing."""
        found = self.meta.get("trace")
        return found if isinstance(found, str) else ""


def is_key(key: str) -> bool:
    """Can a record have this key?"""
    return 1 <= len(key) <= KEY_CHARACTERS_MAX and not _UNSENDABLE.search(key)


def decode(value: bytes) -> Envelope:
    """Read a record's value. Raises Invalid for what is no envelope, or has no global id."""
    if len(value) > RECEIVED_BYTES_MAX:
        raise Invalid(Code.UNREADABLE, f"The record is larger than {RECEIVED_BYTES_MAX} bytes.")
    try:
        text = value.decode()
        found = json.loads(text, parse_float=_finite, parse_constant=_constant)
        _check_keepable(text, found)
    except (ValueError, RecursionError) as error:
        raise Invalid(Code.UNREADABLE, f"The record is not JSON that we can keep: {error}.") from None
    if not isinstance(found, dict) or not isinstance(found.get("meta"), dict) or "body" not in found:
        raise Invalid(Code.UNREADABLE, "The record is not an envelope with meta and body.")
    meta = found["meta"]
    global_id = meta.get("global-id")
    if not isinstance(global_id, str) or not 1 <= len(global_id) <= GLOBAL_ID_CHARACTERS_MAX:
        raise Invalid(Code.BAD_META, f"global-id is a text of 1 to {GLOBAL_ID_CHARACTERS_MAX} characters.")
    branch = meta.get("branch")
    if branch not in (None, "") and not (isinstance(branch, str) and BRANCH.fullmatch(branch)):
        raise Invalid(Code.BAD_META, "branch is a text of 1 to 100 letters, digits and . _ : -")
    return Envelope(meta, found["body"], _message_id(meta, value))


def _message_id(meta: Mapping[str, Any], value: bytes) -> UUID:
    if "message-id" not in meta:
        return ids.of_bytes(value)
    try:
        return UUID(str(meta["message-id"]))
    except ValueError:
        raise Invalid(Code.BAD_META, "message-id is a UUID.") from None


def encode(meta: Mapping[str, Any], body: Any, *, bytes_max: int = ENVELOPE_BYTES_MAX) -> str:
    """The text on the wire. Raises Invalid for what is no JSON, what nobody could keep, and what is too large."""
    try:
        text = json.dumps(
            {"meta": meta, "body": body}, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
        )
        _check_keepable(text, {"meta": meta, "body": body})
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise Invalid(Code.BAD_RESULT, f"It cannot be sent as JSON: {error}.") from None
    if size > bytes_max:
        raise Invalid(Code.BAD_RESULT, f"It has {size} bytes and cannot be sent: the limit is {bytes_max}.")
    return text


def plain(value: Any) -> Any:
    """A value as JSON has it after a round trip: what a step returned, and what the next one will see."""
    return json.loads(json.dumps(value, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    """What JSON has no word for and steps like to return. Amounts travel as text: a JSON number may lose a cent."""
    if isinstance(value, Decimal):
        return f"{value:f}"  # "100": nobody reads "1E+2" as an amount
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def headers(meta: Mapping[str, Any]) -> Headers:
    """What a broker's own tools may show of a message: id (Debezium calls it so too), schema, trace and global id."""
    found = [("id", str(meta["message-id"])), ("schema", str(meta.get("schema") or ""))]
    if text := meta.get("trace"):
        found.append((trace.HEADER if trace.is_traceparent(text) else "trace", str(text)))
    return (*found, ("global-id", str(meta["global-id"]))) if meta.get("global-id") else tuple(found)


def error_headers(error: Mapping[str, Any]) -> Headers:
    """Why a dead letter is one, for tools that look at headers only."""
    names = ("reason", "code", "attempts", "group", "topic", "partition", "offset")
    return tuple((f"error-{name}", str(error[name])) for name in names if error.get(name) not in (None, ""))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


def _check_keepable(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") > NESTING_MAX and _deeper_than(NESTING_MAX, value):
        raise ValueError("nested too deeply")
    if "\\u" not in text:
        return
    if _NUL.search(text):
        raise ValueError("it holds the character U+0000")
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None


def _deeper_than(levels: int, value: Any) -> bool:
    level = [value]
    for _ in range(levels):
        inner = [part for part in level if isinstance(part, dict | list | tuple)]
        level = [child for part in inner for child in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True
