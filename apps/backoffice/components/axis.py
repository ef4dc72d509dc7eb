"""A time axis: from moments to pixels, and where its lines stand."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

TICKS_MAX = 7  # more labels of a clock time would touch each other on the narrowest drawing
SPAN_MIN = timedelta(milliseconds=10)  # a run that took no time still gets an axis
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
class Axis:
    """Moments from ``start`` to ``end`` on the pixels from ``left`` to ``right``."""

    start: datetime
    end: datetime
    left: float
    right: float

    @property
    def span(self) -> timedelta:
        """How long the axis is; never nothing."""
        return max(self.end - self.start, SPAN_MIN)

    def x(self, moment: datetime) -> float:
        """Where a moment stands. What lies outside stands at the edge."""
        share = (moment - self.start) / self.span
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def ticks(self) -> tuple[Tick, ...]:
        """At most TICKS_MAX lines at round distances from the start."""
        step = self._step()
        number = int(self.span / step) + 1
        moments = [self.start + step * index for index in range(number)]
        return tuple(Tick(self.x(moment), self._text(moment, step)) for moment in moments)

    def _step(self) -> timedelta:
        for milliseconds in _STEPS_MS:
            if self.span / timedelta(milliseconds=milliseconds) < TICKS_MAX:
                return timedelta(milliseconds=milliseconds)
        days = int(self.span / _DAY / TICKS_MAX) + 1
        return timedelta(milliseconds=_DAY_MS * days)

    def _text(self, moment: datetime, step: timedelta) -> str:
        local = timezone.localtime(moment)
        if step >= _DAY:
            return f"{local:%d/%m %H:%M}"
        text = f"{local:%H:%M:%S}"
        return f"{text}.{local.microsecond // 1000:03d}" if step < _SECOND else text
