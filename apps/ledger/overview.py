"""Questions of the page of an account: its head, its days, its holds. (Its lines: ``lines.py``.)

Every list is read after a key, backwards through an index, so a page costs the same at the end of a long history. Nothing
here is summed over a history: running balances and days are stored (see ``queries.py``).
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from apps.common.clock import BUSINESS_ZONE
from apps.common.errors import InvalidRequest
from apps.common.pagination import decode_cursor, encode_cursor
from apps.ledger.queries import check_key, no_account
from apps.ledger.rows import fetch
from apps.ledger.rules import AccountRef

DAYS_MAX = 366  # in one answer: a year
HOLDS_MAX = 200  # in one answer
HOLDS_COUNTED_MAX = 1_000  # open holds counted of one account; more are told as "1,000 and more"
HELD_SPANS_MAX = 2_000  # ended holds looked at for what was held on past days
_ZONE = str(BUSINESS_ZONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountHead:
    """An account now. ``waiting``: what of ``posted`` still has to be rolled up. ``closed_until``: the branch's last closed
    day. ``open_holds``: counted up to HOLDS_COUNTED_MAX."""

    account: AccountRef
    description: str
    branch_name: str
    status: Literal["ACTIVE", "FROZEN", "CLOSED"]
    min_balance: Decimal | None
    max_balance: Decimal | None
    deferred: bool
    posted: Decimal
    pending: Decimal
    waiting: Decimal
    open_holds: int
    closed_until: date | None
    created_at: datetime
    updated_at: datetime

    @property
    def available(self) -> Decimal:
        """What can be debited down to zero: posted − pending."""
        return self.posted - self.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRow:
    """A day with postings: what it began with, its sums, what it ended with."""

    dateref: date
    opening: Decimal
    debit: Decimal
    credit: Decimal
    closing: Decimal

    @property
    def net(self) -> Decimal:
        """Credits − debits."""
        return self.credit - self.debit


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """An account over days. ``days``: those with postings, oldest first. ``held``: at the end of which day how much was
    held, from ``held_from`` on (None: nothing is known to have been held)."""

    date_from: date
    date_to: date
    opening: Decimal
    closing: Decimal
    days: tuple[DayRow, ...]
    held: tuple["HeldSpan", ...]
    held_from: date | None

    @property
    def debit(self) -> Decimal:
        """All debits of the period."""
        return sum((day.debit for day in self.days), Decimal("0.00"))

    @property
    def credit(self) -> Decimal:
        """All credits of the period."""
        return sum((day.credit for day in self.days), Decimal("0.00"))


@dataclass(frozen=True, slots=True)
class HeldSpan:
    """So much was held from the end of ``first`` on, and no more at the end of ``until`` (None: it is held still)."""

    first: date
    until: date | None
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountHold:
    """A hold of an account, open or ended. ``posted_amount``: what of it was posted, if it was."""

    id: UUID
    key: str
    status: str
    amount: Decimal
    posted_amount: Decimal | None
    dateref: date
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    tracekey: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldsPage:
    """A page of holds."""

    holds: tuple[AccountHold, ...]
    older: str | None


_HEAD = """
SELECT a.description, b.description, a.status, a.minbalance, a.maxbalance, a.deferred, a.postedcredit - a.posteddebit,
    a.pendingdebit, coalesce(w.amount, 0.00), h.holds, b.closeduntil, a.createdat, a.updatedat
FROM ledger_account a
JOIN ledger_branch b ON b.branch = a.branch
LEFT JOIN LATERAL (
    SELECT sum(CASE d.debitcredit WHEN 'C' THEN d.amount ELSE -d.amount END) AS amount FROM ledger_deferred d
    WHERE a.deferred AND d.branch = a.branch AND d.account = a.account AND d.currency = a.currency
) w ON true
CROSS JOIN LATERAL (SELECT count(*) AS holds FROM (
    SELECT FROM ledger_hold h WHERE h.status = 'OPEN' AND h.branch = a.branch AND h.account = a.account
        AND h.currency = a.currency LIMIT %s) few) h
WHERE a.branch = %s AND a.account = %s AND a.currency = %s
"""


def account_head(account: AccountRef) -> AccountHead:
    """The account now, what of it still waits to be rolled up included. Raises NotFound."""
    check_key(account)
    found = fetch(_HEAD, [HOLDS_COUNTED_MAX, *account])
    if not found:
        raise no_account()
    text, branch, status, floor, ceiling, deferred, posted, pending, waiting, holds, closed, made, changed = found[0]
    return AccountHead(
        account=account,
        description=text,
        branch_name=branch,
        status=status,
        min_balance=floor,
        max_balance=ceiling,
        deferred=deferred,
        posted=posted + waiting,
        pending=pending,
        waiting=waiting,
        open_holds=holds,
        closed_until=closed,
        created_at=made,
        updated_at=changed,
    )


# --- Days ---------------------------------------------------------------------------------------------------------------
_DAYS = """
SELECT dateref, accumulatedcredit - accumulateddebit - totalcredit + totaldebit, totaldebit, totalcredit,
    accumulatedcredit - accumulateddebit
FROM ledger_balance
WHERE branch = %s AND account = %s AND currency = %s AND dateref >= %s AND dateref < %s
ORDER BY dateref DESC LIMIT %s
"""


def account_days(account: AccountRef, *, date_from: date, before: date, limit: int) -> tuple[DayRow, ...]:
    """The days with postings from ``date_from`` to the day before ``before``, newest first. None of an unknown account."""
    check_key(account)
    rows = fetch(_DAYS, [*account, date_from, before, min(limit, DAYS_MAX)])
    return tuple(
        DayRow(dateref=day, opening=opening, debit=debit, credit=credit, closing=closing)
        for day, opening, debit, credit, closing in rows
    )


# What is held is told by days: a hold that began and ended on the same day was never held at the end of one.
_HELD = """
WITH ended AS (
    SELECT dateref, endedat, amount FROM ledger_hold
    WHERE branch = %(branch)s AND account = %(account)s AND currency = %(currency)s AND endedat IS NOT NULL
    ORDER BY endedat DESC LIMIT %(most)s
), spans AS (
    SELECT dateref, NULL::date AS until, amount FROM ledger_hold
    WHERE branch = %(branch)s AND account = %(account)s AND currency = %(currency)s AND status = 'OPEN'
    UNION ALL
    SELECT dateref, (endedat AT TIME ZONE %(zone)s)::date, amount FROM ended
)
SELECT dateref, until, sum(amount), (SELECT count(*) FROM ended), (SELECT min(dateref) FROM ended)
FROM spans WHERE dateref <= %(to)s AND (until IS NULL OR (until > dateref AND until > %(from)s))
GROUP BY dateref, until ORDER BY dateref, until
"""


def account_period(account: AccountRef, *, date_from: date, date_to: date) -> Period:
    """An account from day to day, at most DAYS_MAX days. Raises NotFound, InvalidRequest for a period that is none."""
    if not 0 <= (date_to - date_from).days < DAYS_MAX:
        raise InvalidRequest(f"A period has 1 to {DAYS_MAX} days.", field="to")
    check_key(account)
    found = fetch(_DAYS.replace("dateref < %s", "dateref <= %s"), [*account, date.min, date_to, DAYS_MAX + 1])
    rows = [DayRow(dateref=d, opening=o, debit=db, credit=cr, closing=c) for d, o, db, cr, c in found]
    days = tuple(reversed([row for row in rows if row.dateref >= date_from]))
    zero = Decimal("0.00")
    before = next((row.closing for row in rows if row.dateref < date_from), zero)
    held, held_from = _held(account, date_from=date_from, date_to=date_to)
    return Period(
        date_from=date_from,
        date_to=date_to,
        opening=days[0].opening if days else before,
        closing=rows[0].closing if rows else zero,
        days=days,
        held=held,
        held_from=held_from,
    )


def _held(account: AccountRef, *, date_from: date, date_to: date) -> tuple[tuple[HeldSpan, ...], date | None]:
    values = {"most": HELD_SPANS_MAX, "zone": _ZONE, "from": date_from, "to": date_to, **account._asdict()}
    rows = fetch(_HELD, values)
    spans = tuple(HeldSpan(first, until, amount) for first, until, amount, _, _ in rows)
    if not rows:
        return (), None
    looked_at, oldest = rows[0][3], rows[0][4]
    return spans, oldest if looked_at >= HELD_SPANS_MAX and oldest is not None else date_from


# --- Holds --------------------------------------------------------------------------------------------------------------
_HOLDS = """
SELECT id, key, status, amount, postedamount, dateref, createdat, expiresat, endedat, tracekey FROM ledger_hold
WHERE branch = %(branch)s AND account = %(account)s AND currency = %(currency)s AND {which} LIMIT %(limit)s
"""
_OPEN = "status = 'OPEN' AND (%(id)s::uuid IS NULL OR id < %(id)s) ORDER BY id DESC"
_ENDED = """endedat IS NOT NULL AND (%(ended)s::timestamptz IS NULL OR (endedat, id) < (%(ended)s, %(id)s))
ORDER BY endedat DESC, id DESC"""


def account_holds(account: AccountRef, *, ended: bool, limit: int, cursor: str | None = None) -> HoldsPage:
    """The holds of an account: those that are open, placed last first, or those that have ``ended``, ended last first.

    Raises InvalidRequest for a cursor of another list.
    """
    check_key(account)
    limit = max(1, min(limit, HOLDS_MAX))
    ended_at, hold_id = _hold_position(cursor, ended=ended)
    values = {**account._asdict(), "ended": ended_at, "id": hold_id, "limit": limit + 1}
    rows = fetch(_HOLDS.format(which=_ENDED if ended else _OPEN), values)
    names = (
        *("id", "key", "status", "amount", "posted_amount", "dateref"),
        *("created_at", "expires_at", "ended_at", "tracekey"),
    )
    holds = tuple(AccountHold(**dict(zip(names, row, strict=True))) for row in rows[:limit])
    last = holds[-1] if len(rows) > limit else None
    return HoldsPage(holds=holds, older=_hold_cursor(last) if last else None)


def _hold_cursor(last: AccountHold) -> str:
    return encode_cursor(last.ended_at.isoformat() if last.ended_at else "", str(last.id))


def _hold_position(cursor: str | None, *, ended: bool) -> tuple[datetime | None, UUID | None]:
    if cursor is None:
        return None, None
    moment, hold_id = decode_cursor(cursor, parts=2)
    try:
        at = datetime.fromisoformat(str(moment)) if ended else None
        if at is not None and at.tzinfo is None:
            raise ValueError
        return at, UUID(str(hold_id))
    except ValueError:
        raise InvalidRequest("The cursor was not made by this list.", field="cursor") from None
