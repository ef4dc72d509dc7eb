"""Suspensions: whom they stop, how, and until when; and that nobody is inside when one holds."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections, transaction

from apps.common.clock import uuid7
from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import public as ledger
from apps.ledger import suspensions
from apps.ledger.models import Account, Deferred, PostingKey, Suspension, Transaction
from apps.ledger.public import AccountRef, LedgerSuspended
from apps.ledger.rows import COPY_ROWS_MIN
from tests.integration.ledger.conftest import ANA, ANY, BOB, NOW, fund, line, money, move, post, post_batch, posted
from tests.integration.ledger.test_concurrency import WAIT_S, while_open

OTHER = AccountRef("0002", "1")
FEES = AccountRef("0001", "FEES")  # deferred
LATER = NOW + timedelta(minutes=1)


def suspend(mode: str = "REFUSE", **options: Any) -> ledger.SuspensionView:
    values = {"mode": mode, "reason": "a look", "by": "ana", "now": NOW, **options}
    with transaction.atomic():
        return ledger.suspend(**values)


def resume(suspension: ledger.SuspensionView) -> ledger.SuspensionView:
    with transaction.atomic():
        return ledger.resume(suspension_id=suspension.id, by="bob", now=LATER)


def open_others() -> None:
    with transaction.atomic():
        ledger.open_branch(branch=OTHER.branch, now=NOW)
        ledger.open_account(branch=OTHER.branch, account=OTHER.account, now=NOW)
        ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)


def everything() -> tuple[Any, ...]:
    """All that a posting could change."""
    tables = (Account, Transaction, PostingKey, Deferred)
    return tuple(sorted(map(str, table.objects.values_list())) for table in tables)


SCOPES: dict[str, dict[str, Any]] = {"the ledger": {}, "its branch": {"branch": "0001"}, "the account": {"account": ANA}}

WRITERS: dict[str, Callable[[], Any]] = {
    "a line": lambda: post(line(ANA, "C", 1)),
    "an entry": lambda: post(move(BOB, ANA, 1)),
    "a hold": lambda: _in_commit(ledger.hold, key="new", branch="0001", account=ANA.account, amount=money(1), now=NOW),
    "posting a hold": lambda: _in_commit(
        ledger.post_hold, key="held", tracekey=uuid7(), credit=BOB, eventcode=ANY, description="", now=NOW
    ),
    "voiding a hold": lambda: _in_commit(ledger.void_hold, key="held", now=NOW),
    "a reversal": lambda: _in_commit(ledger.reverse, tracekey=POSTED, reversal_tracekey=uuid7(), now=NOW),
}
POSTED = UUID(int=7)


def _in_commit(verb: Callable[..., Any], **values: Any) -> Any:
    with transaction.atomic():
        return verb(**values)


@pytest.fixture
def history(bank: None) -> None:
    open_others()
    fund(ANA, 50)
    fund(ANA, 50, tracekey=POSTED)
    fund(BOB, 100)
    _in_commit(ledger.hold, key="held", branch="0001", account=ANA.account, amount=money(10), now=NOW)


@pytest.mark.usefixtures("history")
class TestRefuse:
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("writer", WRITERS)
    def test_stops_every_verb_that_moves_money_and_nothing_is_changed(self, writer: str, scope: str) -> None:
        suspension = suspend(**SCOPES[scope])
        before = everything()
        with pytest.raises(LedgerSuspended) as refused:
            WRITERS[writer]()
        assert (refused.value.code, refused.value.retryable) == ("R130", True)
        # People read it, in the triage and on an order: to the second, and which clock it is.
        assert refused.value.detail.endswith(f" is suspended until {suspension.until:%Y-%m-%d %H:%M:%S} UTC.")
        assert everything() == before
        resume(suspension)
        WRITERS[writer]()

    @pytest.mark.parametrize("scope", [{"branch": "0002"}, {"account": BOB}, {"account": OTHER}])
    def test_leaves_alone_whom_it_does_not_name(self, scope: dict[str, Any]) -> None:
        suspend(**scope)
        post(line(ANA, "C", 1))
        assert posted(ANA) == 101

    @pytest.mark.parametrize("filler", [0, COPY_ROWS_MIN])
    def test_in_a_batch_the_others_go_on(self, filler: int) -> None:
        suspend(account=ANA)
        results = post_batch(
            [line(BOB, "C", 1), line(ANA, "C", 1), move(BOB, ANA, 1), line(OTHER, "C", 1)]
            + [line(BOB, "C", 1) for _ in range(filler)]
        )
        assert [result.code for result in results[:4]] == [None, "R130", "R130", None]
        assert (posted(ANA), posted(BOB), posted(OTHER)) == (100, 101 + filler, 1)

    def test_a_batch_with_a_key_that_comes_again_is_posted_then(self) -> None:
        suspension = suspend(account=ANA)
        entries = [line(BOB, "C", 1), line(ANA, "C", 1)]
        with transaction.atomic():
            assert [r.code for r in ledger.post_batch(entries, key="k", now=NOW)] == [None, "R130"]
        resume(suspension)
        with transaction.atomic():
            assert [r.code for r in ledger.post_batch(entries, key="k", now=NOW)] == [None, None]
        assert (posted(ANA), posted(BOB)) == (101, 101)

    @pytest.mark.parametrize("place", [0, 1])
    def test_a_group_of_a_batch_with_a_key_is_posted_then(self, place: int) -> None:
        suspension = suspend(account=ANA)
        group = [replace(line(BOB, "C", 1), group="g"), replace(line(ANA, "C", 1), group="g")]
        entries = [line(BOB, "D", 1_000), *group[:: 1 - 2 * place]]
        with transaction.atomic():
            first = [r.code for r in ledger.post_batch(entries, key="k", now=NOW)]
        assert sorted(map(str, first)) == ["R103", "R123", "R130"]
        resume(suspension)
        for _ in range(2):
            with transaction.atomic():
                assert [r.code for r in ledger.post_batch(entries, key="k", now=NOW)] == ["R103", None, None]
        assert (posted(ANA), posted(BOB)) == (101, 101)

    def test_what_such_a_batch_is_refused_then_is_its_answer_for_good(self) -> None:
        suspension = suspend(account=ANA)
        entries = [line(BOB, "C", 1), line(ANA, "D", 101)]
        answers = []
        for become in (lambda: resume(suspension), lambda: fund(ANA, 1_000), lambda: None):
            with transaction.atomic():
                answers.append([r.code for r in ledger.post_batch(entries, key="k", now=NOW)])
            become()
        assert answers == [[None, "R130"], [None, "R103"], [None, "R103"]]

    def test_a_line_of_a_deferred_account_is_refused(self) -> None:
        suspend(account=FEES)
        with pytest.raises(LedgerSuspended):
            post(line(FEES, "C", 1))

    def test_what_waits_to_be_rolled_up_waits_longer_and_the_rest_is_rolled_up(self) -> None:
        _in_commit(ledger.open_account, branch="0002", account="FEES", min_balance=None, deferred=True, now=NOW)
        post(line(FEES, "C", 1))
        post(line(AccountRef("0002", "FEES"), "C", 1))
        suspension = suspend(branch="0001")
        assert _in_commit(ledger.roll_up, now=NOW) == 1
        assert [row.branch for row in Deferred.objects.all()] == ["0001"]
        resume(suspension)
        assert _in_commit(ledger.roll_up, now=NOW) == 1

    def test_a_hold_expires_after_it(self) -> None:
        values = {"branch": "0001", "account": BOB.account, "amount": money(1), "expires_at": NOW}
        _in_commit(ledger.hold, key="due", **values, now=NOW - timedelta(hours=1))
        suspension = suspend(account=BOB)
        assert _in_commit(ledger.expire_holds, now=NOW) == 0
        resume(suspension)
        assert _in_commit(ledger.expire_holds, now=NOW) == 1

    def test_what_was_posted_before_is_still_answered(self) -> None:
        suspend()
        assert post(line(ANA, "C", 50, tracekey=POSTED)).replayed

    def test_a_dry_run_says_what_would_be_answered(self) -> None:
        suspend("WAIT")
        with transaction.atomic():
            (result,) = ledger.post_batch([line(ANA, "C", 1)], dry_run=True, now=NOW)
        assert result.code == "R130"

    def test_ends_by_itself(self) -> None:
        suspend(until=LATER)
        with pytest.raises(LedgerSuspended):
            post(line(ANA, "C", 1))
        post(line(ANA, "C", 1), now=LATER)


@pytest.mark.usefixtures("history")
class TestVerbs:
    def test_a_suspension_that_nobody_limits_lasts_an_hour(self) -> None:
        assert suspend().until == NOW + timedelta(hours=1)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mode": "STOP"},
            {"reason": " "},
            {"reason": "x" * 501},
            {"by": ""},
            {"until": NOW},
            {"until": NOW + timedelta(hours=25)},
        ],
    )
    def test_refuses_what_is_malformed(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            suspend(**wrong)
        assert Suspension.objects.count() == 0

    @pytest.mark.parametrize("nowhere", [{"branch": "9999"}, {"account": AccountRef("0001", "nobody")}])
    def test_refuses_what_is_not_there(self, nowhere: dict[str, Any]) -> None:
        with pytest.raises(NotFound):
            suspend(**nowhere)

    def test_lists_what_holds_and_says_who_lifted_it(self) -> None:
        first, second = suspend(account=ANA), suspend("WAIT", branch="0001", until=LATER)
        assert ledger.suspended(now=NOW) == [first, second]
        assert ledger.suspended(now=LATER) == [first]
        lifted = resume(first)
        assert (lifted.lifted_at, lifted.lifted_by) == (LATER, "bob")
        assert resume(first) == lifted
        assert ledger.suspended(now=NOW) == [second]
        with pytest.raises(NotFound):
            _in_commit(ledger.resume, suspension_id=uuid7(), by="bob", now=NOW)

    @pytest.mark.parametrize("writer", ["a line", "a batch", "a hold", "a deferred line"])
    def test_one_that_ended_by_itself_costs_writers_nothing_any_more(self, writer: str) -> None:
        """Nobody lifts it: its row would be read, and locked, by every writer for ever."""
        suspend(until=NOW - timedelta(seconds=1), now=NOW - timedelta(minutes=1))
        with transaction.atomic():
            INSIDE[writer]()
        with connection.cursor() as cursor:
            cursor.execute("SELECT xmax = '0' FROM ledger_suspension")
            assert cursor.fetchall() == [(True,)]

    def test_all_suspensions_of_an_account_have_to_be_lifted(self) -> None:
        first, second = suspend(account=ANA), suspend(branch="0001")
        resume(first)
        with pytest.raises(LedgerSuspended):
            post(line(ANA, "C", 1))
        resume(second)
        post(line(ANA, "C", 1))

    def test_there_is_an_end_to_how_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspensions, "ACTIVE_MAX", 1)
        suspend()
        with pytest.raises(ledger.TooManySuspensions):
            suspend()


@pytest.mark.usefixtures("history")
class TestWait:
    def test_is_refused_when_it_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspensions, "WAIT_S", 0.0)
        suspend("WAIT", account=ANA)
        results = post_batch([line(ANA, "C", 1), line(BOB, "C", 1)])
        assert [result.code for result in results] == ["R130", None]

    def test_is_over_when_the_suspension_is(self) -> None:
        suspend("WAIT", until=NOW + timedelta(milliseconds=100))
        post(line(ANA, "C", 1))
        assert posted(ANA) == 101

    def test_who_is_refused_anyway_does_not_make_the_others_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(suspensions, "_await", None)
        suspend("WAIT", account=ANA)
        suspend("REFUSE", account=ANA)
        results = post_batch([line(ANA, "C", 1), line(BOB, "C", 1)])
        assert [result.code for result in results] == ["R130", None]


def committed_others() -> None:
    open_others()
    fund(ANA, 100)


def beside(work: Callable[[], Any], pids: list[int]) -> tuple[ThreadPoolExecutor, Future[Any]]:
    """Run something in a thread with a connection of its own, whose process id is told first."""
    started = threading.Event()

    def run() -> Any:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                pids.append(cursor.fetchone()[0])
            started.set()
            return work()
        finally:
            connections.close_all()

    pool = ThreadPoolExecutor(1)
    future = pool.submit(run)
    assert started.wait(WAIT_S)
    return pool, future


def wait_until_asleep(pid: int) -> None:
    """Until the server says that this session waits for a suspension's end."""
    for _ in range(100_000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", [pid])
            if cursor.fetchone()[0]:
                return
    pytest.fail("The writer never waited.")


INSIDE: dict[str, Callable[[], Any]] = {
    "a line": lambda: ledger.post(line(ANA, "C", 1), now=NOW),
    "a batch": lambda: ledger.post_batch([line(ANA, "C", 1), line(BOB, "C", 1)], now=NOW),
    "a hold": lambda: ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(1), now=NOW),
    "a deferred line": lambda: ledger.post(line(FEES, "C", 1), now=NOW),
}


def scope_of(name: str, writer: str) -> dict[str, Any]:
    return {"account": FEES} if name == "the account" and writer == "a deferred line" else SCOPES[name]


@pytest.mark.usefixtures("committed_bank")
class TestRace:
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("writer", INSIDE)
    def test_suspend_waits_for_who_is_inside(self, writer: str, scope: str) -> None:
        committed_others()
        while_open(
            INSIDE[writer], lambda: ledger.suspend(mode="REFUSE", reason="x", by="x", now=NOW, **scope_of(scope, writer))
        )
        assert len(ledger.suspended(now=NOW)) == 1

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("writer", INSIDE)
    def test_who_comes_meanwhile_waits_and_is_refused(self, writer: str, scope: str) -> None:
        committed_others()

        def write() -> None:
            results = INSIDE[writer]()
            for result in results if isinstance(results, list) else ():
                if result.refusal:
                    raise result.refusal

        with pytest.raises(LedgerSuspended):
            while_open(lambda: ledger.suspend(mode="REFUSE", reason="x", by="x", now=NOW, **scope_of(scope, writer)), write)
        assert posted(ANA) == 100

    def test_who_is_inside_may_write_more_before_it_commits(self) -> None:
        committed_others()
        while_open(
            lambda: ledger.post(line(ANA, "C", 1), now=NOW),
            lambda: ledger.suspend(mode="REFUSE", reason="x", by="x", now=NOW),
            meanwhile=lambda: ledger.post_batch([line(BOB, "C", 1), line(OTHER, "C", 1)], now=NOW),
        )
        assert (posted(ANA), posted(BOB), posted(OTHER)) == (101, 1, 1)

    def test_nothing_is_suspended_when_who_is_inside_takes_too_long(self) -> None:
        committed_others()

        def stay() -> None:
            with transaction.atomic():
                ledger.post(line(ANA, "C", 1), now=NOW)
                ready.set()
                assert done.wait(WAIT_S)

        ready, done, pids = threading.Event(), threading.Event(), list[int]()
        pool, writer = beside(stay, pids)
        with pool:
            assert ready.wait(WAIT_S)
            with transaction.atomic():
                with pytest.raises(ledger.WritersInside):
                    ledger.suspend(mode="REFUSE", reason="x", by="x", now=NOW, drain_s=0.01)
                assert ledger.suspended(now=NOW) == []  # the caller's transaction goes on
            done.set()
            writer.result(WAIT_S)
        post(line(ANA, "C", 1))
        assert posted(ANA) == 102

    def test_who_only_reads_holds_up_nobody(self) -> None:
        """A backup reads every table for hours, in one transaction."""
        committed_others()
        ready, done, pids = threading.Event(), threading.Event(), list[int]()

        def back_up() -> None:
            with transaction.atomic():
                assert Suspension.objects.count() == 0
                ready.set()
                assert done.wait(WAIT_S)

        pool, reader = beside(back_up, pids)
        with pool:
            assert ready.wait(WAIT_S)
            suspend()
            done.set()
            reader.result(WAIT_S)
        assert len(ledger.suspended(now=NOW)) == 1

    def test_two_repeats_of_a_batch_with_a_key_have_one_answer(self) -> None:
        suspension, entries, codes = suspend(account=ANA), [line(ANA, "D", 1)], []

        def repeat() -> None:
            codes.extend(result.code for result in ledger.post_batch(entries, key="k", now=NOW))

        with transaction.atomic():
            repeat()
        resume(suspension)
        while_open(repeat, repeat, meanwhile=lambda: ledger.post(line(ANA, "C", 1), now=NOW))
        assert codes == ["R130", "R103", "R103"]

    def test_two_that_suspend_at_once_both_do(self) -> None:
        committed_others()
        values = {"mode": "REFUSE", "reason": "x", "by": "x", "now": NOW}
        while_open(lambda: ledger.suspend(**values), lambda: ledger.suspend(**values))
        assert len(ledger.suspended(now=NOW)) == 2

    @pytest.mark.parametrize("writer", INSIDE)
    def test_a_writer_that_waits_goes_on_when_it_is_lifted(self, writer: str) -> None:
        committed_others()
        suspension = suspend("WAIT")
        pids: list[int] = []

        def write() -> Any:
            with transaction.atomic():
                return INSIDE[writer]()

        pool, waiting = beside(write, pids)
        with pool:
            wait_until_asleep(pids[0])
            resume(suspension)
            waiting.result(WAIT_S)
        assert ledger.check_balances() == []
        assert posted(ANA) == (100 if writer in ("a hold", "a deferred line") else 101)

    def test_opening_on_first_use_is_seen_too(self, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        while_open(
            lambda: ledger.post(line(AccountRef("0001", "NEW"), "C", 1), now=NOW),
            lambda: ledger.suspend(mode="REFUSE", reason="x", by="x", now=NOW, branch="0001"),
        )
        assert len(ledger.suspended(now=NOW)) == 1


@pytest.mark.usefixtures("committed_bank")
class TestOneRoundTrip:
    def test_a_line_alone_is_refused_or_waits(self) -> None:
        suspension = suspend("REFUSE", branch="0001")
        with pytest.raises(LedgerSuspended):
            ledger.post_alone(line(ANA, "C", 1), now=NOW)
        resume(suspension)
        ledger.post_alone(line(ANA, "C", 1), now=NOW)
        assert (posted(ANA), Transaction.objects.count(), PostingKey.objects.count()) == (1, 1, 1)

    def test_costs_no_statement_more(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(1):
            ledger.post_alone(line(ANA, "C", 1), now=NOW)
