"""What every long-running process of ours does at its start, and how it is told to stop."""

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# As many more objects than are freed start a collection of the young ones. By default 700: that walks the whole heap of a
# Django process many times a second when thousands of messages are in hand; nothing of them is a cycle.
YOUNG_MAX = 50_000
# What a request leaves is: some 200 objects of Django and its serializers. All threads stand still while they are
# collected, some with a lock in the database, so a few at a time: 20 requests' in 1 ms, where 50,000 took 15.
YOUNG_OF_REQUESTS_MAX = 4_000
OLDER_MAX = (20, 50)  # collections of one generation for one of the next


def settle_down(*, young_max: int = YOUNG_MAX) -> None:
    """Call once, when everything is loaded: what is there now stays, and the garbage collector leaves it alone."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(young_max, *OLDER_MAX)


@contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt meanwhile: for a command that says how to go on when it is interrupted."""
    if threading.current_thread() is not threading.main_thread():  # of which alone signals are
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
