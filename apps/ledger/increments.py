"""Proves what changed since the last check, from what that check proved. The rules are those of reconciliation.py.

Note [Increments]
    A check leaves a proof of every account in which nothing differed: the sums of its lines, the ``seq`` of the last of
    them, and a horizon. The next check proves what changed after it. Three questions, and why the answers are sound:

    What changed? PostgreSQL writes into each version of a row which transaction made it (``xmin``), so nothing is added to
    a posting's work. The horizon is the oldest transaction that the check's snapshot did not see the end of. Whatever the
    snapshot did not contain has a number from the horizon on, the numbers of savepoints included, because they are higher
    than their transaction's. (``pg_visible_in_snapshot`` would miss those.) An account was changed when its row was, for
    every posting and every hold changes it. Its days were changed when their rows were, and each later day is looked at
    with them. Too much may be found, never too little: ``xmin`` has 32 bits, and what is taken for a younger
    transaction is proved once more. Numbers of another server mean nothing: then no proof is used (``Check.cluster``).

    What may be taken for proven? The sums of lines up to the proof's ``seq``. Lines are never changed, and those of an
    account get their ``seq`` in the order of its lock, hence of their commits: everything above ``seq`` is new, and
    everything new is above. (That holds for one account. Over all accounts a lower ``seq`` may commit later, which is
    why no check goes by a single highest number.) Where something differs the proof is deleted, so that the next check
    proves the account from its first line.

    What would escape? New lines are looked for on changed days, but their sum has to lead from the proof to the account's
    own sums, so a line without its day is a difference, too. What was changed behind the engine's back on days
    and accounts that nobody posted to is found by the full check alone; so is a tracekey without lines.

    Lines that were archived: ``ledger_opening`` says for an account what its lines up to a day came to, and their last
    ``seq``. A proof from the first line begins there. The days before it have no lines any more: they are proved from each
    other, and from what each month came to when it was sealed. A proof that is older than such a seal is not used: lines
    may have come after it and gone before this check. A younger one knows every line of the month.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from django.db import connection

from apps.ledger.rows import columns, fetch
from apps.ledger.rules import BACKDATE_DAYS_MAX

# Days before a check's own that postings after it may speak of: the window, and a clock's difference around midnight.
WINDOW = timedelta(days=BACKDATE_DAYS_MAX + 1)

_KEY = "{0}.branch = {1}.branch AND {0}.account = {1}.account AND {0}.currency = {1}.currency"
_XID = "(m.now - ((m.now - {}.xmin::text::bigint) & 4294967295))"
_DAY_OF = _KEY.format("b", "a")
_REGION = f"""
CREATE TEMP TABLE ledger_region ON COMMIT DROP AS
SELECT a.id, a.branch::text COLLATE "C" AS branch, a.account, a.currency::text COLLATE "C" AS currency,
    coalesce(p.debit, o.debit + o.later_debit, 0.00) AS debit,
    coalesce(p.credit, o.credit + o.later_credit, 0.00) AS credit, coalesce(p.seq, o.seq, 0) AS seq, p.id IS NULL AS whole,
    CASE WHEN p.id IS NULL THEN coalesce(o.dateref + 1, '-infinity'::date)
        -- The days of archived lines are still there, and look changed when numbers of transactions begin anew.
        WHEN d.since IS NOT NULL THEN greatest(d.since, (SELECT max(dateref) + 1 FROM ledger_opening)) END AS since
FROM ledger_account a
CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS now) m
LEFT JOIN ledger_proof p ON p.id = a.id AND p.horizon <= m.now AND NOT %(afresh)s
    -- A month that was sealed since and is away may have lines that the proof does not know, and that nobody can add to it.
    AND NOT ({_XID.format("a")} >= p.horizon AND EXISTS (
        SELECT FROM ledger_closing c WHERE {_KEY.format("c", "a")} AND {_XID.format("c")} >= p.horizon
            AND c.month <= (SELECT max(month) FROM ledger_month WHERE state = 'DETACHED')))
LEFT JOIN LATERAL (
    SELECT g.*, coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'D'), 0.00) AS later_debit,
        coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'C'), 0.00) AS later_credit
    FROM ledger_opening g
    LEFT JOIN ledger_transaction t ON {_KEY.format("t", "g")} AND t.dateref > g.dateref AND t.seq <= g.seq
    WHERE {_KEY.format("g", "a")} AND p.id IS NULL
    GROUP BY g.branch, g.account, g.currency, g.dateref, g.debit, g.credit, g.seq
) o ON true
-- The days that a posting may be dated; all of them when the one before was changed, for lines of a deferred account may
-- have waited for long.
LEFT JOIN LATERAL (
    SELECT CASE WHEN {_XID.format("c")} >= p.horizon THEN '-infinity' ELSE p.windowfrom END AS dateref
    FROM (SELECT p.windowfrom AS dateref) w
    LEFT JOIN LATERAL (SELECT c.xmin FROM ledger_balance c WHERE {_KEY.format("c", "a")} AND c.dateref < w.dateref
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
# OFFSET 0 keeps the lateral part as it is: an index scan for each account, however many there are.
_LINES = f"""
ledger_region r CROSS JOIN LATERAL (
    SELECT t.* FROM ledger_transaction t WHERE {_KEY.format("t", "r")} AND t.dateref >= r.since OFFSET 0
) t
"""  # noqa: S608
_DAYS = f"""
ledger_region r CROSS JOIN LATERAL (
    SELECT b.* FROM ledger_balance b WHERE {_KEY.format("b", "r")} AND b.dateref >= r.since OFFSET 0
) b
"""  # noqa: S608
# Of accounts that are proved from their first line: their days before it.
_ARCHIVED_DAYS = f"""
ledger_region r CROSS JOIN LATERAL (
    SELECT b.* FROM ledger_balance b WHERE {_KEY.format("b", "r")} AND r.whole AND b.dateref < r.since OFFSET 0
) b
"""  # noqa: S608
_REGION_DAYS = f"""
CREATE TEMP TABLE ledger_region_day ON COMMIT DROP AS
SELECT r.id, t.dateref, count(*) AS lines, max(t.seq) AS seq,
    coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'D'), 0.00) AS debit,
    coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'C'), 0.00) AS credit,
    coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'D' AND t.seq > r.seq), 0.00) AS new_debit,
    coalesce(sum(t.amount) FILTER (WHERE t.debitcredit = 'C' AND t.seq > r.seq), 0.00) AS new_credit
FROM {_LINES} GROUP BY r.id, t.dateref
"""  # noqa: S608
_SUMS = """
SELECT r.id, r.branch, r.account, r.currency, r.debit + coalesce(sum(d.new_debit), 0) AS debit,
    r.credit + coalesce(sum(d.new_credit), 0) AS credit, greatest(r.seq, max(d.seq)) AS seq,
    r.debit - coalesce(sum(d.debit - d.new_debit), 0) AS debit_before,
    r.credit - coalesce(sum(d.credit - d.new_credit), 0) AS credit_before
FROM ledger_region r LEFT JOIN ledger_region_day d USING (id)
GROUP BY r.id, r.branch, r.account, r.currency, r.debit, r.credit, r.seq
"""

# As in reconciliation.py: branch, account, currency, dateref, tracekey, stored, proven; a row for each difference.
_TOTAL = f"""
SELECT r.branch, r.account, r.currency, f.dateref, NULL, f.stored, f.proven
FROM (SELECT id, dateref, s.stored, d.{{name}} AS proven
      FROM (SELECT r.id, b.dateref, b.total{{name}} AS stored FROM {_DAYS}) s
      FULL JOIN ledger_region_day d USING (id, dateref)) f
JOIN ledger_region r USING (id)
WHERE f.stored IS DISTINCT FROM f.proven
"""  # noqa: S608
_ACCUMULATED = f"""
SELECT * FROM (
    SELECT r.branch, r.account, r.currency, b.dateref, NULL AS tracekey, b.accumulated{{name}} AS stored,
        s.{{name}}_before + sum(b.total{{name}}) OVER (PARTITION BY r.id ORDER BY b.dateref) AS proven
    FROM {_DAYS} JOIN ({_SUMS}) s ON s.id = r.id
    UNION ALL
    SELECT r.branch, r.account, r.currency, b.dateref, NULL, b.accumulated{{name}},
        sum(b.total{{name}}) OVER (PARTITION BY r.id ORDER BY b.dateref)
    FROM {_ARCHIVED_DAYS}
) d WHERE stored <> proven
"""  # noqa: S608
_CLOSING = f"""
SELECT r.branch, r.account, r.currency, m.until, NULL, coalesce(d.accumulated{{name}}, 0), c.accumulated{{name}}
FROM ledger_region r
JOIN ledger_closing c ON {_KEY.format("c", "r")}
JOIN (SELECT month, (month + interval '1 month - 1 day')::date AS until FROM ledger_month WHERE state = 'DETACHED') m
    USING (month)
LEFT JOIN LATERAL (
    SELECT b.accumulated{{name}} FROM ledger_balance b WHERE {_KEY.format("b", "r")} AND b.dateref <= m.until
    ORDER BY b.dateref DESC LIMIT 1
) d ON true
WHERE r.whole AND d.accumulated{{name}} IS DISTINCT FROM c.accumulated{{name}}
"""  # noqa: S608
_POSTED = f"""
SELECT s.branch, s.account, s.currency, NULL, NULL, a.posted{{name}}, s.{{name}}
FROM ({_SUMS}) s JOIN ledger_account a USING (id) WHERE a.posted{{name}} <> s.{{name}}
"""  # noqa: S608
_PENDING = f"""
SELECT a.branch, a.account, a.currency, NULL, NULL, a.pendingdebit, h.amount
FROM ledger_region r JOIN ledger_account a USING (id)
CROSS JOIN LATERAL (SELECT coalesce(sum(h.amount), 0.00) AS amount FROM ledger_hold h
    WHERE {_KEY.format("h", "r")} AND h.status = 'OPEN' OFFSET 0) h
WHERE a.pendingdebit <> h.amount
"""  # noqa: S608
_LIMIT = """
SELECT a.branch, a.account, a.currency, NULL, NULL, {stored}, {limit}
FROM ledger_region r JOIN ledger_account a USING (id) WHERE {stored} {is_beyond} {limit}
"""
_RUNNING = f"""
SELECT * FROM (
    SELECT r.branch, r.account, r.currency, t.dateref, t.tracekey, t.balanceafter AS stored, r.credit - r.debit
        + sum(CASE t.debitcredit WHEN 'C' THEN t.amount ELSE -t.amount END)
            OVER (PARTITION BY r.id ORDER BY t.seq) AS proven
    FROM {_LINES} WHERE t.seq > r.seq
) t WHERE stored <> proven
"""  # noqa: S608
_DAY_NET = f"""
SELECT * FROM (
    SELECT r.branch, r.account, r.currency, t.dateref, t.tracekey, t.daynet AS stored,
        sum(CASE t.debitcredit WHEN 'C' THEN t.amount ELSE -t.amount END)
            OVER (PARTITION BY r.id, t.dateref ORDER BY t.seq) AS proven
    FROM {_LINES}
) t WHERE stored <> proven
"""  # noqa: S608
# All legs of an entry have its day, so each is looked up in one partition.
_BALANCED = f"""
SELECT NULL, NULL, l.currency, NULL, k.tracekey, sum(l.amount) FILTER (WHERE l.debitcredit = 'D'),
    sum(l.amount) FILTER (WHERE l.debitcredit = 'C')
FROM (SELECT t.tracekey, t.dateref FROM {_LINES} WHERE t.balanced AND t.seq > r.seq
    UNION SELECT tracekey, dateref FROM ledger_deferred WHERE balanced) k
CROSS JOIN LATERAL (
    SELECT currency, amount, debitcredit FROM ledger_transaction t WHERE t.tracekey = k.tracekey AND t.dateref = k.dateref
    UNION ALL SELECT currency, amount, debitcredit FROM ledger_deferred w WHERE w.tracekey = k.tracekey OFFSET 0
) l
GROUP BY l.currency, k.tracekey
HAVING sum(CASE l.debitcredit WHEN 'C' THEN l.amount ELSE -l.amount END) <> 0
"""  # noqa: S608
_KEYS = f"""
SELECT NULL, NULL, NULL, NULL, n.tracekey, (k.state = 'POSTED')::int, n.lines
FROM (SELECT t.tracekey, count(*) AS lines FROM {_LINES} WHERE t.seq > r.seq GROUP BY 1
    UNION ALL SELECT tracekey, count(*) FROM ledger_deferred GROUP BY 1) n
LEFT JOIN LATERAL (SELECT state FROM ledger_posting_key p WHERE p.tracekey = n.tracekey OFFSET 0) k ON true
WHERE coalesce(k.state, '') <> 'POSTED'
"""  # noqa: S608
_POSTED_HOLDS = f"""
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), d.amount
FROM (SELECT DISTINCT t.tracekey, t.dateref FROM {_LINES} WHERE t.seq > r.seq) n
CROSS JOIN LATERAL (SELECT * FROM ledger_hold h WHERE h.tracekey = n.tracekey AND h.status = 'POSTED' OFFSET 0) h
LEFT JOIN LATERAL (SELECT t.amount FROM ledger_transaction t WHERE t.tracekey = n.tracekey AND t.dateref = n.dateref
    AND t.debitcredit = 'D' AND {_KEY.format("t", "h")} OFFSET 0) d ON true
WHERE d.amount IS DISTINCT FROM coalesce(h.postedamount, h.amount)
UNION
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), NULL
FROM ledger_region r
CROSS JOIN LATERAL (SELECT * FROM ledger_hold h WHERE {_KEY.format("h", "r")} AND r.whole AND h.endedat IS NOT NULL
    AND h.status = 'POSTED' OFFSET 0) h
LEFT JOIN ledger_posting_key k ON k.tracekey = h.tracekey
WHERE coalesce(k.dateref > (SELECT max(dateref) FROM ledger_opening), true) AND NOT EXISTS (
    SELECT FROM ledger_transaction t WHERE t.tracekey = h.tracekey AND t.debitcredit = 'D' AND {_KEY.format("t", "h")})
"""  # noqa: S608

CHECKS: dict[str, str] = {
    "a day's debits are the sum of its lines": _TOTAL.format(name="debit"),
    "a day's credits are the sum of its lines": _TOTAL.format(name="credit"),
    "accumulated debits are the sum of the days": _ACCUMULATED.format(name="debit"),
    "accumulated credits are the sum of the days": _ACCUMULATED.format(name="credit"),
    "an archived month's debits end as they were sealed": _CLOSING.format(name="debit"),
    "an archived month's credits end as they were sealed": _CLOSING.format(name="credit"),
    "an account's debits are the sum of its lines": _POSTED.format(name="debit"),
    "an account's credits are the sum of its lines": _POSTED.format(name="credit"),
    "what is pending is the sum of the open holds": _PENDING,
    "no account is below its floor": _LIMIT.format(
        stored="a.postedcredit - a.posteddebit - a.pendingdebit", is_beyond="<", limit="a.minbalance"
    ),
    "no account is above its ceiling": _LIMIT.format(
        stored="a.postedcredit - a.posteddebit", is_beyond=">", limit="a.maxbalance"
    ),
    "a line's balance follows from the lines before it": _RUNNING,
    "a line's day net follows from the lines of its day": _DAY_NET,
    "a balanced entry's debits are its credits": _BALANCED,
    "a tracekey is known exactly when it has lines": _KEYS,
    "a posted hold has its debit": _POSTED_HOLDS,
}

_SOUND = f"""
NOT EXISTS (SELECT FROM unnest(%(branches)s::text[], %(accounts)s::text[], %(currencies)s::text[])
    AS k (branch, account, currency) WHERE {_KEY.format("{0}", "k")})
"""
_KEEP = f"""
INSERT INTO ledger_proof (id, debit, credit, seq, horizon, windowfrom)
SELECT s.id, s.debit, s.credit, s.seq, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, %(window_from)s
FROM ({{sums}}) s WHERE {_SOUND.format("s")}
ON CONFLICT (id) DO UPDATE SET debit = excluded.debit, credit = excluded.credit, seq = excluded.seq,
    horizon = excluded.horizon, windowfrom = excluded.windowfrom
"""  # noqa: S608
_ALL_SUMS = f"""
SELECT a.id, a.branch, a.account, a.currency, coalesce(o.debit, 0) + coalesce(t.debit, 0) AS debit,
    coalesce(o.credit, 0) + coalesce(t.credit, 0) AS credit, greatest(o.seq, t.seq, 0) AS seq
FROM ledger_account a
LEFT JOIN ledger_opening o ON {_KEY.format("o", "a")}
LEFT JOIN (SELECT branch, account, currency, sum(amount) FILTER (WHERE debitcredit = 'D') AS debit,
        sum(amount) FILTER (WHERE debitcredit = 'C') AS credit, max(seq) AS seq
    FROM ledger_transaction GROUP BY 1, 2, 3) t ON {_KEY.format("t", "a")}
"""  # noqa: S608
_DROP = f"""
DELETE FROM ledger_proof p USING ledger_account a WHERE p.id = a.id AND NOT {_SOUND.format("a")}
"""  # noqa: S608


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


def find_changed(scope: Scope, *, afresh: bool) -> Size:
    """Find the accounts and days to prove, and the sums of their lines; ``afresh``: all, from their first line.

    They stay in two temporary tables until the end of the transaction, which has to be REPEATABLE READ.
    """
    parameters = {"branch": scope.branch, "account": scope.account, "currency": scope.currency, "afresh": afresh}
    with connection.cursor() as cursor:
        cursor.execute(_REGION, parameters)
        cursor.execute("ANALYZE ledger_region")
        cursor.execute(_REGION_DAYS)
        cursor.execute("ANALYZE ledger_region_day")
    days = "SELECT count(*), coalesce(sum(lines), 0) FROM ledger_region_day"
    ((accounts, days, lines),) = fetch(f"SELECT (SELECT count(*) FROM ledger_region), d.* FROM ({days}) d", [])  # noqa: S608
    return Size(accounts, days, int(lines))


def whole_size() -> Size:
    """How much the full check looks at."""
    tables = ("ledger_account", "ledger_balance", "ledger_transaction")
    return Size(*(fetch(f"SELECT count(*) FROM {table}", [])[0][0] for table in tables))  # noqa: S608


def proven_afresh() -> set[tuple[str, str, str]]:
    """The accounts of the region that were proved from their first line."""
    return set(fetch("SELECT branch, account, currency FROM ledger_region WHERE whole", []))


def keep_proofs(unsound: Collection[tuple[str, str, str]], *, all_accounts: bool, day: date, keep: bool = True) -> None:
    """Write down what was proved, for the next check; forget what was proved of accounts in which something differs.

    ``keep`` False: nobody knows in which accounts, so nothing new is written down.
    """
    branches, accounts, currencies = columns(unsound, 3)
    places = {"branches": branches, "accounts": accounts, "currencies": currencies}
    with connection.cursor() as cursor:
        if keep:
            statement = _KEEP.format(sums=_ALL_SUMS if all_accounts else _SUMS)
            cursor.execute(statement, {**places, "window_from": day - WINDOW})
        cursor.execute(_DROP, places)


def forget_proofs() -> None:
    """Forget all proofs: they speak of another server's transactions."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM ledger_proof")


def cluster() -> str:
    """The server whose transactions have the numbers that this one gives."""
    return str(fetch("SELECT system_identifier FROM pg_control_system()", [])[0][0])
