"""Each kind of damage, made behind the engine's back, is found by the rule that speaks of it, and by that command."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from apps.common.clock import uuid7
from apps.ledger import increments, turns
from apps.ledger import public as ledger
from apps.ledger.care_models import Check
from apps.ledger.reconciliation import CHECKS, prove
from tests.integration.ledger.conftest import ANA, ANY, BOB, NOW, fund, let_others_end, money, move, post

DAMAGE = {
    "a day's debits are the sum of its lines": "UPDATE ledger_balance SET totaldebit = 0",
    "a day's credits are the sum of its lines": "UPDATE ledger_balance SET totalcredit = 0 WHERE account = '000000001'",
    "accumulated debits are the sum of the days": "UPDATE ledger_balance SET accumulateddebit = accumulateddebit + 1",
    "accumulated credits are the sum of the days": "UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1",
    "an account's debits are the sum of its lines": "UPDATE ledger_account SET posteddebit = posteddebit + 1"
    " WHERE account = '000000001'",
    "an account's credits are the sum of its lines": "UPDATE ledger_account SET postedcredit = postedcredit + 1",
    "what is pending is the sum of the open holds": "UPDATE ledger_account SET pendingdebit = 0",
    "a line's balance follows from the lines before it": "UPDATE ledger_transaction SET balanceafter = balanceafter + 1",
    "a line's day net follows from the lines of its day": "UPDATE ledger_transaction SET daynet = daynet + 1",
    "a balanced entry's debits are its credits": "DELETE FROM ledger_transaction WHERE balanced AND debitcredit = 'C'",
    "a tracekey is known exactly when it has lines": "DELETE FROM ledger_posting_key",
    "a posted hold has its debit": "UPDATE ledger_hold SET postedamount = 1 WHERE status = 'POSTED'",
}


def some_history() -> None:
    fund(ANA, 100)
    post(move(ANA, BOB, 10))
    with transaction.atomic():
        for key in ("open", "posted"):
            ledger.hold(key=key, branch="0001", account=ANA.account, amount=money(20), now=NOW)
        ledger.post_hold(key="posted", tracekey=uuid7(), credit=BOB, eventcode=ANY, description="", now=NOW)


def damage(sql: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what the lines' own triggers still had to check
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger, no foreign key
        cursor.execute(sql)


@pytest.mark.usefixtures("bank")
class TestProve:
    def test_a_sound_ledger_has_no_differences(self) -> None:
        some_history()
        assert prove() == []

    @pytest.mark.parametrize("rule", DAMAGE)
    def test_finds_the_damage(self, rule: str) -> None:
        some_history()
        damage(DAMAGE[rule])
        assert rule in {difference.rule for difference in prove()}

    def test_every_rule_is_tried_here(self) -> None:
        # Floor and ceiling can't be broken: the table's own CHECKs refuse it, which test_constraints shows. What speaks of
        # archived months is tried in test_months_at_once.
        others = {"no account is below its floor", "no account is above its ceiling"}
        assert set(CHECKS) - set(DAMAGE) == others | {each for each in CHECKS if each.startswith("an archived month's")}

    def test_says_where_what_is_stored_and_what_is_proven(self) -> None:
        some_history()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        (found,) = prove()
        assert (found.branch, found.account, found.currency, found.stored, found.proven) == (*ANA, 101, 100)

    def test_a_line_nobody_carried_into_a_balance_is_found(self) -> None:
        damage(
            "INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description,"
            " tracekey, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet) VALUES"
            " (gen_random_uuid(), '0001', 'ghost', 'BRL', 5, 'C', 1, '', gen_random_uuid(), '2026-03-18', now(), false,"
            " 5, 0, 5, 5)"
        )
        assert {difference.account for difference in prove()} == {"ghost", None}


@pytest.mark.usefixtures("committed_bank")
class TestCheckBalances:
    def test_reads_one_snapshot_and_can_not_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        setting = "SELECT current_setting('transaction_{}'), NULL, NULL, NULL::date, NULL, NULL, NULL"
        monkeypatch.setattr(
            "apps.ledger.reconciliation.CHECKS",
            {"isolation": setting.format("isolation"), "read only": setting.format("read_only")},
        )
        assert [found.branch for found in ledger.check_balances()] == ["repeatable read", "on"]


@pytest.mark.usefixtures("committed_bank")
class TestCheckBalancesCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        let_others_end()
        output = StringIO()
        try:
            call_command("check_balances", *arguments, stdout=output)
        except SystemExit as ending:
            return int(str(ending.code)), output.getvalue()
        return 0, output.getvalue()

    def test_ends_with_zero_when_all_is_proven_and_with_one_when_something_differs(self) -> None:
        some_history()
        assert self.run() == (0, f"INCREMENTAL: 4 accounts, 2 days, 5 lines, {len(CHECKS)} checks, 0 differences\n")
        damage("UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1 WHERE account = '000000001'")
        assert self.run()[0] == 0  # nobody posted to the account
        code, text = self.run("--full")
        assert code == 1
        assert "account=000000001" in text
        assert "1 differences" in text
        code, text = self.run("--full", "--json")
        document = json.loads(text)
        assert code == 1
        assert [(found["stored"], found["proven"]) for found in document["differences"]] == [("101.00", "100.00")]
        assert (document["kind"], document["accounts"], document["lines"]) == ("FULL", 4, 5)

    @pytest.mark.parametrize("options", [["--branch", "0001"], ["--account", "0001/000000001", "--full"], ["--exclusive"]])
    def test_checks_a_part_or_everything_alone(self, options: list[str]) -> None:
        some_history()
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        code, text = self.run(*options, "--json")
        assert (code, json.loads(text)["exclusive"]) == (1, "--exclusive" in options)
        assert ledger.suspended(now=NOW) == []

    def test_ends_with_two_when_it_could_not_check(self) -> None:
        with pytest.raises(CommandError) as refused:
            self.run("--exclusive", "--branch", "9999")
        assert refused.value.returncode == 2

    def test_ends_with_two_when_the_check_broke_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(turns.STATEMENT_TIMEOUTS, "FULL", "1ms")
        monkeypatch.setattr(increments, "ACCOUNT_CHECKS", {"slow": "SELECT pg_sleep(60)"})
        with pytest.raises(CommandError, match="statement timeout") as refused:
            self.run("--full")
        assert refused.value.returncode == 2
        assert "statement timeout" in Check.objects.get().failure
