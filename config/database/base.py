"""The connection: a savepoint is one message to the server, together with the BEGIN that is still to be said."""

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
