"""Wake-ups are hints: a relay or a consumer that hears nothing finds its work by itself a moment later."""

import logging
import threading

from django.db import connection, transaction

logger = logging.getLogger(__name__)

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
    if any(hook is _wake_relay for _, hook, *_ in connection.run_on_commit):
        return
    transaction.on_commit(_wake_relay, robust=True)


def _wake_relay() -> None:
    from apps.messaging.tasks import relay  # the Celery edge imports the relay, which imports this module

    try:
        relay.delay()
    except Exception:
        # The broker of Celery is away. The rows are safe; beat finds them.
        logger.warning("the relay could not be woken", exc_info=True)
