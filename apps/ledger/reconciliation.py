"""Proves balances and holds from the rows. Only reports: what is wrong stays as it is, for people to see."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from django.db import connection

from apps.common.transactions import transaction
from apps.ledger.rows import fetch

# Differences reported by each check: beyond some hundreds the cause is one, and the list only fills memory.
DIFFERENCES_MAX = 500

# To be said before the snapshot is taken, which this statement does not do. Partitions are those that are there when a
# statement is planned, whatever the snapshot: a month that was detached between the two would be nowhere, neither in the
# table nor in ``ledger_opening``, and one that was attached in both.
KEEP_MONTHS = "LOCK TABLE ledger_transaction IN ACCESS SHARE MODE"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not add up: which rule, where, what is stored and what the rows prove."""

    rule: str
    branch: str | None
    account: str | None
    currency: str | None
    dateref: date | None
    tracekey: str | None
    stored: Decimal | None
    proven: Decimal | None

    def as_dict(self) -> dict[str, str | None]:
        values = (
            self.rule,
            self.branch,
            self.account,
            self.currency,
            self.dateref,
            self.tracekey,
            self.stored,
            self.proven,
        )
        names = ("rule", "branch", "account", "currency", "dateref", "tracekey", "stored", "proven")
        return {name: None if value is None else str(value) for name, value in zip(names, values, strict=True)}

    @classmethod
    def of_dict(cls, document: Mapping[str, Any]) -> "Difference":
        """What ``as_dict`` gave."""
        made: dict[str, Callable[[str], Any]] = {"dateref": date.fromisoformat, "stored": Decimal, "proven": Decimal}
        known: dict[str, Any] = {
            name: value if value is None else made.get(name, str)(value) for name, value in document.items()
        }
        return cls(**known)


# ``ledger_opening``: what the lines of an account came to that were archived, up to which day, and their last seq. See Note
# [Increments] in increments.py. A line that stayed and is older than one that went can't be compared with its balance then.
# Every check gives: branch, account, currency, dateref, tracekey, stored, proven; a row for each difference.
_TOTAL = """
WITH proven AS (
    SELECT branch, account, currency, dateref, coalesce(sum(amount) FILTER (WHERE debitcredit = '{side}'), 0) AS amount
    FROM ledger_transaction GROUP BY 1, 2, 3, 4
)
SELECT branch, account, currency, dateref, NULL, b.{column}, p.amount
FROM ledger_balance b FULL JOIN proven p USING (branch, account, currency, dateref)
LEFT JOIN (SELECT branch, account, currency, dateref AS until FROM ledger_opening) o USING (branch, account, currency)
WHERE b.{column} IS DISTINCT FROM p.amount AND (o.until IS NULL OR dateref > o.until)
"""
_ACCUMULATED = """
SELECT * FROM (
    SELECT branch, account, currency, dateref, NULL AS tracekey, {accumulated} AS stored,
        sum({total}) OVER day + CASE WHEN dateref > o.until
            THEN o.{side_sum} - coalesce(sum({total}) FILTER (WHERE dateref <= o.until) OVER day, 0) ELSE 0 END AS proven
    FROM ledger_balance
    LEFT JOIN (SELECT branch, account, currency, dateref AS until, debit, credit FROM ledger_opening) o
        USING (branch, account, currency)
    WINDOW day AS (PARTITION BY branch, account, currency ORDER BY dateref)
) d WHERE stored <> proven
"""
# Days whose lines are in the archive follow from nothing but each other: what they came to was written down by a seal.
_CLOSING = """
SELECT c.branch, c.account, c.currency, m.until, NULL, coalesce(d.{accumulated}, 0), c.{accumulated}
FROM ledger_closing c
JOIN (SELECT month, (month + interval '1 month - 1 day')::date AS until FROM ledger_month WHERE state = 'DETACHED') m
    USING (month)
LEFT JOIN LATERAL (
    SELECT b.{accumulated} FROM ledger_balance b
    WHERE b.branch = c.branch AND b.account = c.account AND b.currency = c.currency AND b.dateref <= m.until
    ORDER BY b.dateref DESC LIMIT 1
) d ON true
WHERE d.{accumulated} IS DISTINCT FROM c.{accumulated}
"""
_POSTED = """
SELECT branch, account, currency, NULL, NULL, a.{column}, coalesce(p.amount, 0) + coalesce(o.{side_sum}, 0)
FROM ledger_account a
FULL JOIN (SELECT branch, account, currency, sum(amount) AS amount FROM ledger_transaction
    WHERE debitcredit = '{side}' GROUP BY 1, 2, 3) p USING (branch, account, currency)
LEFT JOIN ledger_opening o USING (branch, account, currency)
WHERE a.{column} IS DISTINCT FROM coalesce(p.amount, 0) + coalesce(o.{side_sum}, 0)
"""
_PENDING = """
SELECT a.branch, a.account, a.currency, NULL, NULL, a.pendingdebit, coalesce(h.amount, 0)
FROM ledger_account a
LEFT JOIN (SELECT branch, account, currency, sum(amount) AS amount FROM ledger_hold
    WHERE status = 'OPEN' GROUP BY 1, 2, 3) h USING (branch, account, currency)
WHERE a.pendingdebit <> coalesce(h.amount, 0)
"""
_RUNNING = """
SELECT branch, account, currency, dateref, tracekey, stored, proven + coalesce(o.credit - o.debit, 0) FROM (
    SELECT branch, account, currency, dateref, tracekey, seq, balanceafter AS stored,
        sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END)
            OVER (PARTITION BY branch, account, currency ORDER BY seq) AS proven
    FROM ledger_transaction
) t
LEFT JOIN (SELECT branch, account, currency, debit, credit, seq AS until FROM ledger_opening) o
    USING (branch, account, currency)
WHERE stored <> proven + coalesce(o.credit - o.debit, 0) AND (o.until IS NULL OR t.seq > o.until)
"""
_DAY_NET = """
SELECT * FROM (
    SELECT branch, account, currency, dateref, tracekey, daynet AS stored,
        sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END)
            OVER (PARTITION BY branch, account, currency, dateref ORDER BY seq) AS proven
    FROM ledger_transaction
) t WHERE stored <> proven
"""
_BALANCED = """
SELECT NULL, NULL, currency, NULL, tracekey, sum(amount) FILTER (WHERE debitcredit = 'D'),
    sum(amount) FILTER (WHERE debitcredit = 'C')
FROM (SELECT currency, tracekey, amount, debitcredit FROM ledger_transaction WHERE balanced
    UNION ALL SELECT currency, tracekey, amount, debitcredit FROM ledger_deferred WHERE balanced) leg
GROUP BY currency, tracekey
HAVING sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END) <> 0
"""
_KEYS = """
SELECT NULL, NULL, NULL, NULL, coalesce(k.tracekey, t.tracekey), (k.state = 'POSTED')::int, coalesce(t.lines, 0)
FROM ledger_posting_key k
FULL JOIN (SELECT tracekey, count(*) AS lines FROM (SELECT tracekey FROM ledger_transaction
    UNION ALL SELECT tracekey FROM ledger_deferred) line GROUP BY 1) t USING (tracekey)
WHERE (coalesce(k.state, '') = 'POSTED') <> (t.tracekey IS NOT NULL)
    AND (t.tracekey IS NOT NULL OR coalesce(k.dateref > (SELECT max(dateref) FROM ledger_opening), true))
"""
_POSTED_HOLDS = """
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), t.amount
FROM ledger_hold h
LEFT JOIN ledger_transaction t ON t.tracekey = h.tracekey AND t.debitcredit = 'D'
    AND (t.branch, t.account, t.currency) = (h.branch, h.account, h.currency)
LEFT JOIN ledger_posting_key k ON k.tracekey = h.tracekey
WHERE h.status = 'POSTED' AND t.amount IS DISTINCT FROM coalesce(h.postedamount, h.amount)
    AND (t.amount IS NOT NULL OR coalesce(k.dateref > (SELECT max(dateref) FROM ledger_opening), true))
"""
_CEILING = """
SELECT branch, account, currency, NULL, NULL, postedcredit - posteddebit, maxbalance
FROM ledger_account WHERE postedcredit - posteddebit > maxbalance
"""
_FLOOR = """
SELECT branch, account, currency, NULL, NULL, postedcredit - posteddebit - pendingdebit, minbalance
FROM ledger_account WHERE postedcredit - posteddebit - pendingdebit < minbalance
"""

CHECKS: dict[str, str] = {
    "a day's debits are the sum of its lines": _TOTAL.format(side="D", column="totaldebit"),
    "a day's credits are the sum of its lines": _TOTAL.format(side="C", column="totalcredit"),
    "accumulated debits are the sum of the days": _ACCUMULATED.format(
        accumulated="accumulateddebit", total="totaldebit", side_sum="debit"
    ),
    "accumulated credits are the sum of the days": _ACCUMULATED.format(
        accumulated="accumulatedcredit", total="totalcredit", side_sum="credit"
    ),
    "an archived month's debits end as they were sealed": _CLOSING.format(accumulated="accumulateddebit"),
    "an archived month's credits end as they were sealed": _CLOSING.format(accumulated="accumulatedcredit"),
    "an account's debits are the sum of its lines": _POSTED.format(side="D", column="posteddebit", side_sum="debit"),
    "an account's credits are the sum of its lines": _POSTED.format(side="C", column="postedcredit", side_sum="credit"),
    "what is pending is the sum of the open holds": _PENDING,
    "no account is below its floor": _FLOOR,
    "no account is above its ceiling": _CEILING,
    "a line's balance follows from the lines before it": _RUNNING,
    "a line's day net follows from the lines of its day": _DAY_NET,
    "a balanced entry's debits are its credits": _BALANCED,
    "a tracekey is known exactly when it has lines": _KEYS,
    "a posted hold has its debit": _POSTED_HOLDS,
}


@transaction
def check_balances() -> list[Difference]:
    """Prove every stored sum from the rows; what differs. Changes nothing, and disturbs no writer.

    All checks see one REPEATABLE READ snapshot: writers may go on without causing a false alarm. Reads the whole ledger.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(KEEP_MONTHS)
    return prove()


def prove(checks: Mapping[str, str] | None = None, values: Mapping[str, Any] | None = None) -> list[Difference]:
    """The checks alone, in whatever snapshot the caller reads; ``values`` are what their statements ask for."""
    found: list[Difference] = []
    for rule, sql in (CHECKS if checks is None else checks).items():
        rows = fetch(f"{sql} LIMIT %(differences_max)s", {**(values or {}), "differences_max": DIFFERENCES_MAX})
        found += [_difference(rule, row) for row in rows]
    return found


def cut_off(found: Iterable[Difference]) -> set[str]:
    """The rules that found as many differences as are reported."""
    counts = Counter(each.rule for each in found)
    return {rule for rule, count in counts.items() if count >= DIFFERENCES_MAX}


def _difference(rule: str, row: tuple[Any, ...]) -> Difference:
    branch, account, currency, dateref, tracekey, stored, proven = row
    return Difference(rule, branch, account, currency, dateref, tracekey and str(tracekey), stored, proven)
