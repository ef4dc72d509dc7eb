from datetime import date, timedelta

import pytest

from apps.common.clock import uuid7
from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, BOB, TODAY, fund, line, move, post

pytestmark = pytest.mark.usefixtures("bank")

NOBODY = AccountRef("0001", "nobody")


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def runnings(statement: ledger.Statement) -> list[int]:
    return [int(written.running) for written in statement.lines]


class TestBalance:
    def test_of_an_unknown_account_is_not_found(self) -> None:
        for ask in (
            lambda: ledger.balance(NOBODY),
            lambda: ledger.balance_on(NOBODY, TODAY),
            lambda: ledger.statement(NOBODY, date_from=TODAY, date_to=TODAY),
            lambda: ledger.balance(AccountRef("0001", "\x00")),
            lambda: ledger.balance_on(AccountRef("0001", "\x00"), TODAY),
        ):
            with pytest.raises(NotFound):
                ask()


class TestBalanceOn:
    def test_a_day_without_lines_shows_the_day_before_it_and_no_totals(self) -> None:
        fund(ANA, 100, dateref=days_ago(3))
        post(line(ANA, "D", 30, dateref=days_ago(3)))
        quiet, busy = ledger.balance_on(ANA, days_ago(1)), ledger.balance_on(ANA, days_ago(3))
        assert (quiet.balance, quiet.total_credit, quiet.accumulated_credit, quiet.accumulated_debit) == (70, 0, 100, 30)
        assert (busy.balance, busy.total_credit, busy.total_debit) == (70, 100, 30)

    def test_before_the_first_line_is_zero(self) -> None:
        fund(ANA, 100)
        assert ledger.balance_on(ANA, days_ago(1)).balance == 0


class TestStatement:
    def test_opens_runs_and_closes(self) -> None:
        fund(ANA, 100, dateref=days_ago(5))
        fund(ANA, 10, dateref=days_ago(2))
        post(line(ANA, "D", 5, dateref=days_ago(2)))
        fund(ANA, 1)
        found = ledger.statement(ANA, date_from=days_ago(3), date_to=days_ago(1))
        assert (found.opening, runnings(found), found.closing) == (100, [110, 105], 105)

    def test_shows_back_dated_lines_in_their_day_and_carries_them_on(self) -> None:
        fund(ANA, 100, dateref=days_ago(2))
        fund(ANA, 10)
        fund(ANA, 7, dateref=days_ago(2))
        fund(ANA, 1, dateref=days_ago(4))
        found = ledger.statement(ANA, date_from=days_ago(7), date_to=TODAY)
        assert runnings(found) == [1, 101, 108, 118]

    def test_of_a_quiet_period_has_no_lines(self) -> None:
        fund(ANA, 100, dateref=days_ago(3))
        found = ledger.statement(ANA, date_from=days_ago(2), date_to=TODAY)
        assert (found.opening, found.lines, found.closing, found.next_cursor) == (100, (), 100, None)

    def test_pages_hold_every_line_once_even_when_a_line_is_posted_between_them(self) -> None:
        for n in range(5):
            fund(ANA, 1, dateref=days_ago(n))
        first = ledger.statement(ANA, date_from=days_ago(7), date_to=TODAY, limit=2)
        fund(ANA, 100, dateref=days_ago(6))
        second = ledger.statement(ANA, date_from=days_ago(7), date_to=TODAY, limit=2, cursor=first.next_cursor)
        third = ledger.statement(ANA, date_from=days_ago(7), date_to=TODAY, limit=2, cursor=second.next_cursor)
        assert [runnings(page) for page in (first, second, third)] == [[1, 2], [103, 104], [105]]
        assert third.next_cursor is None

    def test_the_last_page_that_is_full_has_no_next(self) -> None:
        fund(ANA, 1)
        fund(ANA, 1)
        assert ledger.statement(ANA, date_from=TODAY, date_to=TODAY, limit=2).next_cursor is None

    @pytest.mark.parametrize("cursor", ["x", "WzFd", "WyJhIiwxXQ", "WyIyMDI2LTAxLTAxIiwtMV0", "WyIyMDI2LTAxLTAxIiwidyJd"])
    def test_a_cursor_of_another_list_is_malformed(self, cursor: str) -> None:
        with pytest.raises(InvalidRequest):
            ledger.statement(ANA, date_from=TODAY, date_to=TODAY, cursor=cursor)

    def test_a_period_that_ends_before_it_begins_is_malformed(self) -> None:
        with pytest.raises(InvalidRequest):
            ledger.statement(ANA, date_from=TODAY, date_to=days_ago(1))


class TestTransactions:
    def test_are_found_by_tracekey_in_the_order_of_the_legs(self) -> None:
        fund(ANA, 10)
        entry = move(ANA, BOB, 10, description="rent")
        result = post(entry)
        found = ledger.transactions_by_tracekey(entry.tracekey)
        assert [written.id for written in found] == [written.id for written in result.lines]
        assert [written.balances for written in found] == [written.balances for written in result.lines]
        assert {written.description for written in found} == {"rent"}

    def test_are_found_by_id(self) -> None:
        (written,) = fund(ANA, 10).lines
        assert ledger.transaction_by_id(written.id).amount == 10

    def test_that_were_never_posted_are_not_found(self) -> None:
        assert ledger.transactions_by_tracekey(uuid7()) == ()
        assert ledger.transaction_by_id(uuid7()) is None
