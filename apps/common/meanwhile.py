"""Work of our own while the server works: a step at a time, for as long as there is no answer.

Note [Meanwhile]
    A process that sends a statement and waits leaves its core idle, and then leaves the server's idle while it makes the
    next one. So who has work that needs no answer hands it along with the statement. It is done in steps of a
    millisecond at most, between which we look whether the server has answered; what is left is for the next wait. For
    COPY the same loop keeps the server supplied: rows are made when it has room for them.

    Nothing else may use the connection meanwhile, and steps must not, either.
"""

import select
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors, pq

V = TypeVar("V")
R = TypeVar("R")
READ, READ_OR_WRITE = select.POLLIN, select.POLLIN | select.POLLOUT
_LOOK_AGAIN_MS = 100  # a signal that comes just before a wait does not end it: its handler runs when the wait is over
_BLOCK_BYTES_MAX = 1 << 24  # libpq's messages end at a gigabyte, its patience with memory earlier
_NO_MORE = object()
ENDS = 2  # in a row, in a pipeline: the end of a statement, and nothing behind it


class Work:
    """Iterators whose steps are to be done, in order. A step that raises ends the wait with its error."""

    def __init__(self, *parts: Iterator[object]) -> None:
        self._parts = deque(parts)

    def first(self, part: Iterator[object]) -> None:
        """Do this before all that is left."""
        self._parts.appendleft(part)

    def step(self) -> bool:
        """Do one step. Was there one?"""
        while self._parts:
            if next(self._parts[0], _NO_MORE) is not _NO_MORE:
                return True
            self._parts.popleft()
        return False


def in_steps(values: Sequence[V], make: Callable[[Sequence[V]], list[R]], at_once: int) -> Generator[None, None, list[R]]:
    """What is made of some values at once, of all of them, a step at a time: ``made = yield from in_steps(…)``."""
    made: list[R] = []
    for start in range(0, len(values), at_once):
        made += make(values[start : start + at_once])
        yield
    return made


def to_the_end(steps: Generator[Any, None, R]) -> R:
    """Do what is left of these steps now. What do they give?"""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: R = end.value
            return result


def check(pgconn: Any, result: Any) -> None:
    """Raise the error that psycopg would, when a call of libpq did not end well."""
    if result.status in _WELL:
        return
    if pgconn.status != pq.ConnStatus.OK and not result.error_field(pq.DiagnosticField.SQLSTATE):
        raise psycopg.OperationalError(pgconn.get_error_message())  # nobody answered: there is no code to choose a class by
    raise errors.error_from_result(result, encoding=pgconn._encoding)


_NOTHING = Work()  # to do meanwhile
_WELL = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


def until_answered(pgconn: Any, work: Work) -> None:
    """Work, and then wait, until the server has answered what it was sent."""
    try:
        while pgconn.flush():
            go_on(pgconn, work, READ_OR_WRITE)
        while pgconn.is_busy():
            go_on(pgconn, work, READ)
    except BaseException:  # a signal's handler, or a step
        if pgconn.pipeline_status == pq.PipelineStatus.OFF:  # else whoever began the pipeline ends it
            abandon(pgconn)
        raise


def answer(pgconn: Any, work: Work) -> Any:
    """Work, and then wait, for the one result of what the server was sent."""
    until_answered(pgconn, work)
    result = pgconn.get_result()
    pgconn.get_result()  # the end of its answer
    return result


def copy_in(pgconn: Any, statement: str, blocks: Iterable[str | bytes], work: Work) -> None:
    """COPY … FROM STDIN within a transaction: blocks are sent as they are made; ``work``, while the server has enough.

    An error of ``blocks`` or ``work`` ends the COPY, and is raised. Raises psycopg's errors.
    """
    begun = pgconn.exec_(statement.encode())
    if begun.status != pq.ExecStatus.COPY_IN:
        check(pgconn, begun)
    try:
        for block in blocks:
            data = block.encode() if isinstance(block, str) else block
            for start in range(0, len(data), _BLOCK_BYTES_MAX):
                while pgconn.flush():  # one block at a time: what libpq keeps it moves again and again
                    go_on(pgconn, work, READ_OR_WRITE)
                pgconn.put_copy_data(data[start : start + _BLOCK_BYTES_MAX])
        pgconn.put_copy_end()
    except BaseException:
        pgconn.put_copy_end(b"its rows were not made")
        abandon(pgconn)
        raise
    check(pgconn, answer(pgconn, work))


def go_on(pgconn: Any, work: Work, events: int) -> bool:
    """Do one step, or wait a moment for one of these events when none is left; then take what the server has said.

    Was there a step, or an event?
    """
    found = work.step()
    if not found:
        poll = select.poll()
        poll.register(pgconn.socket, events)
        found = bool(poll.poll(_LOOK_AGAIN_MS))
    pgconn.consume_input()
    return found


def abandon(pgconn: Any) -> None:
    """Nobody waits for answers any more: the connection is given back as its transaction's rollback wants it.

    That is soon, whatever the server waits for. Whoever is interrupted here, too, has no connection any more.
    """
    try:
        if pgconn.status == pq.ConnStatus.OK:
            end(pgconn, is_cancelled=True)
    except BaseException:  # a signal's handler, once more
        pgconn.finish()
        raise


def end(pgconn: Any, *, is_cancelled: bool) -> None:
    """Wait until the server has ended all that it was sent, whose answers nobody wants. See ``next_result``."""
    ends, is_pipeline = 0, pgconn.pipeline_status != pq.PipelineStatus.OFF
    if is_pipeline:
        pgconn.pipeline_sync()  # behind a statement that a signal's handler cut off from its own
    if is_cancelled:
        cancel(pgconn)
    while ends < (ENDS if is_pipeline else 1):
        ends = ends + 1 if next_result(pgconn, is_cancelled=is_cancelled) is None else 0


def cancel(pgconn: Any) -> None:
    """Ask the server to end the statement that it is at. One that it has not begun is not ended by that."""
    with suppress(psycopg.Error):  # it is away
        pgconn.get_cancel().cancel()


def next_result(pgconn: Any, *, is_cancelled: bool = False) -> Any:
    """What libpq's next result is. Waiting is done here: libpq would let no other thread of Python go on.

    ``is_cancelled``: the server is asked again and again to end what it does, as it may have been too early.
    """
    with suppress(psycopg.Error):  # the connection is lost, which is the next result
        while pgconn.is_busy():
            if not go_on(pgconn, _NOTHING, READ_OR_WRITE if pgconn.flush() else READ) and is_cancelled:
                cancel(pgconn)
    return pgconn.get_result()
