"""What many threads ask for is done once for all of them, by a thread of its own: outside of everybody's transaction."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """Hands what was asked for since the last time to ``work``, at most every ``every_s`` seconds; the first at once.

    For hints that may be lost: beyond ``waiting_max`` they are, and so is what waits when the process ends. ``work``
    raises nothing. Safe to share between threads; a fork begins with nothing.
    """

    def __init__(self, work: Callable[[list[T]], None], *, name: str, every_s: float, waiting_max: int) -> None:
        self._work, self._name = work, name
        self.every_s, self.waiting_max = every_s, waiting_max
        self._begin_anew()
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        # A fork has none of its parent's threads, and maybe a lock nobody frees.
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._pause = threading.Event()  # never set: its wait() is the pause
        self._waiting: list[T] = []
        self._thread: threading.Thread | None = None

    def ask(self, item: T) -> None:
        """Have it done soon. Returns at once."""
        with self._lock:
            if len(self._waiting) < self.waiting_max:
                self._waiting.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            with self._lock:
                items, self._waiting = self._waiting, []
            self._work(items)
            self._pause.wait(self.every_s)
