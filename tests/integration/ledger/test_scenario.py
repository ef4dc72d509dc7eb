"""What the scenario compares: every kind of difference is found, and nothing else is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger import scenario
from apps.ledger.public import AccountRef, Entry
from apps.messaging.contracts.ledger import POSTING_IN
from apps.messaging.models import Message
from tests.integration.ledger.conftest import ANA, NOW, TODAY, line, money
from tests.integration.ledger.test_reconciliation import damage

pytestmark = pytest.mark.usefixtures("bank")


@dataclass
class Run:
    """Entries that were posted, and the snapshots before and after."""

    refs: list[AccountRef]
    entries: list[Entry]
    before: scenario.Snapshot
    after: scenario.Snapshot

    def found(self, **changes: Any) -> list[str]:
        """What ``compare`` finds, if it is told of these instead."""
        values = {"before": self.before, "after": self.after, "entries": self.entries, **changes}
        outcomes = scenario.answered([entry.tracekey for entry in self.entries])
        return sorted({one.what for one in scenario.compare(**values, outcomes=outcomes)})

    def now(self) -> scenario.Snapshot:
        """A snapshot of now."""
        return scenario.take_snapshot(self.refs, today=TODAY, with_others=True)


def post(entries: Sequence[Entry]) -> None:
    with transaction.atomic():
        assert all(result.posting for result in ledger.post_batch(entries, now=NOW))


@pytest.fixture(name="run")
def a_run(bank: None) -> Run:
    with transaction.atomic():
        refs = scenario.prepare(3, now=NOW)
    post([scenario_line(ref, "C", 5) for ref in refs])  # of an earlier run
    entries = scenario.draw_entries(40, refs, today=TODAY, days_back_max=7, seed=1)
    before = scenario.take_snapshot(refs, today=TODAY, with_others=True)
    post(entries)
    return Run(refs, entries, before, scenario.take_snapshot(refs, today=TODAY, with_others=True))


def scenario_line(ref: AccountRef, side: str, amount: int, **options: Any) -> Entry:
    return line(ref, side, amount, eventcode=scenario.EVENT, **options)


class TestCompare:
    def test_finds_nothing_when_each_entry_was_posted_once(self, run: Run) -> None:
        assert run.found() == []

    def test_finds_an_entry_that_was_not_posted(self, run: Run) -> None:
        missing = scenario_line(run.refs[0], "C", 3, dateref=TODAY - timedelta(days=2))
        expected = ["balance", "closing", "day", "line missing", "outcome"]
        assert run.found(entries=[*run.entries, missing]) == expected

    def test_finds_a_line_that_nobody_asked_for(self, run: Run) -> None:
        assert run.found(entries=run.entries[1:]) == ["balance", "closing", "day", "line too much"]

    def test_finds_an_amount_that_is_a_cent_off(self, run: Run) -> None:
        first = run.entries[0]
        legs = tuple(replace(leg, amount=leg.amount + Decimal("0.01")) for leg in first.legs)
        found = run.found(entries=[replace(first, legs=legs), *run.entries[1:]])
        assert {"balance", "line missing", "line too much"} <= set(found)

    def test_finds_a_line_on_another_day(self, run: Run) -> None:
        first = run.entries[0]
        other = TODAY if first.dateref != TODAY else TODAY - timedelta(days=1)
        found = run.found(entries=[replace(first, dateref=other), *run.entries[1:]])
        assert found == ["day", "line missing", "line too much"]

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("UPDATE ledger_balance SET totaldebit = 0 WHERE branch = 'SCENARIO'", {"day"}),
            ("UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1 WHERE branch = 'SCENARIO'", {"closing"}),
            ("UPDATE ledger_transaction SET daynet = daynet + 1 WHERE branch = 'SCENARIO'", {"running balance"}),
            ("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE branch = 'SCENARIO'", {"balance"}),
            ("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE branch = '0001'", {"the other accounts"}),
        ],
    )
    def test_finds_what_is_stored_wrong(self, run: Run, sql: str, expected: set[str]) -> None:
        damage(sql)
        assert expected <= set(run.found(after=run.now()))

    def test_finds_that_others_did_not_stand_still(self, run: Run) -> None:
        post([line(ANA, "C", 1)])
        assert run.found(after=run.now()) == ["the other accounts"]


class TestSteps:
    def test_settling_brings_every_account_back_to_zero_and_may_be_repeated(self, run: Run) -> None:
        for _ in range(2):
            with transaction.atomic():
                scenario.settle(run.refs, now=NOW)
        assert [ledger.balance(ref).posted for ref in run.refs] == [0, 0, 0]

    def test_the_same_seed_draws_the_same_but_for_the_tracekeys(self, run: Run) -> None:
        def drawn() -> list[Entry]:
            entries = scenario.draw_entries(30, run.refs, today=TODAY, days_back_max=7, seed=3)
            return [replace(entry, tracekey=run.entries[0].tracekey) for entry in entries]

        assert drawn() == drawn()
        assert {entry.dateref for entry in drawn()} > {TODAY}

    def test_a_window_of_no_days_dates_nothing_back(self, run: Run) -> None:
        entries = scenario.draw_entries(30, run.refs, today=TODAY, days_back_max=0, seed=3)
        assert {entry.dateref for entry in entries} == {TODAY}

    def test_some_are_asked_for_twice(self, run: Run) -> None:
        entries = [scenario_line(run.refs[0], "C", 1, tracekey=uuid7()) for _ in range(100)]
        asked = scenario.ask(entries, seed=1)
        rows = Message.objects.filter(topic=POSTING_IN)
        assert 100 < asked == rows.count()
        assert {row.body["tracekey"] for row in rows} == {str(entry.tracekey) for entry in entries}

    @pytest.mark.parametrize(("count", "accounts"), [(0, 2), (scenario.TRANSACTIONS_MAX + 1, 2), (1, 1), (1, 1_001)])
    def test_too_few_and_too_many_are_refused(self, count: int, accounts: int) -> None:
        with pytest.raises(scenario.NothingToRun), transaction.atomic():
            scenario.draw_entries(count, scenario.prepare(accounts, now=NOW), today=TODAY, days_back_max=0, seed=1)

    def test_suspends_every_branch_but_its_own_and_lifts_that_again(self, run: Run) -> None:
        lasts = NOW + timedelta(minutes=5)
        suspensions = scenario.suspend_others(by="t", now=NOW, until=lasts)
        with transaction.atomic():
            results = ledger.post_batch([line(ANA, "C", 1), scenario_line(run.refs[0], "C", 1)], now=NOW)
        assert [result.code for result in results] == ["R130", None]
        scenario.resume_others(suspensions, by="t", now=NOW)
        post([line(ANA, "C", 1)])
        assert ledger.balance(ANA).posted == money(1)


def test_the_lock_that_keeps_others_out_is_given_back(bank: None) -> None:
    for _ in range(2):
        with scenario.alone():
            pass
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        assert cursor.fetchone() == (0,)
