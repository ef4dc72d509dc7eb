"""Questions: balances now and on a day, statements, lines. Each is one statement, so its parts fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from apps.common.errors import InvalidRequest, NotFound
from apps.common.pagination import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, decode_cursor, encode_cursor
from apps.ledger import months_behind
from apps.ledger.keys import posted_lines
from apps.ledger.models import Deferred, Hold, Refusal, Transaction
from apps.ledger.rows import fetch
from apps.ledger.rules import AccountRef, Balances, PostedLine, Side


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """An account now. ``available`` = posted − pending; the account refuses debits that bring it below ``min_balance``."""

    account: AccountRef
    status: Literal["ACTIVE", "FROZEN", "CLOSED"]
    min_balance: Decimal | None
    posted: Decimal
    pending: Decimal
    available: Decimal
    max_balance: Decimal | None = None


@dataclass(frozen=True, slots=True)
class DayBalance:
    """An account at the end of a day: the day's own totals, and the accumulated sums of all days up to it."""

    account: AccountRef
    dateref: date
    balance: Decimal
    total_debit: Decimal
    total_credit: Decimal
    accumulated_debit: Decimal
    accumulated_credit: Decimal


@dataclass(frozen=True, slots=True)
class TransactionLine:
    """A posted line. ``balances``: right after it was written; None while it waits to be rolled up."""

    id: UUID
    account: AccountRef
    amount: Decimal
    debitcredit: Side
    eventcode: int
    description: str
    tracekey: UUID
    details: Mapping[str, Any] | None
    dateref: date
    created_at: datetime
    balances: Balances | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    """A hold as it is now: OPEN, POSTED, VOIDED or EXPIRED. ``account`` None: it was voided before it was placed."""

    key: str
    status: str
    account: AccountRef | None
    amount: Decimal | None
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A line of a statement; ``running``: the balance after it, in the statement's order (dateref, then insertion)."""

    id: UUID
    dateref: date
    debitcredit: Side
    amount: Decimal
    eventcode: int
    description: str
    tracekey: UUID
    created_at: datetime
    running: Decimal


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of a statement. ``opening`` and ``closing`` are those of the whole period, on every page."""

    account: AccountRef
    date_from: date
    date_to: date
    opening: Decimal
    closing: Decimal
    lines: tuple[StatementLine, ...]
    next_cursor: str | None


# In one statement, so that no line is seen twice, or not at all, while it is rolled up.
_BALANCE = """
SELECT a.status, a.minbalance, a.maxbalance, a.postedcredit - a.posteddebit + coalesce(w.waiting, 0.00), a.pendingdebit
FROM ledger_account a
LEFT JOIN LATERAL (
    SELECT sum(CASE d.debitcredit WHEN 'C' THEN d.amount ELSE -d.amount END) AS waiting FROM ledger_deferred d
    WHERE a.deferred AND d.branch = a.branch AND d.account = a.account AND d.currency = a.currency
) w ON true
WHERE a.branch = %s AND a.account = %s AND a.currency = %s
"""


def balance(account: AccountRef) -> AccountBalance:
    """The account now; what of it still waits to be rolled up included. Raises NotFound."""
    check_key(account)
    found = fetch(_BALANCE, list(account))
    if not found:
        raise no_account()
    status, min_balance, max_balance, posted, pending = found[0]
    return AccountBalance(
        account=account,
        status=status,
        min_balance=min_balance,
        posted=posted,
        pending=pending,
        available=posted - pending,
        max_balance=max_balance,
    )


def check_key(account: AccountRef) -> None:
    """Raises NotFound for a key that no account can have."""
    # A NUL reaches here from a URL, and PostgreSQL refuses it with an error of its own.
    if any("\x00" in part for part in account):
        raise no_account()


def no_account() -> NotFound:
    """The refusal of whoever asks for an account that is not there."""
    return NotFound("There is no such ledger account.", field="account")


_DAY = """
SELECT b.dateref, b.totaldebit, b.totalcredit, b.accumulateddebit, b.accumulatedcredit
FROM ledger_account a
LEFT JOIN LATERAL (
    SELECT * FROM ledger_balance b
    WHERE b.branch = a.branch AND b.account = a.account AND b.currency = a.currency AND b.dateref <= %s
    ORDER BY b.dateref DESC LIMIT 1
) b ON true
WHERE a.branch = %s AND a.account = %s AND a.currency = %s
"""


def balance_on(account: AccountRef, day: date) -> DayBalance:
    """The account at the end of ``day``; back-dated lines included, holds not. Raises NotFound."""
    check_key(account)
    found = fetch(_DAY, [day, *account])
    if not found:
        raise no_account()
    dateref, debit, credit, accumulated_debit, accumulated_credit = found[0]
    zero = Decimal("0.00")
    accumulated_debit, accumulated_credit = accumulated_debit or zero, accumulated_credit or zero
    return DayBalance(
        account=account,
        dateref=day,
        balance=accumulated_credit - accumulated_debit,
        total_debit=debit if dateref == day else zero,
        total_credit=credit if dateref == day else zero,
        accumulated_debit=accumulated_debit,
        accumulated_credit=accumulated_credit,
    )


# A line's running balance is stored in two parts that never have to be rewritten together: what its day opened with (the
# day row, which back-dated lines shift) and the day's own net up to the line. So no page sums what came before it.
_STATEMENT = """
WITH account AS (
    SELECT branch, account, currency FROM ledger_account WHERE branch = %(branch)s AND account = %(account)s
        AND currency = %(currency)s
), opening AS (
    SELECT b.accumulatedcredit - b.accumulateddebit AS amount FROM ledger_balance b NATURAL JOIN account
    WHERE b.dateref < %(from)s ORDER BY b.dateref DESC LIMIT 1
), closing AS (
    SELECT b.accumulatedcredit - b.accumulateddebit AS amount FROM ledger_balance b NATURAL JOIN account
    WHERE b.dateref <= %(to)s ORDER BY b.dateref DESC LIMIT 1
), page AS (
    SELECT t.*, b.accumulatedcredit - b.accumulateddebit - b.totalcredit + b.totaldebit + t.daynet AS running
    FROM (
        SELECT t.* FROM ledger_transaction t NATURAL JOIN account
        WHERE t.dateref BETWEEN %(from)s AND %(to)s AND (t.dateref, t.seq) > (%(after_date)s, %(after_seq)s)
        ORDER BY t.dateref, t.seq LIMIT %(limit)s
    ) t
    JOIN ledger_balance b ON b.branch = t.branch AND b.account = t.account AND b.currency = t.currency
        AND b.dateref = t.dateref
)
SELECT coalesce((SELECT amount FROM opening), 0.00), coalesce((SELECT amount FROM closing), 0.00), page.seq, page.id,
    page.dateref, page.debitcredit, page.amount, page.eventcode, page.description, page.tracekey, page.createdat,
    page.running
FROM account LEFT JOIN page ON true
ORDER BY page.dateref, page.seq
"""


def statement(
    account: AccountRef, *, date_from: date, date_to: date, cursor: str | None = None, limit: int = PAGE_ROWS_DEFAULT
) -> Statement:
    """The lines of a period, oldest first, with the running balance after each.

    Raises NotFound, InvalidRequest for a period that ends before it begins or a cursor of another list, and MonthArchived
    when some of its lines are in the archive.
    """
    if date_to < date_from:
        raise InvalidRequest("The period ends before it begins.", field="to")
    check_key(account)
    limit = max(1, min(limit, PAGE_ROWS_MAX))
    after_date, after_seq = _position(cursor) if cursor else (date_from, 0)
    found = fetch(
        _STATEMENT,
        {
            "branch": account.branch,
            "account": account.account,
            "currency": account.currency,
            "from": date_from,
            "to": date_to,
            "after_date": after_date,
            "after_seq": after_seq,
            "limit": limit + 1,
        },
    )
    if not found:
        raise no_account()
    months_behind.check_period(account, date_from=date_from, date_to=date_to)
    rows = [row for row in found if row[2] is not None]
    last = rows[limit - 1] if len(rows) > limit else None
    return Statement(
        account=account,
        date_from=date_from,
        date_to=date_to,
        opening=found[0][0],
        closing=found[0][1],
        lines=tuple(StatementLine(*row[3:]) for row in rows[:limit]),
        next_cursor=encode_cursor(last[4].isoformat(), last[2]) if last else None,
    )


def _position(cursor: str) -> tuple[date, int]:
    day, seq = decode_cursor(cursor, parts=2)
    try:
        if not isinstance(seq, int) or not 0 <= seq < 2**63:
            raise ValueError
        return date.fromisoformat(str(day)), seq
    except ValueError:
        raise InvalidRequest("The cursor was not made by this list.", field="cursor") from None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tracekey: its lines as they were answered, or why the queue refused it the last time.

    UNKNOWN: it changed nothing so far. It waits in the queue, was refused over HTTP, or nobody ever asked for it. POSTED
    without lines: they are in the archive, and code and detail say so.
    """

    tracekey: UUID
    result: Literal["POSTED", "REFUSED", "UNKNOWN"]
    lines: tuple[PostedLine, ...] = ()
    replayed: bool = False
    code: str = ""
    detail: str = ""
    field: str = ""
    retryable: bool = False


def outcomes(tracekeys: Sequence[UUID]) -> tuple[Outcome, ...]:
    """What became of each of these tracekeys, in order. A posting outweighs a refusal."""
    # Refusals first: what is posted between the two statements is seen by the second one.
    refusals = {row.tracekey: row for row in Refusal.objects.filter(tracekey__in=tracekeys)}
    lines = posted_lines(tracekeys)
    archived = months_behind.archived_entries([tracekey for tracekey in tracekeys if tracekey not in lines])
    return tuple(
        Outcome(tracekey, "POSTED", replayed=True, code=found.code, detail=found.detail)
        if (found := archived.get(tracekey))
        else _outcome(tracekey, lines.get(tracekey), refusals.get(tracekey))
        for tracekey in tracekeys
    )


def _outcome(tracekey: UUID, lines: list[PostedLine] | None, refusal: Refusal | None) -> Outcome:
    if lines:
        return Outcome(tracekey, "POSTED", lines=tuple(lines), replayed=True)
    if refusal is None:
        return Outcome(tracekey, "UNKNOWN")
    return Outcome(
        tracekey,
        "REFUSED",
        code=refusal.code,
        detail=refusal.reason,
        field=refusal.field,
        retryable=refusal.retryable,
    )


def transactions_by_tracekey(tracekey: UUID) -> tuple[TransactionLine, ...]:
    """All lines of an entry, in order; none when nothing was posted under this tracekey. Raises MonthArchived."""
    # What waits first: what is rolled up between the two statements is seen by the second one.
    waiting = {row.id: _line(row) for row in Deferred.objects.filter(tracekey=tracekey)}
    lines = {row.id: _line(row) for row in Transaction.objects.filter(tracekey=tracekey)}
    if not (waiting or lines) and (archived := months_behind.archived_entries([tracekey])):
        raise archived[tracekey]
    return tuple(line for _, line in sorted({**waiting, **lines}.items()))


def hold_by_key(key: str) -> HoldView | None:
    """The hold with this key."""
    row = Hold.objects.filter(key=key).first()
    if row is None:
        return None
    account = None
    if row.branch is not None and row.account is not None and row.currency is not None:
        account = AccountRef(row.branch, row.account, row.currency)
    return HoldView(
        key=row.key,
        status=row.status,
        account=account,
        amount=row.amount,
        created_at=row.created_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
    )


def transaction_by_id(line_id: UUID) -> TransactionLine | None:
    """One line."""
    waiting = Deferred.objects.filter(id=line_id).first()
    row = Transaction.objects.filter(id=line_id).first() or waiting
    return _line(row) if row else None


def _line(row: Transaction | Deferred) -> TransactionLine:
    balances = None
    if isinstance(row, Transaction):
        posted, pending = row.balance_after, row.pending_after
        balances = Balances(posted=posted, pending=pending, available=posted - pending, day=row.day_after)
    return TransactionLine(
        id=row.id,
        account=AccountRef(row.branch, row.account, row.currency),
        amount=row.amount,
        debitcredit="D" if row.debit_credit == "D" else "C",
        eventcode=row.event_code,
        description=row.description,
        tracekey=row.tracekey,
        details=row.details,
        dateref=row.dateref,
        created_at=row.created_at,
        balances=balances,
    )
