"""Wake-ups that runs share: the ids of those that ask within a few milliseconds go to a worker in one message.

Hints only: what a process does not send, because it ends or Celery's broker is away, the sweeper finds due.
"""

import logging
import os
import threading
from uuid import UUID

logger = logging.getLogger(__name__)

SEND_EVERY_S = 0.01  # between two sendings of one process; the first one waits for nothing
RUNS_MAX = 10  # in one message: a worker is done with them before anybody would miss them
WAITING_MAX = 10_000  # ids that a process holds; beyond them Celery's broker is away, and the sweeper has to do


class _Waker(threading.Thread):
    """Sends the messages, outside of everybody's transaction and request."""

    def __init__(self) -> None:
        super().__init__(name="saga-waker", daemon=True)
        self._asked = threading.Event()
        self._pause = threading.Event()  # never set: its wait() is the pause
        self._lock = threading.Lock()
        self._runs: list[UUID] = []

    def ask(self, run_id: UUID) -> None:
        with self._lock:
            if len(self._runs) < WAITING_MAX:
                self._runs.append(run_id)
        self._asked.set()

    def run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            with self._lock:
                runs, self._runs = self._runs, []
            for first in range(0, len(runs), RUNS_MAX):
                send(runs[first : first + RUNS_MAX])
            self._pause.wait(SEND_EVERY_S)


_waker: _Waker | None = None
_waker_lock = threading.Lock()


def _start_anew() -> None:
    global _waker, _waker_lock  # a fork has none of its parent's threads, and maybe a lock nobody frees
    _waker, _waker_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_start_anew)


def ask(run_id: UUID) -> None:
    """Have a worker do what is local of this run. Returns at once."""
    global _waker  # noqa: PLW0603  # one thread a process
    with _waker_lock:
        if _waker is None:
            _waker = _Waker()
            _waker.start()
    _waker.ask(run_id)


def send(run_ids: list[UUID]) -> None:
    """Send one message. A broker of Celery that is away fails nobody."""
    from apps.saga import tasks  # tasks import the engine, which leads to this module

    try:
        tasks.advance.delay(run_ids=[str(run_id) for run_id in run_ids])
    except Exception:
        logger.warning("%s runs could not be woken", len(run_ids), exc_info=True)
