"""Hot statements, prepared once on each connection: the server does not parse and plan them again every time."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections


def execute(statement: str, values: Mapping[str, Any] | Sequence[Any], *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Execute a statement with its values, as Django's cursor would, and give the cursor. Raises Django's own errors.

    Only for statements whose text is always the same: each text is kept on the server. The setting DATABASE_PREPARE turns
    it off, for poolers that hand out a connection per transaction.
    """
    connection: Any = connections[using]
    if connection.execute_wrappers or connection.queries_logged:
        cursor = connection.cursor()  # whoever counts or tells statements is told of this one too
        cursor.execute(statement, values)
        return cursor
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors:
        # Not Django's class of cursor, which writes the values into the statement's text.
        return psycopg.Cursor(connection.connection).execute(statement, values, prepare=True)


def first_row(statement: str, values: Sequence[Any]) -> Any:
    """Execute as ``execute`` does, and give the first row or None. For what runs thousands of times a second.

    The connection keeps one cursor for it: making one, with its adapters, takes as long as the rest of the driver's work.
    """
    wrapper: Any = connections[DEFAULT_DB_ALIAS]
    if wrapper.execute_wrappers or wrapper.queries_logged:
        return execute(statement, values).fetchone()
    wrapper.ensure_connection()
    wrapper.validate_no_broken_transaction()
    connection = wrapper.connection
    cursor = getattr(connection, "_first_row_cursor", None)
    if cursor is None:
        cursor = connection._first_row_cursor = psycopg.Cursor(connection)
    with wrapper.wrap_database_errors:
        return cursor.execute(statement, values, prepare=True).fetchone()
