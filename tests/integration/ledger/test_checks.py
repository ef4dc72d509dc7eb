"""Checks and what they leave: damage is found where something changed, and what was proved is not read again."""

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from apps.common.clock import uuid7
from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import checks, increments, reconciliation, regions, turns
from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference, Proof
from apps.ledger.public import AccountRef, CheckResult
from apps.ledger.regions import Size
from apps.ledger.rows import fetch
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    LIMITED,
    NOW,
    TODAY,
    fund,
    let_others_end,
    line,
    money,
    move,
    post,
)
from tests.integration.ledger.test_concurrency import WAIT_S, in_threads
from tests.integration.ledger.test_reconciliation import DAMAGE, damage, some_history
from tests.integration.ledger.test_suspensions import beside

pytestmark = pytest.mark.usefixtures("committed_bank")

YESTERDAY = TODAY - timedelta(days=1)
# As DAMAGE of test_reconciliation, on days and accounts that change after the first check. A tracekey that lost its lines
# is found by the full check alone.
SMALLER = {
    **DAMAGE,
    "a line's balance follows from the lines before it": "UPDATE ledger_transaction SET balanceafter = balanceafter + 1"
    " WHERE seq = (SELECT max(seq) FROM ledger_transaction)",
}


def check(kind: str = "INCREMENTAL", **options: Any) -> CheckResult:
    let_others_end()
    return ledger.run_check(kind=kind, now=NOW, **options)


def rules(result: CheckResult) -> set[str]:
    return {found.rule for found in result.differences}


class TestKinds:
    @pytest.mark.parametrize("kind", ["FULL", "INCREMENTAL"])
    def test_find_nothing_in_a_sound_ledger(self, kind: str) -> None:
        some_history()
        result = check(kind)
        assert (list(result.differences), result.rules) == ([], 16)
        row = Check.objects.get()
        assert (row.kind, row.differences, row.failure, row.ended_at) == (kind, 0, "", result.ended_at)
        assert (result.accounts, result.days, result.lines) == (row.accounts, row.days, row.lines) == (4, 2, 5)

    def test_know_the_same_rules(self) -> None:
        assert list(increments.CHECKS) == list(reconciliation.CHECKS)

    @pytest.mark.parametrize("kind", ["FULL", "INCREMENTAL"])
    @pytest.mark.parametrize("rule", SMALLER)
    def test_find_the_damage_and_write_it_down(self, rule: str, kind: str) -> None:
        fund(ANA, 5, dateref=YESTERDAY)
        check("FULL")
        some_history()
        damage(SMALLER[rule])
        found = check(kind)
        assert rule in rules(found)
        assert set(Difference.objects.values_list("rule", flat=True)) == rules(found)
        assert set(Difference.objects.values_list("state", flat=True)) == {"OPEN"}

    @pytest.mark.parametrize("rule", SMALLER)
    def test_say_the_same(self, rule: str) -> None:
        some_history()
        damage(SMALLER[rule])
        part, whole = check("INCREMENTAL", branch="0001"), check("FULL")  # that of a branch begins at its first lines
        assert rule in rules(part)
        for told in rules(part):
            assert of_rule(part, told) == of_rule(whole, told)


def of_rule(result: CheckResult, rule: str) -> set[reconciliation.Difference]:
    return {found for found in result.differences if found.rule == rule}


class TestIncrements:
    def test_read_nothing_when_nothing_changed(self) -> None:
        some_history()
        check()
        again = check()
        assert (again.accounts, again.days, again.lines) == (0, 0, 0)

    def test_read_only_the_changed_account_and_its_changed_days(self) -> None:
        for days in range(8):
            fund(ANA, 10, dateref=TODAY - timedelta(days=days))
            fund(BOB, 10, dateref=TODAY - timedelta(days=days))
        check()
        fund(ANA, 1, dateref=YESTERDAY)
        part = check()
        assert (part.accounts, part.days, part.lines) == (1, 2, 3)  # yesterday, and today, into which it is carried

    def test_a_hold_changes_an_account_and_no_day(self) -> None:
        fund(ANA, 10)
        check()
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(1), now=NOW)
        part = check()
        assert (part.accounts, part.days) == (1, 0)

    def test_find_damage_in_the_changed_region_and_nowhere_else(self) -> None:
        for ref in (ANA, BOB):
            fund(ref, 10, dateref=YESTERDAY)
        check()
        damage("UPDATE ledger_transaction SET daynet = daynet + 1")
        assert check().differences == []
        fund(ANA, 1, dateref=YESTERDAY)
        (found,) = check().differences
        assert (found.account, found.dateref) == (ANA.account, YESTERDAY)
        assert len(check("FULL").differences) == 2

    def test_find_a_later_day_that_a_back_dated_line_was_not_carried_into(self) -> None:
        fund(ANA, 10, dateref=YESTERDAY)
        fund(ANA, 10)
        check()
        fund(ANA, 5, dateref=YESTERDAY)
        damage(f"UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit - 5 WHERE dateref = '{TODAY}'")
        assert rules(check()) == {"accumulated credits are the sum of the days"}

    def test_find_a_line_without_its_day(self) -> None:
        fund(ANA, 10)
        check()
        fund(ANA, 5)
        damage("DELETE FROM ledger_transaction WHERE amount = 5")
        assert "an account's credits are the sum of its lines" in rules(check())

    def test_prove_an_account_from_its_first_line_until_nothing_differs(self) -> None:
        for days in range(8):
            fund(ANA, 10, dateref=TODAY - timedelta(days=days))
        check()
        fund(ANA, 1)
        damage(f"UPDATE ledger_balance SET totalcredit = totalcredit + 1 WHERE dateref = '{TODAY}'")
        assert len(check().differences) == 2  # the day, and what accumulates from it
        again = check()
        assert (again.accounts, again.days, len(again.differences)) == (1, 8, 2)
        damage(f"UPDATE ledger_balance SET totalcredit = totalcredit - 1 WHERE dateref = '{TODAY}'")
        assert check().differences == []
        assert set(Difference.objects.values_list("state", flat=True)) == {"GONE"}
        assert check().accounts == 0

    def test_who_is_not_yet_done_is_proved_by_the_next(self) -> None:
        """A line with a lower seq that commits later, written within a savepoint."""
        fund(BOB, 10)
        check()
        ready, done, pids = threading.Event(), threading.Event(), list[int]()

        def slow() -> None:
            with transaction.atomic():
                with transaction.atomic():
                    ledger.post_batch([line(ANA, "C", 1), line(LIMITED, "C", 1)], now=NOW)
                ready.set()
                assert done.wait(WAIT_S)

        pool, writer = beside(slow, pids)
        with pool:
            assert ready.wait(WAIT_S)
            fund(BOB, 1)
            # Proves the accounts of the slow one, too, as they were.
            assert ledger.run_check(kind="FULL", now=NOW).differences == []
            done.set()
            writer.result(WAIT_S)
        after = check()
        assert after.differences == []
        assert {ANA.account, LIMITED.account} <= proved_since(after)

    def test_old_lines_of_a_deferred_account_are_found_however_late_they_are_rolled_up(self) -> None:
        fees = AccountRef("0001", "FEES")
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        for days in (0, 30):
            post(line(fees, "C", 1), now=NOW - timedelta(days=days))
            with transaction.atomic():
                ledger.roll_up(now=NOW)
        check()
        post(line(fees, "C", 1), now=NOW - timedelta(days=30))
        with transaction.atomic():
            ledger.roll_up(now=NOW)
        part = check()
        assert (part.days, part.lines, part.differences) == (2, 3, [])

    def test_use_no_proof_of_another_server(self) -> None:
        fund(ANA, 10)
        check()
        Check.objects.update(cluster="another")
        assert check().accounts == 4
        assert check().accounts == 0

    def test_of_a_branch_or_an_account_read_only_that(self) -> None:
        for ref in (ANA, BOB):
            fund(ref, 10)
        with transaction.atomic():
            ledger.open_branch(branch="0002", now=NOW)
        assert check(account=ANA).accounts == 1
        assert check("FULL", account=ANA).lines == 1
        assert check(branch="0002").accounts == 0
        assert check(branch="0001").accounts == 3  # without ANA, who is proved
        assert check().accounts == 0


def proved_since(result: CheckResult) -> set[str]:
    """The accounts whose proof has its latest line."""
    assert result.ended_at
    from apps.ledger.models import Account

    return {Account.objects.get(pk=proof.pk).account for proof in Proof.objects.filter(seq__gt=0)}


class TestRandomHistories:
    """Checks between random commands: never a false alarm, and after damage the same alarm as from the first line on."""

    def step(self, draw: random.Random, done: list[Any]) -> None:
        day = TODAY - timedelta(days=draw.choice([0, 0, 0, 1, 3, 7]))
        one, other = draw.sample([ANA, BOB, LIMITED, CLEARING, FEES], 2)
        with transaction.atomic():
            match draw.randrange(7):
                case 0:
                    ledger.post_batch([line(one, "C", draw.randint(1, 9), dateref=day) for _ in range(3)], now=NOW)
                case 1:
                    ledger.post_batch([move(one, other, draw.randint(1, 9), dateref=day)], now=NOW)
                case 2:
                    ledger.roll_up(now=NOW)
                case 3:
                    values = {"branch": "0001", "account": ANA.account, "amount": money(1)}
                    done.append(ledger.hold(key=str(uuid7()), **values, now=NOW).key)
                case 4 if done:
                    ledger.void_hold(key=done.pop(), now=NOW)
                case 5 if done:
                    ledger.post_hold(key=done.pop(), tracekey=uuid7(), credit=BOB, eventcode=ANY, description="", now=NOW)
                case _:
                    ledger.post(line(one, "C", 1), now=NOW)

    @pytest.mark.parametrize("seed", range(3))
    def test_are_proved_piece_by_piece(self, seed: int) -> None:
        draw, done = random.Random(seed), list[Any]()
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        fund(ANA, 100, dateref=TODAY - timedelta(days=7))
        for count in range(36):
            self.step(draw, done)
            if count % 4 == 3:
                assert check("FULL" if count == 19 else "INCREMENTAL").differences == [], f"seed {seed}, command {count}"
        fund(ANA, 1)
        fund(ANA, 1, dateref=YESTERDAY)
        day, account = TODAY - timedelta(days=draw.choice([0, 1])), ANA.account
        column = draw.choice(["totalcredit", "accumulatedcredit", "accumulateddebit"])
        damage(f"UPDATE ledger_balance SET {column} = {column} + 1 WHERE account = '{account}' AND dateref = '{day}'")
        part, afresh = check(), check("FULL")
        assert set(part.differences) == set(afresh.differences) != set()


FEES = AccountRef("0001", "FEES")


def until_asleep(pids: list[int]) -> None:
    """Wait until a session is in the middle of its long statement."""
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND wait_event = 'PgSleep'"
    for _ in range(int(WAIT_S * 100)):
        if pids and fetch(asleep, [pids])[0][0]:
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never began")


class TestCost:
    """Counted in rows that the plans read, not in time."""

    def rows_read(self) -> int:
        """By the statements of an incremental check, of lines and days."""
        seen: list[int] = []

        def explain(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
            if sql.lstrip().startswith(("SELECT", "CREATE TEMP")) and "ledger_region" in sql:
                body = sql.split(" AS\n", 1)[1] if sql.startswith("\nCREATE") else sql
                execute(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {body}", params, many, context)
                seen.append(_rows(context["cursor"].fetchone()[0][0]["Plan"]))
            return execute(sql, params, many, context)

        # Tables as small as these are read whole, or sorted, which shows nothing: the plans are those of large ones.
        others = ("seqscan", "bitmapscan", "sort")
        with connection.cursor() as cursor:
            for plan in others:
                cursor.execute(f"SET enable_{plan} = off")
        with connection.execute_wrapper(explain):
            assert check().differences == []
        with connection.cursor() as cursor:
            for plan in others:
                cursor.execute(f"RESET enable_{plan}")
        assert sum(seen) > 0
        return sum(seen)

    def test_does_not_grow_with_history(self) -> None:
        def month(first: int) -> None:
            for days in range(first, first - 20, -1):
                post(line(ANA, "C", 1), now=NOW - timedelta(days=days))

        month(40)
        fund(ANA, 1)
        check()
        fund(ANA, 1)
        before = self.rows_read()
        month(400)
        check()
        fund(ANA, 1)
        assert self.rows_read() - before < 10  # six statements read today's lines, which are one more; history has 20 more


def _rows(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name", "")[:15] in TABLES else 0
    return int(own) + sum(_rows(each) for each in plan.get("Plans", ()))


TABLES = {"ledger_transact", "ledger_balance"}


class TestArchivedLines:
    """What is no longer in the table is taken from ``ledger_opening``, whoever fills that."""

    def archive(self, until: date) -> None:
        """As detaching a month does: the lines go, and what they came to stays."""
        with connection.cursor() as cursor:
            cursor.execute(
                """CREATE TABLE archived AS SELECT branch, account, currency, max(dateref) AS dateref,
                    coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0)::numeric(20, 2) AS debit,
                    coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0)::numeric(20, 2) AS credit, max(seq) AS seq
                FROM ledger_transaction WHERE dateref <= %s GROUP BY 1, 2, 3""",
                [until],
            )
            cursor.execute("SELECT pg_get_viewdef('ledger_opening')")
            self.view = cursor.fetchone()[0]
            cursor.execute("CREATE OR REPLACE VIEW ledger_opening AS SELECT * FROM archived")
        damage(f"DELETE FROM ledger_transaction WHERE dateref <= '{until}'")

    @pytest.fixture(autouse=True)
    def nothing_archived_afterwards(self, committed_bank: None) -> Iterator[None]:
        yield
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE OR REPLACE VIEW ledger_opening AS {self.view}")
            cursor.execute("DROP TABLE archived")

    @pytest.mark.parametrize("proved_before", [True, False])
    def test_are_taken_for_what_they_came_to(self, proved_before: bool) -> None:
        for days in (7, 5, 3, 1):
            fund(ANA, 10, dateref=TODAY - timedelta(days=days))
            some_moves(TODAY - timedelta(days=days))
        some_moves(TODAY)
        some_moves(TODAY - timedelta(days=6))  # to be archived, after a line that stays
        if proved_before:
            check()
        self.archive(TODAY - timedelta(days=4))
        fund(ANA, 1)
        fund(BOB, 1, dateref=YESTERDAY)
        part, whole, again = check(), check("FULL"), check(account=ANA)
        assert [list(result.differences) for result in (part, whole, again)] == [[], [], []]
        assert check("FULL", account=ANA).differences == []
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1, posteddebit = posteddebit + 1")
        sums = {"an account's debits are the sum of its lines", "an account's credits are the sum of its lines"}
        assert rules(check()) == rules(check("FULL")) == sums


def some_moves(day: date) -> None:
    post(move(ANA, BOB, 1, dateref=day))
    post(move(BOB, CLEARING, 1, dateref=day))


class TestDifferences:
    def broken(self) -> Difference:
        fund(ANA, 10)
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        check("FULL")
        return Difference.objects.get()

    def acknowledge(self, row: Difference, reason: str = "known") -> Any:
        with transaction.atomic():
            return ledger.acknowledge(difference_id=row.pk, by="ana", reason=reason, now=NOW)

    def test_are_written_once_and_seen_again(self) -> None:
        first = self.broken()
        assert (first.stored, first.proven, first.account) == (11, 10, ANA.account)
        check()
        again = Difference.objects.get()
        assert (again.pk, again.first_seen) == (first.pk, first.first_seen)
        assert again.last_seen > first.last_seen
        assert again.check_run_id != first.check_run_id

    def test_stay_acknowledged_until_they_are_others(self) -> None:
        row = self.broken()
        view = self.acknowledge(row)
        assert (view.state, view.acknowledged_by, view.reason) == ("ACKNOWLEDGED", "ana", "known")
        assert len(check().differences) == 1
        assert Difference.objects.get().state == "ACKNOWLEDGED"
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        check()
        assert Difference.objects.get().state == "OPEN"

    def test_may_be_acknowledged_while_a_check_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = self.broken()
        real = reconciliation.prove

        def prove(*given: Mapping[str, Any]) -> list[reconciliation.Difference]:
            found = real(*given)
            pool, other = beside(lambda: self.acknowledge(row), [])
            with pool:
                other.result(WAIT_S)
            return found

        monkeypatch.setattr(reconciliation, "prove", prove)
        assert len(check("FULL").differences) == 1
        row.refresh_from_db()
        assert row.state == "ACKNOWLEDGED"

    def test_that_are_gone_are_not_acknowledged_and_may_come_back(self) -> None:
        row = self.broken()
        damage("UPDATE ledger_account SET postedcredit = postedcredit - 1 WHERE account = '000000001'")
        check("FULL")
        row.refresh_from_db()
        assert (row.state, row.gone_at is None) == ("GONE", False)
        with pytest.raises(ledger.DifferenceGone):
            self.acknowledge(row)
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        check("FULL")
        row.refresh_from_db()
        assert (row.state, row.gone_at) == ("OPEN", None)

    def test_that_were_seen_since_are_not_gone_for_a_check_that_comes_late(self) -> None:
        """It writes down in a commit of its own what it saw; meanwhile a piece of the full one may have seen more."""
        row = self.broken()
        before = row.last_seen - timedelta(seconds=1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT branch, account, currency FROM ledger_account")
            afresh = set(cursor.fetchall())
        late = Check.objects.create(kind="INCREMENTAL", began_at=before)
        seen = checks._Seen(before, "", Size(0, 0, 0), [], afresh, 0)
        checks._write_down(late.id, seen)
        row.refresh_from_db()
        assert row.state == "OPEN"

    def test_need_a_reason(self) -> None:
        row = self.broken()
        for reason in ("", " ", "x" * 1_001, "a\0b"):
            with pytest.raises(InvalidRequest):
                self.acknowledge(row, reason)
        with pytest.raises(NotFound):
            self.acknowledge(Difference(pk=uuid7()))

    def test_of_a_hold_that_lost_its_debit_are_not_gone_before_it_has_one(self) -> None:
        some_history()
        damage("DELETE FROM ledger_transaction WHERE amount = 20")  # both legs
        check("FULL")
        row = Difference.objects.get(rule="a posted hold has its debit")
        assert (row.state, row.account) == ("OPEN", ANA.account)
        check()
        row.refresh_from_db()
        assert row.state == "OPEN"

    def test_more_than_a_rule_reports_leave_no_proof(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconciliation, "DIFFERENCES_MAX", 1)
        for ref in (ANA, BOB):
            fund(ref, 10)
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1")
        check()
        assert Proof.objects.count() == 0


class TestRuns:
    def test_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "TURN_S", "0.01")
        ready, done, pids = threading.Event(), threading.Event(), list[int]()

        def hold_turn() -> None:
            with transaction.atomic():
                turns.take_turn("FULL", wait="1s")
                ready.set()
                assert done.wait(WAIT_S)

        pool, first = beside(hold_turn, pids)
        with pool:
            assert ready.wait(WAIT_S)
            with pytest.raises(ledger.CheckRunning):
                check()
            done.set()
            first.result(WAIT_S)
        assert Check.objects.get().failure.startswith("R133")
        check()

    def test_whose_process_was_killed_gives_its_turn_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pids, sockets = list[int](), list[int]()

        def killed() -> None:
            driver = connection.connection
            assert driver is not None
            sockets.append(driver.pgconn.socket)
            with pytest.raises(OperationalError):
                ledger.run_check(kind="FULL", now=NOW)

        with monkeypatch.context() as patched:
            patched.setattr(turns, "KILLED_S", 1)
            patched.setattr(increments, "ACCOUNT_CHECKS", {"long": "SELECT pg_sleep(3600)"})
            pool, check_run = beside(killed, pids)
            with pool:
                until_asleep(pids)
                with socket.socket(fileno=os.dup(sockets[0])) as end:
                    end.shutdown(socket.SHUT_RDWR)  # what the server sees of a process that is gone
                check_run.result(WAIT_S)
        monkeypatch.setattr(checks, "TURN_S", WAIT_S)
        assert check("FULL").differences == []

    def test_exclusive_ones_keep_writers_out_and_let_them_in_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fund(ANA, 10)
        seen: list[str] = []

        def look() -> dict[str, str]:
            seen.extend(view.mode for view in ledger.suspended(now=NOW))
            return {}

        real = regions.find_changed
        check()
        monkeypatch.setattr(regions, "find_changed", lambda *a, **o: (look(), real(*a, **o))[1])
        assert check(exclusive=True).exclusive
        assert (seen, ledger.suspended(now=NOW)) == (["WAIT"], [])

    def test_exclusive_ones_let_writers_in_again_when_they_break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(increments, "CHECKS", {"broken": "SELECT 1 / 0"})
        with pytest.raises(Exception, match="division by zero"):
            check(exclusive=True, branch="0001")
        assert ledger.suspended(now=NOW) == []
        assert "division by zero" in Check.objects.get().failure
        fund(ANA, 10)

    def test_are_forgotten_when_they_are_old_and_no_difference_names_them(self) -> None:
        check()
        fund(ANA, 10)
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1")
        check()
        Check.objects.update(began_at=NOW - timedelta(days=31))
        check("FULL", account=BOB)
        with transaction.atomic():
            assert checks.forget_checks(now=NOW) == 1


class TestWhileWritersRun:
    def test_no_check_raises_a_false_alarm(self) -> None:
        refs = [ANA, BOB, LIMITED, CLEARING]
        for ref in refs:
            fund(ref, 500, dateref=TODAY - timedelta(days=7))
        done = threading.Event()

        def work(n: int) -> int:
            if n == 0:
                try:
                    kinds = ["INCREMENTAL"] * 6 + ["FULL", "INCREMENTAL"]
                    results = [check(kind) for kind in kinds]
                finally:
                    done.set()
                assert [result.differences for result in results] == [[]] * len(kinds)
                return sum(result.lines for result in results)
            count = 0
            while not done.is_set() and count < 300:
                day = TODAY - timedelta(days=count % 8)
                if count % 3:
                    post(line(refs[(n + count) % 4], "C", 1, dateref=day))
                else:
                    post(move(refs[(n + count) % 4], refs[(n + count + 1) % 4], 1, dateref=day, eventcode=ANY))
                count += 1
            return count

        assert min(in_threads(work, 4)) > 0
        assert check().differences == []
        assert check("FULL").differences == []
        assert sum(proof.credit - proof.debit for proof in Proof.objects.all()) == sum(
            ledger.balance(ref).posted for ref in refs
        )
