"""Ctrl-C while a batch waits for somebody else's lock: it ends at once, wherever it lands, and leaves nothing half done.

A handler of Python's runs between two calls, so each point is one behind a call or at the beginning of a function. They are
found by looking, and then each is interrupted.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import psycopg
import pytest
from django.db import connection

from apps.common import meanwhile, prepared
from apps.common.meanwhile import Work
from apps.ledger import rows
from apps.ledger.models import PostingKey
from apps.ledger.plain_batch import PlainBatch
from apps.ledger.plain_known import Known
from apps.ledger.public import AccountRef, Entry
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, line
from tests.integration.ledger.test_lines_in_flight import WAITS_S, is_ordinary, stream, wrapped
from tests.integration.ledger.test_streams import Elsewhere
from tests.process import database_url

pytestmark = pytest.mark.usefixtures("committed_bank")

OURS = (prepared.__file__, meanwhile.__file__)


class Point(NamedTuple):
    """Where a function of Python's begins, or a call of another one has returned; ``at``: for the so manieth time."""

    file: str
    line: int
    name: str
    at: int


class Points:
    """What this thread comes to between ``begin`` and ``end``; at one of them it is interrupted."""

    def __init__(self, interrupted: Point | None = None) -> None:
        self._interrupted, self._seen, self._looks = interrupted, dict[tuple[str, int, str], int](), False
        self.was_there = False

    def begin(self) -> None:
        self._looks = True

    def end(self) -> None:
        self._looks = False

    def _note(self, frame: Any, event: str, value: Any) -> None:
        if not self._looks or event not in ("call", "c_return"):
            return
        code = frame.f_code
        place = code.co_filename, frame.f_lineno, code.co_name if event == "call" else value.__name__
        self._seen[place] = at = self._seen.get(place, 0) + 1
        if self._interrupted == (*place, at):
            self._looks, self.was_there = False, True
            raise KeyboardInterrupt

    def all(self) -> list[Point]:
        """The last time at each place: the server has most in hand then."""
        return sorted(Point(*place, at) for place, at in self._seen.items())

    def __enter__(self) -> "Points":
        self._before = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)


# For longer than our own sessions may do nothing.
_HOLD = """
SELECT set_config('idle_in_transaction_session_timeout', '0', true) FROM ledger_account WHERE account = %s FOR UPDATE
"""


class Held:
    """Somebody else's lock, which a broken build gets in the end."""

    def __init__(self, ref: AccountRef) -> None:
        self._other, self.is_held = Elsewhere(_HOLD, [ref.account]), True
        self._timer = threading.Timer(WAITS_S, self._let_go)

    def _let_go(self) -> None:
        self.is_held = False
        self._other.let_go()

    def __enter__(self) -> "Held":
        self._other.__enter__()
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._other.__exit__(*error)


@contextmanager
def interrupted_at_the_latest_when_it_waits(points: Points) -> Iterator[None]:
    """By a real signal, when the server says that this connection waits; unless it was at a point before."""
    pid, done = wrapped().info.backend_pid, threading.Event()

    def stop() -> None:
        with psycopg.connect(database_url(), autocommit=True) as other:
            while not done.is_set():
                if other.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid]).fetchone() == (True,):
                    os.kill(os.getpid(), signal.SIGUSR1)
                    return
                done.wait(0.005)

    def handler(number: int, frame: Any) -> None:
        if not points.was_there:
            points.end()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        yield
    finally:
        done.set()
        stopper.join(WAITS_S)
        signal.signal(signal.SIGUSR1, before)


def batch(*more: Entry) -> list[Entry]:
    return [*[line((ANA, CLEARING)[n % 2], "C", 1) for n in range(110)], *more]


def posting(points: Points, *, is_foreseen: bool) -> None:
    """Two batches, the second with a line on BOB; points are looked for from when it asks for what it waits for."""
    name = "_write_foreseen" if is_foreseen else "lock_and_read"
    asks, asked = getattr(PlainBatch, name), list[object]()

    def ask(made: PlainBatch, work: Work) -> Any:
        asked.append(made)
        if len(asked) == 2:
            points.begin()
        return asks(made, work)

    batches = [batch(), batch(line(BOB, "C", 1))]
    with patch.object(PlainBatch, name, ask), nullcontext() if is_foreseen else not_foreseeing():
        list(stream(batches))


def not_foreseeing() -> Any:
    return patch.object(Known, "foresees", lambda known: False)


def ready(before: Any) -> Any:
    """This connection, or another one that is as far: all is prepared, and it waits for locks as long as it takes."""
    if wrapped() is not before:
        rows.fetch("SELECT set_config('lock_timeout', '0', false)", [])
        list(stream([batch(), batch()]))
        with not_foreseeing():
            list(stream([batch(), batch()]))
    return wrapped()


def interrupted(points: Points, *, is_foreseen: bool) -> None:
    with interrupted_at_the_latest_when_it_waits(points), points, pytest.raises(KeyboardInterrupt):
        posting(points, is_foreseen=is_foreseen)


@pytest.mark.parametrize("is_foreseen", [True, False])
def test_a_batch_that_waits_for_a_lock_ends_wherever_it_is_interrupted(is_foreseen: bool) -> None:
    connection_now, found, reached = ready(None), Points(), 0
    with Held(BOB) as other:
        interrupted(found, is_foreseen=is_foreseen)
        points = [point for point in found.all() if point.file in OURS or "/psycopg/" in point.file]
        for point in points:
            connection_now = ready(connection_now)
            before, at = PostingKey.objects.count(), Points(point)
            interrupted(at, is_foreseen=is_foreseen)
            reached += at.was_there
            assert other.is_held, f"waited for somebody else's lock: {point}"
            assert is_ordinary(), point
            assert not connection.in_atomic_block
            assert PostingKey.objects.count() == before + 110, point
    assert reached > 60
    assert prove() == []
    connection.close()  # its lock_timeout
