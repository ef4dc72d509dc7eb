"""Every statement of the engine: arrays in, rows out. How many statements run never depends on how many lines there are.

Note [Fences]
    One statement is one snapshot: a lock that a statement waits for does not refresh what that statement reads. So the
    engine takes its locks in one statement and reads in a later one, whose snapshot contains all that the former owners
    of the locks committed. Three fences, always taken in this order:
    1. tracekeys: inserting into posting_key waits for whoever posts the same key right now;
    2. accounts: FOR NO KEY UPDATE in key order. Every change of an account, its day rows, its lines and its holds is made
       by an owner of this lock; whoever writes one of them without it breaks balances for good;
    3. nothing else: holds are fenced by their account.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction

from apps.common.arrays import array_text
from apps.common.errors import DomainError
from apps.ledger.balances import AccountBook, StoredDay
from apps.ledger.fold import EventRule, HeldRow
from apps.ledger.rules import AccountRef, Balances, PostedLine

# From so many rows on COPY is faster than INSERT, whose one round trip less counts for small batches.
COPY_ROWS_MIN = 100


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A tracekey that was used before this batch."""

    body_hash: bytes
    is_tombstone: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What a tracekey is claimed for."""

    body_hash: bytes
    reverses: UUID | None
    dateref: date


def fetch(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement and give its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


_CLAIM = """
INSERT INTO ledger_posting_key (tracekey, bodyhash, state, reverses, dateref, createdat)
SELECT k.tracekey, k.bodyhash, 'POSTED', k.reverses, k.dateref, %s
FROM unnest(%s::uuid[], %s::bytea[], %s::uuid[], %s::date[]) AS k (tracekey, bodyhash, reverses, dateref)
ORDER BY k.tracekey
ON CONFLICT (tracekey) DO NOTHING
RETURNING tracekey
"""


def claim_keys(claims: dict[UUID, Claim], *, now: datetime) -> dict[UUID, KnownKey]:
    """Claim tracekeys for this transaction and give those that were used before. See Note [Fences], 1.

    Sorted, so that two batches that share keys wait for each other and never both.
    """
    keys = sorted(claims)
    # A large batch hopes that all its keys are new, and finds out at the first one that is not.
    if len(keys) >= COPY_ROWS_MIN and _copy_claims(keys, claims, now=now):
        return {}
    values = [(key, claims[key].body_hash, claims[key].reverses, claims[key].dateref) for key in keys]
    claimed = {row[0] for row in fetch(_CLAIM, [now, *columns(values, 4)])}
    return known_keys([key for key in keys if key not in claimed])


def known_keys(keys: Sequence[UUID]) -> dict[UUID, KnownKey]:
    """Those of these tracekeys that were used before."""
    if not keys:
        return {}
    rows = fetch(
        "SELECT tracekey, bodyhash, state FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [array_text(keys)]
    )
    return {row[0]: KnownKey(bytes(row[1]), row[2] == "TOMBSTONE") for row in rows}


def _copy_claims(keys: Sequence[UUID], claims: dict[UUID, Claim], *, now: datetime) -> bool:
    """Were all keys claimed? Otherwise none was."""
    moment = now.isoformat()
    try:
        with transaction.atomic():
            copy_rows(
                "COPY ledger_posting_key (tracekey, bodyhash, state, reverses, dateref, createdat) FROM STDIN",
                (_claim_text(key, claims[key], moment) for key in keys),
            )
    except IntegrityError:
        return False
    return True


def _claim_text(key: UUID, claim: Claim, moment: str) -> str:
    reverses = "\\N" if claim.reverses is None else claim.reverses.hex
    return f"{key.int:032x}\t\\\\x{claim.body_hash.hex()}\tPOSTED\t{reverses}\t{claim.dateref!s}\t{moment}\n"


def copy_rows(statement: str, rows: Iterable[str], *, rows_at_once: int = 500) -> None:
    """COPY rows that are text already. They are sent as they are made, so the server works meanwhile."""
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        buffer: list[str] = []
        for row in rows:
            buffer.append(row)
            if len(buffer) == rows_at_once:
                copy.write("".join(buffer))
                buffer = []
        copy.write("".join(buffer))


def settle_claims(*, unused: Collection[UUID], changed: dict[UUID, Claim]) -> None:
    """Give back the claims of refused entries; correct those whose key was taken by a later entry of the same batch."""
    with connection.cursor() as cursor:
        if unused:
            cursor.execute("DELETE FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [array_text(list(unused))])
        if changed:
            values = [(key, claim.body_hash, claim.dateref) for key, claim in changed.items()]
            cursor.execute(
                "UPDATE ledger_posting_key p SET bodyhash = k.bodyhash, dateref = k.dateref FROM "
                "unnest(%s::uuid[], %s::bytea[], %s::date[]) AS k (tracekey, bodyhash, dateref) "
                "WHERE p.tracekey = k.tracekey",
                columns(values, 3),
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


_LOCK = """
SELECT a.id, a.branch, a.account, a.currency, a.status, a.minbalance, a.maxbalance, a.posteddebit, a.postedcredit,
    a.pendingdebit
FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency)
JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
WHERE NOT a.deferred
ORDER BY a.branch, a.account, a.currency
FOR NO KEY UPDATE OF a
"""


def lock_accounts(refs: Collection[AccountRef]) -> dict[AccountRef, AccountBook]:
    """Lock accounts in key order and read their totals. See Note [Fences], 2.

    Unknown ones are missing in the answer, and deferred ones, which are chosen to be so when they are opened.
    """
    books = {}
    for row in fetch(_LOCK, columns(refs, 3)):
        ref = AccountRef(row[1], row[2], row[3])
        books[ref] = AccountBook(row[0], ref, row[4], row[5], row[6], row[7], row[8], row[9])
    return books


def read_deferred(refs: Collection[AccountRef]) -> dict[AccountRef, str]:
    """Those of these accounts that are deferred, and their status."""
    rows = fetch(
        "SELECT a.branch, a.account, a.currency, a.status FROM unnest(%s::text[], %s::text[], %s::text[]) "
        "AS k (branch, account, currency) JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account "
        "AND a.currency = k.currency WHERE a.deferred",
        columns(refs, 3),
    )
    return {AccountRef(*row[:3]): row[3] for row in rows}


def read_closed(branches: Collection[str]) -> dict[str, int]:
    """The last closed day of those of these branches that have one, as an ordinal."""
    rows = fetch(
        "SELECT branch, closeduntil FROM ledger_branch WHERE branch = ANY(%s::text[]) AND closeduntil IS NOT NULL",
        [array_text(list(branches))],
    )
    return {branch: closed.toordinal() for branch, closed in rows}


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[str]:
    """Rows to columns: the arrays of an unnest."""
    return [array_text(column) for column in zip(*rows, strict=True)] or ["{}"] * width


def read_events(codes: Collection[int]) -> dict[int, EventRule]:
    """The rules of these events."""
    rows = fetch(
        "SELECT code, active, allowdebit, allowcredit FROM ledger_event WHERE code = ANY(%s::int[])", [list(codes)]
    )
    return {row[0]: EventRule(*row[1:]) for row in rows}


# The lateral part, which OFFSET 0 keeps as it is, makes the plan an index scan for each key however large the table grows.
_DAYS = """
SELECT k.n, d.id, d.dateref, d.totaldebit, d.totalcredit
FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[]) WITH ORDINALITY AS k (branch, account, currency, since, n)
CROSS JOIN LATERAL (
    SELECT b.id, b.dateref, b.totaldebit, b.totalcredit FROM ledger_balance b
    WHERE b.branch = k.branch AND b.account = k.account AND b.currency = k.currency AND b.dateref >= k.since OFFSET 0
) d
"""


def read_days(since: Mapping[AccountRef, date]) -> dict[AccountRef, list[StoredDay]]:
    """For each account its day rows from a date on."""
    refs = list(since)
    found: dict[AccountRef, list[StoredDay]] = {ref: [] for ref in refs}
    keys = [(*ref, day) for ref, day in since.items()]
    for n, row_id, dateref, debit, credit in fetch(_DAYS, columns(keys, 4)):
        found[refs[n - 1]].append(StoredDay(row_id, dateref.toordinal(), debit, credit))
    return found


def read_held(refs: Collection[AccountRef]) -> dict[AccountRef, list[tuple[date, Decimal]]]:
    """What is held on each account, by the day since when."""
    found: dict[AccountRef, list[tuple[date, Decimal]]] = {}
    for branch, account, currency, dateref, amount in fetch(
        "SELECT h.branch, h.account, h.currency, h.dateref, sum(h.amount) "
        "FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency) "
        "JOIN ledger_hold h ON h.branch = k.branch AND h.account = k.account AND h.currency = k.currency "
        "WHERE h.status = 'OPEN' GROUP BY 1, 2, 3, 4",
        columns(refs, 3),
    ):
        found.setdefault(AccountRef(branch, account, currency), []).append((dateref, amount))
    return found


def read_holds(hold_ids: Collection[UUID]) -> dict[UUID, HeldRow]:
    """Holds by id; their accounts are locked."""
    rows = fetch(
        "SELECT id, status, amount, dateref, expiresat FROM ledger_hold WHERE id = ANY(%s::uuid[])", [list(hold_ids)]
    )
    return {row[0]: HeldRow(*row) for row in rows}
