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
from datetime import date, timedelta

from django.db import connection

from apps.ledger import reconciliation
from apps.ledger.reconciliation import Difference
from apps.ledger.regions import ARCHIVED_DAYS, DAYS, KEY, LINES, SUMS
from apps.ledger.rows import columns, fetch
from apps.ledger.rules import BACKDATE_DAYS_MAX

# Days before a check's own that postings after it may speak of: the window, and a clock's difference around midnight.
WINDOW = timedelta(days=BACKDATE_DAYS_MAX + 1)

# As in reconciliation.py: branch, account, currency, dateref, tracekey, stored, proven; a row for each difference.
_TOTAL = f"""
SELECT r.branch, r.account, r.currency, f.dateref, NULL, f.stored, f.proven
FROM (SELECT id, dateref, s.stored, d.{{name}} AS proven
      FROM (SELECT r.id, b.dateref, b.total{{name}} AS stored FROM {DAYS}) s
      FULL JOIN ledger_region_day d USING (id, dateref)) f
JOIN ledger_region r USING (id)
WHERE f.stored IS DISTINCT FROM f.proven
"""  # noqa: S608
_ACCUMULATED = f"""
SELECT * FROM (
    SELECT r.branch, r.account, r.currency, b.dateref, NULL AS tracekey, b.accumulated{{name}} AS stored,
        s.{{name}}_before + sum(b.total{{name}}) OVER (PARTITION BY r.id ORDER BY b.dateref) AS proven
    FROM {DAYS} JOIN ({SUMS}) s ON s.id = r.id
    UNION ALL
    SELECT r.branch, r.account, r.currency, b.dateref, NULL, b.accumulated{{name}},
        sum(b.total{{name}}) OVER (PARTITION BY r.id ORDER BY b.dateref)
    FROM {ARCHIVED_DAYS}
) d WHERE stored <> proven
"""  # noqa: S608
_CLOSING = f"""
SELECT r.branch, r.account, r.currency, m.until, NULL, coalesce(d.accumulated{{name}}, 0), c.accumulated{{name}}
FROM ledger_region r
JOIN ledger_closing c ON {KEY.format("c", "r")}
JOIN (SELECT month, (month + interval '1 month - 1 day')::date AS until FROM ledger_month WHERE state = 'DETACHED') m
    USING (month)
LEFT JOIN LATERAL (
    SELECT b.accumulated{{name}} FROM ledger_balance b WHERE {KEY.format("b", "r")} AND b.dateref <= m.until
    ORDER BY b.dateref DESC LIMIT 1
) d ON true
WHERE r.whole AND d.accumulated{{name}} IS DISTINCT FROM c.accumulated{{name}}
"""  # noqa: S608
_POSTED = f"""
SELECT s.branch, s.account, s.currency, NULL, NULL, a.posted{{name}}, s.{{name}}
FROM ({SUMS}) s JOIN ledger_account a USING (id) WHERE a.posted{{name}} <> s.{{name}}
"""  # noqa: S608
_PENDING = f"""
SELECT a.branch, a.account, a.currency, NULL, NULL, a.pendingdebit, h.amount
FROM ledger_region r JOIN ledger_account a USING (id)
CROSS JOIN LATERAL (SELECT coalesce(sum(h.amount), 0.00) AS amount FROM ledger_hold h
    WHERE {KEY.format("h", "r")} AND h.status = 'OPEN' OFFSET 0) h
WHERE a.pendingdebit <> h.amount
"""  # noqa: S608
_LIMIT = """
SELECT a.branch, a.account, a.currency, NULL, NULL, {stored}, {limit}
FROM ledger_region r JOIN ledger_account a USING (id) WHERE {stored} {is_beyond} {limit}
"""
_RUNNING = f"""
SELECT branch, account, currency, dateref, tracekey, stored, proven FROM (
    SELECT r.branch, r.account, r.currency, t.dateref, t.tracekey, t.balanceafter AS stored, r.credit - r.debit
        + sum(CASE t.debitcredit WHEN 'C' THEN t.amount ELSE -t.amount END)
            OVER (PARTITION BY t.id ORDER BY t.seq) AS proven, t.seq > r.opened AS comparable
    FROM {LINES} WHERE t.seq > r.seq
) t WHERE stored <> proven AND comparable
"""  # noqa: S608
_DAY_NET = f"""
SELECT * FROM (
    SELECT r.branch, r.account, r.currency, t.dateref, t.tracekey, t.daynet AS stored, d.carried
        + sum(CASE t.debitcredit WHEN 'C' THEN t.amount ELSE -t.amount END)
            OVER (PARTITION BY t.id, t.dateref ORDER BY t.seq) AS proven
    FROM {LINES} JOIN ledger_region_day d ON d.id = t.id AND d.dateref = t.dateref
) t WHERE stored <> proven
"""  # noqa: S608
# All legs of an entry have its day, so each is looked up in one partition.
_BALANCED = f"""
SELECT NULL, NULL, l.currency, NULL, k.tracekey, sum(l.amount) FILTER (WHERE l.debitcredit = 'D'),
    sum(l.amount) FILTER (WHERE l.debitcredit = 'C')
FROM (SELECT t.tracekey, t.dateref FROM {LINES} WHERE t.balanced AND t.seq > r.seq
    UNION SELECT tracekey, dateref FROM ledger_region_waiting WHERE balanced) k
CROSS JOIN LATERAL (
    SELECT currency, amount, debitcredit FROM ledger_transaction t WHERE t.tracekey = k.tracekey AND t.dateref = k.dateref
    UNION ALL SELECT currency, amount, debitcredit FROM ledger_deferred w WHERE w.tracekey = k.tracekey OFFSET 0
) l
GROUP BY l.currency, k.tracekey
HAVING sum(CASE l.debitcredit WHEN 'C' THEN l.amount ELSE -l.amount END) <> 0
"""  # noqa: S608
_KEYS = f"""
SELECT NULL, NULL, NULL, NULL, n.tracekey, (k.state = 'POSTED')::int,
    (SELECT count(*) FROM ledger_transaction t WHERE t.tracekey = n.tracekey)
        + (SELECT count(*) FROM ledger_deferred w WHERE w.tracekey = n.tracekey)
FROM (SELECT t.tracekey FROM {LINES} WHERE t.seq > r.seq UNION SELECT tracekey FROM ledger_region_waiting) n
LEFT JOIN LATERAL (SELECT state FROM ledger_posting_key p WHERE p.tracekey = n.tracekey OFFSET 0) k ON true
WHERE coalesce(k.state, '') <> 'POSTED'
"""  # noqa: S608
_HOLDS_OF_LINES = f"""
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), d.amount
FROM (SELECT DISTINCT t.tracekey, t.dateref FROM {LINES} WHERE t.seq > r.seq) n
CROSS JOIN LATERAL (SELECT * FROM ledger_hold h WHERE h.tracekey = n.tracekey AND h.status = 'POSTED' OFFSET 0) h
LEFT JOIN LATERAL (SELECT t.amount FROM ledger_transaction t WHERE t.tracekey = n.tracekey AND t.dateref = n.dateref
    AND t.debitcredit = 'D' AND {KEY.format("t", "h")} OFFSET 0) d ON true
WHERE d.amount IS DISTINCT FROM coalesce(h.postedamount, h.amount)
"""  # noqa: S608
_POSTED_HOLDS = f"""
{_HOLDS_OF_LINES}
UNION
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), NULL
FROM ledger_region r
CROSS JOIN LATERAL (SELECT * FROM ledger_hold h WHERE {KEY.format("h", "r")} AND r.whole AND h.endedat IS NOT NULL
    AND h.status = 'POSTED' OFFSET 0) h
LEFT JOIN ledger_posting_key k ON k.tracekey = h.tracekey
WHERE coalesce(k.dateref > (SELECT max(dateref) FROM ledger_opening), true) AND NOT EXISTS (
    SELECT FROM ledger_transaction t WHERE t.tracekey = h.tracekey AND t.debitcredit = 'D' AND {KEY.format("t", "h")})
"""  # noqa: S608

DEBITS, CREDITS = "an account's debits are the sum of its lines", "an account's credits are the sum of its lines"
KEYS, HOLDS = "a tracekey is known exactly when it has lines", "a posted hold has its debit"
CHECKS: dict[str, str] = {
    "a day's debits are the sum of its lines": _TOTAL.format(name="debit"),
    "a day's credits are the sum of its lines": _TOTAL.format(name="credit"),
    "accumulated debits are the sum of the days": _ACCUMULATED.format(name="debit"),
    "accumulated credits are the sum of the days": _ACCUMULATED.format(name="credit"),
    "an archived month's debits end as they were sealed": _CLOSING.format(name="debit"),
    "an archived month's credits end as they were sealed": _CLOSING.format(name="credit"),
    DEBITS: _POSTED.format(name="debit"),
    CREDITS: _POSTED.format(name="credit"),
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
    KEYS: _KEYS,
    HOLDS: _POSTED_HOLDS,
}
# Of a piece that is not an account's last one only these can be said.
LINE_CHECKS = {
    rule: CHECKS[rule]
    for rule in (
        "a line's balance follows from the lines before it",
        "a line's day net follows from the lines of its day",
        "a balanced entry's debits are its credits",
        KEYS,
    )
} | {HOLDS: _HOLDS_OF_LINES}
# Of all accounts, one after the other: posted holds without a debit are looked for by themselves, so many they may be.
ACCOUNT_CHECKS = {**CHECKS, HOLDS: _HOLDS_OF_LINES}

_SOUND = f"""
NOT EXISTS (SELECT FROM unnest(%(branches)s::text[], %(accounts)s::text[], %(currencies)s::text[])
    AS k (branch, account, currency) WHERE {KEY.format("{0}", "k")})
"""
_KEEP = f"""
INSERT INTO ledger_proof (id, debit, credit, seq, horizon, windowfrom)
SELECT s.id, s.debit, s.credit, s.seq, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, %(window_from)s
FROM ({SUMS}) s WHERE {_SOUND.format("s")}
ON CONFLICT (id) DO UPDATE SET debit = excluded.debit, credit = excluded.credit, seq = excluded.seq,
    horizon = excluded.horizon, windowfrom = excluded.windowfrom
"""  # noqa: S608
_DROP = f"""
DELETE FROM ledger_proof p USING ledger_account a WHERE p.id = a.id AND NOT {_SOUND.format("a")}
"""  # noqa: S608


_UNPROVEN = "SELECT count(*) FROM ledger_account a WHERE NOT EXISTS (SELECT FROM ledger_proof p WHERE p.id = a.id)"


def unproven() -> int:
    """How many accounts no check has proved since something was wrong with them, or at all."""
    return int(fetch(_UNPROVEN, [])[0][0])


def keep_proofs(found: Collection[Difference], *, day: date) -> None:
    """Write down what was proved, for the next check; forget what was proved of accounts in which something differs."""
    unsound = {place for each in found if all(place := (each.branch, each.account, each.currency))}
    # A rule that filled its list did not name all accounts.
    keep = not reconciliation.cut_off(found)
    branches, accounts, currencies = columns(unsound, 3)
    places = {"branches": branches, "accounts": accounts, "currencies": currencies}
    with connection.cursor() as cursor:
        if keep:
            cursor.execute(_KEEP, {**places, "window_from": day - WINDOW})
        cursor.execute(_DROP, places)


def forget_proofs() -> None:
    """Forget all proofs: they speak of another server's transactions."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM ledger_proof")


def cluster() -> str:
    """The server whose transactions have the numbers that this one gives."""
    return str(fetch("SELECT system_identifier FROM pg_control_system()", [])[0][0])
