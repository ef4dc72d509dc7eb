"""Real connections and real threads. Nothing here waits for a time to pass: threads meet at locks and barriers."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from django.db import connection, connections, transaction

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.ledger import rows
from apps.ledger.models import Hold, Transaction
from apps.ledger.public import AccountRef, Entry
from apps.ledger.rows import COPY_ROWS_MIN
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    LIMITED,
    NOW,
    TODAY,
    fund,
    line,
    money,
    move,
    post,
    post_batch,
    posted,
)

pytestmark = pytest.mark.usefixtures("committed_bank")

T = TypeVar("T")
THREADS = 8
WAIT_S = 90  # a thread that takes longer is stuck, also on a machine with much else to do


def in_threads(work: Callable[[int], T], count: int = THREADS) -> list[T]:
    """Run ``work(n)`` in threads that start together, each with a connection of its own."""
    barrier = threading.Barrier(count)

    def run(n: int) -> T:
        try:
            barrier.wait(WAIT_S)
            return work(n)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count), timeout=WAIT_S))


def code_of(work: Callable[[], Any]) -> str:
    """OK, or the code of the refusal; one commit either way."""
    try:
        with transaction.atomic():
            work()
    except DomainError as refusal:
        return refusal.code
    return "OK"


def wait_until_blocked(pid: int) -> None:
    """Until the server says that this session waits for a lock."""
    for _ in range(100_000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT cardinality(pg_blocking_pids(%s))", [pid])
            if cursor.fetchone()[0]:
                return
    pytest.fail("The other session never waited: nothing fences the account.")


def while_open(first: Callable[[], Any], second: Callable[[], Any], *, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """``first`` writes and does not commit; ``second`` starts and must wait for it; then ``first`` commits.

    ``meanwhile`` runs in the first one's transaction while the second one waits.
    """
    pids: list[int] = []
    started = threading.Event()

    def run_second() -> None:
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    pids.append(cursor.fetchone()[0])
                started.set()
                second()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first()
            waiting = pool.submit(run_second)
            assert started.wait(WAIT_S)
            wait_until_blocked(pids[0])
            meanwhile()
        waiting.result(WAIT_S)


Post = Callable[[Entry], None]
MONDAY, TUESDAY = TODAY - timedelta(days=1), TODAY


def one_line(line_: Entry) -> None:
    ledger.post(line_, now=NOW)  # the function in the database


def small_batch(line_: Entry) -> None:
    ledger.post_batch([line_, line(BOB, "C", 1)], now=NOW)


def large_batch(line_: Entry) -> None:
    others = [line(BOB, "C", 1) for _ in range(COPY_ROWS_MIN)]
    ledger.post_batch([line_, line(LIMITED, "C", 1), *others], now=NOW)  # three accounts: see the fixture


@pytest.fixture(autouse=True)
def convoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three accounts lock the first one by itself, as those of hundreds lock a few. See Note [Convoy]."""
    monkeypatch.setattr(rows, "CONVOY_ACCOUNTS_MIN", 3)
    monkeypatch.setattr(rows, "CONVOY_HEAD", 1)


@pytest.mark.parametrize("first", [one_line, small_batch, large_batch])
@pytest.mark.parametrize("second", [one_line, small_batch, large_batch])
class TestLostUpdateOfTheSeed:
    """Trap T1: a lock and a read in one statement lose the row that another writer is just inserting."""

    def test_a_day_opened_while_a_back_dated_line_commits_carries_that_line(self, first: Post, second: Post) -> None:
        fund(ANA, 100, dateref=MONDAY)
        while_open(
            lambda: first(line(ANA, "C", 10, dateref=MONDAY)),
            lambda: second(line(ANA, "C", 1, dateref=TUESDAY)),
        )
        assert ledger.balance_on(ANA, TUESDAY).balance == 111
        assert ledger.check_balances() == []

    def test_a_back_dated_line_shifts_a_day_that_is_just_being_opened(self, first: Post, second: Post) -> None:
        fund(ANA, 100, dateref=MONDAY)
        while_open(
            lambda: first(line(ANA, "C", 1, dateref=TUESDAY)),
            lambda: second(line(ANA, "C", 10, dateref=MONDAY)),
        )
        assert ledger.balance_on(ANA, TUESDAY).balance == 111
        assert ledger.check_balances() == []

    def test_two_writers_open_the_same_day_at_once(self, first: Post, second: Post) -> None:
        while_open(lambda: first(line(ANA, "C", 1)), lambda: second(line(ANA, "C", 10)))
        assert ledger.balance_on(ANA, TUESDAY).balance == 11
        assert ledger.check_balances() == []


class TestManyWriters:
    def test_leave_every_balance_provable_and_no_money_made(self) -> None:
        refs = [ANA, BOB, LIMITED, CLEARING]
        for ref in refs:
            fund(ref, 200, dateref=TODAY - timedelta(days=7))
        ledger.run_check(kind="INCREMENTAL", now=NOW)

        def write(n: int) -> Counter[str]:
            draw = random.Random(n)
            outcomes: Counter[str] = Counter()
            for step in range(12):
                batch = []
                for _ in range(draw.choice([1, 5])):
                    debit, credit = draw.sample(refs, 2)
                    day = TODAY - timedelta(days=draw.choice([0, 0, 1, 3, 7]))
                    batch.append(move(debit, credit, draw.randint(1, 120), dateref=day))
                outcomes.update(result.code or "OK" for result in post_batch(batch))
                key, ref = f"{n}-{step}", draw.choice(refs)
                values = {"key": key, "branch": ref.branch, "account": ref.account, "amount": money(draw.randint(1, 50))}
                outcomes[code_of(lambda values=values: ledger.hold(**values, now=NOW))] += 1
                end = draw.choice([self.void, self.post_hold, lambda key: None])
                outcomes[code_of(lambda key=key, end=end: end(key))] += 1
            return outcomes

        outcomes = sum(in_threads(write), Counter())
        assert ledger.check_balances() == []
        assert ledger.run_check(kind="INCREMENTAL", now=NOW).differences == []
        assert sum(posted(ref) for ref in refs) == 800
        assert outcomes["OK"] > 100
        assert outcomes["R103"] > 0

    def void(self, key: str) -> None:
        ledger.void_hold(key=key, now=NOW)

    def post_hold(self, key: str) -> None:
        ledger.post_hold(key=key, tracekey=uuid7(), credit=CLEARING, eventcode=ANY, description="", now=NOW)

    def test_never_overdraw(self) -> None:
        fund(ANA, 100)

        def spend(n: int) -> int:
            posting = lambda: ledger.post(line(ANA, "D", 5), now=NOW)  # noqa: E731
            holding = lambda: ledger.hold(key=str(uuid7()), branch="0001", account=ANA.account, amount=money(5), now=NOW)  # noqa: E731
            return sum(code_of(posting if (n + step) % 2 else holding) == "OK" for step in range(6))

        assert sum(in_threads(spend)) == 20
        assert ledger.balance(ANA).available == 0

    def test_that_lock_the_same_accounts_in_opposite_order_do_not_deadlock(self) -> None:
        pairs = [(CLEARING, LIMITED), (LIMITED, CLEARING)]
        fund(LIMITED, 1000)

        def write(n: int) -> None:
            for _ in range(10):
                post_batch([move(*pairs[n % 2], 1), move(*pairs[(n + 1) % 2], 1)])

        in_threads(write)
        assert (posted(LIMITED), posted(CLEARING)) == (1000, 0)

    def test_that_share_tracekeys_in_opposite_order_do_not_deadlock(self) -> None:
        keys = [[uuid7() for _ in range(20)] for _ in range(5)]
        refs = [ANA, BOB, LIMITED, CLEARING]

        def write(n: int) -> int:
            posted_count = 0
            for group in keys:
                ordered = group if n % 2 else group[::-1]
                results = post_batch([line(refs[n % 4], "C", n + 1, tracekey=key) for key in ordered])
                posted_count += sum(result.posting is not None for result in results)
            return posted_count

        assert sum(in_threads(write)) == Transaction.objects.count() == 100


class TestOnce:
    def test_a_tracekey_posted_by_all_is_posted_once_and_answers_all_the_same(self) -> None:
        entry = line(ANA, "C", 10)
        results = in_threads(lambda n: post(entry))
        assert len({result.lines for result in results}) == 1
        assert sum(not result.replayed for result in results) == 1
        assert posted(ANA) == 10

    def test_a_tracekey_with_different_bodies_has_one_winner(self) -> None:
        key = uuid7()
        refs = [ANA, BOB, LIMITED, CLEARING]

        def attempt(n: int) -> str:
            return code_of(lambda: ledger.post(line(refs[n % 4], "C", n + 1, tracekey=key), now=NOW))

        assert Counter(in_threads(attempt)) == {"OK": 1, "R107": THREADS - 1}
        assert Transaction.objects.count() == 1

    def test_a_key_given_back_by_a_refusal_is_free_for_the_next(self) -> None:
        key = uuid7()

        def attempt(n: int) -> str:
            entry = line(ANA, "D", n + 1, tracekey=key) if n else line(ANA, "C", 1, tracekey=key)
            return code_of(lambda: ledger.post(entry, now=NOW))

        outcomes = Counter(in_threads(attempt))
        assert outcomes["OK"] == 1
        assert outcomes["R103"] + outcomes["R107"] == THREADS - 1
        assert posted(ANA) == 1

    def test_a_hold_ends_once(self) -> None:
        fund(ANA, 100)
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(40), expires_at=NOW, now=NOW)
        before = NOW - timedelta(hours=1)

        def end(n: int) -> str:
            if n % 4 == 0:
                return code_of(lambda: ledger.void_hold(key="k", now=NOW))
            if n % 4 == 1:
                return code_of(lambda: ledger.expire_holds(now=NOW))
            values = {"tracekey": uuid7(), "credit": BOB, "eventcode": ANY, "description": "", "now": before}
            return code_of(lambda: ledger.post_hold(key="k", **values))

        in_threads(end)
        status = Hold.objects.get().status
        assert status in {"POSTED", "VOIDED", "EXPIRED"}
        paid = 40 if status == "POSTED" else 0
        assert (posted(ANA), posted(BOB), ledger.balance(ANA).pending) == (100 - paid, paid, 0)
        assert ledger.check_balances() == []

    def test_a_hold_placed_by_all_is_placed_once(self) -> None:
        fund(ANA, 100)
        values = {"key": "k", "branch": "0001", "account": ANA.account, "amount": money(40), "now": NOW}
        assert Counter(in_threads(lambda n: code_of(lambda: ledger.hold(**values)))) == {"OK": THREADS}
        assert ledger.balance(ANA).pending == 40

    def test_a_key_held_on_different_accounts_has_one_winner(self) -> None:
        fund(ANA, 100)
        fund(BOB, 100)

        def attempt(n: int) -> str:
            ref = (ANA, BOB)[n % 2]
            return code_of(lambda: ledger.hold(key="k", branch="0001", account=ref.account, amount=money(40), now=NOW))

        assert set(in_threads(attempt)) == {"OK", "R115"}
        assert ledger.balance(ANA).pending + ledger.balance(BOB).pending == 40


class TestUndoAgainstDo:
    def test_a_void_that_meets_its_hold_leaves_nothing_held(self) -> None:
        fund(ANA, 100)

        def attempt(n: int) -> str:
            key = str(n // 2)
            if n % 2:
                return code_of(lambda: ledger.void_hold(key=key, now=NOW))
            values = {"branch": "0001", "account": ANA.account, "amount": money(10), "now": NOW}
            return code_of(lambda: ledger.hold(key=key, **values))

        outcomes = in_threads(attempt)
        assert set(outcomes[1::2]) == {"OK"}
        assert set(outcomes[0::2]) <= {"OK", "R114"}
        assert ledger.balance(ANA).pending == 0
        assert set(Hold.objects.values_list("status", flat=True)) == {"VOIDED"}

    def test_a_void_waits_for_the_hold_that_is_just_being_placed(self) -> None:
        fund(ANA, 100)
        while_open(
            lambda: ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(10), now=NOW),
            lambda: ledger.void_hold(key="k", now=NOW),
        )
        assert ledger.balance(ANA).pending == 0

    def test_a_reversal_waits_for_the_posting_that_is_just_being_written(self) -> None:
        entry = line(ANA, "C", 10)
        while_open(
            lambda: ledger.post(entry, now=NOW),
            lambda: ledger.reverse(tracekey=entry.tracekey, reversal_tracekey=uuid7(), now=NOW),
        )
        assert (posted(ANA), Transaction.objects.count()) == (0, 2)

    def test_a_posting_waits_for_the_reversal_that_overtook_it(self) -> None:
        entry = line(ANA, "C", 10)
        with pytest.raises(ledger.PostingVoided):
            while_open(
                lambda: ledger.reverse(tracekey=entry.tracekey, reversal_tracekey=uuid7(), now=NOW),
                lambda: ledger.post(entry, now=NOW),
            )

    def test_an_entry_is_reversed_once_whatever_the_keys(self) -> None:
        entry = line(CLEARING, "C", 10)
        post(entry)

        def attempt(n: int) -> str:
            return code_of(lambda: ledger.reverse(tracekey=entry.tracekey, reversal_tracekey=UUID(int=n + 1), now=NOW))

        assert Counter(in_threads(attempt)) == {"OK": 1, "R116": THREADS - 1}
        assert posted(CLEARING) == 0


class TestProofWhileWritersRun:
    def test_raises_no_false_alarm(self) -> None:
        done = threading.Event()

        def work(n: int) -> int:
            if n == 0:
                found = [difference for _ in range(6) for difference in ledger.check_balances()]
                done.set()
                assert found == []
                return 0
            count = 0
            while not done.is_set() and count < 500:
                post(line(AccountRef("0001", "CLEARING"), "C", 1, dateref=TODAY - timedelta(days=count % 8)))
                count += 1
            return count

        assert sum(in_threads(work, 4)) > 0
