"""The invariants of a ledger, by the numbers of the field notes (I1-I12), after eight connections have done everything."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from apps.ledger import chain, chain_proof, postings
from apps.ledger import public as ledger
from apps.ledger.reconciliation import CHECKS
from apps.messaging.contracts.ledger import POSTING_EVENT
from apps.messaging.models import Message
from tests.integration.ledger.conftest import NOW
from tests.integration.ledger.storm import EXACT, Log, Thread, day_rows, open_accounts, others, told
from tests.integration.ledger.test_concurrency import THREADS, in_threads

STEPS = 30

Rows = list[tuple[Any, ...]]


def rows(sql: str) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def of_checks(*names: str) -> Callable[[Log], Rows]:
    """What the ledger's own proof says."""
    return lambda _log: [row for name in names for row in rows(CHECKS[name])]


def of_sql(sql: str) -> Callable[[Log], Rows]:
    return lambda _log: rows(sql)


# What is on all accounts came from outside, by lines that are no legs: transfers make nothing. Pending has one side.
_MADE_MONEY = """
WITH line AS (
    SELECT currency, balanced, CASE debitcredit WHEN 'C' THEN amount ELSE -amount END AS signed FROM ledger_transaction
    UNION ALL SELECT currency, balanced, CASE debitcredit WHEN 'C' THEN amount ELSE -amount END FROM ledger_deferred
), waiting AS (
    SELECT currency, sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END) AS amount FROM ledger_deferred GROUP BY 1
)
SELECT a.currency, a.amount + coalesce(w.amount, 0), l.amount
FROM (SELECT currency, sum(postedcredit - posteddebit) AS amount FROM ledger_account GROUP BY 1) a
LEFT JOIN waiting w USING (currency)
LEFT JOIN (SELECT currency, sum(signed) AS amount FROM line WHERE NOT balanced GROUP BY 1) l USING (currency)
WHERE a.amount + coalesce(w.amount, 0) <> coalesce(l.amount, 0)
UNION ALL
SELECT currency, sum(pendingdebit), (SELECT coalesce(sum(amount), 0) FROM ledger_hold WHERE status = 'OPEN')
FROM ledger_account GROUP BY 1
HAVING sum(pendingdebit) <> (SELECT coalesce(sum(amount), 0) FROM ledger_hold WHERE status = 'OPEN')
"""
_LATEST_DAY = """
SELECT a.account, a.posteddebit, a.postedcredit, b.accumulateddebit, b.accumulatedcredit
FROM ledger_account a
LEFT JOIN LATERAL (
    SELECT * FROM ledger_balance b WHERE (b.branch, b.account, b.currency) = (a.branch, a.account, a.currency)
    ORDER BY b.dateref DESC LIMIT 1
) b ON true
WHERE (a.posteddebit, a.postedcredit) <> (coalesce(b.accumulateddebit, 0), coalesce(b.accumulatedcredit, 0))
"""
_OVERDRAWN_DAYS = """
SELECT a.account, b.dateref, b.accumulatedcredit - b.accumulateddebit, held.amount, a.minbalance, a.maxbalance
FROM ledger_account a
JOIN ledger_balance b ON (b.branch, b.account, b.currency) = (a.branch, a.account, a.currency)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(h.amount), 0) AS amount FROM ledger_hold h
    WHERE h.status = 'OPEN' AND (h.branch, h.account, h.currency) = (a.branch, a.account, a.currency)
      AND h.dateref <= b.dateref
) held
WHERE b.accumulatedcredit - b.accumulateddebit - held.amount < a.minbalance
   OR b.accumulatedcredit - b.accumulateddebit > a.maxbalance
"""
_HOLD_ENDS = """
SELECT h.key, h.status, count(t.id) FROM ledger_hold h
LEFT JOIN ledger_transaction t ON t.tracekey = h.tracekey AND t.debitcredit = 'D'
GROUP BY h.key, h.status HAVING count(t.id) <> (h.status = 'POSTED')::int
"""


def ended_twice(log: Log) -> Rows:
    posts = Counter(key for key, _tracekey in log.ended)
    return [found for found in posts.items() if found[1] > 1] + rows(_HOLD_ENDS)


def answered_otherwise(log: Log) -> Rows:
    """Ask for everything again: the first answer; with another body a refusal; and no line more."""
    before, wrong = rows("SELECT count(*) FROM ledger_transaction"), []
    for entry, first in log.posted().values():
        with transaction.atomic():
            again, other = ledger.post_batch([replace(entry, group=None), *others(entry)], now=NOW)
        if again.posting != first or not again.posting.replayed or other.code != "R107":
            wrong.append((entry.tracekey, first, again, other))
    wrong += [(entry.tracekey,) for entry, result in log.answers if is_second_answer(log, entry, result)]
    assert rows("SELECT count(*) FROM ledger_transaction") == before
    return wrong


def is_second_answer(log: Log, entry: ledger.Entry, result: ledger.EntryResult) -> bool:
    """Was a repeat answered otherwise than the first?"""
    first = log.posted().get(entry.tracekey)
    return bool(result.posting and result.posting.replayed and first and result.posting != first[1])


def left_by_the_refused(log: Log) -> Rows:
    posted = {entry.tracekey for entry, result in log.answers if result.posting} | set(log.queued)
    refused = {entry.tracekey for entry, result in log.answers if result.refusal} - posted
    found = rows("SELECT tracekey FROM ledger_transaction UNION SELECT tracekey FROM ledger_deferred")
    found += rows("SELECT tracekey FROM ledger_posting_key")
    return [row for row in found if row[0] in refused]


def changed_closed_days(log: Log) -> Rows:
    return [(day, len(then)) for day, then in log.closed if day_rows(day) != then]


def callbacks_missing_or_double(log: Log) -> Rows:
    """Every request has its answer; every entry that the queue posted has exactly one that says so for the first time."""
    bodies = [row.body for row in Message.objects.filter(topic=POSTING_EVENT)]
    answers, first = Counter(body["tracekey"] for body in bodies), Counter[str]()
    first.update(body["tracekey"] for body in bodies if body["result"] == "POSTED" and not body["replayed"])
    by_hand = {str(tracekey) for tracekey in log.posted()}
    keys = {str(row[0]) for row in rows("SELECT tracekey FROM ledger_posting_key WHERE state = 'POSTED'")}
    asked = Counter(str(tracekey) for tracekey in log.queued)
    wrong: Rows = [("answers", *found) for found in (answers - asked).items()]
    wrong += [("no answer", *found) for found in (asked - answers).items()]
    wrong += [("callbacks", key, first[key]) for key in asked if first[key] != int(key in keys and key not in by_hand)]
    return wrong


def chain_incomplete(_log: Log) -> Rows:
    while chain.chain(now=NOW):
        pass
    proof = chain_proof.verify_chain()
    (lines,) = rows("SELECT count(*) FROM ledger_transaction")
    return [(str(damage),) for damage in proof.damages] + ([] if lines == (proof.lines,) else [(*lines, proof.lines)])


INVARIANTS: dict[str, tuple[str, Callable[[Log], Rows]]] = {
    "I1": ("an entry's debits are its credits", of_checks("a balanced entry's debits are its credits")),
    "I2": ("no money is made or lost, nor what is pending", of_sql(_MADE_MONEY)),
    "I3": (
        "a day's totals are its lines, and its accumulated sums the days up to it",
        of_checks(
            "a day's debits are the sum of its lines",
            "a day's credits are the sum of its lines",
            "accumulated debits are the sum of the days",
            "accumulated credits are the sum of the days",
        ),
    ),
    "I4": ("the latest accumulated sums are the account's", of_sql(_LATEST_DAY)),
    "I5": ("pending is the sum of the open holds", of_checks("what is pending is the sum of the open holds")),
    "I6": ("no guarded account is below its floor or above its ceiling, on any day", of_sql(_OVERDRAWN_DAYS)),
    "I7": ("a hold ends once", ended_twice),
    "I8": ("the same entry has the same answer, another one under its key is refused", answered_otherwise),
    "I9": ("what was refused changed nothing", left_by_the_refused),
    "I10": ("closed days never change", changed_closed_days),
    "I11": ("every posting has exactly one callback", callbacks_missing_or_double),
    "I12": ("the chain of hashes, made while others wrote, has every line", chain_incomplete),
}


def deadlocks() -> int:
    """Of this database, since its statistics began; the sessions that ended have told theirs."""
    (found,) = rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(found[0])


# Around midnight machines don't agree on the day, and a hold may be placed on what another one's tomorrow has brought.
CLOCKS = {"one clock": ((EXACT,), set()), "clocks that differ": ((EXACT, EXACT, timedelta(days=1)), {"I6"})}


class TestEverythingAtOnce:
    @pytest.mark.parametrize(("clocks", "entries_min"), [("one clock", 100), ("one clock", 1), ("clocks that differ", 1)])
    def test_keeps_every_invariant_and_never_deadlocks(
        self, committed_bank: None, monkeypatch: pytest.MonkeyPatch, clocks: str, entries_min: int
    ) -> None:
        monkeypatch.setattr(postings, "PLAIN_ENTRIES_MIN", entries_min)  # Note [Plain lines]
        open_accounts()
        before, log = deadlocks(), Log()
        differ, not_kept = CLOCKS[clocks]
        threads = [Thread(number, log, steps=STEPS, clocks=differ) for number in range(THREADS)]
        in_threads(lambda n: threads[n].run())  # whoever is the victim of a deadlock raises it here
        broken = {name: found[:5] for name, (_, invariant) in INVARIANTS.items() if (found := invariant(log))}
        broken = {name: found for name, found in broken.items() if name not in not_kept}
        assert broken == {}
        assert ledger.check_balances() == []
        assert deadlocks() == before
        # The dice must have thrown what is meant to meet.
        missing = WANTED - set(told(log))
        assert not missing, sorted(told(log).items())
        assert {None, "R103", "R107"} <= {result.code for _, result in log.answers}

    def test_each_of_them_is_looked_at(self) -> None:
        assert list(INVARIANTS) == [f"I{number}" for number in range(1, 13)]


# Of each of these there are ten at least in every run.
WANTED = {"single OK", "batch OK", "stream OK", "queue OK", "hold OK"} | {
    "reverse REVERSED",
    "roll_up SOME",
    "close_day CLOSED",
}
