"""The default store: a file on this node. For one node: another one would not know what was done here.

A transaction locks the whole file, so processes of one service on one node take turns; a step that waits for the network
inside ``handle`` makes the others wait. Then, and for several nodes, take PostgreSQL.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lastro_pipes.errors import Misconfigured, StoreDown
from lastro_pipes.stores import sql
from lastro_pipes.stores.base import Key, Row

BUSY_S = 30.0  # waiting for another process's transaction, which may be inside a slow handle


class SqliteStore:
    """See the module. The file and its folder are made when they are missing."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._made: sqlite3.Connection | None = None

    def attempt(self, key: Key, message_id: str) -> Row:
        """See Store."""
        with self._down():
            values = sql.names(key, message_id=message_id, attempts=1)
            # All of it: SQLite commits a statement that returns rows when the last one was fetched.
            return sql.row(self._connection().execute(sql.ATTEMPT, values).fetchall()[0])

    @contextlib.contextmanager
    def transaction(self, key: Key) -> Iterator[sql.SqlTransaction]:
        """See Store."""
        connection = self._connection()
        with self._down():
            connection.execute("BEGIN IMMEDIATE")
        try:
            with self._down():
                found = self._lock(connection, key)
            yield sql.SqlTransaction(key, connection, found, self._execute)
            if not connection.in_transaction:
                raise RuntimeError("The step has ended the transaction, which is not its own to commit or to roll back.")
            with self._down():
                connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise

    def _lock(self, connection: sqlite3.Connection, key: Key) -> dict[str, Row]:
        for way in ("do", key.way):
            connection.execute(sql.ENSURE, sql.names(key._replace(way=way), message_id="", attempts=0))
        return {found[0]: sql.row(found[1:]) for found in connection.execute(sql.READ, sql.names(key))}

    def published(self, keys: Iterable[Key]) -> None:
        """See Store."""
        with self._down():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(sql.PUBLISHED, [key._asdict() for key in keys])
            connection.execute("COMMIT")

    def purge(self, *, older_than_s: float, rows_max: int) -> int:
        """See Store."""
        with self._down():
            values = {"before": time.time() - older_than_s, "rows_max": rows_max}
            return self._connection().execute(sql.PURGE, values).rowcount

    def is_usable(self) -> bool:
        """See Store."""
        try:
            self._connection().execute("SELECT 1 FROM pipes_step LIMIT 1")
        except (sqlite3.Error, StoreDown):
            return False
        return True

    def describe(self) -> str:
        """See Store."""
        return f"the file {self._path.resolve()} on this node"

    def close(self) -> None:
        """See Store."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _execute(self, statement: str, values: dict[str, Any]) -> None:
        with self._down():
            self._connection().execute(statement, values)

    def _connection(self) -> sqlite3.Connection:
        if self._made is None:
            with self._down():
                self._made = self._open()
        return self._made

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < (3, 35):
            raise Misconfigured(f"SQLite 3.35 or later is needed, and this Python has {sqlite3.sqlite_version}.")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise Misconfigured(
                f"PIPES_STORE: the file {self._path} cannot be written. Name one in a folder of this user's. ({error})"
            ) from error
        # A write-ahead log survives a killed process; FULL makes a commit survive a power cut too.
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *sql.CREATE):
            connection.execute(statement)
        return connection

    @contextlib.contextmanager
    def _down(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreDown(f"The store ({self._path}) does not answer: {error}") from error
