"""The chart of an account's balance: every day a step, what was held under it, limits when they are near."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from apps.backoffice.components.balance_chart import NARROW, WIDE, Chart, balance_chart, held_by_day, short_amount
from apps.ledger.public import DayRow, HeldSpan, Period

FIRST = date(2026, 3, 1)
D = Decimal


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def row(number: int, opening: int, closing: int) -> DayRow:
    net = closing - opening
    return DayRow(dateref=day(number), opening=D(opening), debit=D(max(-net, 0)), credit=D(max(net, 0)), closing=D(closing))


def period(
    days: int, *rows: DayRow, opening: int = 0, held: tuple[HeldSpan, ...] = (), held_from: date | None = FIRST
) -> Period:
    return Period(
        date_from=FIRST,
        date_to=day(days - 1),
        opening=D(opening),
        closing=rows[-1].closing if rows else D(opening),
        days=rows,
        held=held,
        held_from=held_from,
    )


def chart(shown: Period, *, floor: str | None = None, ceiling: str | None = None) -> Chart:
    return balance_chart(
        shown, currency="BRL", floor=D(floor) if floor else None, ceiling=D(ceiling) if ceiling else None, frame=WIDE
    )


class TestSteps:
    def test_a_day_without_postings_ends_as_the_day_before_it(self) -> None:
        drawn = chart(period(4, row(1, 100, 200), opening=100))
        heights = [part.split("H")[0] for part in drawn.line.split("V")[1:]]
        assert len(heights) == 4
        assert heights[1] == heights[2] == heights[3] < heights[0]
        assert drawn.end_text == "200.00"
        assert "200.00 at the end, lowest R$\u00a0100.00, highest R$\u00a0200.00" in drawn.finding

    def test_all_stand_within_the_frame(self) -> None:
        for frame in (WIDE, NARROW):
            rows = (row(0, 0, 5), row(3, 5, -70), row(9, -70, 123456))
            drawn = balance_chart(period(10, *rows), currency="BRL", floor=D(-80), ceiling=None, frame=frame)
            ys = [float(part.split("H")[0]) for part in drawn.line.split("V")[1:]]
            assert all(0 <= y <= frame.height for y in [*ys, *(mark.y for mark in drawn.grid), drawn.end_y, drawn.label_y])
            assert all(frame.left <= mark.x <= frame.width - frame.right for mark in drawn.days)

    @pytest.mark.parametrize("balance", [0, 1, -1, 99_999_999])
    def test_an_account_that_stands_still_is_drawn(self, balance: int) -> None:
        drawn = chart(period(1, opening=balance))
        assert len(drawn.days) == 1
        assert 0 <= drawn.end_y <= WIDE.height
        assert "0" in [mark.text for mark in drawn.grid]


class TestLimits:
    @pytest.mark.parametrize(
        ("floor", "ceiling", "shown"),
        [
            ("-50", None, ["floor −50.00"]),
            ("-5000", None, []),
            ("0", "120", ["floor 0.00", "ceiling 120.00"]),
            (None, "9000", []),
        ],
    )
    def test_are_drawn_when_they_are_near(self, floor: str | None, ceiling: str | None, shown: list[str]) -> None:
        drawn = chart(period(3, row(0, 0, 100)), floor=floor, ceiling=ceiling)
        assert [mark.text for mark in drawn.limits] == shown


class TestHeld:
    def test_is_told_for_the_end_of_each_day(self) -> None:
        spans = (HeldSpan(day(-5), day(1), D(10)), HeldSpan(day(1), None, D(7)), HeldSpan(day(2), day(3), D(1)))
        found = held_by_day(spans, [day(n) for n in range(5)])
        assert list(found.values()) == [D(10), D(7), D(8), D(7), D(7)]

    def test_is_drawn_under_its_step_as_far_back_as_it_is_known(self) -> None:
        held = (HeldSpan(day(0), None, D(40)),)
        drawn = chart(period(4, row(0, 0, 100), held=held, held_from=day(2)))
        assert len(drawn.held) == 2
        assert drawn.held_text == "40.00 held"
        assert chart(period(4, row(0, 0, 100), held=held, held_from=None)).held == ()


class TestAxis:
    @pytest.mark.parametrize(
        ("amount", "text"),
        [
            ("0", "0"),
            ("80", "80"),
            ("0.5", "0.5"),
            ("240000", "240\u00a0k"),
            ("1500000", "1.5\u00a0M"),
            ("-2000", "−2\u00a0k"),
        ],
    )
    def test_has_short_amounts(self, amount: str, text: str) -> None:
        assert short_amount(D(amount)) == text
