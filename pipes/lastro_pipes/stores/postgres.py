"""PostgreSQL: for several nodes, and for steps whose own rows are in it. A row of the step is locked, and nothing else.

``PostgresStore(dsn)`` has a connection of its own, which steps may write through. ``PostgresStore(connect=…)`` asks its
user for one, so that the effect, wherever that user's code writes it, shares the transaction.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg

from lastro_pipes.errors import StoreDown
from lastro_pipes.stores import sql
from lastro_pipes.stores.base import Key, Row

CONNECT_S = 5
LOCK_MS = 30_000  # another member is inside the same step's handle
CREATE_LOCK = 0x70697065  # two processes that start at once would make the same table
_DOWN = (psycopg.OperationalError, psycopg.InterfaceError)
_EXISTS = "SELECT to_regclass('pipes_step')"
_NAME = re.compile(r":([a-z_]+)")


def _psycopg(statement: str) -> str:
    return _NAME.sub(r"%(\1)s", statement)


class PostgresStore:
    """See the module. The table pipes_step is made in the first schema of the search path when it is missing."""

    def __init__(self, dsn: str = "", *, connect: Callable[[], "psycopg.Connection[Any]"] | None = None) -> None:
        self._dsn, self._connect = dsn, connect
        self._made: psycopg.Connection[Any] | None = None

    def attempt(self, key: Key, message_id: str) -> Row:
        """See Store."""
        with self._down():
            values = sql.names(key, message_id=message_id, attempts=1)
            found = self._execute(sql.ATTEMPT, values).fetchone()
            assert found is not None  # noqa: S101  # RETURNING
            return sql.row(found)

    @contextlib.contextmanager
    def transaction(self, key: Key) -> Iterator[sql.SqlTransaction]:
        """See Store."""
        with self._down():
            connection = self._connection()
        # An error of the step's own passes through as it is; whether the store is to blame is asked afterwards.
        with connection.transaction():
            with self._down():
                found = self._lock(key)
            yield sql.SqlTransaction(key, connection, found, self._execute)

    def _lock(self, key: Key) -> dict[str, Row]:
        self._execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
        for way in ("do", key.way):
            self._execute(sql.ENSURE, sql.names(key._replace(way=way), message_id="", attempts=0))
        found = self._execute(f"{sql.READ} FOR UPDATE", sql.names(key)).fetchall()
        self._execute("SET LOCAL lock_timeout = DEFAULT")  # what the step does is its own affair
        return {values[0]: sql.row(values[1:]) for values in found}

    def published(self, keys: Iterable[Key]) -> None:
        """See Store."""
        with self._down(), self._connection().cursor() as cursor:
            cursor.executemany(_psycopg(sql.PUBLISHED), [key._asdict() for key in keys])

    def purge(self, *, older_than_s: float, rows_max: int) -> int:
        """See Store."""
        with self._down():
            return self._execute(sql.PURGE, {"before": time.time() - older_than_s, "rows_max": rows_max}).rowcount

    def is_usable(self) -> bool:
        """See Store."""
        try:
            with self._down():
                self._execute("SELECT 1")
        except (StoreDown, psycopg.Error):
            return False
        return True

    def describe(self) -> str:
        """See Store."""
        if self._connect is not None:
            return "PostgreSQL, by a connection of the step's own"
        parts = urlsplit(self._dsn)
        return f"PostgreSQL, {parts.hostname or 'local'}{parts.path}"

    def close(self) -> None:
        """See Store."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _execute(self, statement: str, values: dict[str, Any] | None = None) -> "psycopg.Cursor[Any]":
        return self._connection().execute(_psycopg(statement), values)

    def _connection(self) -> "psycopg.Connection[Any]":
        if self._made is None or self._made.closed or self._made.broken:
            self._made = self._open()
        return self._made

    def _open(self) -> "psycopg.Connection[Any]":
        if self._connect is not None:
            connection = self._connect()
        else:
            connection = psycopg.connect(self._dsn, connect_timeout=CONNECT_S, autocommit=True)
        if not connection.autocommit:
            connection.autocommit = True  # transactions are begun in words, here
        self._create(connection)
        return connection

    @staticmethod
    def _create(connection: "psycopg.Connection[Any]") -> None:
        # Not by IF NOT EXISTS alone: that of an index waits for every handle under way, and lets nobody else pass.
        if connection.execute(_EXISTS).fetchone() != (None,):
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [CREATE_LOCK])
            if connection.execute(_EXISTS).fetchone() == (None,):
                for statement in sql.CREATE:
                    connection.execute(statement)

    @contextlib.contextmanager
    def _down(self) -> Iterator[None]:
        try:
            yield
        except _DOWN as error:
            # The server's words, not the address, which may hold a password.
            raise StoreDown(f"The store does not answer: {type(error).__name__}: {error}") from error
