"""Ctrl-C while a batch waits for somebody else's lock: it ends at once, wherever it lands, and leaves nothing half done.

A signal's handler runs behind a call or at the beginning of a function. Such points are found by looking, and then each is
interrupted. What calls of libpq return to is not told to a profiler, so lines of ours stand for that.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from linecache import getline
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import uuid4

import psycopg
import pytest
from django.db import connection

from apps.common import meanwhile, prepared
from apps.ledger import rows
from apps.ledger.models import PostingKey
from apps.ledger.plain_batch import PlainBatch
from apps.ledger.plain_known import Known
from apps.ledger.public import Entry
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, line
from tests.integration.ledger.test_lines_in_flight import WAITS_S, is_ordinary, stream, wrapped
from tests.integration.ledger.test_streams import Elsewhere
from tests.process import database_url

pytestmark = pytest.mark.usefixtures("committed_bank")

OURS = (prepared.__file__, meanwhile.__file__)
THEIRS = tuple(f"/psycopg/{name}.py" for name in ("_pipeline", "_pipeline_base", "connection", "cursor"))
KEY = uuid4()


class Point(NamedTuple):
    """Where a function begins, a call of another kind has returned, or a line of ours begins; ``at``: for which time."""

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

    def _call(self, frame: Any, event: str, value: Any) -> None:
        if event in ("call", "c_return"):
            self._note(frame, frame.f_code.co_name if event == "call" else value.__name__)

    def _line(self, frame: Any, event: str, value: Any) -> Any:
        # Nobody is interrupted between the last line of a block and what ends it.
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            self._note(frame, "")
        return self._line

    def _note(self, frame: Any, name: str) -> None:
        if not self._looks:
            return
        place = frame.f_code.co_filename, frame.f_lineno, name
        self._seen[place] = at = self._seen.get(place, 0) + 1
        if self._interrupted == (*place, at):
            self._looks, self.was_there = False, True
            raise KeyboardInterrupt

    def all(self) -> list[Point]:
        """The last time at each place: the server has most in hand then."""
        return sorted(Point(*place, at) for place, at in self._seen.items())

    def __enter__(self) -> "Points":
        self._before = sys.getprofile(), sys.gettrace()
        sys.setprofile(self._call)
        sys.settrace(lambda frame, event, value: self._line if frame.f_code.co_filename in OURS else None)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before[0])
        sys.settrace(self._before[1])


class Held:
    """An account and a tracekey that somebody else has, and that a broken build gets in the end."""

    # For longer than our own sessions may do nothing.
    _STATEMENT = """
    WITH account AS (SELECT id FROM ledger_account WHERE account = %s FOR UPDATE), claim AS (
        INSERT INTO ledger_posting_key (tracekey, bodyhash, state, createdat) VALUES (%s, '', 'TOMBSTONE', now())
        RETURNING 1)
    SELECT set_config('idle_in_transaction_session_timeout', '0', true) FROM account, claim
    """

    def __init__(self) -> None:
        self._other, self.is_held = Elsewhere(self._STATEMENT, [BOB.account, KEY]), True
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


# Which method waits, and for what: as the sums are written, as accounts are locked, as tracekeys are copied.
WAITS = {
    "_write_foreseen": line(BOB, "C", 1),
    "lock_and_read": line(BOB, "C", 1),
    "_claim": line(ANA, "C", 1, tracekey=KEY),
}


def posting(points: Points, waits: str) -> None:
    """Two batches, of which the second waits; points are looked for from when that begins."""
    ask, asked = getattr(PlainBatch, waits), list[object]()

    def asks(made: PlainBatch, *values: Any) -> Any:
        asked.append(made)
        if len(asked) == 2:
            points.begin()
        return ask(made, *values)

    with patch.object(PlainBatch, waits, asks), not_foreseeing() if waits == "lock_and_read" else nullcontext():
        list(stream([batch(), batch(WAITS[waits])]))


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


def interrupted(points: Points, waits: str) -> None:
    with interrupted_at_the_latest_when_it_waits(points), points, pytest.raises(KeyboardInterrupt):
        posting(points, waits)


def near(points: Points) -> list[Point]:
    return [point for point in points.all() if point.file in OURS or point.file.endswith(THEIRS)]


def interrupted_at_each(interrupt: Callable[[Points], None]) -> int:
    """At how many points did it end, at once and with nothing half done? ``interrupt`` posts, and is interrupted there."""
    connection_now, found, reached = ready(None), Points(), 0
    with Held() as other:
        interrupt(found)
        for point in near(found):
            connection_now = ready(connection_now)
            before, at = PostingKey.objects.count(), Points(point)
            interrupt(at)
            reached += at.was_there
            assert other.is_held, f"waited for somebody else: {point}"
            assert is_ordinary(), point
            assert not connection.in_atomic_block
            assert PostingKey.objects.count() == before + 110, point
    assert prove() == []
    connection.close()  # its lock_timeout
    return reached


@pytest.mark.parametrize("waits", WAITS)
def test_a_batch_that_waits_for_somebody_ends_wherever_it_is_interrupted(waits: str) -> None:
    assert interrupted_at_each(lambda points: interrupted(points, waits)) > 15


@pytest.mark.parametrize("waits", ["_write_foreseen", "_claim"])
def test_whoever_is_interrupted_once_more_meanwhile_has_another_connection(waits: str) -> None:
    def interrupted_twice(again: Points) -> None:
        end = meanwhile.abandon

        def abandon(pgconn: Any) -> None:
            with again:
                again.begin()
                end(pgconn)

        with patch.object(meanwhile, "abandon", abandon), patch.object(prepared, "abandon", abandon):
            interrupted(Points(), waits)

    assert interrupted_at_each(interrupted_twice) > 6
