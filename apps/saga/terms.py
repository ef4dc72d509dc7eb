"""The terms of a use case: what its owner promises, and when a partner who fails is left alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

PROBE_AFTER = timedelta(seconds=30)  # long enough for a partner to come back, short enough for customers who wait
FAILURES_MAX = 200  # of a breaker: it remembers when each of them happened


class ErrorClass(StrEnum):
    """What an error asks for; which one it is, apps/saga/failing.py says."""

    BUSINESS = "business"  # they refused: what was done is undone
    TECHNICAL = "technical"  # it did not happen: try again
    UNKNOWN = "unknown"  # it may have happened: ask before it is repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Sla:
    """How long a run may take. Later than ``target`` it is slow, later than ``deadline`` it is late."""

    target: timedelta
    deadline: timedelta

    def problems(self) -> Iterator[str]:
        """What is wrong with it."""
        if not timedelta(0) < self.target <= self.deadline:
            yield "its SLA is not 0 < target <= deadline"

    def standing(self, took: timedelta) -> str:
        """``within``, ``slow`` or ``late``."""
        if took <= self.target:
            return "within"
        return "slow" if took <= self.deadline else "late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Opens when a step fails so many times in a row, for technical reasons, within so long, whatever the runs.

    An open one holds every run that comes to the step, in both directions; nothing is given up. After ``probe_after``
    one run may try: when it succeeds all go on, when it fails the next one tries after the same time.
    """

    failures: int
    within: timedelta
    probe_after: timedelta = PROBE_AFTER

    def problems(self) -> Iterator[str]:
        """What is wrong with it."""
        if not 1 <= self.failures <= FAILURES_MAX:
            yield f"its breaker does not open after 1 to {FAILURES_MAX} failures"
        if self.within <= timedelta(0) or self.probe_after <= timedelta(0):
            yield "its breaker has a time that is not positive"

    def opens(self, failed_at: list[datetime]) -> bool:
        """Were these failures, the oldest first, enough?"""
        last = failed_at[-self.failures :]
        return len(last) == self.failures and last[-1] - last[0] <= self.within
