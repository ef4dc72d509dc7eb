from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from apps.ledger.balances import AccountBook, Day, InsufficientFunds, SumTooLarge
from apps.ledger.rules import SUM_MAX, AccountRef

KEY = UUID(int=7)
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2026, 3, day) for day in (16, 17, 18, 19))


def stored(dateref: date, accumulated_credit: int, credit: int = 0) -> Day:
    return Day(
        dateref,
        total_credit=Decimal(credit),
        accumulated_credit=Decimal(accumulated_credit),
        row_id=UUID(int=dateref.day),
    )


def book(
    *days: Day, points: tuple[date, ...], pending: int = 0, held: tuple[tuple[date, Decimal], ...] = ()
) -> AccountBook:
    credit = days[-1].accumulated_credit if days else Decimal(0)
    made = AccountBook(
        id=UUID(int=1),
        ref=AccountRef("0001", "1"),
        is_frozen=False,
        min_balance=Decimal(0),
        posted_debit=Decimal(0),
        posted_credit=credit,
        pending_debit=Decimal(pending),
        days=[],
        dates=[],
    )
    made.load_days(list(days), points=points, held=held)
    return made


def accumulated(made: AccountBook) -> dict[date, Decimal]:
    return {day.dateref: day.accumulated_credit for day in made.days}


class TestCarryForward:
    def test_a_back_dated_credit_shifts_every_later_day_and_no_earlier_one(self) -> None:
        made = book(stored(MONDAY, 10, 10), stored(WEDNESDAY, 30, 20), points=(TUESDAY, THURSDAY))
        made.apply("C", Decimal(5), dateref=TUESDAY)
        assert accumulated(made) == {MONDAY: 10, TUESDAY: 15, WEDNESDAY: 35, THURSDAY: 35}

    def test_a_new_day_before_the_first_stored_one_opens_with_zero(self) -> None:
        made = book(stored(WEDNESDAY, 30, 30), points=(MONDAY, THURSDAY))
        made.apply("C", Decimal(5), dateref=MONDAY)
        assert accumulated(made) == {MONDAY: 5, WEDNESDAY: 35, THURSDAY: 35}

    def test_only_the_own_days_totals_grow(self) -> None:
        made = book(stored(WEDNESDAY, 30, 30), points=(TUESDAY, WEDNESDAY))
        made.apply("C", Decimal(5), dateref=TUESDAY)
        assert [day.total_credit for day in made.days] == [5, 30]

    def test_days_without_a_line_are_written_only_if_they_are_stored(self) -> None:
        made = book(stored(MONDAY, 10, 10), stored(WEDNESDAY, 30, 20), points=(TUESDAY, THURSDAY))
        made.apply("C", Decimal(5), dateref=TUESDAY)
        made.confirm(dateref=TUESDAY, tracekey=KEY)
        assert [day.dateref for day in made.changed_days()] == [TUESDAY, WEDNESDAY]

    def test_a_line_taken_back_leaves_nothing_to_write(self) -> None:
        made = book(stored(WEDNESDAY, 30, 30), points=(TUESDAY, THURSDAY))
        before = accumulated(made)
        made.apply("C", Decimal(5), dateref=TUESDAY)
        made.apply("C", Decimal(-5), dateref=TUESDAY)
        assert (accumulated(made), made.changed_days(), made.is_changed) == (before, [], False)


class TestFloor:
    def test_looks_at_every_day_from_the_back_date_on(self) -> None:
        made = book(stored(MONDAY, 10, 10), stored(THURSDAY, 100, 90), points=(TUESDAY, THURSDAY))
        made.apply("D", Decimal(50), dateref=TUESDAY)
        with pytest.raises(InsufficientFunds, match="2026-03-17"):
            made.check_floor(since=TUESDAY)

    def test_does_not_look_at_days_before_it(self) -> None:
        made = book(stored(MONDAY, 10, 10), stored(THURSDAY, 100, 90), points=(THURSDAY,))
        made.apply("D", Decimal(50), dateref=THURSDAY)
        made.check_floor(since=THURSDAY)

    def test_counts_a_hold_from_the_day_it_was_placed(self) -> None:
        held = ((WEDNESDAY, Decimal(60)),)
        made = book(stored(MONDAY, 100, 100), points=(TUESDAY, WEDNESDAY, THURSDAY), pending=60, held=held)
        assert [day.held for day in made.days] == [0, 0, 60, 60]
        made.apply("D", Decimal(40), dateref=TUESDAY)
        made.check_floor(since=TUESDAY)
        made.apply("D", Decimal(1), dateref=TUESDAY)
        with pytest.raises(InsufficientFunds, match="2026-03-18"):
            made.check_floor(since=TUESDAY)

    def test_a_released_hold_is_free_again(self) -> None:
        held = ((WEDNESDAY, Decimal(60)),)
        made = book(stored(MONDAY, 100, 100), points=(WEDNESDAY,), pending=60, held=held)
        made.release(Decimal(60), since=WEDNESDAY)
        made.apply("D", Decimal(100), dateref=WEDNESDAY)
        made.check_floor(since=WEDNESDAY)
        assert made.pending_debit == 0

    def test_an_account_without_floor_may_fall_as_deep_as_it_wants(self) -> None:
        made = book(points=(MONDAY,))
        made.min_balance = None
        made.apply("D", Decimal(10**6), dateref=MONDAY)
        made.check_floor(since=MONDAY)


class TestSums:
    @pytest.mark.parametrize("side", ["D", "C"])
    def test_refuses_what_no_longer_fits_the_column(self, side: str) -> None:
        made = book(stored(MONDAY, 0), points=(TUESDAY,))
        made.posted_credit = made.posted_debit = SUM_MAX
        made.check_sums()
        made.apply(side, Decimal("0.01"), dateref=TUESDAY)
        with pytest.raises(SumTooLarge):
            made.check_sums()
