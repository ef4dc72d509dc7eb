"""Hot statements, prepared once on each connection: the server does not parse and plan them again every time."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

Values = Mapping[str, Any] | Sequence[Any]


def execute(statement: str, values: Values, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Execute a statement with its values, as Django's cursor would, and give the cursor. Raises Django's own errors.

    Only for statements whose text is always the same: each text is kept on the server. The setting DATABASE_PREPARE turns
    it off, for poolers that hand out a connection per transaction.
    """
    connection: Any = connections[using]
    if connection.execute_wrappers or connection.queries_logged:
        return _told(connection, statement, values)
    _ready(connection)
    with connection.wrap_database_errors:
        # Not Django's class of cursor, which writes the values into the statement's text.
        return psycopg.Cursor(connection.connection).execute(statement, values, prepare=True)


def fetch_each(
    *statements: tuple[str, Values], using: str = DEFAULT_DB_ALIAS, told: bool = True
) -> list[list[tuple[Any, ...]]]:
    """Execute statements that give rows one after the other, in one round trip, with the BEGIN that is still to be said.

    Each has a snapshot of its own, so a later one sees what was committed while an earlier one waited for a lock. Whoever
    counts statements makes them go one by one, unless they are not ``told``: then they are not counted.
    """
    connection: Any = connections[using]
    if told and (connection.execute_wrappers or connection.queries_logged):
        return [_told(connection, statement, values).fetchall() for statement, values in statements]
    _ready(connection)
    wrapped = connection.connection
    with connection.wrap_database_errors, wrapped.pipeline():
        cursors = [psycopg.Cursor(wrapped).execute(statement, values, prepare=True) for statement, values in statements]
        return [cursor.fetchall() for cursor in cursors]


def _told(connection: Any, statement: str, values: Values) -> Any:
    """Whoever counts or tells statements is told of this one too."""
    cursor = connection.cursor()
    cursor.execute(statement, values)
    return cursor


def _ready(connection: Any) -> None:
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
    _ready(wrapper)
    connection = wrapper.connection
    cursor = getattr(connection, "_first_row_cursor", None)
    if cursor is None:
        cursor = connection._first_row_cursor = psycopg.Cursor(connection)
    with wrapper.wrap_database_errors:
        return cursor.execute(statement, values, prepare=True).fetchone()
