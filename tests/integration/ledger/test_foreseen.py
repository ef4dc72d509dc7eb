"""Batches that are decided before their locks: whatever others do meanwhile, answers and rows are those of one by one.

Real connections: what others do, they do between the decision and its locks, or while the locks are waited for.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import OperationalError, connection, connections, transaction

from apps.ledger import plain_batch, plain_known, postings
from apps.ledger import public as ledger
from apps.ledger.models import Event, PostingKey
from apps.ledger.public import AccountRef, Entry, EntryResult
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import NOW, TODAY, fund, line, money, post_batch, posted
from tests.integration.ledger.test_concurrency import WAIT_S, wait_until_blocked
from tests.integration.ledger.test_known import Asked

pytestmark = pytest.mark.usefixtures("committed_bank", "opened", "all_are_large")

Act = Callable[[], object]
# Keys in one order, ids and rows in the other.
OURS, TWINS = ([AccountRef("0001", f"{name}-{n}") for n in range(3)] for name in "FT")
BACK = TODAY - timedelta(days=3)
SOME_EVENT = 7


@pytest.fixture
def opened(committed_bank: None) -> None:
    with transaction.atomic():
        ledger.ensure_event(code=SOME_EVENT, description="some", now=NOW)
        for ref in (*reversed(OURS), *reversed(TWINS)):
            ledger.open_account(branch=ref.branch, account=ref.account, min_balance=money(0), now=NOW)
    for ref in (*reversed(OURS), *reversed(TWINS)):
        fund(ref, 10)


@pytest.fixture
def all_are_large() -> Iterator[None]:
    claim = plain_batch.PlainBatch.claim

    def claim_when_gathered(made: plain_batch.PlainBatch, work: Any) -> bool:
        made._need(plain_batch._GATHERED)  # a following one is so far, if there was time
        return claim(made, work)

    with patch.object(postings, "PLAIN_ENTRIES_MIN", 1), patch.object(plain_batch.PlainBatch, "claim", claim_when_gathered):
        yield


class Foreseen:
    """Which foreseen batches turned out right. ``acts``: what happens between the n-th decision and its locks."""

    def __init__(self, acts: dict[int, Act] | None = None) -> None:
        self._acts, self._write = acts or {}, plain_batch.PlainBatch._write_foreseen

    def __enter__(self) -> list[bool]:
        right: list[bool] = []

        def write(made: plain_batch.PlainBatch, work: Any) -> None:
            if made._decided is None:
                return
            act = self._acts.get(len(right))
            right.append(False)
            if act:
                act()
            self._write(made, work)
            right[-1] = made.is_foreseen

        self._patch = patch.object(plain_batch.PlainBatch, "_write_foreseen", write)
        self._patch.start()
        return right

    def __exit__(self, *error: object) -> None:
        self._patch.stop()


def stream(*batches: list[Entry]) -> list[list[EntryResult]]:
    return list(ledger.post_batches(iter(batches), clock=lambda: NOW))


def batch(refs: list[AccountRef]) -> list[Entry]:
    """On each account two days, one of which is not there yet."""
    return [
        line(ref, side, amount, dateref=day, eventcode=SOME_EVENT)
        for ref in refs
        for side, amount, day in (("C", 4, BACK), ("D", 12, TODAY))
    ]


def answers(results: list[EntryResult]) -> list[Any]:
    return [result.code or [(each.amount, each.balances) for each in result.posting.lines] for result in results if result]


def rows_of(refs: list[AccountRef]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT right(a.account, 1), status, posteddebit, postedcredit, pendingdebit, dateref, totaldebit, "
            "totalcredit, accumulateddebit, accumulatedcredit FROM ledger_account a LEFT JOIN ledger_balance b "
            "USING (branch, account, currency) WHERE a.account = ANY(%s) ORDER BY a.account, dateref",
            [[ref.account for ref in refs]],
        )
        return cursor.fetchall()


def my_pid() -> int:
    with connection.cursor() as cursor:
        return int(cursor.execute("SELECT pg_backend_pid()").fetchone()[0])


class Elsewhere:
    """``act`` in a transaction of another connection, which then waits until ``pid`` waits for it, if there is one."""

    def __init__(self, act: Act, pid: int | None = None, *, then: Act = lambda: None, commits: bool = True) -> None:
        self._act, self._pid, self._then, self._commits = act, pid, then, commits
        self._acted, self._errors = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with transaction.atomic():
                self._act()
                if self._pid is not None:
                    self._acted.set()
                    wait_until_blocked(self._pid)
                self._then()
                transaction.set_rollback(not self._commits)
        except BaseException as error:
            self._errors.append(error)
        finally:
            connections.close_all()
            self._acted.set()

    def __call__(self) -> None:
        self._thread.start()
        assert self._acted.wait(WAIT_S)
        if self._pid is None:
            self.join()

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._errors


def empty_and_close(ref: AccountRef) -> None:
    ledger.post(line(ref, "D", int(posted(ref))), now=NOW)
    ledger.close_account(account=ref, now=NOW)


OF_ACCOUNTS: dict[str, Callable[[AccountRef], object]] = {
    "posted": lambda ref: ledger.post(line(ref, "D", 10), now=NOW),
    "day opened": lambda ref: ledger.post(line(ref, "C", 7, dateref=BACK), now=NOW),
    "day ahead": lambda ref: ledger.post(line(ref, "D", 3), now=NOW + timedelta(days=1)),
    "held": lambda ref: ledger.hold(key=str(ref), branch="0001", account=ref.account, amount=money(8), now=NOW),
    "frozen": lambda ref: ledger.set_frozen(account=ref, frozen=True, now=NOW),
    "closed": empty_and_close,
    "limited": lambda ref: ledger.set_limits(account=ref, min_balance=money(-1), max_balance=money(12), now=NOW),
}
# What no account's version tells.
OF_ALL: dict[str, Callable[[AccountRef], object]] = {
    "day closed": lambda _: ledger.close_day(branch="0001", day=BACK, now=NOW),
    "event switched off": lambda _: Event.objects.filter(code=SOME_EVENT).update(active=False),
    "suspended": lambda ref: ledger.suspend(mode="REFUSE", reason="a look", by="me", account=ref, now=NOW),
}


class TestWhatOthersDo:
    @pytest.mark.parametrize("warm", [OURS, OURS[:1] * 2], ids=["known", "looked up"])
    @pytest.mark.parametrize("name", [*OF_ACCOUNTS, *OF_ALL])
    def test_between_the_decision_and_its_locks(self, name: str, warm: list[AccountRef]) -> None:
        act = {**OF_ACCOUNTS, **OF_ALL}[name]
        post_batch([line(TWINS[OURS.index(ref)], "C", 1) for ref in warm])
        with Foreseen({1: Elsewhere(lambda: act(OURS[1]))}) as right:
            results = stream([line(ref, "C", 1) for ref in warm], batch(OURS))
        assert right == [True, False]
        if name in OF_ACCOUNTS or name == "suspended":
            with transaction.atomic():
                act(TWINS[1])
        assert answers(results[1]) == answers(post_batch(batch(TWINS)))
        assert rows_of(OURS) == rows_of(TWINS)
        assert prove() == []

    @pytest.mark.parametrize("commits", [True, False])
    @pytest.mark.parametrize("name", OF_ACCOUNTS)
    def test_while_the_locks_are_waited_for(self, name: str, commits: bool) -> None:
        act = OF_ACCOUNTS[name]
        post_batch([line(ref, "C", 1) for ref in TWINS])
        other = Elsewhere(lambda: act(OURS[1]), my_pid(), commits=commits)
        with Foreseen({1: other}) as right:
            results = stream([line(ref, "C", 1) for ref in OURS], batch(OURS))
        other.join()
        assert right == [True, not commits]
        if commits:
            with transaction.atomic():
                act(TWINS[1])
        assert answers(results[1]) == answers(post_batch(batch(TWINS)))
        assert rows_of(OURS) == rows_of(TWINS)
        assert prove() == []

    @pytest.mark.parametrize("name", OF_ACCOUNTS)
    def test_before_the_look_up(self, name: str) -> None:
        for ref in (OURS[1], TWINS[1]):
            Elsewhere(lambda ref=ref: OF_ACCOUNTS[name](ref))()  # type: ignore[misc]
        with Foreseen() as right:
            results = stream([line(OURS[0], "C", 1) for _ in range(2)], batch(OURS))
        assert right == ([True, True] if name == "day opened" else [True])
        post_batch([line(TWINS[0], "C", 1) for _ in range(2)])
        assert answers(results[1]) == answers(post_batch(batch(TWINS)))
        assert rows_of(OURS) == rows_of(TWINS)
        assert prove() == []

    def test_a_line_of_a_day_long_ago_is_refused_beside_others(self) -> None:
        found = []
        for refs in (OURS, TWINS):
            entries = [*batch(refs), line(refs[0], "C", 1, dateref=TODAY - timedelta(days=400))]
            warm = [line(ref, "C", 1) for ref in refs]
            results = stream(warm, entries) if refs is OURS else [post_batch(warm), post_batch(entries)]
            found.append(answers(results[1]))
        assert found[0] == found[1]
        assert rows_of(OURS) == rows_of(TWINS)
        assert prove() == []

    def test_what_is_known_of_the_others_is_still_known(self) -> None:
        act = Elsewhere(lambda: ledger.post(line(OURS[1], "C", 1), now=NOW))
        with patch.object(plain_known, "_MANY", 1), Asked() as asked, Foreseen({1: act}) as right:
            stream(batch(OURS), *[[line(ref, "C", 1) for ref in OURS] for _ in range(3)])
        assert right == [True, False, True]  # one batch is not foreseen, but all of it is known
        assert asked == [3, 1]
        assert prove() == []


class TestLocks:
    def test_no_day_is_touched_of_an_account_that_is_not_locked(self) -> None:
        """Or whoever has the account waits for a later one of ours, and we for its day."""
        other = Elsewhere(
            lambda: ledger.post(line(OURS[1], "C", 2), now=NOW),
            my_pid(),
            then=lambda: ledger.post(line(OURS[2], "C", 2), now=NOW),
        )

        def change_and_hold() -> None:
            Elsewhere(lambda: ledger.post(line(OURS[1], "C", 1), now=NOW))()
            other()

        with Foreseen({1: change_and_hold}) as right:
            results = stream([line(ref, "C", 1) for ref in OURS], [line(ref, "D", 5) for ref in OURS])
        other.join()
        assert right == [True, False]
        assert [result.code for result in results[1]] == [None] * 3
        assert prove() == []

    @pytest.mark.parametrize("accounts_counted", [1, 3, 100])
    def test_are_taken_in_key_order_whatever_the_planner_believes(self, accounts_counted: int) -> None:
        """As when a table was analysed with its first account, and has more since."""
        free: list[str] = []

        def look() -> None:
            wait_until_blocked(pid)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT account FROM ledger_account WHERE account = ANY(%s) ORDER BY account FOR UPDATE SKIP LOCKED",
                    [[OURS[0].account, OURS[2].account]],
                )
                free.extend(account for (account,) in cursor.fetchall())

        with connection.cursor() as cursor:
            cursor.execute("VACUUM FULL ledger_account")
            cursor.execute(
                "UPDATE pg_class SET reltuples = %s, relpages = 1 WHERE relname = 'ledger_account'", [accounts_counted]
            )
        connection.close()  # and the plans that were made
        pid = my_pid()
        other = Elsewhere(lambda: ledger.set_frozen(account=OURS[1], frozen=False, now=NOW), pid, then=look, commits=False)
        with Foreseen({0: other}) as right:
            stream([line(ref, "C", 1) for ref in OURS])
        other.join()
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE ledger_account")
        assert right == [True]
        assert free == [OURS[2].account]

    @pytest.mark.parametrize("how", ["timeout", "cancel"])
    def test_that_are_waited_for_in_vain_leave_nothing_half_done(self, how: str) -> None:
        pid, over, entries = my_pid(), threading.Event(), batch(OURS)

        def end_it() -> None:
            if how == "cancel":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_cancel_backend(%s)", [pid])
            assert over.wait(WAIT_S)

        other = Elsewhere(lambda: ledger.set_frozen(account=OURS[1], frozen=False, now=NOW), pid, then=end_it)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", ["200ms" if how == "timeout" else "0"])
        with Foreseen({1: other}) as right, pytest.raises(OperationalError):
            stream([line(ref, "C", 1) for ref in OURS], entries)
        over.set()
        other.join()
        assert right == [True, False]
        assert PostingKey.objects.filter(tracekey__in=[entry.tracekey for entry in entries]).count() == 0
        assert [posted(ref) for ref in OURS] == [money(11)] * 3
        connection.close()
        with Foreseen() as right:
            results = stream(entries, entries)
        assert right == [True]
        assert [result.code for result in results[0]] == [None] * 6
        assert [posted(ref) for ref in OURS] == [money(3)] * 3
        assert prove() == []
