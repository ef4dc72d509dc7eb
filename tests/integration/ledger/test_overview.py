"""What the page of an account asks the ledger."""

from datetime import date, timedelta
from uuid import uuid4

import pytest
from django.db import transaction

from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import overview
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef, HeldSpan
from tests.integration.ledger.conftest import ANA, BOB, NOW, TODAY, fund, line, money, move, post

pytestmark = pytest.mark.usefixtures("bank")
NOBODY = AccountRef("0001", "nobody")


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


class TestPeriod:
    def test_opens_with_what_was_before_it(self) -> None:
        fund(ANA, 100, dateref=ago(5))
        post(move(ANA, BOB, 30, dateref=ago(2)))
        period = ledger.account_period(ANA, date_from=ago(3), date_to=TODAY)
        assert (period.opening, period.closing, period.debit, period.credit) == (money(100), money(70), money(30), money(0))
        assert [(day.dateref, day.opening, day.net) for day in period.days] == [(ago(2), money(100), money(-30))]
        quiet = ledger.account_period(ANA, date_from=TODAY, date_to=TODAY)
        assert (quiet.opening, quiet.closing, quiet.days) == (money(70), money(70), ())
        before = ledger.account_period(ANA, date_from=ago(7), date_to=ago(6))
        assert (before.opening, before.closing) == (money(0), money(0))

    @pytest.mark.parametrize("days", [-1, 366])
    def test_is_neither_backwards_nor_longer_than_a_year(self, days: int) -> None:
        with pytest.raises(InvalidRequest):
            ledger.account_period(ANA, date_from=TODAY - timedelta(days=days), date_to=TODAY)

    def test_tells_what_was_held_at_the_end_of_days(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fund(ANA, 100, dateref=ago(6))
        with transaction.atomic():
            for key, placed, ended in (("a", 4, 2), ("b", 3, 3), ("c", 1, None)):
                at = NOW - timedelta(days=placed)
                ledger.hold(key=key, branch=ANA.branch, account=ANA.account, amount=money(10), now=at)
                if ended is not None:
                    ledger.void_hold(key=key, now=NOW - timedelta(days=ended))
        week = {"date_from": ago(6), "date_to": TODAY}
        period = ledger.account_period(ANA, **week)
        assert period.held == (HeldSpan(ago(4), ago(2), money(10)), HeldSpan(ago(1), None, money(10)))
        assert period.held_from == ago(6)
        monkeypatch.setattr(overview, "HELD_SPANS_MAX", 1)
        cut = ledger.account_period(ANA, **week)
        assert cut.held_from == ago(4), "further back nobody looked"


class TestHead:
    def test_of_nobody_is_not_found(self) -> None:
        for ref in (NOBODY, AccountRef("0001", "\x00")):
            with pytest.raises(NotFound):
                ledger.account_head(ref)
        assert ledger.account_lines(NOBODY, ledger.LinesWanted(date_from=TODAY, date_to=TODAY)).lines == ()

    def test_is_the_balance(self) -> None:
        fund(ANA, 100)
        head, balance = ledger.account_head(ANA), ledger.balance(ANA)
        assert (head.posted, head.pending, head.available) == (balance.posted, balance.pending, balance.available)


class TestLines:
    def test_are_the_statement_backwards(self) -> None:
        for days in (3, 0, 2, 0):
            post(line(ANA, "C", 10 + days, dateref=ago(days)))
        newest = ledger.account_lines(ANA, ledger.LinesWanted(date_from=ago(5), date_to=TODAY))
        oldest = ledger.statement(ANA, date_from=ago(5), date_to=TODAY)
        assert [(found.id, found.running) for found in reversed(newest.lines)] == [
            (found.id, found.running) for found in oldest.lines
        ]
        assert [found.back_dated for found in newest.lines] == [False, False, True, True]
        assert newest.counts[TODAY] == ledger.DayCount(lines=2, later=0)


class TestEntry:
    def test_knows_what_took_it_back_and_what_it_takes_back(self) -> None:
        fund(ANA, 100)
        posting, undo = post(move(ANA, BOB, 30)), uuid4()
        with transaction.atomic():
            ledger.reverse(tracekey=posting.tracekey, reversal_tracekey=undo, now=NOW)
        first, second = ledger.entry(posting.tracekey), ledger.entry(undo)
        assert first is not None
        assert second is not None
        assert (first.reversed_by, second.reverses) == (undo, posting.tracekey)
        assert ledger.entry(uuid4()) is None

    def test_of_a_hold_knows_its_key(self) -> None:
        fund(ANA, 100)
        key, tracekey = "its hold", uuid4()
        with transaction.atomic():
            ledger.hold(key=key, branch=ANA.branch, account=ANA.account, amount=money(5), now=NOW)
            ledger.post_hold(key=key, tracekey=tracekey, credit=BOB, eventcode=1, description="", now=NOW)
        found = ledger.entry(tracekey)
        assert found is not None
        assert found.hold_key == key

    def test_dry_reversal_leaves_nothing(self) -> None:
        fund(ANA, 100)
        posting = post(move(ANA, BOB, 30))
        dry = ledger.reverse_dry(tracekey=posting.tracekey, reversal_tracekey=uuid4(), now=NOW)
        assert dry.status == "REVERSED"
        assert ledger.balance(BOB).posted == money(30)
        unknown = uuid4()
        assert ledger.reverse_dry(tracekey=unknown, reversal_tracekey=uuid4(), now=NOW).status == "NEVER_POSTED"
        assert post(move(ANA, BOB, 1, tracekey=unknown)).tracekey == unknown, "it is not buried"
