"""How far the consumer groups are behind."""

import logging
import threading
import time

from django.db import connections

from apps.messaging.inbox import groups
from apps.messaging.transports import transport
from apps.messaging.transports.base import TransportDown, TransportMisconfigured

logger = logging.getLogger(__name__)

REFRESH_S = 15.0  # between two questions: each costs the broker some requests for every group
WAIT_S = 2.0  # for an answer, by somebody who only wants to know; a broker that is away takes longer to tell
STALE_S = 60.0  # an older answer is none

Lags = dict[tuple[str, str, int], int]


def consumer_lag(group: str) -> dict[tuple[str, int], int]:
    """Records that a group has not handled yet, by topic and partition. Raises TransportDown, KeyError."""
    return transport().lag(group=group, topics=groups()[group])


def all_lags() -> Lags:
    """The lag of every group, by group, topic and partition. Raises TransportDown, TransportMisconfigured."""
    return {
        (group, topic, partition): behind
        for group in groups()
        for (topic, partition), behind in sorted(consumer_lag(group).items())
    }


class LagWatch:
    """The last answer to "how far is everybody behind?". A thread asks, so that whoever looks waits WAIT_S at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._asked_at = self._answered_at = float("-inf")
        self._found: Lags | None = None

    def latest(self) -> Lags | None:
        """The lags, some seconds old; None while the broker does not answer."""
        with self._lock:
            busy = self._asking is not None and self._asking.is_alive()
            if not busy and time.monotonic() - self._asked_at >= REFRESH_S:
                self._asked_at = time.monotonic()
                self._asking = threading.Thread(target=self._ask, name="lag", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None:
            asking.join(WAIT_S)
        with self._lock:
            return self._found if time.monotonic() - self._answered_at < STALE_S else None

    def _ask(self) -> None:
        found = None
        try:
            found = all_lags()
        except (TransportDown, TransportMisconfigured) as error:
            logger.warning("nobody knows how far the consumers are behind: %s", error)
        except Exception:
            logger.exception("the broker's answer about the consumers could not be read")
        finally:
            connections.close_all()  # the local transport is tables
        with self._lock:
            self._found, self._answered_at = found, time.monotonic()
