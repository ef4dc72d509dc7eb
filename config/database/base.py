"""The connection: a savepoint is one message to the server, together with the BEGIN that is still to be said."""

import select
from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.operations import DatabaseOperations as DjangoOperations
from psycopg import errors, pq

_IDLE = pq.TransactionStatus.IDLE


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

    def _savepoint(self, sid: str) -> None:
        if self.execute_wrappers or self.queries_logged or self.connection is None:
            super()._savepoint(sid)  # type: ignore[misc]  # not in the stubs
            return
        # psycopg's cursor takes four times as long, and waits for BEGIN's answer first.
        statement = f"SAVEPOINT {self.ops.quote_name(sid)}"
        if self.connection.pgconn.transaction_status == _IDLE and not self.connection.autocommit:
            statement = f"BEGIN; {statement}"
        with self.wrap_database_errors:
            result = self.connection.pgconn.exec_(statement.encode())
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise errors.error_from_result(result)
