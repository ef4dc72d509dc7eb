"""How long a step is tried: so many attempts, and so long. Both begin anew when a person, or a pause, forgives."""

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from apps.saga.definition import Step

if TYPE_CHECKING:
    from apps.saga.session import Session


def exhausted(session: "Session", *, undo: bool) -> bool:
    """Is one of the two used up?"""
    row, step = session.row, session.step
    if undo:
        many = row.undo_attempts - row.undo_attempts_forgiven >= step.undo_attempts_max
    else:
        many = row.attempts - row.attempts_forgiven >= step.attempts_max
    ends = ends_at(session, undo=undo)
    return many or (ends is not None and session.now >= ends)


def ends_at(session: "Session", *, undo: bool) -> datetime | None:
    """When the time for attempts is over: counted from the first one that was not forgiven. None: it has no end."""
    row, step = session.row, session.step
    within = step.undo_retry_within if undo else step.retry_within
    if within is None:
        return None
    first = (row.undo_attempts_forgiven if undo else row.attempts_forgiven) + 1
    begun = session.attempt_began(first, undo=undo)
    return begun + within if begun is not None else None


def backoff(step: Step, attempts: int) -> timedelta:
    """The delay after so many attempts: the step's own, doubled each time, at most its maximum, plus up to a quarter."""
    delay: timedelta = min(step.retry_delay * 2 ** min(attempts - 1, 30), step.retry_delay_max)
    return delay + delay / 4 * random.random()  # noqa: S311  # jitter, not a secret
