"""The connection: a savepoint is one message to the server, together with the BEGIN that is still to be said.

COMMIT and SAVEPOINT are one call of libpq each; see Note [One call of libpq] in apps/common/prepared.py.
"""

from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.operations import DatabaseOperations as DjangoOperations
from psycopg import pq

from apps.common import prepared

_IDLE, _IN_TRANSACTION = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS


class DatabaseOperations(DjangoOperations):
    """Django's, with our compiler for inserts."""

    compiler_module = "config.database.compiler"


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, with our operations and savepoints."""

    ops_class = DatabaseOperations
    connection: Any

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
            super()._commit()  # type: ignore[misc]
            return
        self._say("COMMIT")

    def _say(self, statement: str) -> None:
        with self.wrap_database_errors:
            result = self.connection.pgconn.exec_(statement.encode())
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise prepared.error_of(self.connection, result)
