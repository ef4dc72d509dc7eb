"""What the tests of dead letters share: records that are buried, and rows of replays."""

from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.messaging import envelope, inbox
from apps.messaging.consumer import deliver
from apps.messaging.envelope import Meta
from apps.messaging.models import DeadLetterReplay, Message
from apps.messaging.redelivery import ATTEMPTS_MAX, redeliver
from apps.messaging.transports.base import IncomingRecord
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC, Note, all_is_due


class Refusal(DomainError):
    """No."""

    code = "R999"


def record(
    n: int = 1, key: str = "k", *, value: bytes | None = None, offset: int | None = None, body: Any = None, **meta: Any
) -> IncomingRecord:
    """A note as it comes from the broker. ``meta``: fields of Meta."""
    known = Meta(**{"message_id": uuid4(), "schema": Note.schema, **meta}).to_json()
    if value is None:
        value = envelope.encode(known, {"n": n, "key": key} if body is None else body)
    return IncomingRecord(TOPIC, 0, n if offset is None else offset, key, value)


def give(*records: IncomingRecord, group: str = "g") -> None:
    """Let a group have records."""
    for one in records:
        deliver(one, group=group, now=timezone.now())


def bury(what: int | IncomingRecord = 1, *, group: str = "g", error: Exception | None = None, key: str = "k") -> UUID:
    """Let a group's handler fail at a record until it is buried. The letter's id."""
    one = what if isinstance(what, IncomingRecord) else record(what, key)
    handling = inbox._handlers[group][Note.schema]
    before = set(_letters())
    inbox._handlers[group][Note.schema] = inbox.Handling(_failing(error or Refusal("never")))
    try:
        give(one, group=group)
        for _ in range(ATTEMPTS_MAX):
            all_is_due()
            redeliver(group=group, now=timezone.now())
    finally:
        inbox._handlers[group][Note.schema] = handling
    (letter,) = set(_letters()) - before
    return letter


def replayed(letter: UUID, *, number: int = 1) -> DeadLetterReplay:
    """A replay's row alone."""
    return DeadLetterReplay.objects.create(
        message_id=uuid7(),
        dead_letter_id=letter,
        number=number,
        group="g",
        topic=TOPIC,
        reason="mended",
        replayed_by="chief",
        replayed_at=timezone.now(),
    )


def _letters() -> list[UUID]:
    return list(Message.objects.filter(topic=ERROR_TOPIC).values_list("pk", flat=True))


def _failing(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail
