from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, ANY, BOB, CREDIT_ONLY, NOW, TODAY, fund, line, move, post

pytestmark = pytest.mark.usefixtures("bank")


def totals(*, back: int = 7, **scope: str) -> ledger.EventTotals:
    return ledger.totals_by_event(date_from=TODAY - timedelta(days=back), date_to=TODAY, **scope)


def rows(found: ledger.EventTotals) -> list[tuple[int, str, int, int]]:
    return [(event.eventcode, event.debitcredit, event.count, int(event.amount)) for event in found.events]


class TestTotals:
    def test_are_by_event_and_side_with_the_catalogues_words(self) -> None:
        fund(ANA, 100, eventcode=CREDIT_ONLY)
        post(move(ANA, BOB, 30))
        post(move(ANA, BOB, 20, dateref=TODAY))
        found = totals()
        assert rows(found) == [(ANY, "D", 2, 50), (ANY, "C", 2, 50), (CREDIT_ONLY, "C", 1, 100)]
        assert (found.debits, found.credits) == (50, 150)
        assert [event.description for event in found.events] == ["anything", "anything", "credits"]

    def test_are_of_an_account_a_branch_or_the_whole_ledger(self) -> None:
        with transaction.atomic():
            ledger.open_branch(branch="0002", now=NOW)
            ledger.open_account(branch="0002", account="1", now=NOW)
        for account, amount in ((ANA, 1), (BOB, 2), (AccountRef("0002", "1"), 4)):
            fund(account, amount)
        assert rows(totals()) == [(ANY, "C", 3, 7)]
        assert rows(totals(branch="0001")) == [(ANY, "C", 2, 3)]
        assert rows(totals(branch="0001", account=ANA.account)) == [(ANY, "C", 1, 1)]

    def test_are_of_a_period_and_of_one_currency(self) -> None:
        fund(ANA, 1, dateref=TODAY - timedelta(days=3))
        fund(ANA, 2)
        with transaction.atomic():
            ledger.open_account(branch="0001", account="usd", currency="USD", now=NOW)
        fund(AccountRef("0001", "usd", "USD"), 9)
        assert rows(totals(back=2)) == [(ANY, "C", 1, 2)]
        assert rows(totals(currency="USD")) == [(ANY, "C", 1, 9)]

    def test_have_what_waits_to_be_rolled_up_so_entries_add_up(self) -> None:
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        fund(ANA, 10)
        post(move(ANA, AccountRef("0001", "FEES"), 4))
        before = totals()
        with transaction.atomic():
            assert ledger.roll_up(now=NOW) == 1
        assert rows(before) == rows(totals()) == [(ANY, "D", 1, 4), (ANY, "C", 2, 14)]

    def test_are_counted_in_one_statement(self) -> None:
        post(line(ANA, "C", 1))
        with CaptureQueriesContext(connection) as captured:
            totals()
        assert len([query for query in captured.captured_queries if "ledger_transaction" in query["sql"]]) == 1

    @pytest.mark.parametrize("scope", [{"branch": "nope"}, {"branch": "0001", "account": "nope"}, {"branch": "\x00"}])
    def test_of_an_unknown_account_or_branch_are_not_found(self, scope: dict[str, str]) -> None:
        with pytest.raises(NotFound):
            totals(**scope)

    def test_of_too_long_a_period_or_of_no_branch_are_malformed(self) -> None:
        for wrong in ({"back": 366}, {"back": -1}, {"account": "1"}):
            with pytest.raises(InvalidRequest):
                totals(**wrong)
        assert rows(totals(back=365)) == []
