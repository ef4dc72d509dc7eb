"""The balance of an account from day to day: steps, the held part of each hatched, its floor and its ceiling dashed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from django.utils.dateformat import format as format_date

from apps.backoffice.components.formats import amount, money
from apps.ledger.public import HeldSpan, Period

LINES_MAX = 5  # of the grid: more are noise
REACH = 0.6  # a floor or a ceiling is drawn when it lies so near: this part of the balances' own span away
TOP, FOOT = 14.0, 22.0  # room above the highest step, and for the days below
_DAY = timedelta(days=1)
_UNITS = ((Decimal(10**9), "bn"), (Decimal(10**6), "M"), (Decimal(10**3), "k"))
Held = Sequence[HeldSpan]


@dataclass(frozen=True, slots=True)
class Frame:
    """How large it is drawn, and how much room its labels take. A phone gets a drawing of its own, not a smaller one."""

    width: float
    height: float
    left: float
    right: float
    days: int  # labels below


WIDE = Frame(668, 188, 58, 100, 5)
NARROW = Frame(340, 172, 44, 6, 3)


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across, with its label."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class DayMark:
    """A label below."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Box:
    """What was held on a day, below its step."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Ready to be drawn."""

    frame: Frame
    grid: tuple[Mark, ...]
    days: tuple[DayMark, ...]
    line: str
    area: str
    held: tuple[Box, ...]
    limits: tuple[Mark, ...]
    end_x: float
    end_y: float
    end_text: str
    held_text: str
    finding: str

    @property
    def plot_right(self) -> float:
        """Where the drawing ends and the labels of its end begin."""
        return self.frame.width - self.frame.right

    @property
    def label_y(self) -> float:
        """Of the value at the end: inside the drawing, also when it ends at an edge."""
        return min(max(self.end_y, TOP), self.frame.height - FOOT - 14)


def short_amount(value: Decimal) -> str:
    """For an axis alone, never for what somebody decides on: 240 k, 1.5 M, 80."""
    for unit, word in _UNITS:
        if abs(value) >= unit:
            return f"{(value / unit).normalize():f}\u00a0{word}".replace("-", "\u2212")
    return f"{value.normalize() if value else Decimal(0):f}".replace("-", "\u2212")


def held_by_day(spans: Held, days: Sequence[date]) -> dict[date, Decimal]:
    """How much was held at the end of each of these days, which follow each other."""
    change: dict[date, Decimal] = {}
    first, last = days[0], days[-1]
    for span in spans:
        change[max(span.first, first)] = change.get(max(span.first, first), Decimal(0)) + span.amount
        if span.until is not None and span.until <= last:
            change[span.until] = change.get(span.until, Decimal(0)) - span.amount
    found, held = {}, Decimal(0)
    for day in days:
        held += change.get(day, Decimal(0))
        found[day] = held
    return found


def balance_chart(
    period: Period, *, currency: str, floor: Decimal | None, ceiling: Decimal | None, frame: Frame = WIDE
) -> Chart:
    """The chart of a period, every day of it a step of the same width."""
    days = [period.date_from + _DAY * n for n in range((period.date_to - period.date_from).days + 1)]
    closings = _closings(period, days)
    held = held_by_day(period.held, days) if period.held_from else {}
    shown = {day: much for day, much in held.items() if much > 0 and day >= (period.held_from or day)}
    limits = _limits(closings, floor, ceiling)
    free = [closing - shown.get(day, Decimal(0)) for day, closing in zip(days, closings, strict=True)]
    low, high, step = _scale([*closings, *free, *limits.values()])
    scale = _Scale(frame, len(days), low, high)
    end_held = shown.get(days[-1], Decimal(0))
    return Chart(
        frame=frame,
        grid=tuple(Mark(scale.y(value), short_amount(value)) for value in _grid(low, high, step)),
        days=_day_marks(days, scale, frame.days),
        line=_line(closings, scale),
        area=_area(closings, scale),
        held=tuple(_box(days.index(day), closings[days.index(day)], much, scale) for day, much in shown.items()),
        limits=tuple(Mark(scale.y(value), f"{name} {amount(value)}") for name, value in limits.items()),
        end_x=scale.x(len(days)),
        end_y=scale.y(closings[-1]),
        end_text=amount(closings[-1]),
        held_text=f"{amount(end_held)} held" if end_held else "",
        finding=_finding(closings, currency),
    )


class _Scale:
    """From days and amounts to pixels."""

    def __init__(self, frame: Frame, days: int, low: Decimal, high: Decimal) -> None:
        self.left, self.wide = frame.left, (frame.width - frame.left - frame.right) / days
        self.low, self.bottom = low, frame.height - FOOT
        self.tall = (self.bottom - TOP) / float(high - low)

    def x(self, day: int) -> float:
        return self.left + self.wide * day

    def y(self, value: Decimal) -> float:
        return self.bottom - float(value - self.low) * self.tall


def _closings(period: Period, days: Sequence[date]) -> list[Decimal]:
    """Of each day; one without a posting ends as the day before it."""
    known = {day.dateref: day.closing for day in period.days}
    found, balance = [], period.opening
    for day in days:
        balance = known.get(day, balance)
        found.append(balance)
    return found


def _limits(closings: Sequence[Decimal], floor: Decimal | None, ceiling: Decimal | None) -> dict[str, Decimal]:
    """The limits that lie near enough to be drawn without squeezing the balances."""
    low, high = min(*closings, Decimal(0)), max(*closings, Decimal(0))
    reach = (high - low) * Decimal(str(REACH)) or Decimal(100)
    found = {}
    if floor is not None and floor >= low - reach:
        found["floor"] = floor
    if ceiling is not None and ceiling <= high + reach:
        found["ceiling"] = ceiling
    return found


def _scale(values: Sequence[Decimal]) -> tuple[Decimal, Decimal, Decimal]:
    """The lowest value, the highest line of the grid, and the distance of its lines: a round number."""
    low, high = min(*values, Decimal(0)), max(*values, Decimal(0))
    raw = (high - low or Decimal(100)) / (LINES_MAX - 1)
    power = Decimal(10) ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw)
    top = (high / step).to_integral_value(rounding="ROUND_CEILING") * step
    return low, top if top > low else low + step, step


def _grid(low: Decimal, high: Decimal, step: Decimal) -> list[Decimal]:
    """The lines of the grid: zero, and whole steps from it."""
    first, last = (low / step).to_integral_value(rounding="ROUND_CEILING"), (high / step).to_integral_value("ROUND_FLOOR")
    return [step * n for n in range(int(first), int(last) + 1)]


def _line(closings: Sequence[Decimal], scale: _Scale) -> str:
    steps = [f"M{scale.x(0):.1f} {scale.y(closings[0]):.1f}"]
    for n, closing in enumerate(closings):
        steps.append(f"V{scale.y(closing):.1f}H{scale.x(n + 1):.1f}")
    return "".join(steps)


def _area(closings: Sequence[Decimal], scale: _Scale) -> str:
    zero = scale.y(Decimal(0))
    return f"{_line(closings, scale)}V{zero:.1f}H{scale.x(0):.1f}Z"


def _box(n: int, closing: Decimal, much: Decimal, scale: _Scale) -> Box:
    top = scale.y(closing)
    return Box(scale.x(n), top, scale.wide, max(scale.y(closing - much) - top, 1.5))


def _day_marks(days: Sequence[date], scale: _Scale, count: int) -> tuple[DayMark, ...]:
    """The first, the last, and some between them at equal distances."""
    last = len(days) - 1
    if last == 0:
        return (DayMark(scale.x(0), _short(days[0]), "start"),)
    count = min(count, len(days))
    places = sorted({round(n * last / (count - 1)) for n in range(count)})
    return tuple(_day_mark(n, last, days[n], scale) for n in places)


def _day_mark(n: int, last: int, day: date, scale: _Scale) -> DayMark:
    if n == 0:
        return DayMark(scale.x(0), _short(day), "start")
    if n == last:
        return DayMark(scale.x(n + 1), _short(day), "end")
    return DayMark(scale.x(n) + scale.wide / 2, _short(day), "middle")


def _short(day: date) -> str:
    return format_date(day, "j M")


def _finding(closings: Sequence[Decimal], currency: str) -> str:
    days = len(closings)
    return (
        f"Balance at the end of each of {days} day{'s' if days != 1 else ''}: "
        f"{money(closings[-1], currency=currency)} at the end, "
        f"lowest {money(min(closings), currency=currency)}, highest {money(max(closings), currency=currency)}."
    )
