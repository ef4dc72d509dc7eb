"""When a failed delivery is tried again, and for how long an endpoint that fails is left alone. Pure."""

from datetime import timedelta
from random import Random

# After the first attempt, the second … of Standard Webhooks' example: ten attempts in about three days.
DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
TRIES_MAX = len(DELAYS) + 1
JITTER = 0.2  # at most so much longer: what failed together does not come back together
# An endpoint whose every attempt fails for longer than one delivery lives is disabled.
DISABLED_AFTER = timedelta(days=4)
# So many failures in a row are the endpoint's and not one event's: from then on it is tried with one request at a time,
# with pauses between them, so that it costs the others next to nothing.
FAILURES_MAX = 3
PAUSE_MIN, PAUSE_MAX = timedelta(seconds=10), timedelta(minutes=10)
RETRY_AFTER_MAX = timedelta(hours=1)  # what an endpoint may ask for itself


def delay_after(tries: int, chance: Random) -> timedelta | None:
    """How long to wait after so many attempts; None: it is given up."""
    if not 1 <= tries <= len(DELAYS):
        return None
    return DELAYS[tries - 1] * (1 + chance.random() * JITTER)


def pause_after(failures: int, chance: Random) -> timedelta | None:
    """For how long to leave an endpoint alone after so many failures in a row; None: it is not."""
    if failures < FAILURES_MAX:
        return None
    doubled = PAUSE_MIN * (1 << min(failures - FAILURES_MAX, 10))
    return min(doubled, PAUSE_MAX) * (1 + chance.random() * JITTER)
