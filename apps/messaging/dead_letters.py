"""Dead letters: what cannot be handled goes to the topic's ``.error``, with its reason and where it came from.

They are rows of the message log, so they are found there; replay.py sends them again.
"""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from django.db.models import Exists, JSONField, OuterRef, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.messaging import counting
from apps.messaging.envelope import DEAD_LETTER_BYTES_MAX, DERIVED
from apps.messaging.inbox import groups, take
from apps.messaging.models import DeadLetterReplay, Message, Redelivery
from apps.messaging.outbox import is_key, publish_raw
from apps.messaging.partitions import first_message_id
from apps.messaging.transports.base import IncomingRecord

logger = logging.getLogger(__name__)

RAW_CHARACTERS_MAX = 100_000  # of an unreadable record; the whole of it stays in its topic, at the offset that is noted
REASON_CHARACTERS_MAX = 1000
UNREADABLE = "messaging.unreadable.v1"


def error_topic(topic: str) -> str:
    """The dead-letter topic beside a topic: the last word becomes ``error``."""
    return topic.rsplit(".", 1)[0] + ".error"


def error_topics() -> list[str]:
    """The dead-letter topics beside all topics that somebody reads."""
    return sorted({error_topic(topic) for topics in groups().values() for topic in topics})


def reason(error: Exception) -> dict[str, Any]:
    """The error as ``code`` and ``reason``, in text that every store takes."""
    code = error.code if isinstance(error, DomainError) else ""
    text = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]
    # An error may quote anything, also what jsonb cannot hold.
    text = text.encode("utf-8", errors="backslashreplace").decode().replace("\x00", "\\x00")
    return {"code": code, "reason": text}


@transaction
def bury_unreadable(record: IncomingRecord, *, group: str, error: DomainError, now: datetime) -> None:
    """A record that is no envelope still gets one, so that it can be looked at and nothing is lost. Safe to repeat."""
    # It is read again when the consumer dies between this commit and the offset. It has no id, so its place is one; and its
    # bytes, because a topic that was made anew counts from zero.
    place = f"{record.topic}\0{record.partition}\0{record.offset}\0{hashlib.sha256(record.value).hexdigest()}"
    if not take(uuid5(DERIVED, place), group=group, now=now):
        return
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
    counting.failed(group=group, topic=record.topic)
    counting.buried(group=group, topic=record.topic)
    publish_raw(topic=error_topic(record.topic), key=key, meta=meta, body=body, bytes_max=DEAD_LETTER_BYTES_MAX)


@transaction_required
def bury(row: Redelivery, error: Exception, *, now: datetime) -> None:
    """A message that no retry can mend leaves its queue and becomes a dead letter, in one commit."""
    row.delete()
    # Buried is done: a copy that the relay sends later must neither be handled out of its order nor be buried again.
    # Somebody may replay the dead letter, which has an id of its own.
    if not take(row.message_id, group=row.group, now=now):
        return
    counting.buried(group=row.group, topic=row.topic)
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


# --- Finding them ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter: what was buried, why, and where it came from. ``topic`` is the one that it was read from."""

    id: UUID
    buried_at: datetime
    topic: str
    partition: int | None
    offset: int | None
    group: str
    key: str
    schema: str
    code: str
    reason: str
    attempts: int
    original_id: str  # empty when it was no envelope
    meta: dict[str, Any]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters; an empty field asks for nothing. ``ids``: of the letters, or of what was buried.

    ``code``: an empty text is an error without a code. ``replayed_before``: also those that were replayed, if that was
    before this moment; by default only those that never were.
    """

    topic: str = ""
    group: str = ""
    schema: str = ""
    code: str | None = None
    reason_contains: str = ""
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[UUID, ...] = ()
    global_id: str = ""
    replayed_before: datetime | None = None


def find(wanted: Wanted) -> QuerySet[Message]:
    """The rows of dead letters, in the order in which they were buried. Limit it: it may read a whole topic."""
    error = KeyTransform("error", KeyTransform("meta", Cast("payload", JSONField())))
    words = {f"error_{name}": KeyTextTransform(name, error) for name in ("topic", "group", "code", "reason", "message-id")}
    rows = Message.objects.alias(**{name.replace("-", "_"): word for name, word in words.items()})
    # Ids of one millisecond have no order; the numbers of one key and group have, since one is buried after the other.
    return rows.filter(_place(wanted) & _time(wanted) & _what(wanted)).exclude(_was_replayed(wanted)).order_by("seq")


def count(wanted: Wanted, *, rows_max: int) -> int:
    """How many there are; one more than ``rows_max`` when there are more."""
    return find(wanted).order_by()[: rows_max + 1].count()


def read(row: Message) -> DeadLetter:
    """A row of ``find`` as what it says."""
    error: dict[str, Any] = row.meta["error"]
    return DeadLetter(
        id=row.message_id,
        buried_at=row.created_at,
        topic=str(error["topic"]),
        partition=error.get("partition"),
        offset=error.get("offset"),
        group=str(error["group"]),
        key=row.key,
        schema=row.schema,
        code=str(error.get("code") or ""),
        reason=str(error.get("reason") or ""),
        attempts=int(error.get("attempts") or 0),
        original_id=str(error.get("message-id") or ""),
        meta=row.meta,
        body=row.body,
    )


def is_dead_letter(row: Message) -> bool:
    """Was it buried here? Others may publish on the same topic."""
    error = row.meta.get("error")
    return row.topic.endswith(".error") and isinstance(error, dict) and {"topic", "group"} <= set(error)


def replays_of(letter_id: Any) -> QuerySet[DeadLetterReplay]:
    """How often a dead letter was sent again, the last time first. ``letter_id`` may be an outer query's column."""
    return DeadLetterReplay.objects.filter(dead_letter_id=letter_id).order_by("-number")


def _place(wanted: Wanted) -> Q:
    found = Q(error_group=wanted.group) if wanted.group else Q(error_group__isnull=False)
    if not wanted.topic:
        return found & Q(topic__in=error_topics(), error_topic__isnull=False)
    if wanted.topic.endswith(".error"):
        return found & Q(topic=wanted.topic, error_topic__isnull=False)
    return found & Q(topic=error_topic(wanted.topic), error_topic=wanted.topic)


def _time(wanted: Wanted) -> Q:
    # An id begins with its time, and the index is one of topics and ids.
    found = Q(message_id__gte=first_message_id(wanted.since)) if wanted.since else Q()
    return found & Q(message_id__lt=first_message_id(wanted.until)) if wanted.until else found


def _what(wanted: Wanted) -> Q:
    found = Q(schema=wanted.schema) if wanted.schema else Q()
    if wanted.global_id:
        found &= Q(global_id=wanted.global_id)
    if wanted.code is not None:
        found &= Q(error_code=wanted.code)
    if wanted.reason_contains:
        found &= Q(error_reason__icontains=wanted.reason_contains)
    if wanted.ids:
        found &= Q(message_id__in=wanted.ids) | Q(error_message_id__in=[str(one) for one in wanted.ids])
    return found


def _was_replayed(wanted: Wanted) -> Q:
    replays = replays_of(OuterRef("message_id"))
    if wanted.replayed_before is not None:
        replays = replays.filter(replayed_at__gte=wanted.replayed_before)
    return Q(Exists(replays))
