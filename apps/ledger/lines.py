"""Lines of an account, newest first, and whole entries: for whoever looks. Read after a key, backwards through an index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.common.clock import BUSINESS_ZONE
from apps.common.errors import InvalidRequest
from apps.common.pagination import decode_cursor, encode_cursor
from apps.ledger import months_behind
from apps.ledger.queries import TransactionLine, check_key, transactions_by_tracekey
from apps.ledger.rows import fetch
from apps.ledger.rules import AccountRef, Side

LINES_MAX = 200  # of one page of a statement
DAY_LINES_COUNTED_MAX = 1_000  # lines counted of one day; more are told as "1,000 and more"
SEQ_MAX = 2**63 - 1
_ZONE = str(BUSINESS_ZONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """A line of a statement, newest first. ``running``: the balance after it in the statement's order.

    ``posted_on``: the business day on which it was asked for; a line that is dated back has an earlier ``dateref``.
    """

    seq: int
    id: UUID
    dateref: date
    side: Side
    amount: Decimal
    eventcode: int
    event: str
    description: str
    tracekey: UUID
    created_at: datetime
    posted_on: date
    running: Decimal
    reverses: UUID | None
    reversed_by: UUID | None

    @property
    def back_dated(self) -> bool:
        """Was it asked for on a later day than it counts for?"""
        return self.posted_on > self.dateref


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCount:
    """How many lines a day has, and how many of them were added on a later day: counted up to DAY_LINES_COUNTED_MAX."""

    lines: int
    later: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesPage:
    """A page of lines; ``counts`` by the days that stand on it. ``older``: the cursor of the next page.

    ``archived``: on the last page, where the lines are that the period has beside these; empty: it has no others.
    """

    lines: tuple[LedgerLine, ...]
    counts: Mapping[date, DayCount]
    older: str | None
    archived: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """All that one tracekey posted. ``hold_key``: the hold that was posted by it."""

    tracekey: UUID
    lines: tuple[TransactionLine, ...]
    reverses: UUID | None
    reversed_by: UUID | None
    hold_key: str
    events: Mapping[int, str]


# --- Lines --------------------------------------------------------------------------------------------------------------
_LINES = """
SELECT t.seq, t.id, t.dateref, t.debitcredit, t.amount, t.eventcode, coalesce(e.description, ''), t.description, t.tracekey,
    t.createdat, (coalesce(CASE WHEN t.deferred THEN k.createdat END, t.createdat) AT TIME ZONE %(zone)s)::date,
    b.accumulatedcredit - b.accumulateddebit - b.totalcredit + b.totaldebit + t.daynet, k.reverses, r.tracekey
FROM (
    SELECT t.* FROM ledger_transaction t
    WHERE t.branch = %(branch)s AND t.account = %(account)s AND t.currency = %(currency)s
        AND t.dateref BETWEEN %(from)s AND %(to)s AND (t.dateref, t.seq) < (%(day)s, %(seq)s) {wanted}
    ORDER BY t.dateref DESC, t.seq DESC LIMIT %(limit)s
) t
JOIN ledger_balance b ON b.branch = t.branch AND b.account = t.account AND b.currency = t.currency AND b.dateref = t.dateref
LEFT JOIN ledger_event e ON e.code = t.eventcode
LEFT JOIN ledger_posting_key k ON k.tracekey = t.tracekey
LEFT JOIN ledger_posting_key r ON r.reverses = t.tracekey
ORDER BY t.dateref DESC, t.seq DESC
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesWanted:
    """Which lines of an account: of which days, and those that meet what else is given. ``text``: a description's begin."""

    date_from: date
    date_to: date
    side: Side | None = None
    amount: Decimal | None = None
    tracekey: UUID | None = None
    text: str = ""


def account_lines(account: AccountRef, wanted: LinesWanted, *, cursor: str | None = None, limit: int = 50) -> LinesPage:
    """The lines of a period, newest first: by the day they count for, then by insertion. None of an unknown account.

    Raises InvalidRequest for a cursor of another list.
    """
    check_key(account)
    limit = max(1, min(limit, LINES_MAX))
    day, seq = _position(cursor) if cursor else (wanted.date_to, SEQ_MAX)
    values: dict[str, Any] = {
        **account._asdict(),
        "zone": _ZONE,
        "from": wanted.date_from,
        "to": wanted.date_to,
        "day": day,
        "seq": seq,
        "limit": limit + 1,
    }
    rows = fetch(_LINES.format(wanted=_wanted(wanted, values)), values)
    lines = tuple(_line(row) for row in rows[:limit])
    last = lines[-1] if len(rows) > limit else None
    return LinesPage(
        lines=lines,
        counts=_counts(account, sorted({line.dateref for line in lines})),
        older=encode_cursor(last.dateref.isoformat(), last.seq) if last else None,
        archived="" if last else _archived(account, wanted),
    )


def _archived(account: AccountRef, wanted: LinesWanted) -> str:
    """Where the lines of this period are that are not in the table any more."""
    try:
        months_behind.check_period(account, date_from=wanted.date_from, date_to=wanted.date_to)
    except months_behind.MonthArchived as elsewhere:
        return elsewhere.detail
    return ""


def _wanted(wanted: LinesWanted, values: dict[str, Any]) -> str:
    """The conditions that were given; their values go into ``values``."""
    parts = {
        "side": (wanted.side, "AND t.debitcredit = %(side)s"),
        "amount": (wanted.amount, "AND t.amount = %(amount)s"),
        "tracekey": (wanted.tracekey, "AND t.tracekey = %(tracekey)s"),
        "text": (wanted.text or None, "AND starts_with(lower(t.description), lower(%(text)s))"),
    }
    values |= {name: value for name, (value, _) in parts.items() if value is not None}
    return " ".join(sql for value, sql in parts.values() if value is not None)


def _line(row: tuple[Any, ...]) -> LedgerLine:
    seq, line_id, day, side, amount, code, event, text, tracekey, made, posted_on, running, reverses, reversed_by = row
    return LedgerLine(
        seq=seq,
        id=line_id,
        dateref=day,
        side=side,
        amount=amount,
        eventcode=code,
        event=event,
        description=text,
        tracekey=tracekey,
        created_at=made,
        posted_on=posted_on,
        running=running,
        reverses=reverses,
        reversed_by=reversed_by,
    )


def _position(cursor: str) -> tuple[date, int]:
    day, seq = decode_cursor(cursor, parts=2)
    try:
        if not isinstance(seq, int) or seq < 0:
            raise ValueError
        return date.fromisoformat(str(day)), seq
    except ValueError:
        raise InvalidRequest("The cursor was not made by this list.", field="cursor") from None


# A line of a deferred account is written anew when it is rolled up, perhaps after midnight. Its key is from when it was
# asked for, and is looked up only then.
_COUNTS = """
SELECT d.day, n.lines, n.later FROM unnest(%(days)s::date[]) AS d (day)
CROSS JOIN LATERAL (
    SELECT count(*) AS lines, count(*) FILTER (WHERE few.later) AS later FROM (
        SELECT (t.createdat AT TIME ZONE %(zone)s)::date > t.dateref AND NOT (t.deferred AND EXISTS (
            SELECT FROM ledger_posting_key k
            WHERE k.tracekey = t.tracekey AND (k.createdat AT TIME ZONE %(zone)s)::date <= t.dateref)) AS later
        FROM ledger_transaction t
        WHERE t.branch = %(branch)s AND t.account = %(account)s AND t.currency = %(currency)s AND t.dateref = d.day
        LIMIT %(limit)s
    ) few
) n
"""


def _counts(account: AccountRef, days: Sequence[date]) -> dict[date, DayCount]:
    if not days:
        return {}
    values = {**account._asdict(), "days": list(days), "zone": _ZONE, "limit": DAY_LINES_COUNTED_MAX}
    rows = fetch(_COUNTS, values)
    return {day: DayCount(lines=lines, later=later) for day, lines, later in rows}


# --- Entries ------------------------------------------------------------------------------------------------------------
_ENTRY = """
SELECT k.reverses, (SELECT r.tracekey FROM ledger_posting_key r WHERE r.reverses = k.tracekey),
    coalesce((SELECT h.key FROM ledger_hold h WHERE h.tracekey = k.tracekey), '')
FROM ledger_posting_key k WHERE k.tracekey = %s
"""


def entry(tracekey: UUID) -> EntryView | None:
    """All that was posted under a tracekey, and what took it back; None when nothing was posted. Raises MonthArchived."""
    lines = transactions_by_tracekey(tracekey)
    if not lines:
        if archived := months_behind.archived_entries([tracekey]).get(tracekey):
            raise archived
        return None
    reverses, reversed_by, hold_key = (fetch(_ENTRY, [tracekey]) or [(None, None, "")])[0]
    codes = sorted({line.eventcode for line in lines})
    events = dict(fetch("SELECT code, description FROM ledger_event WHERE code = ANY(%s)", [codes]))
    return EntryView(
        tracekey=tracekey, lines=lines, reverses=reverses, reversed_by=reversed_by, hold_key=hold_key, events=events
    )
