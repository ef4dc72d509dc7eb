"""A time axis: from moments to pixels, where its lines stand, and which long waits are folded so that the rest is seen."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.utils import timezone

from apps.backoffice.components.formats import age

TICKS_MAX = 7  # more labels of a clock time would touch each other on the narrowest drawing
SPAN_MIN = timedelta(milliseconds=10)  # a run that took no time still gets an axis
# Shorter than this nobody minds to see a wait as long as it was.
FOLD_LEAST = timedelta(minutes=5)
# A wait so many times longer than all that is shorter leaves it a tenth of the axis: then it is folded.
FOLD_TIMES = 10
REST_LEAST = timedelta(seconds=1)  # what takes less is seen as little beside a fold as beside the wait itself
FOLD_WIDTH = 56.0  # of a folded wait: room for its length in words
FOLDS_MAX = 4  # more would leave no room for what they are made for
_TICK_DISTANCE = 62.0  # of two labels, so that they do not touch
_STEPS_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(second * 1000 for second in (1, 2, 5, 10, 15, 30)),
    *(minute * 60_000 for minute in (1, 2, 5, 10, 15, 30)),
    *(hour * 3_600_000 for hour in (1, 2, 3, 6, 12)),
)
_DAY_MS = 86_400_000
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """A wait that is drawn shorter than it was."""

    start: datetime
    end: datetime

    @property
    def lasts(self) -> timedelta:
        """How long it was."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Break:
    """Where the axis is broken, and how much time is not drawn there."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Moments from ``start`` to ``end`` on the pixels from ``left`` to ``right``, with the folds in order."""

    start: datetime
    end: datetime
    left: float
    right: float
    folds: tuple[Fold, ...] = ()

    @property
    def span(self) -> timedelta:
        """How much time is drawn at its length; never nothing."""
        return max(self.end - self.start - sum((fold.lasts for fold in self.folds), timedelta(0)), SPAN_MIN)

    @property
    def scale(self) -> float:
        """Pixels of a second that is not folded."""
        return (self.right - self.left - FOLD_WIDTH * len(self.folds)) / self.span.total_seconds()

    def x(self, moment: datetime) -> float:
        """Where a moment stands. What lies outside stands at the edge."""
        if moment <= self.start:
            return self.left
        x, at = self.left, self.start
        for fold in self.folds:
            if moment <= fold.start:
                break
            x += (fold.start - at).total_seconds() * self.scale
            if moment < fold.end:
                return x + FOLD_WIDTH * ((moment - fold.start) / fold.lasts)
            x, at = x + FOLD_WIDTH, fold.end
        return min(x + (moment - at).total_seconds() * self.scale, self.right)

    @property
    def breaks(self) -> tuple[Break, ...]:
        """The folds as they are drawn."""
        return tuple(Break((self.x(fold.start) + self.x(fold.end)) / 2, age(fold.lasts)) for fold in self.folds)

    def ticks(self) -> tuple[Tick, ...]:
        """At most TICKS_MAX lines at round distances from the start, and from the end of each fold."""
        step = self._step()
        found: list[Tick] = []
        day: date | None = None
        for start, end in self._pieces():
            for index in range(int((end - start) / step) + 1):
                moment = start + step * index
                x = self.x(moment)
                if found and x - found[-1].x < _TICK_DISTANCE:
                    continue
                text, day = self._text(moment, step, day), timezone.localtime(moment).date()
                found.append(Tick(x, text))
        return tuple(found)

    def _pieces(self) -> list[tuple[datetime, datetime]]:
        """The times that are drawn at their length."""
        starts = [self.start, *(fold.end for fold in self.folds)]
        ends = [*(fold.start for fold in self.folds), self.end]
        return list(zip(starts, ends, strict=True))

    def _step(self) -> timedelta:
        for milliseconds in _STEPS_MS:
            if self.span / timedelta(milliseconds=milliseconds) < TICKS_MAX - len(self.folds):
                return timedelta(milliseconds=milliseconds)
        days = int(self.span / _DAY / TICKS_MAX) + 1
        return timedelta(milliseconds=_DAY_MS * days)

    def _text(self, moment: datetime, step: timedelta, day: date | None) -> str:
        local = timezone.localtime(moment)
        # The day is told where it changes; who looks at a run of one day knows it.
        several = timezone.localtime(self.start).date() != timezone.localtime(self.end).date()
        if step >= _DAY or (several and local.date() != day):
            return f"{local:%d/%m %H:%M}"
        text = f"{local:%H:%M:%S}"
        return f"{text}.{local.microsecond // 1000:03d}" if step < _SECOND else text


def folds_of(moments: Iterable[datetime]) -> tuple[Fold, ...]:
    """The waits that would squeeze all the rest: between two moments at which something happened, and long against it."""
    happened = sorted(set(moments))
    gaps = sorted((Fold(one, other) for one, other in itertools.pairwise(happened)), key=lambda gap: gap.lasts)
    shown = sum((gap.lasts for gap in gaps if gap.lasts < FOLD_LEAST), timedelta(0))
    folded: list[Fold] = []
    if shown < REST_LEAST:
        return ()
    for gap in gaps:
        if gap.lasts < FOLD_LEAST:
            continue
        if folded or gap.lasts > shown * FOLD_TIMES:
            folded.append(gap)
        else:
            shown += gap.lasts
    return tuple(sorted(folded[-FOLDS_MAX:], key=lambda gap: gap.start))
