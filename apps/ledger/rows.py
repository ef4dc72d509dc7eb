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

from django.db import connection

from apps.common.arrays import array_text
from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.ledger.balances import AccountBook, Day
from apps.ledger.rules import AccountRef, Balances, PostedLine


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A tracekey that was used before this batch."""

    body_hash: bytes
    is_tombstone: bool


@dataclass(frozen=True, slots=True)
class EventRule:
    """What an event allows."""

    active: bool
    allow_debit: bool
    allow_credit: bool


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line to write, with what its answer says."""

    posted: PostedLine
    tracekey: UUID
    description: str
    details: str | None
    balanced: bool
    day_net: Decimal


@dataclass(slots=True)
class HeldRow:
    """A hold as it stands behind its account's lock."""

    id: UUID
    status: str
    amount: Decimal
    dateref: date
    expires_at: datetime | None


def fetch(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement and give its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


_CLAIM = """
INSERT INTO ledger_posting_key (tracekey, bodyhash, state, reverses, createdat)
SELECT k.tracekey, k.bodyhash, 'POSTED', k.reverses, %s
FROM unnest(%s::uuid[], %s::bytea[], %s::uuid[]) AS k (tracekey, bodyhash, reverses)
ORDER BY k.tracekey
ON CONFLICT (tracekey) DO NOTHING
RETURNING tracekey
"""


def claim_keys(keys: dict[UUID, tuple[bytes, UUID | None]], *, now: datetime) -> dict[UUID, KnownKey]:
    """Claim tracekeys for this transaction and give those that were used before. See Note [Fences], 1.

    Sorted, so that two batches that share keys wait for each other and never both.
    """
    hashes, reverses = [key[0] for key in keys.values()], [key[1] for key in keys.values()]
    claimed = {row[0] for row in fetch(_CLAIM, [now, array_text(list(keys)), array_text(hashes), array_text(reverses)])}
    used = [tracekey for tracekey in keys if tracekey not in claimed]
    if not used:
        return {}
    rows = fetch("SELECT tracekey, bodyhash, state FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [used])
    return {row[0]: KnownKey(bytes(row[1]), row[2] == "TOMBSTONE") for row in rows}


def settle_claims(*, unused: Collection[UUID], rehashed: dict[UUID, bytes]) -> None:
    """Give back the claims of refused entries; correct those whose key was taken by a later entry of the same batch."""
    with connection.cursor() as cursor:
        if unused:
            cursor.execute("DELETE FROM ledger_posting_key WHERE tracekey = ANY(%s::uuid[])", [list(unused)])
        if rehashed:
            cursor.execute(
                "UPDATE ledger_posting_key p SET bodyhash = k.bodyhash "
                "FROM unnest(%s::uuid[], %s::bytea[]) AS k (tracekey, bodyhash) WHERE p.tracekey = k.tracekey",
                [list(rehashed), list(rehashed.values())],
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
        cursor.execute(_KEEP_REFUSALS, [now, *_columns(kept, 5)])


def delete_refusals(*, before: datetime, rows_max: int) -> int:
    """Delete the oldest refusals; those that a batch is just renewing are passed over."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM ledger_refusal WHERE tracekey IN (SELECT tracekey FROM ledger_refusal WHERE refusedat < %s "
            "ORDER BY refusedat LIMIT %s FOR UPDATE SKIP LOCKED)",
            [before, rows_max],
        )
        return int(cursor.rowcount)


def posted_lines(tracekeys: Sequence[UUID]) -> dict[UUID, list[PostedLine]]:
    """The lines of entries that were posted before, as they were answered then, in order."""
    found: dict[UUID, list[PostedLine]] = {}
    for row in fetch(
        "SELECT tracekey, id, branch, account, currency, debitcredit, amount, eventcode, dateref, "
        "balanceafter, pendingafter, dayafter FROM ledger_transaction WHERE tracekey = ANY(%s::uuid[]) ORDER BY seq",
        [list(tracekeys)],
    ):
        tracekey, line_id, branch, account, currency, side, amount, eventcode, dateref, posted, pending, day = row
        line = PostedLine(
            id=line_id,
            account=AccountRef(branch, account, currency),
            debitcredit=side,
            amount=amount,
            eventcode=eventcode,
            dateref=dateref,
            balances=Balances(posted=posted, pending=pending, available=posted - pending, day=day),
        )
        found.setdefault(tracekey, []).append(line)
    return found


_LOCK = """
SELECT a.id, a.branch, a.account, a.currency, a.status, a.minbalance, a.posteddebit, a.postedcredit, a.pendingdebit
FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency)
JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
ORDER BY a.branch, a.account, a.currency
FOR NO KEY UPDATE OF a
"""


def lock_accounts(refs: Collection[AccountRef]) -> dict[AccountRef, AccountBook]:
    """Lock accounts in key order and read their totals. Unknown ones are missing in the answer. See Note [Fences], 2."""
    books = {}
    for row in fetch(_LOCK, _columns(refs, 3)):
        ref = AccountRef(row[1], row[2], row[3])
        books[ref] = AccountBook(
            id=row[0],
            ref=ref,
            is_frozen=row[4] != "ACTIVE",
            min_balance=row[5],
            posted_debit=row[6],
            posted_credit=row[7],
            pending_debit=row[8],
            days=[],
            dates=[],
        )
    return books


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[str]:
    """Rows to columns: the arrays of an unnest."""
    return [array_text(column) for column in zip(*rows, strict=True)] or ["{}"] * width


def read_events(codes: Collection[int]) -> dict[int, EventRule]:
    """The rules of these events."""
    rows = fetch(
        "SELECT code, active, allowdebit, allowcredit FROM ledger_event WHERE code = ANY(%s::int[])", [list(codes)]
    )
    return {row[0]: EventRule(*row[1:]) for row in rows}


# Keys and bounds only, LIMIT 1 in the lateral part: the plan stays an index scan however large the table grows.
_DAYS = """
SELECT k.n, d.id, d.dateref, d.totaldebit, d.totalcredit, d.accumulateddebit, d.accumulatedcredit
FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[]) WITH ORDINALITY AS k (branch, account, currency, since, n)
CROSS JOIN LATERAL (
    (SELECT * FROM ledger_balance b
     WHERE b.branch = k.branch AND b.account = k.account AND b.currency = k.currency AND b.dateref < k.since
     ORDER BY b.dateref DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM ledger_balance b
     WHERE b.branch = k.branch AND b.account = k.account AND b.currency = k.currency AND b.dateref >= k.since)
) d
ORDER BY k.n, d.dateref
"""


def read_days(since: dict[AccountRef, date]) -> dict[AccountRef, list[Day]]:
    """For each account its day rows from a date on, preceded by the last row before it."""
    refs = list(since)
    found: dict[AccountRef, list[Day]] = {ref: [] for ref in refs}
    for n, row_id, dateref, debit, credit, accumulated_debit, accumulated_credit in fetch(
        _DAYS, [*_columns(refs, 3), list(since.values())]
    ):
        found[refs[n - 1]].append(
            Day(
                dateref,
                total_debit=debit,
                total_credit=credit,
                accumulated_debit=accumulated_debit,
                accumulated_credit=accumulated_credit,
                row_id=row_id,
            )
        )
    return found


def read_held(refs: Collection[AccountRef]) -> dict[AccountRef, list[tuple[date, Decimal]]]:
    """What is held on each account, by the day since when."""
    found: dict[AccountRef, list[tuple[date, Decimal]]] = {}
    for branch, account, currency, dateref, amount in fetch(
        "SELECT h.branch, h.account, h.currency, h.dateref, sum(h.amount) "
        "FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency) "
        "JOIN ledger_hold h ON h.branch = k.branch AND h.account = k.account AND h.currency = k.currency "
        "WHERE h.status = 'OPEN' GROUP BY 1, 2, 3, 4",
        _columns(refs, 3),
    ):
        found.setdefault(AccountRef(branch, account, currency), []).append((dateref, amount))
    return found


def read_holds(hold_ids: Collection[UUID]) -> dict[UUID, HeldRow]:
    """Holds by id; their accounts are locked."""
    rows = fetch(
        "SELECT id, status, amount, dateref, expiresat FROM ledger_hold WHERE id = ANY(%s::uuid[])", [list(hold_ids)]
    )
    return {row[0]: HeldRow(*row) for row in rows}


# Disjoint sets: a day is either stored (updated by its id) or new (inserted), so every row is touched once.
_WRITE = """
WITH line AS (
    INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
        details, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)
    SELECT k.id, k.branch, k.account, k.currency, k.amount, k.debitcredit, k.eventcode, k.description, k.tracekey,
        k.details::jsonb, k.dateref, %s, k.balanced, k.balanceafter, k.pendingafter, k.dayafter, k.daynet
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[], %s::int[], %s::text[],
        %s::uuid[], %s::text[], %s::date[], %s::bool[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[])
        AS k (id, branch, account, currency, amount, debitcredit, eventcode, description,
              tracekey, details, dateref, balanced, balanceafter, pendingafter, dayafter, daynet)
    RETURNING 1
), account AS (
    UPDATE ledger_account a SET posteddebit = k.posteddebit, postedcredit = k.postedcredit,
        pendingdebit = k.pendingdebit, updatedat = %s
    FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[])
        AS k (id, posteddebit, postedcredit, pendingdebit)
    WHERE a.id = k.id
    RETURNING 1
), stored_day AS (
    UPDATE ledger_balance b SET totaldebit = k.totaldebit, totalcredit = k.totalcredit,
        accumulateddebit = k.accumulateddebit, accumulatedcredit = k.accumulatedcredit,
        updatedtracekey = k.tracekey, updatedat = %s
    FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::uuid[])
        AS k (id, totaldebit, totalcredit, accumulateddebit, accumulatedcredit, tracekey)
    WHERE b.id = k.id
    RETURNING 1
), new_day AS (
    INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
        accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
    SELECT k.*, %s, %s
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::date[], %s::numeric[], %s::numeric[], %s::numeric[],
        %s::numeric[], %s::uuid[], %s::uuid[]) AS k
    RETURNING 1
)
SELECT (SELECT count(*) FROM line), (SELECT count(*) FROM account),
       (SELECT count(*) FROM stored_day), (SELECT count(*) FROM new_day)
"""


def _line_row(line: NewLine) -> tuple[Any, ...]:
    posted = line.posted
    return (
        posted.id,
        *posted.account,
        posted.amount,
        posted.debitcredit,
        posted.eventcode,
        line.description,
        line.tracekey,
        line.details,
        posted.dateref,
        line.balanced,
        posted.balances.posted,
        posted.balances.pending,
        posted.balances.day,
        line.day_net,
    )


def _sums(day: Day) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    return day.total_debit, day.total_credit, day.accumulated_debit, day.accumulated_credit


def write(lines: Sequence[NewLine], books: Sequence[AccountBook], *, now: datetime) -> None:
    """Write a folded batch in one statement. The accounts are locked, so absolute values are right."""
    stored, new = [], []
    for book in books:
        for day in book.changed_days():
            if day.row_id:
                stored.append((day.row_id, *_sums(day), day.tracekey))
            else:
                new.append((uuid7(), *book.ref, day.dateref, *_sums(day), day.created_by, day.tracekey))
    accounts = [(book.id, book.posted_debit, book.posted_credit, book.pending_debit) for book in books]
    parameters = [
        now,
        *_columns(map(_line_row, lines), 16),
        now,
        *_columns(accounts, 4),
        now,
        *_columns(stored, 6),
        now,
        now,
        *_columns(new, 11),
    ]
    written = fetch(_WRITE, parameters)[0]
    if written != (len(lines), len(books), len(stored), len(new)):
        raise RuntimeError(f"The ledger wrote {written} rows: somebody changed accounts or days without their lock.")
