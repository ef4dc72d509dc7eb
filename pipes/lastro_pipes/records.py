"""What goes to the broker: messages of the saga, reports of what a step did, and dead letters."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from lastro_pipes import addresses, ids
from lastro_pipes.envelope import (
    DEAD_LETTER_BYTES_MAX,
    PER_MESSAGE,
    REPORT,
    Envelope,
    encode,
    error_headers,
    headers,
    is_key,
)
from lastro_pipes.errors import Invalid, Refuse
from lastro_pipes.routing import Place, Sending, Way
from lastro_pipes.transports.base import Incoming, Outgoing

UNREADABLE = "messaging.unreadable.v1"  # as the state manager's own post office calls it
RAW_CHARACTERS_MAX = 100_000  # of an unreadable record; the whole of it stays in its topic
REASON_CHARACTERS_MAX = 1_000
CODE_CHARACTERS_MAX = 100
OUTPUT_CHARACTERS_MAX = 100_000  # of what a last step gave back, in its report; a larger one is left out
INSTANCE = f"{socket.gethostname()}:{os.getpid()}"[:100]

RUNNING, COMPLETED, COMPENSATING, COMPENSATED, STUCK = "RUNNING", "COMPLETED", "COMPENSATING", "COMPENSATED", "STUCK"
DONE, REFUSED, DEAD, UNDONE, RETRYING, IGNORED = "DONE", "REFUSED", "DEAD", "UNDONE", "RETRYING", "IGNORED"


def error_of(error: Exception) -> dict[str, Any]:
    """An error as ``code``, ``reason`` and ``kind``, in text that every store takes."""
    reason = _keepable(f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX])
    if isinstance(error, Invalid):
        return {"code": str(error.code), "reason": reason, "kind": "invalid"}
    return {"code": "", "reason": reason, "kind": "technical"}


def refusal_of(refusal: Refuse, *, service: str) -> dict[str, Any]:
    """A business error as it travels backwards."""
    code, reason = str(refusal.code)[:CODE_CHARACTERS_MAX], str(refusal.reason)[:REASON_CHARACTERS_MAX]
    return {"code": _keepable(code), "reason": _keepable(reason), "kind": "refused", "step": service}


def _keepable(text: str) -> str:
    """An error may quote anything, also what no store takes."""
    return text.encode("utf-8", errors="backslashreplace").decode().replace("\x00", "\\x00")


def message(sending: Sending, *, key: str) -> Outgoing:
    """A message of the saga. Raises Invalid when it cannot be sent."""
    return Outgoing(sending.topic, key, encode(sending.meta, sending.body), headers(sending.meta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a message was asked, begun and finished with, and when it is tried again."""

    asked_at: datetime | None
    started_at: datetime
    finished_at: datetime
    retry_at: datetime | None = None


def saga_state(place: Place, outcome: str) -> str:
    """The saga's state as far as this step can tell."""
    if outcome == DEAD:
        return STUCK
    if outcome in (REFUSED, UNDONE):
        return COMPENSATED if place.is_first else COMPENSATING
    if outcome == DONE:
        return COMPLETED if place.is_last else RUNNING
    return RUNNING if place.way is Way.DO else COMPENSATING


def report(
    place: Place,
    envelope: Envelope,
    outcome: str,
    *,
    topic: str,
    key: str,
    attempt: int,
    times: Times,
    trace: str,
    error: Mapping[str, Any] | None = None,
    sent: Sending | None = None,
    output: Any = None,
    report_id: UUID,
) -> Outgoing:
    """What this step did with a message, for the state manager. See PROTOCOL.md, section 5.

    The output is in it only where no next message carries it.
    """
    carried = {name: value for name, value in envelope.meta.items() if name not in PER_MESSAGE}
    meta = carried | {
        "steps": list(place.steps),
        "position": place.position,
        "message-id": str(report_id),
        "trace": trace,
        "schema": REPORT,
    }
    error = error or {}
    last_word = json.dumps(output, ensure_ascii=False, separators=(",", ":")) if outcome == DONE and not sent else ""
    last_word = last_word if len(last_word) <= OUTPUT_CHARACTERS_MAX else ""
    body = {
        "service": place.service,
        "way": str(place.way),
        "outcome": outcome,
        "saga": saga_state(place, outcome),
        "position": place.position,
        "steps": list(place.addresses),
        "message_id": str(envelope.message_id),
        "attempt": attempt,
        "asked_at": _text(times.asked_at),
        "started_at": _text(times.started_at),
        "finished_at": _text(times.finished_at),
        "retry_at": _text(times.retry_at),
        "code": str(error.get("code") or ""),
        "reason": str(error.get("reason") or ""),
        "kind": str(error.get("kind") or ""),
        "sent_topic": sent.topic if sent else "",
        "sent_id": sent.meta["message-id"] if sent else None,
        "output_json": last_word,
        "use_case": str(envelope.meta.get("use-case") or ""),
        "instance": INSTANCE,
    }
    return Outgoing(topic, key, encode(meta, body), headers(meta))


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def dead_letter(
    record: Incoming,
    envelope: Envelope | None,
    error: Mapping[str, Any],
    *,
    service: str,
    group: str,
    attempts: int,
    trace: str = "",
) -> Outgoing:
    """A message that no retry mends, or a record that is no message, with the reason and where it came from.

    Its id follows from the message's and its error's: buried twice after a crash, it is one letter.
    """
    found = {
        **error,
        "group": group,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "attempts": attempts,
    }
    if envelope is None:
        letter_id = ids.derived("unreadable", ids.of_bytes(record.value))
        meta = {"message-id": str(letter_id), "schema": UNREADABLE, "error": found}
        text = record.value.decode("utf-8", errors="backslashreplace").replace("\x00", "\\x00")
        body: Any = {"raw": text[:RAW_CHARACTERS_MAX], "bytes": len(record.value)}
    else:
        found["message-id"] = str(envelope.message_id)
        own = {"message-id": str(ids.derived(envelope.message_id, "dead", error.get("code"))), "error": found}
        meta = {**envelope.meta, **own} | ({"trace": trace} if trace else {})
        body = envelope.body
    topic = addresses.topic(service, addresses.ERROR)
    try:
        text = encode(meta, body, bytes_max=DEAD_LETTER_BYTES_MAX)
    except Invalid:
        # As JSON of ours it is larger than it was: then the beginning of it has to do.
        return dead_letter(record, None, error, service=service, group=group, attempts=attempts)
    return Outgoing(topic, key_of(record, envelope), text, headers(meta) + error_headers(found))


def key_of(record: Incoming, envelope: Envelope | None) -> str:
    """The key of what a record leads to: its own, so that order lasts along the chain; else the saga's id."""
    if is_key(record.key):
        return record.key
    return envelope.global_id if envelope is not None and is_key(envelope.global_id) else "unreadable"
