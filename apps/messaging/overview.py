"""The post office at a glance: does anything pile up or fall out? And the messages of one business transaction."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Count, Exists, Min, OuterRef, Q

from apps.messaging.dead_letters import error_topics, replays_of
from apps.messaging.models import DeadLetterReplay, Inbox, Message, Pending, Redelivery
from apps.messaging.partitions import first_message_id

MESSAGES_ROWS_MAX = 200  # of one run; a saga of ten steps sends about twenty
CLOCK_SKEW = timedelta(minutes=1)  # between the machines that make message ids
DEAD_LETTERS_SINCE = timedelta(hours=24)  # older ones are history: the list shows them all
DEAD_LETTERS_MAX = 1000  # counted at most


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesNow:
    """What waits. ``parked``: the broker refuses the row itself; ``dead``: dead letters of the last 24 hours that nobody
    has replayed."""

    to_relay: int
    oldest_to_relay_at: datetime | None
    parked: int
    retrying: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageState:
    """A message and what became of it: PENDING, PARKED, SENT, RETRYING, HANDLED, DEAD (it is a dead letter) or REPLAYED
    (it is one, and was sent again)."""

    seq: int
    message_id: UUID
    topic: str
    key: str
    schema: str
    created_at: datetime
    state: str
    groups: tuple[str, ...]
    detail: str


def messages_now(*, now: datetime) -> MessagesNow:
    """What waits to be relayed or handled, and what fell out."""
    pending = Pending.objects.aggregate(
        to_relay=Count("pk", filter=Q(parked_at__isnull=True)),
        parked=Count("pk", filter=Q(parked_at__isnull=False)),
        oldest_to_relay_at=Min("due_at", filter=Q(parked_at__isnull=True)),
    )
    buried = Message.objects.filter(topic__in=error_topics(), message_id__gte=first_message_id(now - DEAD_LETTERS_SINCE))
    dead = buried.exclude(Exists(replays_of(OuterRef("message_id"))))
    return MessagesNow(
        **pending,
        retrying=Redelivery.objects.filter(attempts__gt=0).count(),
        dead=dead.order_by()[:DEAD_LETTERS_MAX].count(),
    )


def messages_of(global_id: UUID, *, since: datetime, until: datetime) -> tuple[MessageState, ...]:
    """The messages that carry a global id, oldest first, at most MESSAGES_ROWS_MAX, made between two moments."""
    rows = list(
        Message.objects.filter(
            global_id=str(global_id),
            message_id__gte=first_message_id(since - CLOCK_SKEW),
            message_id__lt=first_message_id(until + CLOCK_SKEW),
        ).order_by("message_id")[:MESSAGES_ROWS_MAX]
    )
    ids = [row.message_id for row in rows]
    pending = {row.seq: row for row in Pending.objects.filter(pk__in=[row.seq for row in rows])}
    retrying = {row.message_id: row for row in Redelivery.objects.filter(message_id__in=ids)}
    letters = [row.message_id for row in rows if row.topic.endswith(".error")]
    replayed = set(DeadLetterReplay.objects.filter(dead_letter_id__in=letters).values_list("dead_letter_id", flat=True))
    handled: dict[UUID, list[str]] = {}
    for message_id, group in Inbox.objects.filter(message_id__in=ids).values_list("message_id", "group"):
        handled.setdefault(message_id, []).append(group)
    return tuple(
        _state(
            row,
            pending.get(row.seq),
            retrying.get(row.message_id),
            tuple(sorted(handled.get(row.message_id, ()))),
            is_replayed=row.message_id in replayed,
        )
        for row in rows
    )


def _state(
    row: Message, pending: Pending | None, retry: Redelivery | None, handled: tuple[str, ...], *, is_replayed: bool
) -> MessageState:
    state, detail = "HANDLED" if handled else "SENT", ""
    if pending is not None:
        state, detail = ("PARKED" if pending.parked_at else "PENDING"), pending.error
    elif retry is not None:
        state, detail = "RETRYING", retry.error
    elif row.topic.endswith(".error"):
        state, detail = ("REPLAYED" if is_replayed else "DEAD"), str(row.meta.get("error", {}).get("reason", ""))
    return MessageState(
        seq=row.seq,
        message_id=row.message_id,
        topic=row.topic,
        key=row.key,
        schema=row.schema,
        created_at=row.created_at,
        state=state,
        groups=handled,
        detail=detail,
    )
