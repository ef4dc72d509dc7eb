"""Wake-ups are hints: a relay or a consumer that hears nothing finds its work by itself a moment later."""

import logging
import os
import threading

from django.db import connection, transaction

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


class _Waker(threading.Thread):
    """Tells Celery that there is something to relay, outside of everybody's transaction and request."""

    def __init__(self) -> None:
        super().__init__(name="relay-waker", daemon=True)
        self._asked = threading.Event()
        self._pause = threading.Event()  # never set: its wait() is the pause

    def ask(self) -> None:
        self._asked.set()

    def run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            wake_relay()
            self._pause.wait(WAKE_EVERY_S)


_waker: _Waker | None = None
_waker_lock = threading.Lock()


def _start_anew() -> None:
    global _waker, _waker_lock  # a fork has none of its parent's threads, and maybe a lock nobody frees
    _waker, _waker_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_start_anew)


def relay_after_commit() -> None:
    """Wake the relay once when this transaction commits, however many messages it publishes."""
    if any(hook is _ask for _, hook, *_ in connection.run_on_commit):
        return
    transaction.on_commit(_ask, robust=True)


def _ask() -> None:
    global _waker  # noqa: PLW0603  # one thread a process
    with _waker_lock:
        if _waker is None:
            _waker = _Waker()
            _waker.start()
    _waker.ask()


def wake_relay() -> None:
    """Queue the relay's task. A broker of Celery that is away fails nobody: the rows are safe, and beat finds them."""
    from apps.messaging.tasks import relay  # the Celery edge imports the relay, which imports this module

    try:
        relay.delay()
    except Exception:
        logger.warning("the relay could not be woken", exc_info=True)
