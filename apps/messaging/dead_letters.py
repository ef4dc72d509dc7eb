"""Dead letters: what cannot be handled goes to the topic's ``.error``, with its reason and where it came from."""

import logging
from datetime import datetime
from typing import Any

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.messaging.envelope import DEAD_LETTER_BYTES_MAX
from apps.messaging.inbox import take
from apps.messaging.models import Redelivery
from apps.messaging.outbox import is_key, publish_raw
from apps.messaging.transports.base import IncomingRecord

logger = logging.getLogger(__name__)

RAW_CHARACTERS_MAX = 100_000  # of an unreadable record; the whole of it stays in its topic, at the offset that is noted
REASON_CHARACTERS_MAX = 1000
UNREADABLE = "messaging.unreadable.v1"


def error_topic(topic: str) -> str:
    """The dead-letter topic beside a topic: the last word becomes ``error``."""
    return topic.rsplit(".", 1)[0] + ".error"


def reason(error: Exception) -> dict[str, Any]:
    """The error as ``code`` and ``reason``, in text that every store takes."""
    code = error.code if isinstance(error, DomainError) else ""
    text = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]
    # An error may quote anything, also what jsonb cannot hold.
    text = text.encode("utf-8", errors="backslashreplace").decode().replace("\x00", "\\x00")
    return {"code": code, "reason": text}


@transaction
def bury_unreadable(record: IncomingRecord, *, group: str, error: DomainError) -> None:
    """A record that is no envelope still gets one, so that it can be looked at and nothing is lost."""
    meta = {
        "message-id": str(uuid7()),
        "schema": UNREADABLE,
        "error": {
            **reason(error),
            "group": group,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "attempts": 1,
        },
    }
    text = record.value.decode("utf-8", errors="backslashreplace").replace("\x00", "\\x00")
    body = {"raw": text[:RAW_CHARACTERS_MAX], "bytes": len(record.value)}
    key = record.key if is_key(record.key) else "unreadable"
    publish_raw(topic=error_topic(record.topic), key=key, meta=meta, body=body, bytes_max=DEAD_LETTER_BYTES_MAX)


@transaction_required
def bury(row: Redelivery, error: Exception, *, now: datetime) -> None:
    """A message that no retry can mend leaves its queue and becomes a dead letter, in one commit."""
    row.delete()
    # Buried is done: a copy that the relay sends later must neither be handled out of its order nor be buried again.
    # Somebody may replay the dead letter, which has an id of its own.
    if not take(row.message_id, group=row.group, now=now):
        return
    logger.error("message %s goes from %s to its dead letters", row.message_id, row.group, exc_info=error)
    found = {
        **reason(error),
        "group": row.group,
        "topic": row.topic,
        "attempts": row.attempts,
        "message-id": str(row.message_id),
    }
    if row.offset is not None:
        found |= {"partition": row.partition, "offset": row.offset}
    # A dead letter is a message of its own: two groups may bury the same one.
    meta = {**row.envelope["meta"], "message-id": str(uuid7()), "error": found}
    body = row.envelope["body"]
    publish_raw(topic=error_topic(row.topic), key=row.key, meta=meta, body=body, bytes_max=DEAD_LETTER_BYTES_MAX)
