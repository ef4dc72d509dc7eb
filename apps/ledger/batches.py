"""A batch with a key of its own: the same key and body get the same answer, refusals included.

Note [Keys of batches end]
    That nothing is posted twice is a matter of tracekeys. Those are kept for ever, also of archived months. What the key of
    a batch adds: its refusals are repeated, and another body is refused. It is forgotten LEDGER_BATCH_KEYS_DAYS after its
    first use. A repeat that comes still later is a new batch: what was posted is answered as posted and not posted again;
    what was refused then may be posted now, once. An entry that names a day too old by then stays refused.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from django.conf import settings

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.ledger.commands import Command, check_forms
from apps.ledger.fold import LinkedRefused
from apps.ledger.models import Batch
from apps.ledger.rows import fetch
from apps.ledger.rules import BATCH_KEY_CHARACTERS_MAX, MalformedEntry, check_text

# get_or_create would break off when the key that it met is forgotten before it reads it.
_CLAIM = """
INSERT INTO ledger_batch (key, bodyhash, refusals, createdat) VALUES (%s, %s, '[]', %s)
ON CONFLICT (key) DO NOTHING RETURNING 1
"""
FORGET_ROWS_MAX = 1_000  # a commit; the refusals of a full batch are some megabytes


class BatchKeyReused(DomainError):
    """The batch's key was already used for another batch."""

    code = "R126"


def claim(key: str, commands: Sequence[Command], *, now: datetime) -> int:
    """Claim a batch's key. If it was used for the same batch before, its refusals are on the commands again; how many?

    Waits for whoever posts under the same key right now. Raises BatchKeyReused for another batch, MalformedEntry.
    """
    check_text("key", key, 2 * BATCH_KEY_CHARACTERS_MAX)
    if not key:
        raise MalformedEntry("key is a text of one character at least.", field="key")
    body_hash = _hash(commands)
    if fetch(_CLAIM, [key, body_hash, now]):
        return 0
    # Two repeats may both find entries that were neither posted nor refused: the second one has the first one's answer.
    row = Batch.objects.select_for_update().filter(key=key).first()
    if row is None:  # it was forgotten since the line above, and is free
        return claim(key, commands, now=now)
    if bytes(row.body_hash) != body_hash:
        raise BatchKeyReused(field="key")
    for refused in row.refusals:
        commands[refused["place"]].refusal = _again(refused)
    return len(row.refusals)


@transaction_required
def forget_batches(*, now: datetime) -> int:
    """Delete keys older than LEDGER_BATCH_KEYS_DAYS, at most FORGET_ROWS_MAX. How many? See Note [Keys of batches end].

    One that is just being repeated is passed over. Safe to repeat, and beside itself.
    """
    if not settings.LEDGER_BATCH_KEYS_DAYS:
        return 0
    old = Batch.objects.filter(created_at__lt=now - timedelta(days=settings.LEDGER_BATCH_KEYS_DAYS)).order_by("created_at")
    keys = list(old.select_for_update(skip_locked=True).values_list("key", flat=True)[:FORGET_ROWS_MAX])
    return Batch.objects.filter(key__in=keys).delete()[0]


def keep_refusals(key: str, commands: Sequence[Command], *, known: int) -> None:
    """Write down why entries were refused, unless so many are ``known``: their postings would not be found by asking again.

    Not what passes by itself, nor what was refused with it: the same batch is expected to come again, and may then be
    posted.
    """
    open_places = _open_places(commands)
    refusals = [
        {
            "place": place,
            "code": refusal.code,
            "detail": refusal.detail,
            "field": refusal.field,
            "status": refusal.status,
            "retryable": refusal.retryable,
        }
        for place, command in enumerate(commands)
        if (refusal := command.refusal) is not None and place not in open_places
    ]
    if len(refusals) > known:
        Batch.objects.filter(key=key).update(refusals=refusals)


def _open_places(commands: Sequence[Command]) -> set[int]:
    """Where entries stand whose refusal passes by itself, and those that their groups drew along."""
    found = {place for place, command in enumerate(commands) if command.refusal is not None and command.refusal.passes}
    if found:
        for group, members in groupby(range(len(commands)), key=lambda place: commands[place].entry.group):
            places = list(members)
            if group is not None and not found.isdisjoint(places):
                found.update(place for place in places if isinstance(commands[place].refusal, LinkedRefused))
    return found


def _hash(commands: Sequence[Command]) -> bytes:
    """Of what was asked for: each entry's own hash, or that it is malformed, in order."""
    whole = hashlib.sha256()
    check_forms(commands)
    for command in commands:
        whole.update(str(command.entry.tracekey).encode())
        whole.update(command.body_hash or b"malformed")
        whole.update((command.entry.group or "").encode())
    return whole.digest()


def _again(refused: dict[str, Any]) -> DomainError:
    """A refusal as it was answered the first time."""
    answer = DomainError(refused["detail"], field=refused["field"])
    answer.__dict__.update({name: refused[name] for name in ("code", "status", "retryable")})
    return answer
