"""A full check in pieces: however small they are it finds the same, and whoever is killed loses one piece."""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from apps.ledger import checks, detaching, increments, metrics, passes, reconciliation, regions, seals, tasks, turns
from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference, Proof
from apps.ledger.regions import Scope
from apps.ledger.rows import fetch
from tests.integration.ledger.chained import JANUARY, chain_all, close_until, end_of, two_months
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, LIMITED, NOW, TODAY, fund, line, move, post
from tests.integration.ledger.test_checks import SMALLER, TestRandomHistories, check, rules
from tests.integration.ledger.test_concurrency import WAIT_S, in_threads
from tests.integration.ledger.test_months_at_once import _CLEAR
from tests.integration.ledger.test_reconciliation import damage, some_history
from tests.integration.ledger.test_suspensions import beside

pytestmark = pytest.mark.usefixtures("committed_bank")


@pytest.fixture(params=[1, 5])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of so few rows that every account with lines is cut."""
    return make_small(monkeypatch, request.param)


def make_small(monkeypatch: pytest.MonkeyPatch, rows: int) -> int:
    monkeypatch.setattr(passes, "ROWS_MAX", rows)
    monkeypatch.setattr(passes, "ROWS_MIN", 1)
    return rows


def is_from_many_days() -> None:
    for count, days in enumerate((7, 0, 3, 7, 1, 0, 2, 7)):
        fund(ANA, 10 + count, dateref=TODAY - timedelta(days=days))
        post(move(ANA, BOB, 1, dateref=TODAY - timedelta(days=days)))
    some_history()


class TestPieces:
    def test_of_a_sound_ledger_differ_in_nothing_and_leave_the_same_proofs(self, small: int) -> None:
        is_from_many_days()
        check()
        before = set(Proof.objects.values_list("id", "debit", "credit", "seq"))
        Proof.objects.all().delete()
        result = check("FULL")
        assert (list(result.differences), result.unproven) == ([], 0)
        days, lines = (fetch(f"SELECT count(*) FROM ledger_{table}", [])[0][0] for table in ("balance", "transaction"))
        assert (result.accounts, result.days, result.lines) == (4, days, lines)
        assert set(Proof.objects.values_list("id", "debit", "credit", "seq")) == before
        assert check().accounts == 0

    @pytest.mark.parametrize("rule", SMALLER)
    def test_find_the_damage_that_one_snapshot_finds(self, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 2)
        is_from_many_days()
        damage(SMALLER[rule])
        whole = {found for found in reconciliation.prove() if found.rule == rule}
        result = check("FULL")
        assert {found for found in result.differences if found.rule == rule} == whole != set()
        assert set(Difference.objects.values_list("rule", flat=True)) == rules(result)

    def test_leave_no_proof_of_an_account_whose_first_lines_are_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 1)
        is_from_many_days()
        damage("UPDATE ledger_transaction SET balanceafter = 0 WHERE seq = (SELECT min(seq) FROM ledger_transaction)")
        assert rules(check("FULL")) == {"a line's balance follows from the lines before it"}
        assert Proof.objects.count() == 3

    def test_find_lines_of_an_account_that_is_not_there(self, small: int) -> None:
        fund(ANA, 10)
        for name in ("000000000", "000000003", "ZZ"):  # before, between and behind the others
            damage(
                "INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode,"
                " description, tracekey, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet) VALUES"
                f" (gen_random_uuid(), '0001', '{name}', 'BRL', 5, 'C', 1, '', gen_random_uuid(), '2026-03-18', now(),"
                " false, 5, 0, 5, 5)"
            )
        found = [(each.account, each.stored, each.proven) for each in check("FULL").differences]
        for name in ("000000000", "000000003", "ZZ"):
            assert (name, None, 5) in found
        check("FULL", branch="0001")  # which does not look for them
        assert set(Difference.objects.values_list("state", flat=True)) == {"OPEN"}

    def test_find_a_day_of_an_account_that_is_not_there(self) -> None:
        fund(BOB, 10)
        damage("DELETE FROM ledger_account WHERE account = '000000002'")
        damage("DELETE FROM ledger_transaction")
        assert BOB.account in {each.account for each in check("FULL").differences}

    @pytest.mark.parametrize("seed", range(3))
    def test_of_random_histories_say_what_one_snapshot_says(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        draw, done, histories = random.Random(seed), list[Any](), TestRandomHistories()
        make_small(monkeypatch, draw.choice([1, 3, 8]))
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        fund(ANA, 100, dateref=TODAY - timedelta(days=7))
        for _ in range(4):
            for _ in range(8):
                histories.step(draw, done)
            assert check("FULL").differences == [], f"seed {seed}"
        column = draw.choice(["postedcredit", "posteddebit", "pendingdebit"])
        damage(f"UPDATE ledger_account SET {column} = {column} + 1 WHERE account = '{CLEARING.account}'")
        assert set(check("FULL").differences) == set(reconciliation.prove()) != set()

    def test_look_at_all_holds_and_all_tracekeys(self, small: int) -> None:
        is_from_many_days()
        damage("DELETE FROM ledger_transaction WHERE amount = 20")  # of the posted hold
        damage("INSERT INTO ledger_posting_key VALUES (gen_random_uuid(), '', 'POSTED', NULL, now(), '2026-03-18')")
        found = {(each.rule, each.tracekey) for each in check("FULL").differences if each.rule in HOLDS_AND_KEYS}
        assert found == {(each.rule, each.tracekey) for each in reconciliation.prove() if each.rule in HOLDS_AND_KEYS}
        assert len(found) == 3

    def test_that_more_differs_than_is_reported_keeps_the_rest_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        is_from_many_days()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1")
        assert len(check("FULL").differences) == 4
        make_small(monkeypatch, 1)
        monkeypatch.setattr(reconciliation, "DIFFERENCES_MAX", 2)
        assert len(check("FULL").differences) == 2
        assert set(Difference.objects.values_list("state", flat=True)) == {"OPEN"}
        assert Proof.objects.count() == 0


HOLDS_AND_KEYS = {increments.HOLDS, increments.KEYS}


class TestMonths:
    @pytest.fixture(autouse=True)
    def no_month_is_gone_afterwards(self, committed_bank: None) -> Iterator[None]:
        yield
        with connection.cursor() as cursor:
            cursor.execute(_CLEAR)

    def steps(self, directory: Path) -> Iterator[Callable[[], Any]]:
        who = {"directory": directory, "by": "bob", "now": NOW}
        yield lambda: seals.seal_month(JANUARY, by="ana", now=NOW)
        yield lambda: detaching.export_month(JANUARY, **who)
        yield lambda: detaching.detach_month(JANUARY, **who)
        yield lambda: fund(ANA, 1)
        yield lambda: detaching.attach_month(JANUARY, directory=directory)
        yield lambda: detaching.detach_month(JANUARY, **who)

    @pytest.mark.parametrize("pieces", [1, 2, 3])
    def test_that_come_and_go_between_pieces_cause_no_false_alarm(
        self, tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_small(monkeypatch, 1)
        two_months()
        close_until(end_of(JANUARY))
        chain_all()
        for step in self.steps(tmp_path):
            row_id = begin()
            while passes.go_on(row_id, wait="1s", now=NOW).progress["carried"] is None:
                pass
            for _ in range(pieces - 1):
                passes.go_on(row_id, wait="1s", now=NOW)
            step()
            result = check("FULL")
            assert (result.id, result.differences) == (row_id, [])
        damage("UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1 WHERE dateref = '2026-01-20'")
        assert {each.account for each in check("FULL").differences} == {ANA.account, BOB.account, CLEARING.account}


def begin() -> Any:
    return checks._begin("FULL", checks.Scope(), exclusive=False, anew=False, now=NOW)[0]


class TestGoingOn:
    def pieces(self, count: int) -> Any:
        row_id = begin()
        for _ in range(count):
            passes.go_on(row_id, wait="1s", now=NOW)
        return row_id

    def test_a_check_that_was_left_is_gone_on_with_and_not_begun_anew(self, small: int) -> None:
        is_from_many_days()
        row_id = begin()
        # Where no number is an account's, a piece may come by without a line.
        for _ in range(64):
            if passes.go_on(row_id, wait="1s", now=NOW).looked:
                break
        before = ledger.open_pass()
        assert before is not None
        assert (before.id, before.looked > 0) == (row_id, True)
        assert check("FULL").id == row_id
        assert ledger.open_pass() is None
        assert Check.objects.filter(kind="FULL").count() == 1

    def test_unless_it_is_asked_to_begin_anew(self) -> None:
        is_from_many_days()
        row_id = self.pieces(1)
        assert check("FULL", anew=True).id != row_id
        assert Check.objects.get(pk=row_id).failure == "It was begun anew."

    def test_who_works_on_one_that_somebody_begins_anew_stops(self) -> None:
        is_from_many_days()
        row_id = self.pieces(1)
        check("FULL", anew=True)
        before = Check.objects.get(pk=row_id).looked
        with pytest.raises(ledger.CheckRunning, match="begun anew"):
            checks._take_piece(row_id, None, wait="1s", now=NOW)
        assert Check.objects.get(pk=row_id).looked == before

    def test_unless_the_database_is_another_server_s_now(self) -> None:
        is_from_many_days()
        row_id = self.pieces(1)
        Check.objects.update(cluster="another")
        assert check("FULL").id != row_id

    def test_one_of_a_branch_or_with_writers_kept_out_is_a_check_of_its_own(self, small: int) -> None:
        is_from_many_days()
        row_id = self.pieces(1)
        for options in ({"branch": "0001"}, {"account": ANA}, {"exclusive": True}):
            assert check("FULL", **options).id != row_id
        assert check("FULL").id == row_id

    def test_two_that_work_on_it_at_once_end_it_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 2)
        is_from_many_days()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1")
        begin()
        results = in_threads(lambda _n: ledger.run_check(kind="FULL", now=NOW), 3)
        row = Check.objects.filter(kind="FULL").order_by("id").first()
        assert row is not None
        assert (row.differences, row.failure) == (4, "")
        # Who comes when it has ended begins another one, and whoever worked on the same one is told all of it.
        assert [len(result.differences) for result in results] == [4] * 3
        assert row.lines == fetch("SELECT count(*) FROM ledger_transaction", [])[0][0]
        assert Difference.objects.count() == 4
        assert ledger.open_pass() is None

    def test_what_a_killed_one_had_found_and_not_told_is_told(self, small: int) -> None:
        is_from_many_days()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        row_id = begin()
        while not passes.go_on(row_id, wait="1s", now=NOW).progress["found"]:
            pass
        assert Difference.objects.count() == 0
        result = check("FULL")
        assert (result.id, len(result.differences), Difference.objects.get().state) == (row_id, 1, "OPEN")

    def test_what_another_check_saw_meanwhile_is_not_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 1)
        is_from_many_days()
        row_id = begin()
        while passes.go_on(row_id, wait="1s", now=NOW).progress["stage"] == "ACCOUNTS":
            pass
        check()
        fund(ANA, 1)
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        assert len(check().differences) == 1
        assert check("FULL").differences == []
        assert Difference.objects.get().state == "OPEN"

    def test_what_was_mended_before_it_began_is_gone(self, small: int) -> None:
        is_from_many_days()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        check("FULL")
        damage("UPDATE ledger_account SET postedcredit = postedcredit - 1 WHERE account = '000000001'")
        check("FULL")
        assert Difference.objects.get().state == "GONE"

    def test_an_account_that_was_opened_meanwhile_does_not_begin_a_cut_one_anew(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_small(monkeypatch, 1)
        is_from_many_days()
        row_id = begin()
        while passes.go_on(row_id, wait="1s", now=NOW).progress["after"] != list(ANA):
            pass
        carried = passes.go_on(row_id, wait="1s", now=NOW).progress["carried"]
        with transaction.atomic():
            ledger.open_account(branch="0001", account="0000000011", now=NOW)  # behind ANA, before BOB
        again = passes.go_on(row_id, wait="1s", now=NOW).progress["carried"]
        assert (carried["key"], again["key"], again["seq"] > carried["seq"]) == (list(BOB), list(BOB), True)
        assert check("FULL").differences == []

    def test_a_piece_that_fails_each_time_is_tried_with_fewer_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        is_from_many_days()
        row_id, asked = self.pieces(0), list[int]()
        monkeypatch.setattr(passes, "ROWS_MIN", 3)
        monkeypatch.setattr(passes, "ROWS_MAX", 10)

        def killed(_progress: Any, _scope: Any, rows_max: int, _day: Any) -> Any:
            asked.append(rows_max)
            raise SoftTimeLimitExceeded

        with monkeypatch.context() as patched:
            patched.setitem(passes._STAGES, "ACCOUNTS", killed)
            for _ in range(40):
                with pytest.raises(SoftTimeLimitExceeded):
                    passes.go_on(row_id, wait="1s", now=NOW)
        assert asked[:4] == [10, 5, 3, 3]
        view = ledger.open_pass()
        assert view is not None
        assert view.tries == 40
        assert passes.go_on(row_id, wait="1s", now=NOW).tries == 0

    def test_an_incremental_check_has_its_turn_between_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 1)
        is_from_many_days()
        row_id = self.pieces(2)
        assert check().differences == []
        assert check("FULL").id == row_id

    def test_incremental_ones_prove_so_much_of_what_never_was_and_leave_the_rest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        is_from_many_days()
        largest = max(1 + each.lines + each.days for each in regions.next_accounts(Scope(), ("", "", ""), rows_max=1_000))
        monkeypatch.setattr(checks, "UNPROVEN_ROWS_MAX", largest)
        left = [check().unproven for _ in range(5)]
        assert left == sorted(left, reverse=True)
        assert left[0] > 0
        assert left[-1] == 0

    @pytest.mark.parametrize("too_large", [False, True])
    def test_an_account_that_differs_holds_up_no_other_however_large(
        self, monkeypatch: pytest.MonkeyPatch, too_large: bool
    ) -> None:
        """It has no proof, so it is looked at each time, and first: the others had never had their turn."""
        is_from_many_days()
        sizes = {
            each.key: 1 + each.lines + each.days for each in regions.next_accounts(Scope(), ("", "", ""), rows_max=999)
        }
        limit = sizes[tuple(ANA)] - too_large
        assert max(sizes.values()) == sizes[tuple(ANA)]
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        monkeypatch.setattr(checks, "UNPROVEN_ROWS_MAX", limit)
        results = [check() for _ in range(6)]
        assert max(result.lines + result.days + result.accounts for result in results) <= limit
        assert results[-1].unproven == 1
        found = {each.account for result in results for each in result.differences}
        assert found == (set() if too_large else {ANA.account})
        assert [each.account for each in check("FULL").differences] == [ANA.account]

    def test_one_that_finds_no_turn_does_not_end_what_the_worker_began(self, monkeypatch: pytest.MonkeyPatch) -> None:
        is_from_many_days()
        row_id = begin()
        monkeypatch.setattr(checks, "TURN_S", "0.01")
        ready, done = threading.Event(), threading.Event()

        def hold_turn() -> None:
            with transaction.atomic():
                turns.take_turn("INCREMENTAL", wait="1s")
                ready.set()
                assert done.wait(WAIT_S)

        pool, first = beside(hold_turn, [])
        with pool:
            assert ready.wait(WAIT_S)
            with pytest.raises(ledger.CheckRunning):
                check("FULL")
            done.set()
            first.result(WAIT_S)
        view = ledger.open_pass()
        assert view is not None, "the night's check is not ended by somebody who came too early"
        assert view.id == row_id
        assert check("FULL").id == row_id


def check_until_killed(pieces: int) -> None:
    """In a process of its own: this many pieces, and SIGKILL in the middle of the next one."""
    for each in connections.all(initialized_only=True):
        each.inc_thread_sharing()
        each.connection = None  # the parent's: neither used nor closed here
    connections.close_all()
    real, count = reconciliation.prove, 0

    def prove(*given: Any) -> Any:
        nonlocal count
        count += 1
        found = real(*given)
        if count > pieces:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    reconciliation.prove = prove  # type: ignore[assignment]
    ledger.run_check(kind="FULL", now=NOW)


class TestKilled:
    def test_anywhere_it_goes_on_behind_its_last_piece_and_finds_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 2)
        monkeypatch.setattr(checks, "TURN_S", WAIT_S)
        is_from_many_days()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1")
        seen = list[int]()
        for pieces in (0, 1, 4, 3):
            process = multiprocessing.get_context("fork").Process(target=check_until_killed, args=[pieces])
            process.start()
            process.join(WAIT_S)
            assert process.exitcode == -signal.SIGKILL
            row = Check.objects.get()
            assert (row.ended_at, row.failure) == (None, "")
            seen.append(row.looked)
        assert seen == sorted(seen)
        assert seen[-1] > seen[0] == 0
        result = check("FULL")
        assert result.lines == fetch("SELECT count(*) FROM ledger_transaction", [])[0][0]
        assert len(result.differences) == Difference.objects.count() == 4


def told() -> dict[str, float]:
    return {reading.gauge.name: reading.value for reading in metrics._rows()}


class TestTasks:
    def test_go_on_until_the_whole_ledger_is_proven(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 3)
        monkeypatch.setattr(tasks, "PASS_S", 0.0)
        is_from_many_days()
        tasks.check_on()
        assert not Check.objects.exists()
        tasks.check_all(newer=True)
        assert told()["lastro_ledger_check_progress_ratio"] <= 1
        assert told()["lastro_ledger_check_tries"] == 0
        calls = 0
        while ledger.open_pass():
            tasks.check_on(newer=True)
            calls += 1
        assert calls > 5
        row = Check.objects.get()
        assert (row.kind, row.differences, row.unproven) == ("FULL", 0, 0)
        assert row.ended_at is not None
        assert "lastro_ledger_check_progress_ratio" not in told()
        assert told()["lastro_ledger_unproven_accounts"] == 0
        tasks.check_on()
        assert Check.objects.count() == 1

    def test_begin_what_a_night_missed(self) -> None:
        Check.objects.create(kind="INCREMENTAL", began_at=timezone.now() - timedelta(hours=25))
        tasks.check_on()
        assert Check.objects.count() == 1
        Check.objects.update(began_at=timezone.now() - timedelta(hours=27))
        tasks.check_on()
        assert Check.objects.get(kind="FULL").ended_at is not None
        tasks.check_on()
        assert Check.objects.count() == 2

    def test_an_unended_one_is_not_forgotten_however_old(self) -> None:
        begin()
        Check.objects.update(began_at=NOW - timedelta(days=60))
        with transaction.atomic():
            assert checks.forget_checks(now=NOW) == 0

    def test_the_next_night_goes_on_with_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 3)
        monkeypatch.setattr(tasks, "PASS_S", 0.0)
        is_from_many_days()
        for _ in range(2):
            tasks.check_all()
        assert Check.objects.count() == 1


class TestWhileWritersRun:
    def test_no_piece_raises_a_false_alarm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 40)
        refs = [ANA, BOB, LIMITED, CLEARING]
        for ref in refs:
            fund(ref, 500, dateref=TODAY - timedelta(days=7))
        done = threading.Event()

        def work(n: int) -> int:
            if n == 0:
                try:
                    results = [ledger.run_check(kind="FULL", now=NOW) for _ in range(4)]
                finally:
                    done.set()
                assert [result.differences for result in results] == [[]] * 4
                return 1
            count = 0
            while not done.is_set() and count < 400:
                day = TODAY - timedelta(days=count % 8)
                if count % 3:
                    post(line(refs[(n + count) % 4], "C", 1, dateref=day))
                else:
                    post(move(refs[(n + count) % 4], refs[(n + count + 1) % 4], 1, dateref=day))
                count += 1
            return count

        assert min(in_threads(work, 4)) > 0
        assert check("FULL").differences == []
        assert sum(proof.credit - proof.debit for proof in Proof.objects.all()) == sum(
            ledger.balance(ref).posted for ref in refs
        )


class TestCommand:
    def run(self, *arguments: str) -> str:
        output = StringIO()
        call_command("check_balances", *arguments, stdout=output, stderr=output)
        return output.getvalue()

    def test_tells_of_each_piece_and_of_what_it_goes_on_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_small(monkeypatch, 4)
        is_from_many_days()
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE ledger_transaction, ledger_hold, ledger_posting_key")
        row_id = begin()
        for _ in range(3):
            passes.go_on(row_id, wait="1s", now=NOW)
        text = self.run("--full")
        assert "goes on with the check that began 2026-03-18" in text
        assert " %" in text
        assert text.splitlines()[-1].startswith("FULL: 4 accounts")
        assert "goes on" not in self.run("--full", "--anew")
