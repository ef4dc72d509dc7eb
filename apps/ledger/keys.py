"""Tracekeys: claimed, given back, buried; and what was posted or refused under them. See Note [Fences] in ``rows.py``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from apps.common.arrays import array_text
from apps.common.errors import DomainError
from apps.ledger.commands import Command, check_forms
from apps.ledger.rows import columns, fetch, fetch_hot
from apps.ledger.rules import AccountRef, Balances, PostedLine


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A tracekey that was used before this batch."""

    body_hash: bytes
    is_tombstone: bool


_CLAIM = """
INSERT INTO ledger_posting_key (tracekey, bodyhash, state, reverses, dateref, createdat)
SELECT k.tracekey, k.bodyhash, 'POSTED', k.reverses, k.dateref, %s::timestamptz
FROM unnest(%s::uuid[], %s::bytea[], %s::uuid[], %s::date[]) AS k (tracekey, bodyhash, reverses, dateref)
ORDER BY k.tracekey
ON CONFLICT (tracekey) DO NOTHING
RETURNING tracekey
"""


class Claims(NamedTuple):
    """By tracekey as a number: what this batch claimed, and what was used before it."""

    made: dict[int, Command]
    known: dict[int, KnownKey]


def in_order(commands: Sequence[Command]) -> list[Command]:
    """Commands by their keys, so that two batches that share keys wait for each other and never both."""
    try:
        return sorted(commands, key=attrgetter("entry.tracekey.int"))
    except AttributeError:  # a malformed one is refused in a moment
        return sorted(commands, key=_sort_key)


def _sort_key(command: Command) -> int:
    key = command.entry.tracekey
    return key.int if isinstance(key, UUID) else -1  # malformed, and refused in a moment


def claim_keys(commands: Sequence[Command], *, now: datetime) -> Claims:
    """Check forms, claim the tracekeys for this transaction, and find those that were used before. Note [Fences], 1.

    The first well-formed command of each tracekey claims it.
    """
    ordered = in_order(commands)
    check_forms(ordered)
    wanted = {command.key: command for command in reversed(ordered) if command.refusal is None}
    values = [(command.tracekey, command.body_hash, command.reverses, command.dateref) for command in wanted.values()]
    if not values:
        return Claims({}, {})
    claimed = {row[0].int for row in fetch_hot(_CLAIM, [now, *columns(values, 4)])}
    new = {key: command for key, command in wanted.items() if key in claimed}
    return Claims(new, known_keys([command for key, command in wanted.items() if key not in claimed]).known)


def known_keys(commands: Sequence[Command]) -> Claims:
    """Check forms, and find the tracekeys that were used before. Nothing is claimed."""
    check_forms(commands)
    keys = [command.tracekey for command in commands if command.refusal is None]
    if not keys:
        return Claims({}, {})
    rows = fetch(
        "SELECT tracekey, bodyhash, state FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [array_text(keys)]
    )
    return Claims({}, {row[0].int: KnownKey(bytes(row[1]), row[2] == "TOMBSTONE") for row in rows})


def settle_claims(*, unused: Sequence[Command], changed: Sequence[Command]) -> None:
    """Give back the claims of refused entries; correct those whose key was taken by a later entry of the same batch."""
    with connection.cursor() as cursor:
        if unused:
            keys = array_text([command.tracekey for command in unused])
            cursor.execute("DELETE FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [keys])
        if changed:
            values = [(command.tracekey, command.body_hash, command.reverses, command.dateref) for command in changed]
            cursor.execute(
                "UPDATE ledger_posting_key p SET bodyhash = k.bodyhash, reverses = k.reverses, dateref = k.dateref FROM "
                "unnest(%s::uuid[], %s::bytea[], %s::uuid[], %s::date[]) AS k (tracekey, bodyhash, reverses, dateref) "
                "WHERE p.tracekey = k.tracekey",
                columns(values, 4),
            )


def lock_or_bury(tracekey: UUID, *, now: datetime) -> bool:
    """Lock the key of a posted entry, or leave a tombstone for one that never was. Is it a tombstone?

    Two reversals of one entry meet here; so do a reversal and the posting that it overtakes.
    """
    fetch(
        "INSERT INTO ledger_posting_key (tracekey, bodyhash, state, createdat) VALUES (%s, '', 'TOMBSTONE', %s) "
        "ON CONFLICT (tracekey) DO NOTHING RETURNING 1",
        [tracekey, now],
    )
    rows = fetch("SELECT state FROM ledger_posting_key WHERE tracekey = %s FOR NO KEY UPDATE", [tracekey])
    return bool(rows[0][0] == "TOMBSTONE")


def reversal_of(tracekey: UUID) -> UUID | None:
    """The tracekey of the entry that took this one back."""
    rows = fetch("SELECT tracekey FROM ledger_posting_key WHERE reverses = %s", [tracekey])
    return rows[0][0] if rows else None


_KEEP_REFUSALS = """
INSERT INTO ledger_refusal AS r (tracekey, code, reason, field, retryable, refusedat)
SELECT k.*, %s
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bool[]) AS k (tracekey, code, reason, field, retryable)
ORDER BY k.tracekey
ON CONFLICT (tracekey) DO UPDATE SET code = excluded.code, reason = excluded.reason, field = excluded.field,
    retryable = excluded.retryable, refusedat = excluded.refusedat
"""


def keep_refusals(refused: Mapping[UUID, DomainError], *, now: datetime) -> None:
    """Write down why entries were refused; the latest reason stays. Sorted, for two batches may refuse the same ones."""
    kept = [(key, r.code, r.detail, r.field or "", r.retryable) for key, r in refused.items()]
    with connection.cursor() as cursor:
        cursor.execute(_KEEP_REFUSALS, [now, *columns(kept, 5)])


def delete_refusals(*, before: datetime, rows_max: int) -> int:
    """Delete the oldest refusals; those that a batch is just renewing are passed over."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM ledger_refusal WHERE tracekey IN (SELECT tracekey FROM ledger_refusal WHERE refusedat < %s "
            "ORDER BY refusedat LIMIT %s FOR UPDATE SKIP LOCKED)",
            [before, rows_max],
        )
        return int(cursor.rowcount)


_POSTED = """
SELECT k.tracekey, t.id, t.branch, t.account, t.currency, t.debitcredit, t.amount, t.eventcode, t.dateref,
    t.balanceafter, t.pendingafter, t.dayafter, t.deferred
FROM ledger_posting_key k
CROSS JOIN LATERAL (
    SELECT id, branch, account, currency, debitcredit, amount, eventcode, dateref, balanceafter, pendingafter, dayafter,
        deferred, seq FROM ledger_transaction t
    WHERE t.tracekey = k.tracekey AND t.dateref = k.dateref
    UNION ALL
    SELECT id, branch, account, currency, debitcredit, amount, eventcode, dateref, NULL, NULL, NULL, true, 0
    FROM ledger_deferred w WHERE w.tracekey = k.tracekey
    UNION ALL  -- of an entry from before its key knew the day
    SELECT id, branch, account, currency, debitcredit, amount, eventcode, dateref, balanceafter, pendingafter, dayafter,
        deferred, seq FROM ledger_transaction o
    WHERE k.dateref IS NULL AND o.tracekey = k.tracekey
) t
WHERE k.tracekey = ANY(%s::uuid[])
ORDER BY CASE WHEN k.dateref IS NULL THEN t.seq END, t.id  -- ids of one entry are in order since then
"""


def posted_lines(tracekeys: Sequence[UUID]) -> dict[UUID, list[PostedLine]]:
    """The lines of entries that were posted before, as they were answered then, in order."""
    found: dict[UUID, list[PostedLine]] = {}
    for row in fetch(_POSTED, [array_text(tracekeys)]):
        tracekey, line_id, branch, account, currency, side, amount, eventcode, dateref, posted, pending, day, deferred = row
        line = PostedLine(
            id=line_id,
            account=AccountRef(branch, account, currency),
            debitcredit=side,
            amount=amount,
            eventcode=eventcode,
            dateref=dateref,
            balances=None if deferred else Balances(posted, pending, posted - pending, day),
        )
        found.setdefault(tracekey, []).append(line)
    return found
