"""One statement again and again, each a commit of its own, the next one sent before the one before is answered.

Note [In flight]
    Whoever sends a statement and waits sleeps, and then the server does: twice a line, and each wakes up with cold caches.
    So a few statements are on their way at once, by libpq's pipeline mode, with a Sync behind each: that is what makes each
    of them a transaction, which is durable when it is answered. The server goes on to the next one without a pause.

    Nobody has to know of it. Whoever else uses the connection meanwhile (a cursor, a transaction, ``close``) comes through
    ``Connection.wait`` of psycopg or ``_close`` of config/database: there what is in flight is waited for first, its
    answers are kept, and the connection is an ordinary one again. It is one, too, whenever nothing is in flight.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import pq
from psycopg._preparing import Prepare
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from apps.common import prepared
from apps.common.meanwhile import ENDS, check, end, next_result

_TUPLES, _SYNC = pq.ExecStatus.TUPLES_OK, pq.ExecStatus.PIPELINE_SYNC
_OK, _OFF, _IDLE = pq.ConnStatus.OK, pq.PipelineStatus.OFF, pq.TransactionStatus.IDLE
_PREPARED = Prepare.YES


class InFlight:
    """Executions of one statement that were sent, in order. To be closed.

    It is sent only where it is prepared already: the caller then executes it in the ordinary way (``prepared.first_row``),
    which prepares it.
    """

    def __init__(self, statement: str) -> None:
        self._statement = statement
        self._wrapper: Any = None
        self._connection: Any = None  # psycopg's, in pipeline mode, as long as anything is in flight
        self._known: Any = None  # the connection that was used last, and how it writes and reads values
        self._loads: Any = None
        self._query: Any = None
        self._sent = 0
        self._answered: deque[Any] = deque()  # results, or errors, of the oldest ones

    def __len__(self) -> int:
        """How many are sent and not given back by ``answer``."""
        return self._sent + len(self._answered)

    def send(self, values: Sequence[Any]) -> bool:
        """Send one more, if that can be done here and now. It is a commit of its own, whoever hears of it.

        Not within a transaction, not when statements are counted or told, not without DATABASE_PREPARE, not before the
        connection knows the statement.
        """
        wrapper: Any = connections[DEFAULT_DB_ALIAS]
        if wrapper.in_atomic_block or not wrapper.autocommit or wrapper.execute_wrappers or wrapper.queries_logged:
            return False
        if self._connection is None:
            prepared.make_ready(wrapper)
        elif wrapper is not self._wrapper:
            return False  # another thread goes on with what this one began
        connection = wrapper.connection
        if self._connection is None and connection.pgconn.transaction_status != _IDLE:
            return False  # somebody has said BEGIN by hand, or is in a COPY
        name = self._name_of(connection, values)
        if name is None:
            return False
        pgconn = connection.pgconn
        try:
            if self._connection is None:
                self._begin(wrapper, connection)
            pgconn.send_query_prepared(name, self._query.params, self._query.formats)
            pgconn.pipeline_sync()
            self._sent += 1
        except psycopg.Error:  # libpq has no room: whether it was sent is not known
            self._give_up()
            return False
        except BaseException:  # a signal's handler
            self._give_up()
            raise
        return True

    def _name_of(self, connection: Any, values: Sequence[Any]) -> bytes | None:
        """The statement's name on the connection, with its values made ready; None: it has none."""
        if self._known is connection:
            self._query.dump(values)
        else:
            self._loads = Transformer.from_context(connection)
            self._query = PostgresQuery(self._loads)
            self._query.convert(self._statement, values)
            self._known = connection
        known, name = connection._prepared.get(self._query, True)
        if known is not _PREPARED:
            return None
        connection._prepared.maybe_add_to_cache(self._query, known, name)  # is there: noted as used
        return bytes(name)

    def _begin(self, wrapper: Any, connection: Any) -> None:
        self._wrapper, self._connection = wrapper, connection
        connection.in_flight = self

        def wait(*exchange: Any, **options: Any) -> Any:
            self.settle()
            return type(connection).wait(connection, *exchange, **options)

        connection.wait = wait
        connection.pgconn.enter_pipeline_mode()

    def answer(self) -> Any:
        """The first row of the oldest one, or None, when it is committed. Raises its error, as Django's.

        An OperationalError may say that the connection is lost: then nobody knows what became of those in flight.
        """
        if not self._answered:
            self._receive()
        found = self._answered.popleft()
        if isinstance(found, Exception):
            with self._wrapper.wrap_database_errors:
                raise found
        self._loads.set_pgresult(found)
        return self._loads.load_row(0, tuple) if found.ntuples else None

    def settle(self) -> None:
        """Wait for all that is in flight, and keep its answers: then the connection is anybody's."""
        while self._sent:
            self._receive()

    def close(self) -> None:
        """Wait for all that is in flight; nobody asks for its answers any more."""
        self._give_up()
        self._answered.clear()

    def _receive(self) -> None:
        """One answer: a result, the end of its statement, and what says that it is committed."""
        pgconn = self._connection.pgconn
        found: Any = None
        ends = 0
        try:
            while ends < ENDS:
                result = next_result(pgconn)
                if result is None:
                    ends += 1
                elif result.status == _SYNC:
                    self._answered.append(found if found.status == _TUPLES else _error_of(pgconn, found))
                    self._sent -= 1
                    if not self._sent:
                        self._leave()
                    return
                elif found is None or result.status != _TUPLES:  # an error of its commit comes behind its row
                    found = result
        except BaseException:  # a signal's handler
            self._give_up(cancel=True)
            raise
        self._give_up(_error_of(pgconn, found))

    def _leave(self) -> None:
        """Nothing is in flight: an ordinary connection."""
        self._connection.pgconn.exit_pipeline_mode()
        self._let_go()

    def _let_go(self) -> None:
        self._connection.__dict__.pop("wait", None)
        self._connection.__dict__.pop("in_flight", None)
        self._connection = None  # the last thing: until then ``close`` finds what is left to be done

    def _give_up(self, error: Exception | None = None, *, cancel: bool = False) -> None:
        """Of what is in flight only the end is waited for, if there is somebody to answer. Else the connection is closed.

        ``error``: the answer to each of them. ``cancel``: the end is to come soon.
        """
        wrapper, connection = self._wrapper, self._connection
        if connection is None:
            return
        pgconn = connection.pgconn
        try:
            lost, self._sent = self._sent, 0
            self._answered.extend([error or psycopg.OperationalError("Nobody heard what became of it.")] * lost)
            if pgconn.status == _OK and pgconn.pipeline_status != _OFF:
                end(pgconn, is_cancelled=cancel)
                pgconn.exit_pipeline_mode()
        finally:
            self._let_go()
            if pgconn.status != _OK or pgconn.pipeline_status != _OFF:
                connection.close()
                if wrapper.connection is connection:
                    wrapper.close()


def _error_of(pgconn: Any, found: Any) -> Exception:
    """The error that psycopg would raise. Of a connection that is lost it is what it said last; a row is no answer then."""
    try:
        if found is not None:
            check(pgconn, found)
    except psycopg.Error as error:
        return error
    return psycopg.OperationalError(pgconn.get_error_message())
