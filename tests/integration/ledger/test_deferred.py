"""Accounts that take no lock: their lines wait, are counted, and are rolled up."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.db import connections, transaction

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.balances import DEFERRED_SUM_MAX
from apps.ledger.models import Account, Deferred, Transaction
from apps.ledger.public import AccountRef
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    NOW,
    TODAY,
    fund,
    leg,
    line,
    money,
    move,
    post,
    post_batch,
)
from tests.integration.ledger.test_concurrency import WAIT_S, in_threads, while_open

FEES = AccountRef("0001", "FEES")
YESTERDAY = TODAY - timedelta(days=1)


def open_fees() -> None:
    with transaction.atomic():
        ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)


def roll_up(limit: int = 10_000) -> int:
    with transaction.atomic():
        return ledger.roll_up(now=NOW, limit=limit)


@pytest.mark.usefixtures("bank")
class TestDeferred:
    @pytest.fixture(autouse=True)
    def _fees(self, bank: None) -> None:
        open_fees()
        fund(ANA, 100)

    def test_counts_in_the_balance_before_it_is_rolled_up(self) -> None:
        result = post(move(ANA, FEES, 3))
        assert [posted.balances is None for posted in result.lines] == [False, True]
        assert (ledger.balance(FEES).posted, Transaction.objects.filter(account="FEES").count()) == (3, 0)
        assert roll_up() == 1
        assert (ledger.balance(FEES).posted, ledger.balance_on(FEES, TODAY).balance, Deferred.objects.count()) == (3, 3, 0)

    def test_a_repeat_answers_the_same_before_and_after_the_roll_up(self) -> None:
        entry = move(ANA, FEES, 3)
        first = post(entry)
        assert post(entry) == first
        roll_up()
        again = post(entry)
        assert again == first
        assert again.replayed

    def test_rolls_up_in_parts_with_running_balances_and_days(self) -> None:
        for day, amount in ((TODAY, 1), (YESTERDAY, 2), (TODAY, 4), (YESTERDAY, 8)):
            post(line(FEES, "C", amount, dateref=day))
        assert [roll_up(3), roll_up(3), roll_up(3)] == [3, 1, 0]
        statement = ledger.statement(FEES, date_from=YESTERDAY, date_to=TODAY)
        assert [(found.amount, found.running) for found in statement.lines] == [(2, 2), (8, 10), (1, 11), (4, 15)]

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_line_of_tomorrow_is_rolled_up_by_a_clock_that_is_behind(self, stored: bool) -> None:
        if stored:
            post(line(FEES, "C", 7), NOW + timedelta(days=1))
            roll_up()
        post(line(FEES, "C", 2, dateref=YESTERDAY))
        post(line(FEES, "C", 5), NOW + timedelta(days=1))
        assert roll_up() == 2
        days = {day: ledger.balance_on(FEES, day).balance for day in (YESTERDAY, TODAY, TODAY + timedelta(days=1))}
        assert list(days.values()) == [2, 2, 14 if stored else 7]
        assert prove() == []

    def test_that_is_half_full_takes_no_more_or_it_would_stop_all_roll_ups(self) -> None:
        post(line(FEES, "C", 1))
        roll_up()
        full = DEFERRED_SUM_MAX + money("0.01")
        Account.objects.filter(account="FEES").update(posted_credit=full, posted_debit=full - 1)
        results = post_batch([line(ANA, "D", 1), line(FEES, "C", 1), move(ANA, FEES, 1)])
        assert [result.code for result in results] == [None, "R119", "R119"]
        assert roll_up() == 0

    def test_is_found_by_tracekey_while_it_waits(self) -> None:
        entry = move(ANA, FEES, 3)
        line_ids = [posted.id for posted in post(entry).lines]
        assert [found.id for found in ledger.transactions_by_tracekey(entry.tracekey)] == line_ids
        assert ledger.transaction_by_id(line_ids[1]) is not None
        roll_up()
        assert [found.id for found in ledger.transactions_by_tracekey(entry.tracekey)] == line_ids

    def test_a_posting_with_a_waiting_leg_is_reversed(self) -> None:
        entry = move(ANA, FEES, 3)
        post(entry)
        with transaction.atomic():
            ledger.reverse(tracekey=entry.tracekey, reversal_tracekey=uuid7(), now=NOW)
        assert (ledger.balance(ANA).posted, ledger.balance(FEES).posted) == (100, 0)
        roll_up()
        assert ledger.balance(FEES).posted == 0

    def test_may_fall_below_zero_and_has_no_floor_ceiling_or_holds(self) -> None:
        post(line(FEES, "D", 1000))
        assert ledger.balance(FEES).posted == -1000
        with pytest.raises(ledger.MalformedEntry), transaction.atomic():
            ledger.open_account(branch="0001", account="X", min_balance=money(0), deferred=True, now=NOW)
        with pytest.raises(ledger.UnknownAccount), transaction.atomic():
            ledger.hold(key="k", branch="0001", account="FEES", amount=money(1), now=NOW)

    def test_is_proved_while_lines_wait_and_after(self) -> None:
        post(move(ANA, FEES, 3))
        assert prove() == []
        roll_up()
        assert prove() == []

    def test_is_rolled_up_before_its_day_closes(self) -> None:
        post(line(FEES, "C", 3, dateref=YESTERDAY))
        post(move(ANA, FEES, 4))
        with transaction.atomic():
            assert ledger.close_day(branch="0001", day=YESTERDAY, now=NOW)
        assert (ledger.balance_on(FEES, YESTERDAY).balance, Deferred.objects.count()) == (3, 1)
        with pytest.raises(ledger.DayClosed):
            post(line(FEES, "C", 1, dateref=YESTERDAY))

    def test_a_group_that_is_refused_leaves_nothing_waiting(self) -> None:
        import dataclasses

        good = dataclasses.replace(move(ANA, FEES, 3), group="g")
        bad = dataclasses.replace(move(BOB, FEES, 3), group="g")
        assert [result.code for result in post_batch([good, bad])] == ["R123", "R103"]
        assert Deferred.objects.count() == 0


@pytest.mark.usefixtures("committed_bank")
class TestAtOnce:
    def test_postings_do_not_wait_for_each_other_and_none_is_lost_to_roll_ups(self) -> None:
        open_fees()
        for ref in (ANA, BOB):
            fund(ref, 1000)
        barrier = threading.Barrier(8)

        def work(n: int) -> int:
            try:
                barrier.wait(90)
                if n < 2:
                    return -sum(roll_up(7) for _ in range(10))
                for step in range(10):
                    post_batch([move((ANA, BOB)[(n + step) % 2], FEES, 1), line(FEES, "C", 1, eventcode=ANY)])
                return 0
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            rolled = -sum(pool.map(work, range(8), timeout=150))
        assert rolled + Deferred.objects.count() == 120
        assert ledger.balance(FEES).posted == 120
        assert ledger.check_balances() == []
        while roll_up():
            pass
        assert ledger.balance_on(FEES, TODAY).balance == 120
        assert ledger.check_balances() == []

    def test_a_posting_to_it_ends_while_another_one_is_open(self) -> None:
        open_fees()
        with transaction.atomic():
            ledger.post(line(FEES, "C", 1), now=NOW)
            with ThreadPoolExecutor(1) as pool:

                def other() -> None:
                    try:
                        post(line(FEES, "C", 2))
                    finally:
                        connections.close_all()

                pool.submit(other).result(30)  # would never end, if it waited for the first one
        assert ledger.balance(FEES).posted == 3

    @pytest.mark.parametrize("single", [True, False])
    def test_eight_writers_are_inside_at_once(self, single: bool) -> None:
        """Each has posted to the hot account and not committed when the others do: with a lock they would never meet."""
        open_fees()
        own = [AccountRef("0001", f"OWN-{n}") for n in range(8)]
        with transaction.atomic():
            for ref in own:
                ledger.open_account(branch="0001", account=ref.account, min_balance=None, now=NOW)
        inside = threading.Barrier(8)

        def work(n: int) -> None:
            with transaction.atomic():
                ledger.post(line(FEES, "C", 1) if single else move(own[n], FEES, 1), now=NOW)
                inside.wait(WAIT_S)

        in_threads(work)
        assert ledger.balance(FEES).posted == 8
        assert ledger.check_balances() == []

    def test_on_an_ordinary_account_the_second_one_waits(self) -> None:
        fund(ANA, 1)
        fund(BOB, 1)
        first, second = move(ANA, CLEARING, 1), move(BOB, CLEARING, 1)
        while_open(lambda: ledger.post(first, now=NOW), lambda: ledger.post(second, now=NOW))
        assert ledger.balance(CLEARING).posted == 2

    def test_a_roll_up_that_waits_for_an_account_holds_none_of_its_lines(self) -> None:
        """Who closes a day has the accounts and waits for their lines: the two would wait for each other."""
        open_fees()
        post(line(FEES, "C", 1, dateref=YESTERDAY))
        while_open(
            lambda: Account.objects.select_for_update().get(account="FEES"),
            lambda: ledger.roll_up(now=NOW),
            meanwhile=lambda: Deferred.objects.select_for_update(nowait=True).get(),
        )
        assert ledger.balance_on(FEES, YESTERDAY).balance == 1

    def test_a_day_is_closed_while_its_lines_are_rolled_up(self) -> None:
        open_fees()
        post(line(FEES, "C", 1, dateref=YESTERDAY))
        while_open(lambda: ledger.roll_up(now=NOW), lambda: ledger.close_day(branch="0001", day=YESTERDAY, now=NOW))
        assert (ledger.balance_on(FEES, YESTERDAY).balance, Deferred.objects.count()) == (1, 0)
        assert ledger.check_balances() == []

    def test_who_freezes_it_waits_for_who_is_posting_and_keeps_the_next_one_out(self) -> None:
        open_fees()
        freeze = partial(ledger.set_frozen, account=FEES, frozen=True, now=NOW)
        while_open(lambda: ledger.post(line(FEES, "C", 1), now=NOW), freeze)
        assert ledger.balance(FEES).posted == 1
        with transaction.atomic():
            ledger.set_frozen(account=FEES, frozen=False, now=NOW)
        with pytest.raises(ledger.AccountFrozen):
            while_open(freeze, lambda: ledger.post(line(FEES, "C", 1), now=NOW))


def test_legs_of_deferred_accounts_balance_too(bank: None) -> None:
    open_fees()
    fund(ANA, 10)
    entry = ledger.Entry(tracekey=uuid7(), legs=(leg(ANA, "D", 3), leg(FEES, "C", 1), leg(BOB, "C", 2)))
    assert len(post(entry).lines) == 3
