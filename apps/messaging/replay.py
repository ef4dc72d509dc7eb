"""Dead letters are sent again: to the topic they came from, as new messages, for the one group that buried them.

Note [For one group]
A replay has a new message id, because the old one is in the inbox of the group that buried it. To the other groups of the
topic it would be new too, and they have handled the original. So its meta says ``for-group``, and the consumers of other
groups pass over it (inbox.read). It carries the original's ids, and ``replay-of``, the dead letter's id.

Note [Once]
The replay's row and its message are one commit, and a letter has one row of each number: whoever comes second, even at the
same time, finds the number taken and sends nothing. So a replay may be interrupted anywhere, and repeated.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import Max

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.messaging import inbox
from apps.messaging.contracts.base import InvalidMessage, closest_class
from apps.messaging.corrections import Correction, Draft, UnfitCorrection, check_known, corrected
from apps.messaging.dead_letters import UNREADABLE, DeadLetter, read
from apps.messaging.envelope import RECEIVED_BYTES_MAX, encode, read_meta
from apps.messaging.models import DeadLetterReplay, Message
from apps.messaging.outbox import is_key, publish_raw

logger = logging.getLogger(__name__)

BATCH_ROWS = 100  # of one transaction: at worst 90 MB of messages, usually some hundred kilobytes
LETTERS_MAX = 10_000  # of one replay: their ids are kept in memory, and a person read what they are
LETTERS_USUAL = 1_000
REASON_CHARACTERS_MAX = 500
REPLAY_OF = "replay-of"


class NotReplayable(DomainError):
    """The dead letter cannot be sent again as it is."""

    code = "R602"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dead letter as it will be sent again, or why it cannot be. ``corrected``: where it differs from the letter."""

    letter: DeadLetter
    draft: Draft
    corrected: tuple[str, ...] = ()
    refusal: DomainError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """Who replays, why and when. ``replayed_before``: also letters whose last replay is older than that."""

    by: str
    reason: str
    now: datetime
    replayed_before: datetime | None = None


def prepare(letter_ids: Sequence[UUID], correction: Correction) -> Iterator[Prepared]:
    """Every letter, in the given order, corrected and checked against its contract. Reads BATCH_ROWS at a time.

    A letter that is gone is left out: the log's oldest days are dropped.
    """
    for batch in _batches(letter_ids):
        for row in _rows(batch):
            yield _prepared(read(row), correction)


def replay(letter_ids: Sequence[UUID], correction: Correction, because: Because) -> Iterator[int]:
    """Send dead letters again, in the given order, BATCH_ROWS in a transaction. Yields how many each has sent.

    Those that cannot be sent, and those that were sent already, are left out: safe to interrupt and to repeat. The order
    in which letters of one key were buried is kept if the ids are in the order of ``dead_letters.find``.
    """
    for batch in _batches(letter_ids):
        yield _replay(batch, correction, because)


def _batches(letter_ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    waiting = iter(letter_ids)
    while batch := list(islice(waiting, BATCH_ROWS)):
        yield batch


def _rows(letter_ids: Sequence[UUID]) -> list[Message]:
    found = Message.objects.in_bulk(letter_ids)
    return [found[one] for one in letter_ids if one in found]


# --- What will be sent ----------------------------------------------------------------------------------------------
def _prepared(letter: DeadLetter, correction: Correction) -> Prepared:
    before = draft = Draft(letter.key, {name: value for name, value in letter.meta.items() if name != "error"}, letter.body)
    try:
        draft = correction.apply(letter.id, before)
        _check(letter, before, draft)
    except DomainError as refusal:
        return Prepared(letter, draft, refusal=refusal)
    return Prepared(letter, draft, corrected=tuple(corrected(before, draft)))


def _check(letter: DeadLetter, before: Draft, after: Draft) -> None:
    """Would the group's handler be given this? Raises NotReplayable, InvalidMessage, UnfitCorrection."""
    schema = str(after.meta["schema"])  # as read_meta has it
    if schema == UNREADABLE:
        raise NotReplayable("It was no envelope: give it its meta.schema and its body, by --edit.", field="meta.schema")
    if not is_key(after.key):
        raise UnfitCorrection("A key has 1 to 200 characters, and no U+0000.", field="key")
    meta = _meta(letter, after, letter.id)
    if len(encode(meta, after.body)) > RECEIVED_BYTES_MAX:
        raise NotReplayable(f"It is larger than {RECEIVED_BYTES_MAX} bytes, which no consumer reads.")
    kind = closest_class(schema)
    if kind is not None and schema != before.meta["schema"] and kind.topic != letter.topic:
        raise UnfitCorrection(f"{schema} belongs to {kind.topic}, not to {letter.topic}.", field="meta.schema")
    try:
        found = inbox.read({"meta": meta, "body": after.body}, read_meta(meta), key=after.key, group=letter.group)
    except InvalidMessage as misfit:
        raise InvalidMessage(misfit.detail, field=f"body.{misfit.field}" if misfit.field else None) from None
    if found is None:
        raise NotReplayable(f"Nobody in {letter.group} handles {schema} any more.", field="meta.schema")
    if after.body is not before.body:
        check_known(before.body, after.body, found[1].message.to_body())


def _meta(letter: DeadLetter, draft: Draft, message_id: UUID) -> dict[str, Any]:
    return {**draft.meta, "message-id": str(message_id), REPLAY_OF: str(letter.id), inbox.FOR_GROUP: letter.group}


# --- Sending --------------------------------------------------------------------------------------------------------
@transaction
def _replay(letter_ids: Sequence[UUID], correction: Correction, because: Because) -> int:
    """See Note [Once]."""
    drafts = {one.letter.id: one for one in prepare(letter_ids, correction) if one.refusal is None}
    taken = _take(list(drafts.values()), because)
    for row in taken:
        one = drafts[row.dead_letter_id]
        meta = _meta(one.letter, one.draft, row.message_id)
        publish_raw(topic=row.topic, key=one.draft.key, meta=meta, body=one.draft.body, bytes_max=RECEIVED_BYTES_MAX)
        logger.info("dead letter %s is sent again as %s by %s", one.letter.id, row.message_id, because.by)
    return len(taken)


def _take(drafts: Sequence[Prepared], because: Because) -> list[DeadLetterReplay]:
    """Rows for those letters that nobody else has sent, in the order of the letters."""
    last = {
        letter_id: (number, at)
        for letter_id, number, at in DeadLetterReplay.objects.filter(dead_letter_id__in=[one.letter.id for one in drafts])
        .values("dead_letter_id")
        .annotate(number=Max("number"), at=Max("replayed_at"))
        .values_list("dead_letter_id", "number", "at")
    }
    rows = []
    for one in drafts:
        number, at = last.get(one.letter.id, (0, None))
        if at is None or (because.replayed_before is not None and at < because.replayed_before):
            rows.append(_row(one, number + 1, because))
    # Two may meet here. The second waits for the first one's commit, and its rows are ignored. Both insert in the order
    # of the letters, so they do not wait for each other in a circle.
    DeadLetterReplay.objects.bulk_create(rows, ignore_conflicts=True)
    ours = set(DeadLetterReplay.objects.filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
    return [row for row in rows if row.pk in ours]


def _row(one: Prepared, number: int, because: Because) -> DeadLetterReplay:
    return DeadLetterReplay(
        message_id=uuid7(),
        dead_letter_id=one.letter.id,
        number=number,
        group=one.letter.group,
        topic=one.letter.topic,
        corrected=list(one.corrected),
        reason=because.reason,
        replayed_by=because.by,
        replayed_at=because.now,
    )
