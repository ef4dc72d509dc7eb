"""How an incident goes on: two hours in bars of five minutes, and the word for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from apps.backoffice.components.formats import count, moment

BUCKETS = 24
MINUTES = 5
RECENT, BEFORE = 3, 9  # bars: a quarter of an hour, and the three quarters before it
HEIGHT, TOP = 27.0, 25.0
GROWS, SLOWS = 1.5, 0.5  # times the rate before


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the drawing, 120 wide and 28 high."""

    x: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Trend:
    """``word``: growing, 5 a minute · steady · slowing · ended 20:59. ``tone``: bad when it grows, else idle."""

    word: str
    tone: str
    bars: tuple[Bar, ...]

    @property
    def grows(self) -> bool:
        """Does it become worse?"""
        return self.tone == "bad"


def trend(counts: Sequence[int], *, last_seen: datetime, now: datetime) -> Trend:
    """The trend of an incident, from how often it occurred in each five minutes, the oldest first."""
    most = max(counts, default=0)
    bars = tuple(_bar(place, each, most) for place, each in enumerate(counts))
    recent = sum(counts[-RECENT:])
    if recent == 0:
        return Trend(f"ended {moment(last_seen, now=now).text}", "idle", bars)
    earlier = counts[-RECENT - BEFORE : -RECENT]
    usual = sum(earlier) / len(earlier) * RECENT if earlier else 0
    if recent > usual * GROWS:
        return Trend(f"growing, {_rate(recent)}", "bad", bars)
    return Trend("slowing" if recent < usual * SLOWS else f"steady, {_rate(recent)}", "idle", bars)


def _bar(place: int, each: int, most: int) -> Bar:
    height = max(TOP * each / most if most else 0.0, 0.8)
    return Bar(place * 5.0, HEIGHT - height, height)


def _rate(recent: int) -> str:
    a_minute = recent / (RECENT * MINUTES)
    if a_minute >= 1:
        return f"{count(round(a_minute))} a minute"
    return f"{count(recent)} in a quarter of an hour"
