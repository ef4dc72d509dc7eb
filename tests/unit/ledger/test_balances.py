from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from apps.ledger.balances import AboveCeiling, AccountBook, InsufficientFunds, StoredDay, SumTooLarge
from apps.ledger.rules import SUM_MAX, AccountRef

KEY, OTHER = UUID(int=7), UUID(int=8)
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2026, 3, day) for day in (16, 17, 18, 19))


def stored(dateref: date, credit: int) -> StoredDay:
    return StoredDay(str(UUID(int=dateref.day)), dateref.toordinal(), Decimal(0), Decimal(credit))


def book(
    *days: StoredDay,
    since: date,
    today: date = THURSDAY,
    posted: int = 0,
    pending: int = 0,
    held: tuple[tuple[date, Decimal], ...] = (),
    ceiling: Decimal | None = None,
) -> AccountBook:
    made = AccountBook(
        id=UUID(int=1),
        ref=AccountRef("0001", "1"),
        status="ACTIVE",
        min_balance=Decimal(0),
        max_balance=ceiling,
        posted_debit=Decimal(0),
        posted_credit=Decimal(posted),
        pending_debit=Decimal(pending),
    )
    made.load_days(list(days), today=today.toordinal(), since=since.toordinal(), held=held)
    return made


def slot(made: AccountBook, day: date) -> int:
    return made.last - day.toordinal()


def balances(made: AccountBook, *days: date) -> list[Decimal]:
    return [made.balance_at(slot(made, day)) for day in days]


class TestCarryForward:
    def test_a_back_dated_credit_shifts_every_later_day_and_no_earlier_one(self) -> None:
        made = book(stored(MONDAY, 10), stored(WEDNESDAY, 20), since=MONDAY, posted=30)
        after = made.apply("C", Decimal(5), slot(made, TUESDAY))
        assert balances(made, MONDAY, TUESDAY, WEDNESDAY, THURSDAY) == [10, 15, 35, 35]
        assert (after.posted, after.day) == (35, 15)

    def test_a_new_day_before_the_first_stored_one_opens_with_what_was_there_before(self) -> None:
        made = book(stored(WEDNESDAY, 30), since=MONDAY, posted=40)
        made.apply("C", Decimal(5), slot(made, MONDAY))
        assert balances(made, MONDAY, TUESDAY, WEDNESDAY) == [15, 15, 45]

    def test_writes_the_days_of_lines_and_the_stored_ones_after_them(self) -> None:
        made = book(stored(WEDNESDAY, 20), since=MONDAY, posted=30)
        made.apply("C", Decimal(5), slot(made, TUESDAY))
        made.confirm(slot(made, TUESDAY), line=1, tracekey=KEY)
        changed = sorted(made.changed_days(), key=lambda day: day.dateref)
        assert [(day.dateref, day.total_credit, day.accumulated_credit) for day in changed] == [
            (TUESDAY, 5, 15),
            (WEDNESDAY, 20, 35),
        ]
        assert [day.id is None for day in changed] == [True, False]

    def test_a_row_is_last_changed_by_the_last_line_of_any_day_up_to_it(self) -> None:
        made = book(stored(WEDNESDAY, 20), since=MONDAY, posted=30)
        for day, line, key in ((WEDNESDAY, 1, KEY), (TUESDAY, 2, OTHER), (THURSDAY, 3, KEY)):
            made.apply("C", Decimal(1), slot(made, day))
            made.confirm(slot(made, day), line=line, tracekey=key)
        assert {day.dateref: day.tracekey for day in made.changed_days()} == {
            TUESDAY: OTHER,
            WEDNESDAY: OTHER,
            THURSDAY: KEY,
        }

    def test_a_line_taken_back_leaves_nothing_to_write(self) -> None:
        made = book(stored(WEDNESDAY, 30), since=MONDAY, posted=30)
        made.apply("C", Decimal(5), slot(made, TUESDAY))
        made.take_back("C", Decimal(5), slot(made, TUESDAY))
        assert (balances(made, MONDAY, WEDNESDAY), made.touched) == ([0, 30], {})

    def test_a_stored_day_after_today_is_carried_too(self) -> None:
        made = book(stored(THURSDAY, 10), since=TUESDAY, today=TUESDAY, posted=10)
        made.apply("C", Decimal(5), slot(made, TUESDAY))
        assert balances(made, TUESDAY, THURSDAY) == [5, 15]


class TestFloor:
    def test_looks_at_every_day_from_the_back_date_on(self) -> None:
        made = book(stored(MONDAY, 10), stored(THURSDAY, 90), since=MONDAY, posted=100)
        made.apply("D", Decimal(50), slot(made, TUESDAY))
        with pytest.raises(InsufficientFunds, match="2026-03-17"):
            made.check_taken(Decimal(-50), slot(made, TUESDAY))

    def test_does_not_look_at_days_before_it(self) -> None:
        made = book(stored(MONDAY, 10), stored(THURSDAY, 90), since=MONDAY, posted=100)
        made.apply("D", Decimal(50), slot(made, THURSDAY))
        made.check_taken(Decimal(-50), slot(made, THURSDAY))

    def test_what_was_counted_once_is_not_trusted_after_a_line_was_taken_back(self) -> None:
        made = book(since=THURSDAY, posted=10)
        made.apply("C", Decimal(100), 0)
        made.apply("D", Decimal(1), 0)
        made.check_taken(Decimal(-1), 0)
        made.take_back("C", Decimal(100), 0)
        made.apply("D", Decimal(50), 0)
        with pytest.raises(InsufficientFunds):
            made.check_taken(Decimal(-50), 0)

    def test_counts_a_hold_from_the_day_it_was_placed(self) -> None:
        held = ((WEDNESDAY, Decimal(60)),)
        made = book(stored(MONDAY, 100), since=MONDAY, posted=100, pending=60, held=held)
        assert made.held == [60, 60, 0, 0]
        made.apply("D", Decimal(40), slot(made, TUESDAY))
        made.check_taken(Decimal(-40), slot(made, TUESDAY))
        made.apply("D", Decimal(1), slot(made, TUESDAY))
        with pytest.raises(InsufficientFunds, match="2026-03-18"):
            made.check_taken(Decimal(-1), slot(made, TUESDAY))

    def test_a_released_hold_is_free_again(self) -> None:
        held = ((WEDNESDAY, Decimal(60)),)
        made = book(since=MONDAY, posted=100, pending=60, held=held)
        made.release(Decimal(60), since=WEDNESDAY)
        made.apply("D", Decimal(100), slot(made, WEDNESDAY))
        made.check_taken(Decimal(-100), slot(made, WEDNESDAY))
        assert (made.pending_debit, made.held) == (0, [0, 0, 0, 0])

    def test_an_account_without_floor_may_fall_as_deep_as_it_wants(self) -> None:
        made = book(since=MONDAY)
        made.min_balance = None
        made.apply("D", Decimal(10**6), slot(made, MONDAY))
        made.check_taken(Decimal(-(10**6)), slot(made, MONDAY))

    def test_what_is_there_is_that_of_the_poorest_day(self) -> None:
        made = book(stored(MONDAY, 10), stored(THURSDAY, 90), since=MONDAY, posted=100)
        assert [made.there(slot(made, day)) for day in (MONDAY, WEDNESDAY, THURSDAY)] == [10, 10, 100]


class TestCeiling:
    def test_looks_at_every_day_from_the_back_date_on(self) -> None:
        made = book(stored(TUESDAY, 90), since=MONDAY, posted=90, ceiling=Decimal(100))
        made.apply("D", Decimal(50), slot(made, THURSDAY))
        made.apply("C", Decimal(11), slot(made, MONDAY))
        with pytest.raises(AboveCeiling, match="2026-03-18"):
            made.check_given(slot(made, MONDAY))
        made.check_given(slot(made, THURSDAY))


class TestSums:
    @pytest.mark.parametrize("side", ["D", "C"])
    def test_refuses_what_no_longer_fits_the_column(self, side: str) -> None:
        made = book(since=TUESDAY)
        made.posted_credit = made.posted_debit = SUM_MAX
        made.check_sums()
        made.apply(side, Decimal("0.01"), slot(made, TUESDAY))
        with pytest.raises(SumTooLarge):
            made.check_sums()

    def test_an_account_near_the_end_of_its_column_is_not_plain(self) -> None:
        made = book(since=TUESDAY)
        assert made.is_plain
        made.posted_credit = SUM_MAX
        made.load_days([], today=THURSDAY.toordinal(), since=TUESDAY.toordinal())
        assert not made.is_plain
