"""The connection: a savepoint is one message to the server, together with the BEGIN that is still to be said.

SAVEPOINT and COMMIT are one call of libpq each; see Note [One call of libpq] in apps/common/prepared.py.
"""

import select
from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.operations import DatabaseOperations as DjangoOperations
from psycopg import pq

from apps.common.meanwhile import cancel, check

_IDLE, _IN_TRANSACTION = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS
_ACTIVE = pq.TransactionStatus.ACTIVE


class DatabaseOperations(DjangoOperations):
    """Django's, with our compiler for inserts."""

    compiler_module = "config.database.compiler"


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, with our operations and savepoints."""

    ops_class = DatabaseOperations
    connection: Any
    health_check_enabled: bool
    health_check_done: bool

    def close_if_health_check_failed(self) -> None:
        """Let go of a connection that the server has ended, before it is used again: mostly without asking the server.

        A server that stops, or ends one connection, has said so, and it is there to be read. Of a line that went dead
        without a word, Django's question would learn no sooner than the first statement does.
        """
        if self.connection is None or not self.health_check_enabled or self.health_check_done:
            return
        poll = select.poll()
        poll.register(self.connection.pgconn.socket, select.POLLIN)
        if poll.poll(0) and not self.is_usable():
            self.close()
        self.health_check_done = True

    def _close(self) -> None:
        if (sent := getattr(self.connection, "in_flight", None)) is not None:
            sent.settle()  # of a pool others may have the connection next: Note [In flight] in apps/common/in_flight.py
        if self.connection is not None and self.connection.pgconn.transaction_status == _ACTIVE:
            cancel(self.connection.pgconn)  # it would go on, and wait for others' locks with its own in hand
        super()._close()  # type: ignore[misc]  # not in the stubs

    def _savepoint(self, sid: str) -> None:
        if self.execute_wrappers or self.queries_logged or self.connection is None:
            super()._savepoint(sid)  # type: ignore[misc]  # not in the stubs
            return
        # psycopg's cursor takes four times as long, and waits for BEGIN's answer first.
        statement = f"SAVEPOINT {self.ops.quote_name(sid)}"
        if self.connection.pgconn.transaction_status == _IDLE and not self.connection.autocommit:
            statement = f"BEGIN; {statement}"
        self._say(statement)

    def _commit(self) -> None:
        if self.connection is None:
            return
        if self.queries_logged or self.connection.pgconn.transaction_status != _IN_TRANSACTION:
            super()._commit()  # type: ignore[misc]  # django-stubs do not know it
            return
        self._say("COMMIT")

    def _say(self, statement: str) -> None:
        with self.wrap_database_errors:
            pgconn = self.connection.pgconn
            check(pgconn, pgconn.exec_(statement.encode()))
