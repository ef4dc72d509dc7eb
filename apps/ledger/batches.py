"""A batch with a key of its own: the same key and body get the same answer, refusals included."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from apps.common.errors import DomainError
from apps.ledger.commands import Command
from apps.ledger.fold import LinkedRefused
from apps.ledger.models import Batch
from apps.ledger.rules import BATCH_KEY_CHARACTERS_MAX, MalformedEntry, check_text


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
    row, created = Batch.objects.get_or_create(
        key=key, defaults={"body_hash": body_hash, "refusals": [], "created_at": now}
    )
    if created:
        return 0
    if bytes(row.body_hash) != body_hash:
        raise BatchKeyReused(field="key")
    # Two repeats may both find entries that were neither posted nor refused: the second one has the first one's answer.
    refusals = Batch.objects.select_for_update().get(key=key).refusals
    for refused in refusals:
        commands[refused["place"]].refusal = _again(refused)
    return len(refusals)


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
    for command in commands:
        is_well_formed = command.check_form()
        whole.update(str(command.entry.tracekey).encode())
        whole.update(command.body_hash if is_well_formed else b"malformed")
        whole.update((command.entry.group or "").encode())
    return whole.digest()


def _again(refused: dict[str, Any]) -> DomainError:
    """A refusal as it was answered the first time."""
    answer = DomainError(refused["detail"], field=refused["field"])
    answer.__dict__.update({name: refused[name] for name in ("code", "status", "retryable")})
    return answer
