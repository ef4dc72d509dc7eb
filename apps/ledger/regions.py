"""What a check looks at: accounts, days and lines, taken into temporary tables from which the rules are proved.

Three ways to take them: what changed since it was last proved; some accounts from their first line; and of one account that
has too many lines the next ones in the order of ``seq``. See Note [Increments] and Note [Pieces].
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from apps.common.arrays import array_text
from apps.ledger.rows import fetch

MAX_SEQ = 2**63 - 1
WEIGHED_AT_ONCE = 20  # accounts; those that are not taken are counted in vain

KEY = "{0}.branch = {1}.branch AND {0}.account = {1}.account AND {0}.currency = {1}.currency"
_XID = "(m.now - ((m.now - {}.xmin::text::bigint) & 4294967295))"
_DAY_OF = KEY.format("b", "a")
_REGION = f"""
CREATE TEMP TABLE ledger_region ON COMMIT DROP AS
SELECT a.id, a.branch::text COLLATE "C" AS branch, a.account, a.currency::text COLLATE "C" AS currency,
    coalesce(p.debit, o.debit, 0.00) AS debit, coalesce(p.credit, o.credit, 0.00) AS credit, coalesce(p.seq, 0) AS seq,
    coalesce(o.seq, 0) AS opened, p.id IS NULL AS whole,
    CASE WHEN p.id IS NULL THEN coalesce(o.dateref + 1, '-infinity'::date)
        -- The days of archived lines are still there, and look changed when numbers of transactions begin anew.
        WHEN d.since IS NOT NULL THEN greatest(d.since, (SELECT max(dateref) + 1 FROM ledger_opening)) END AS since
FROM ledger_account a
CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS now) m
LEFT JOIN ledger_proof p ON p.id = a.id AND p.horizon <= m.now
    -- A month that was sealed since and is away may have lines that the proof does not know, and that nobody can add to it.
    AND NOT ({_XID.format("a")} >= p.horizon AND EXISTS (
        SELECT FROM ledger_closing c WHERE {KEY.format("c", "a")} AND {_XID.format("c")} >= p.horizon
            AND c.month <= (SELECT max(month) FROM ledger_month WHERE state = 'DETACHED')))
LEFT JOIN LATERAL (SELECT g.* FROM ledger_opening g WHERE {KEY.format("g", "a")} AND p.id IS NULL OFFSET 0) o ON true
-- The days that a posting may be dated; all of them when the one before was changed, for lines of a deferred account may
-- have waited for long.
LEFT JOIN LATERAL (
    SELECT CASE WHEN {_XID.format("c")} >= p.horizon THEN '-infinity' ELSE p.windowfrom END AS dateref
    FROM (SELECT p.windowfrom AS dateref) w
    LEFT JOIN LATERAL (SELECT c.xmin FROM ledger_balance c WHERE {KEY.format("c", "a")} AND c.dateref < w.dateref
        ORDER BY c.dateref DESC LIMIT 1) c ON true
) f ON p.id IS NOT NULL
LEFT JOIN LATERAL (
    SELECT min(b.dateref) AS since FROM ledger_balance b
    WHERE {_DAY_OF} AND b.dateref >= f.dateref AND {_XID.format("b")} >= p.horizon OFFSET 0
) d ON p.id IS NOT NULL
WHERE (p.id IS NULL OR {_XID.format("a")} >= p.horizon)
    AND (%(branch)s::text IS NULL OR a.branch = %(branch)s) AND (%(account)s::text IS NULL OR a.account = %(account)s)
    AND (%(currency)s::text IS NULL OR a.currency = %(currency)s)
"""  # noqa: S608 - constants
# Accounts from their first line: ``seq`` and the sums are 0, or what is archived, or how far the pieces before came.
_PIECE = f"""
CREATE TEMP TABLE ledger_region ON COMMIT DROP AS
SELECT a.id, a.branch::text COLLATE "C" AS branch, a.account, a.currency::text COLLATE "C" AS currency,
    coalesce(%(debit)s, o.debit, 0.00) AS debit, coalesce(%(credit)s, o.credit, 0.00) AS credit, %(seq)s::bigint AS seq,
    coalesce(o.seq, 0) AS opened, true AS whole, coalesce(o.dateref + 1, '-infinity'::date) AS since
FROM ledger_account a
LEFT JOIN LATERAL (SELECT g.* FROM ledger_opening g WHERE {KEY.format("g", "a")} OFFSET 0) o ON true
WHERE a.id = ANY(%(ids)s::uuid[])
"""  # noqa: S608
# OFFSET 0 keeps the lateral part as it is: an index scan for each account, however many there are.
_REGION_LINES = """
CREATE TEMP TABLE ledger_region_line ON COMMIT DROP AS
SELECT r.id, t.tracekey, t.dateref, t.seq, t.debitcredit, t.amount, t.balanceafter, t.daynet, t.balanced
FROM ledger_region r CROSS JOIN LATERAL ({lines} OFFSET 0) t
"""
_SINCE = f"SELECT t.* FROM ledger_transaction t WHERE {KEY.format('t', 'r')} AND t.dateref >= r.since"  # noqa: S608
# Of one account: each day's index has its own order of seq, so every day that may have lines is asked for.
_EACH_DAY = f"""
SELECT t.* FROM (SELECT min(dateref) AS first, max(dateref) AS last FROM ledger_transaction t
    WHERE {KEY.format("t", "r")} AND t.dateref >= r.since) span
CROSS JOIN LATERAL generate_series(span.first::timestamp, span.last::timestamp, interval '1 day') AS d (day)
CROSS JOIN LATERAL (SELECT * FROM ledger_transaction t WHERE {KEY.format("t", "r")} AND t.dateref = d.day::date
    AND t.seq > r.seq AND t.seq <= %(until)s OFFSET 0) t
"""  # noqa: S608
LINES = "ledger_region r JOIN ledger_region_line t USING (id)"
DAYS = f"""
ledger_region r CROSS JOIN LATERAL (
    SELECT b.* FROM ledger_balance b WHERE {KEY.format("b", "r")} AND b.dateref >= r.since OFFSET 0
) b
"""  # noqa: S608
# Of accounts that are proved from their first line: their days before it.
ARCHIVED_DAYS = f"""
ledger_region r CROSS JOIN LATERAL (
    SELECT b.* FROM ledger_balance b WHERE {KEY.format("b", "r")} AND r.whole AND b.dateref < r.since OFFSET 0
) b
"""  # noqa: S608
# ``carried``: the day's sums from the pieces before.
_REGION_DAYS = f"""
CREATE TEMP TABLE ledger_region_day ON COMMIT DROP AS
SELECT id, dateref, coalesce(t.lines, 0) AS lines, t.seq, coalesce(t.debit, 0.00) + coalesce(c.debit, 0.00) AS debit,
    coalesce(t.credit, 0.00) + coalesce(c.credit, 0.00) AS credit, coalesce(t.new_debit, 0.00) AS new_debit,
    coalesce(t.new_credit, 0.00) AS new_credit, coalesce(c.credit - c.debit, 0.00) AS carried
FROM (
    SELECT id, t.dateref, count(*) AS lines, max(t.seq) AS seq,
        coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'D'), 0.00) AS debit,
        coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'C'), 0.00) AS credit,
        coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'D' AND t.seq > r.seq), 0.00) AS new_debit,
        coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'C' AND t.seq > r.seq), 0.00) AS new_credit
    FROM {LINES} GROUP BY id, t.dateref
) t FULL JOIN (SELECT r.id, d.* FROM ledger_region r
    CROSS JOIN jsonb_to_recordset(%(days)s::jsonb) AS d (dateref date, debit numeric, credit numeric)) c USING (id, dateref)
"""  # noqa: S608
# Lines of deferred accounts that nobody has rolled up yet.
_REGION_WAITING = f"""
CREATE TEMP TABLE ledger_region_waiting ON COMMIT DROP AS
SELECT w.tracekey, w.dateref, w.balanced FROM ledger_deferred w
WHERE %(waiting)s = 'all' OR %(waiting)s = 'own' AND EXISTS (SELECT FROM ledger_region r WHERE {KEY.format("r", "w")})
"""  # noqa: S608
_SINCE_WHEN = f"""
SELECT coalesce((SELECT g.dateref FROM ledger_opening g WHERE {KEY.format("g", "a")})::text, '')
FROM ledger_account a WHERE a.id = %s
"""  # noqa: S608
SUMS = """
SELECT r.id, r.branch, r.account, r.currency, r.debit + coalesce(sum(d.new_debit), 0) AS debit,
    r.credit + coalesce(sum(d.new_credit), 0) AS credit, greatest(r.seq, r.opened, max(d.seq)) AS seq,
    r.debit - coalesce(sum(d.debit - d.new_debit), 0) AS debit_before,
    r.credit - coalesce(sum(d.credit - d.new_credit), 0) AS credit_before
FROM ledger_region r LEFT JOIN ledger_region_day d USING (id)
GROUP BY r.id, r.branch, r.account, r.currency, r.debit, r.credit, r.seq, r.opened
"""

# How many rows an account has, counted no further than is asked.
_WEIGHED = f"""
SELECT a.id, a.branch, a.account, a.currency, l.count, d.count FROM ({{accounts}}) a
CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT FROM ledger_transaction t WHERE {KEY.format("t", "a")}
    LIMIT %(rows_max)s + 1) l) l
CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT FROM ledger_balance b WHERE {KEY.format("b", "a")}
    LIMIT %(rows_max)s + 1) d) d
"""  # noqa: S608
_NEXT_ACCOUNTS = """
SELECT a.id, a.branch, a.account, a.currency FROM ledger_account a
WHERE (a.branch, a.account, a.currency) > (%(after_branch)s, %(after_account)s, %(after_currency)s)
    AND (%(branch)s::text IS NULL OR a.branch = %(branch)s) AND (%(account)s::text IS NULL OR a.account = %(account)s)
    AND (%(currency)s::text IS NULL OR a.currency = %(currency)s)
ORDER BY a.branch, a.account, a.currency LIMIT %(accounts_max)s
"""
# Those that are known to differ have no proof after any check: they come last, or the others never had their turn.
_UNPROVEN = f"""
SELECT r.* FROM ledger_region r
LEFT JOIN (SELECT DISTINCT branch, account, currency FROM ledger_difference WHERE state <> 'GONE') d
    ON {KEY.format("d", "r")}
WHERE r.whole ORDER BY d.branch IS NOT NULL, r.branch, r.account, r.currency
LIMIT %(accounts_max)s
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Scope:
    """What a check looks at: everything, a branch, or one account."""

    branch: str | None = None
    account: str | None = None
    currency: str | None = None


class Size(NamedTuple):
    """How much a check looked at."""

    accounts: int
    days: int
    lines: int


def find_changed(scope: Scope, *, rows_max: int | None = None) -> Size:
    """Find the accounts and days to prove, and their lines, into temporary tables; the transaction is REPEATABLE READ.

    Of accounts without a proof only so many as have ``rows_max`` rows together: one that has more is left to a full check.
    """
    with connection.cursor() as cursor:
        cursor.execute(_REGION, {"branch": scope.branch, "account": scope.account, "currency": scope.currency})
        cursor.execute("ANALYZE ledger_region")
    if rows_max is not None and fetch("SELECT 1 FROM ledger_region WHERE whole LIMIT 1", []):
        fits = [each.id for each in _fitting(_UNPROVEN, {}, rows_max, larger=False)]
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM ledger_region WHERE whole AND NOT id = ANY(%s::uuid[])", [array_text(fits)])
    _fill(_SINCE, {}, waiting="all")
    return _size()


@dataclass(frozen=True, slots=True)
class Carried:
    """How far an account with too many lines for one piece was proved: the sums of its lines up to ``seq``."""

    account: str  # its id
    key: Sequence[str]
    seq: int
    debit: str
    credit: str
    archived: str  # the last day whose lines are in the archive; empty: none are
    days: list[dict[str, str]]  # dateref, debit, credit


@dataclass(frozen=True, slots=True)
class Weighed:
    """An account, and how many rows it has; counted up to a limit."""

    id: UUID
    key: tuple[str, str, str]
    lines: int
    days: int


def next_accounts(scope: Scope, after: Sequence[str], *, rows_max: int) -> list[Weighed]:
    """The accounts behind this key that have so many rows together; the first one in any case."""
    names = ("branch", "account", "currency")
    values = dict(zip(names, (scope.branch, scope.account, scope.currency), strict=True))
    behind = {f"after_{name}": value for name, value in zip(names, after, strict=True)}
    return _fitting(_NEXT_ACCOUNTS, {**values, **behind}, rows_max, larger=True)


def _fitting(accounts: str, values: dict[str, Any], rows_max: int, *, larger: bool) -> list[Weighed]:
    """The first of these accounts that have so many rows together; one with more by itself is first, or passed over."""
    found: list[Weighed] = []
    rows = 0
    with connection.chunked_cursor() as cursor:
        limits = {"rows_max": rows_max, "accounts_max": rows_max}
        cursor.execute(_WEIGHED.format(accounts=accounts), {**values, **limits})
        while some := cursor.fetchmany(WEIGHED_AT_ONCE):
            for account_id, branch, account, currency, lines, days in some:
                if not larger and 1 + lines + days > rows_max:
                    continue
                rows += 1 + lines + days
                if found and rows > rows_max:
                    return found
                found.append(Weighed(account_id, (branch, account, currency), lines, days))
    return found


def take_accounts(account_ids: Sequence[UUID]) -> Size:
    """Take these accounts from their first line, as ``find_changed`` does what changed."""
    _begin_piece(account_ids, None)
    _fill(_SINCE, {})
    return _size()


def take_lines(account_id: UUID, carried: Carried | None, *, rows_max: int) -> tuple[Size, Carried | None]:
    """Take the next lines of one account, ``rows_max`` at most, in the order of ``seq``; and from where to go on, if any.

    Begins anew when lines of the account came or went with their month since.
    """
    archived = fetch(_SINCE_WHEN, [account_id])[0][0]
    if carried and carried.archived != archived:
        carried = None
    _begin_piece([account_id], carried)
    until = _how_far(carried.seq if carried else 0, rows_max)
    is_last = until == MAX_SEQ
    days = carried.days if carried else []
    _fill(_EACH_DAY, {"until": until}, days=days, waiting="own" if is_last else "none")
    return _size(), None if is_last else _carry(until, archived)


def _how_far(seq: int, rows_max: int) -> int:
    """Up to which number there are so many lines or fewer. Numbers are unique, so there are never more lines than those."""
    lines = f"SELECT FROM ledger_region r CROSS JOIN LATERAL ({_EACH_DAY}) t LIMIT %(most)s"

    def fits(until: int) -> bool:
        counted = fetch(f"SELECT count(*) FROM ({lines}) l", {"until": until, "most": rows_max + 1})  # noqa: S608
        return bool(counted[0][0] <= rows_max)

    if fits(MAX_SEQ):
        return MAX_SEQ
    width = rows_max
    while fits(seq + 2 * width):
        width *= 2
    return seq + width


def _carry(until: int, archived: str) -> Carried:
    sums = f"SELECT id, branch, account, currency, debit, credit FROM ({SUMS}) s"  # noqa: S608 - a constant
    ((account_id, *key, debit, credit),) = fetch(sums, [])
    days = fetch("SELECT dateref, debit, credit FROM ledger_region_day ORDER BY dateref", [])
    texts = [{"dateref": str(day), "debit": str(debits), "credit": str(credits_)} for day, debits, credits_ in days]
    return Carried(str(account_id), key, until, str(debit), str(credit), archived, texts)


def _begin_piece(account_ids: Sequence[UUID], carried: Carried | None) -> None:
    sums = (Decimal(carried.debit), Decimal(carried.credit)) if carried else (None, None)
    ids, seq = array_text(list(account_ids)), carried.seq if carried else 0
    with connection.cursor() as cursor:
        cursor.execute(_PIECE, {"ids": ids, "seq": seq, "debit": sums[0], "credit": sums[1]})
        cursor.execute("ANALYZE ledger_region")


def _fill(lines: str, values: dict[str, Any], *, days: Sequence[dict[str, str]] = (), waiting: str = "own") -> None:
    values = {**values, "days": json.dumps(list(days)), "waiting": waiting}
    with connection.cursor() as cursor:
        cursor.execute(_REGION_LINES.format(lines=lines), values)
        cursor.execute("ANALYZE ledger_region_line")
        cursor.execute(_REGION_DAYS, values)
        cursor.execute(_REGION_WAITING, values)
        cursor.execute("ANALYZE ledger_region_day, ledger_region_waiting")


def _size() -> Size:
    of_days = "SELECT count(*), coalesce(sum(lines), 0) FROM ledger_region_day"
    ((accounts, days, lines),) = fetch(f"SELECT (SELECT count(*) FROM ledger_region), d.* FROM ({of_days}) d", [])  # noqa: S608
    return Size(accounts, days, int(lines))


def proven_afresh() -> set[tuple[str, str, str]]:
    """The accounts of the region that were proved from their first line."""
    return set(fetch("SELECT branch, account, currency FROM ledger_region WHERE whole", []))
