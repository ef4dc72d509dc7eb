"""Hot statements, prepared once on each connection: the server does not parse and plan them again every time.

Note [One call of libpq]
psycopg sends, flushes, waits and reads by calls of libpq, each of which lets other threads take the interpreter. With eight
threads they do, and it has to be taken back each time. A statement that is prepared already is therefore executed by one
call, as are SAVEPOINT and COMMIT (config/database). Meanwhile a signal's handler has to wait: for a lock at most
DATABASE_LOCK_TIMEOUT_MS. psycopg still prepares, names and forgets: after a rollback it forgets all names, with the server.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import pq
from psycopg._preparing import Prepare
from psycopg.generators import fetch_many

from apps.common.meanwhile import Work, abandon, answer, cancel, check, until_answered

Values = Mapping[str, Any] | Sequence[Any]
_PREPARED = Prepare.YES  # an enumeration's member costs as much as the call


class Cursor(psycopg.Cursor[tuple[Any, ...]]):
    """psycopg's own cursor, not Django's, which writes the values into the statement's text.

    See Note [One call of libpq]. With ``work`` it is done while the server works: Note [Meanwhile] in meanwhile.py.
    """

    work: Work | None = None

    def _maybe_prepare_gen(self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None) -> Any:
        known, name = self._get_prepared(pgq, prepare)
        if known is not _PREPARED or binary or self._conn._pipeline:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            return
        result: Any
        if self.work is None:
            result = self._pgconn.exec_prepared(name, pgq.params, pgq.formats)
        else:
            self._pgconn.send_query_prepared(name, pgq.params, pgq.formats)
            result = answer(self._pgconn, self.work)
        self._conn._prepared.maybe_add_to_cache(pgq, known, name)  # is there: noted as used
        check(self._pgconn, result)
        self._set_results([result])


def execute(statement: str, values: Values, *, using: str = DEFAULT_DB_ALIAS, work: Work | None = None) -> Any:
    """Execute a statement with its values, as Django's cursor would, and give the cursor. Raises Django's own errors.

    Only for statements whose text is always the same: each text is kept on the server. The setting DATABASE_PREPARE turns
    it off, for poolers that hand out a connection per transaction. ``work`` may be done while the server works.
    """
    connection: Any = connections[using]
    if connection.execute_wrappers or connection.queries_logged:
        return _told(connection, statement, values)
    make_ready(connection)
    with connection.wrap_database_errors:
        cursor = Cursor(connection.connection)
        cursor.work = work
        return cursor.execute(statement, values, prepare=True)


def fetch_each(
    *statements: tuple[str, Values],
    using: str = DEFAULT_DB_ALIAS,
    told: bool = True,
) -> list[list[tuple[Any, ...]]]:
    """Execute statements that give rows one after the other, in one round trip, with the BEGIN that is still to be said.

    Each has a snapshot of its own, so a later one sees what was committed while an earlier one waited for a lock. Whoever
    counts statements makes them go one by one, unless they are not ``told``: then they are not counted.
    """
    connection: Any = connections[using]
    if told and (connection.execute_wrappers or connection.queries_logged):
        return [_told(connection, statement, values).fetchall() for statement, values in statements]
    make_ready(connection)
    wrapped = connection.connection
    with connection.wrap_database_errors, _pipeline(wrapped):
        cursors = [Cursor(wrapped).execute(statement, values, prepare=True) for statement, values in statements]
        return [cursor.fetchall() for cursor in cursors]


@contextmanager
def fetch_in_turn(*statements: tuple[str, Values], work: Work) -> Iterator[Iterator[list[tuple[Any, ...]]]]:
    """As ``fetch_each``, told to nobody: the rows of each statement as soon as they are there, and ``work`` until then.

    Until the block ends the connection is for nothing else.
    """
    connection: Any = connections[DEFAULT_DB_ALIAS]
    make_ready(connection)
    wrapped = connection.connection
    with connection.wrap_database_errors, _pipeline(wrapped) as pipeline:
        cursors = [Cursor(wrapped).execute(statement, values, prepare=True) for statement, values in statements]
        wrapped.pgconn.send_flush_request()
        yield _each(wrapped, pipeline, cursors, work)


def _each(wrapped: Any, pipeline: Any, cursors: list[Any], work: Work) -> Iterator[list[tuple[Any, ...]]]:
    for cursor in cursors:
        while cursor.pgresult is None:  # what was sent to prepare it is answered, too
            try:
                until_answered(wrapped.pgconn, work)
            except BaseException:  # a signal's handler, or a step
                _abandon(wrapped, pipeline)
                raise
            pipeline._process_results(pipeline.result_queue.popleft(), wrapped.wait(fetch_many(wrapped.pgconn)))
        yield cursor.fetchall()


@contextmanager
def _pipeline(wrapped: Any) -> Iterator[Any]:
    """psycopg's, which at its end waits for all answers, and so for locks: whoever is interrupted wants none of them."""
    try:
        with wrapped.pipeline() as pipeline:
            try:
                yield pipeline
            except Exception:
                raise
            except BaseException:  # a signal's handler
                _abandon(wrapped, pipeline)
                raise
    except BaseException:
        if wrapped.pgconn.pipeline_status != pq.PipelineStatus.OFF:  # psycopg was interrupted when it began or ended it
            cancel(wrapped.pgconn)
            wrapped.close()
        raise


def _abandon(wrapped: Any, pipeline: Any) -> None:
    pipeline.command_queue.clear()
    pipeline.result_queue.clear()
    abandon(wrapped.pgconn)


def _told(connection: Any, statement: str, values: Values) -> Any:
    """Whoever counts or tells statements is told of this one too."""
    cursor = connection.cursor()
    cursor.execute(statement, values)
    return cursor


def make_ready(connection: Any) -> None:
    """Connect, or look whether the connection is still there, as Django would before a statement."""
    if connection.in_atomic_block and connection.connection is not None and not connection.needs_rollback:
        return  # Django has looked after the connection when the transaction began
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_no_broken_transaction()


def first_row(statement: str, values: Sequence[Any]) -> Any:
    """Execute as ``execute`` does, and give the first row or None. For what runs thousands of times a second.

    The connection keeps one cursor for it: making one, with its adapters, takes as long as the rest of the driver's work.
    """
    wrapper: Any = connections[DEFAULT_DB_ALIAS]
    if wrapper.execute_wrappers or wrapper.queries_logged:
        return execute(statement, values).fetchone()
    make_ready(wrapper)
    connection = wrapper.connection
    cursor = getattr(connection, "_first_row_cursor", None)
    if cursor is None:
        cursor = connection._first_row_cursor = Cursor(connection)
    with wrapper.wrap_database_errors:
        return cursor.execute(statement, values, prepare=True).fetchone()
