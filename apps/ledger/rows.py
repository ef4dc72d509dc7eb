"""Every statement of the engine: arrays in, rows out. How many statements run never depends on how many lines there are.

Note [Fences]
    One statement is one snapshot: a lock that a statement waits for does not refresh what that statement reads. So the
    engine takes its locks in one statement and reads in a later one, whose snapshot contains all that the former owners
    of the locks committed. Three fences, always taken in this order:
    1. tracekeys: inserting into posting_key waits for whoever posts the same key right now;
    2. accounts: FOR NO KEY UPDATE in key order. Every change of an account, its day rows, its lines and its holds is made
       by an owner of this lock; whoever writes one of them without it breaks balances for good;
    3. nothing else: holds are fenced by their account.

Note [Convoy]
    Large batches share most of their accounts, so whoever comes second waits at one of its first. Every row that the first
    one then changed has to be looked at again by a lock statement whose snapshot is older: that took longer than the locks.
    So a few of the first accounts are locked by a statement of their own, which does the waiting, and the one for all of
    them begins with a new snapshot. Both lock in key order.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from apps.common import prepared
from apps.common.arrays import array_text
from apps.common.meanwhile import Work, copy_in
from apps.ledger.balances import DEFERRED_SUM_MAX, AccountBook, StoredDay
from apps.ledger.commands import EventRule, HeldRow, Suspended
from apps.ledger.rules import AccountRef

CONVOY_ACCOUNTS_MIN = 100  # batches of fewer accounts seldom share them
CONVOY_HEAD = 8  # two batches with half of all accounts each nearly always share one of their first eight
# From so many rows on COPY is faster than INSERT, whose one round trip less counts for small batches.
COPY_ROWS_MIN = 100


def fetch(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement and give its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def fetch_hot(sql: str, parameters: Sequence[Any], *, work: Work | None = None) -> list[tuple[Any, ...]]:
    """As ``fetch``, for the engine's own statements: planned once on each connection, which is most of a small batch."""
    found: list[tuple[Any, ...]] = prepared.execute(sql, parameters, work=work).fetchall()
    return found


def fetch_all(*statements: tuple[str, Sequence[Any]]) -> list[list[tuple[Any, ...]]]:
    """Run statements one after the other, without waiting for one's answer before the next is sent. Nobody counts them."""
    return prepared.fetch_each(*statements, told=False)


def copy_rows(statement: str, blocks: Iterable[str | bytes], *, work: Work | None = None) -> None:
    """COPY rows in its own format already, in blocks, within a transaction that has begun.

    They are sent as they are made, so the server works meanwhile; ``work`` is done while it has enough.
    """
    with connection.wrap_database_errors:
        copy_in(connection.connection.pgconn, statement, blocks, work or Work())


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[str]:
    """Rows to columns: the arrays of an unnest."""
    return [array_text(column) for column in zip(*rows, strict=True)] or ["{}"] * width


# The lateral part, which OFFSET 0 keeps as it is, makes the plan an index scan for each key however large the table grows.
DAYS = """
SELECT k.n, d.id::text, d.dateref, d.totaldebit, d.totalcredit
FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[]) WITH ORDINALITY AS k (branch, account, currency, since, n)
CROSS JOIN LATERAL (
    SELECT b.id, b.dateref, b.totaldebit, b.totalcredit FROM ledger_balance b
    WHERE b.branch = k.branch AND b.account = k.account AND b.currency = k.currency AND b.dateref >= k.since
    ORDER BY b.dateref OFFSET 0
) d
"""


LOCK = """
SELECT a.id, a.branch, a.account, a.currency, a.status, a.minbalance, a.maxbalance, a.posteddebit, a.postedcredit,
    a.pendingdebit, k.n
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS k (branch, account, currency, n)
JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
WHERE NOT a.deferred
ORDER BY a.branch, a.account, a.currency
FOR NO KEY UPDATE OF a
"""
EVENTS = "SELECT code, active, allowdebit, allowcredit FROM ledger_event WHERE code = ANY(%s::int[])"
# Closed days and suspensions are read behind the accounts' locks: see Note [Suspended] in suspensions.py.
# Not those that ended by themselves: nobody lifts them, and they would be read, and locked, for ever.
_SUSPENDED = (
    "SELECT id, branch, account, currency, mode, until FROM ledger_suspension "
    "WHERE liftedat IS NULL AND until > %s FOR KEY SHARE"
)
# Of a row with an account's key, for those who choose what to do next.
NOT_SUSPENDED = """NOT EXISTS (
    SELECT FROM ledger_suspension s WHERE s.liftedat IS NULL AND s.until > %s AND (s.branch IS NULL OR s.branch = {0}.branch
        AND (s.account IS NULL OR s.account = {0}.account AND s.currency = {0}.currency)))"""
CLOSED = f"""
SELECT closeduntil, NULL::uuid, branch, NULL, NULL, NULL, NULL::timestamptz
FROM ledger_branch WHERE branch = ANY(%s::text[]) AND closeduntil IS NOT NULL
UNION ALL SELECT NULL, s.* FROM ({_SUSPENDED}) s
"""  # noqa: S608 - a constant

HELD = "SELECT id, status, amount, dateref, expiresat FROM ledger_hold WHERE id = ANY(%s::uuid[])"


class Accounts(NamedTuple):
    """Locked accounts, and the suspensions there are."""

    books: dict[AccountRef, AccountBook]
    suspended: list[Suspended]


def lock_accounts(refs: Collection[AccountRef], *, now: datetime) -> Accounts:
    """Lock accounts in key order and read their totals. See Note [Fences], 2.

    Unknown ones are missing in the answer, and deferred ones, which are chosen to be so when they are opened.
    """
    return _lock(LOCK, refs, now)


def _lock(statement: str, refs: Collection[AccountRef], now: datetime) -> Accounts:
    locked, suspended = fetch_all((statement, columns(refs, 3)), (_SUSPENDED, [now]))
    return Accounts(_books(locked), [Suspended(*row) for row in suspended])


def closed_and_suspended(rows: Iterable[tuple[Any, ...]]) -> tuple[dict[str, int], list[Suspended]]:
    closed, suspended = {}, []
    for day, *row in rows:
        if day is not None:
            closed[row[1]] = day.toordinal()
        else:
            suspended.append(Suspended(*row))
    return closed, suspended


def _books(rows: Iterable[tuple[Any, ...]]) -> dict[AccountRef, AccountBook]:
    books = {}
    for row_id, branch, account, currency, *rest, _ in rows:
        ref = AccountRef(branch, account, currency)
        books[ref] = AccountBook(row_id, ref, *rest)
    return books


class Locked(NamedTuple):
    """What a batch reads behind its locks."""

    books: dict[AccountRef, AccountBook]
    days: dict[AccountRef, list[StoredDay]]
    events: dict[int, EventRule]
    closed: dict[str, int]  # branch to the ordinal of its last closed day
    suspended: list[Suspended]
    holds: dict[UUID, HeldRow]


def lock_and_read(
    since: Mapping[AccountRef, date], codes: Collection[int], holds: Sequence[UUID] = (), *, now: datetime
) -> Locked:
    """Lock accounts, then read their day rows from a date on, their branches' closed days, events, and their holds.

    The statements are sent together and run one after the other, each with a snapshot of its own: the later ones see what
    the former owners of the locks committed.
    """
    refs = list(since)
    keys = columns(refs, 3)
    branches = array_text(list({ref.branch for ref in refs}))
    # See Note [Convoy].
    head = [(LOCK, columns(nsmallest(CONVOY_HEAD, refs), 3))] if len(refs) >= CONVOY_ACCOUNTS_MIN else []
    found = fetch_all(
        *head,
        (LOCK, keys),
        (DAYS, [*keys, array_text(list(since.values()))]),
        (EVENTS, [array_text(list(codes))]),
        (CLOSED, [branches, now]),
        *([(HELD, [array_text(list(holds))])] if holds else []),
    )
    held = found.pop() if holds else []
    *_, locked, days, events, closed = found
    rules = {code: EventRule(*rule) for code, *rule in events}
    by_id = {row[0]: HeldRow(*row) for row in held}
    return Locked(_books(locked), _days_of(refs, days), rules, *closed_and_suspended(closed), by_id)


def lock_deferred(refs: Collection[AccountRef], *, now: datetime) -> Accounts:
    """Lock deferred accounts for a roll-up, in key order."""
    return _lock(LOCK.replace("NOT a.deferred", "a.deferred"), refs, now)


class DeferredAccounts(NamedTuple):
    """What a batch reads of accounts it does not lock."""

    statuses: dict[AccountRef, str]
    closed: dict[str, int]
    suspended: list[Suspended]


def read_deferred(refs: Collection[AccountRef], *, now: datetime) -> DeferredAccounts:
    """Those of these accounts that are deferred, with their status (or FULL), and the closed days of their branches.

    Behind a shared lock of each branch, so that nobody closes a day while lines for it are on their way to the work table.
    Taken after the accounts' locks, as by who closes a day.
    """
    branches = sorted({ref.branch for ref in refs})
    _, statuses, closed = fetch_all(
        (
            "SELECT pg_advisory_xact_lock_shared(hashtext('ledger.deferred'), hashtext(b)) FROM unnest(%s::text[]) b",
            [array_text(branches)],
        ),
        (
            "SELECT a.branch, a.account, a.currency, "
            "CASE WHEN a.status = 'ACTIVE' AND greatest(a.posteddebit, a.postedcredit) > %s THEN 'FULL' ELSE a.status END "
            "FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency) JOIN ledger_account a "
            "ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency WHERE a.deferred",
            [DEFERRED_SUM_MAX, *columns(refs, 3)],
        ),
        (CLOSED, [array_text(branches), now]),
    )
    found = {AccountRef(branch, account, currency): status for branch, account, currency, status in statuses}
    return DeferredAccounts(found, *closed_and_suspended(closed))


def stop_deferred(branch: str) -> None:
    """Wait for who is posting to the branch's deferred accounts, and keep others out until the commit."""
    fetch("SELECT pg_advisory_xact_lock(hashtext('ledger.deferred'), hashtext(%s))", [branch])


def has_deferred(ref: AccountRef) -> bool:
    """Do lines of this account wait to be rolled up?"""
    sql = "SELECT 1 FROM ledger_deferred WHERE branch = %s AND account = %s AND currency = %s LIMIT 1"
    return bool(fetch(sql, list(ref)))


def share_branch(branch: str) -> bool:
    """Keep a branch from having its day closed until the commit. Is there such a branch?"""
    return bool(fetch("SELECT 1 FROM ledger_branch WHERE branch = %s FOR SHARE", [branch]))


def lock_branch(branch: str) -> None:
    """Lock all accounts of a branch, in key order."""
    fetch(
        "SELECT count(*) FROM (SELECT 1 FROM ledger_account WHERE branch = %s ORDER BY branch, account, currency "
        "FOR NO KEY UPDATE) locked",
        [branch],
    )


_OPEN_MISSING = """
INSERT INTO ledger_account (id, branch, account, currency, description, status, minbalance, posteddebit, postedcredit,
    pendingdebit, createdat, updatedat)
SELECT gen_random_uuid(), k.branch, k.account, k.currency, '', 'ACTIVE', 0, 0, 0, 0, %s, %s
FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency)
JOIN ledger_branch b ON b.branch = k.branch JOIN ledger_currency c ON c.code = k.currency AND c.active
WHERE NOT EXISTS (
    SELECT FROM ledger_account a WHERE a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
)
ORDER BY k.branch, k.account, k.currency
FOR SHARE OF b
ON CONFLICT DO NOTHING
"""


def open_missing(refs: Collection[AccountRef], *, now: datetime) -> list[AccountRef]:
    """Open those of these accounts that are not there, in branches and currencies that are. Which?

    Whoever wants to open the same one waits here for our end: then it is there, or is opened after all. And we wait here
    for whoever closes a day of the branch, who locks the accounts that are there: none may appear beside them.
    """
    opened = fetch(_OPEN_MISSING + " RETURNING branch, account, currency", [now, now, *columns(refs, 3)])
    return [AccountRef(*row) for row in opened]


def forget_opened(refs: Collection[AccountRef]) -> None:
    """Delete accounts that this transaction has opened, because nothing was posted to them."""
    fetch(
        "DELETE FROM ledger_account a USING unnest(%s::text[], %s::text[], %s::text[]) AS k (branch, account, currency) "
        "WHERE a.branch = k.branch AND a.account = k.account AND a.currency = k.currency RETURNING 1",
        columns(refs, 3),
    )


def read_days(since: Mapping[AccountRef, date]) -> dict[AccountRef, list[StoredDay]]:
    """For each account its day rows from a date on, oldest first."""
    values = [(*ref, day) for ref, day in since.items()]
    return _days_of(list(since), fetch(DAYS, columns(values, 4)))


def _days_of(refs: Sequence[AccountRef], days: Iterable[tuple[Any, ...]]) -> dict[AccountRef, list[StoredDay]]:
    found: dict[AccountRef, list[StoredDay]] = {ref: [] for ref in refs}
    for n, row_id, dateref, debit, credit in days:
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
