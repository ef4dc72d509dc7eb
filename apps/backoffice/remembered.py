"""Answers that cost a moment and may be a few seconds old: worked out once for all who look, not once for each."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT_MAX = 64  # use cases times windows that people look at within seconds


class Remembered(Generic[T]):
    """Keeps each answer of ``ask`` for ``fresh_for``. Two who ask at the same moment may both work it out: no harm."""

    def __init__(self, fresh_for: timedelta) -> None:
        self._fresh_for = fresh_for
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[datetime, T]] = OrderedDict()

    def get(self, key: Hashable, ask: Callable[[], T], *, now: datetime) -> T:
        """The answer that is kept, if it is fresh, else a new one."""
        with self._lock:
            at, kept = self._kept.get(key, (None, None))
        if at is not None and kept is not None and timedelta(0) <= now - at < self._fresh_for:
            return kept
        answer = ask()
        with self._lock:
            self._kept[key] = (now, answer)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return answer

    def forget(self) -> None:
        """Ask anew next time."""
        with self._lock:
            self._kept.clear()
