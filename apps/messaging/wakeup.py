"""Wake-ups are hints: a relay or a consumer that hears nothing finds its work by itself a moment later."""

import logging
import threading

from django.db import connection, transaction

from apps.common.gathering import Gathering

logger = logging.getLogger(__name__)

# Between two wake-ups of one process. A commit does not pay for the wake-up (Celery's broker may be slow or away), and a
# thousand commits a second do not make a thousand of them; what is committed in between, the next one covers.
WAKE_EVERY_S = 0.02

# Set when the local transport of this process has appended something; consumers of this process wait on it.
records_appended = threading.Condition()
_appended = 0


def appended_count() -> int:
    """How often this process has appended to the local log."""
    return _appended


def records_were_appended() -> None:
    """Wake the consumers of this process."""
    global _appended  # noqa: PLW0603  # a counter guarded by its condition
    with records_appended:
        _appended += 1
        records_appended.notify_all()


def wait_for_records(seen: int, *, timeout_s: float) -> None:
    """Sleep until something was appended after ``seen`` was counted, or the time is over."""
    with records_appended:
        if _appended == seen:
            records_appended.wait(timeout_s)


def relay_after_commit() -> None:
    """Wake the relay once when this transaction commits, however many messages it publishes."""
    if any(hook is _ask for _, hook, *_ in connection.run_on_commit):
        return
    transaction.on_commit(_ask, robust=True)


def _ask() -> None:
    _waker.ask(None)


def wake_relay() -> None:
    """Queue the relay's task. A broker of Celery that is away fails nobody: the rows are safe, and beat finds them."""
    from apps.messaging.tasks import relay  # the Celery edge imports the relay, which imports this module

    try:
        relay.delay()
    except Exception:
        logger.warning("the relay could not be woken", exc_info=True)


# One for all that was committed: that something is to be relayed is all there is to say.
_waker: Gathering[None] = Gathering(lambda _: wake_relay(), name="relay-waker", every_s=WAKE_EVERY_S, waiting_max=1)
