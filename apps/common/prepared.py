"""Hot statements, prepared once on each connection: the server does not parse and plan them again every time.

Note [One call of libpq]
psycopg's cursor sends, flushes, waits and reads by calls of libpq of which each lets other threads take the interpreter.
With many threads they do, a hundred times in a short transaction. Here a statement is one call. So the names of prepared
statements are ours: psycopg prepares nothing on its own (``prepare_threshold``), or it would drop ours with its own.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import errors, pq
from psycopg.adapt import PyFormat, Transformer

# Of one connection: each text, once for every combination of types (a NULL has none). Beyond it nothing is prepared.
STATEMENTS_MAX = 300
_TEXTS_MAX = 1_000
_PLACE = re.compile(r"%(?:\((\w+)\)s|(s)|(%))")
_DONE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_IDLE = pq.TransactionStatus.IDLE
# A table was altered under the statement: the next execution prepares it anew.
_OUTDATED = errors.FeatureNotSupported


class Result:
    """What a statement gave, read like a cursor."""

    __slots__ = ("_place", "_result", "_transformer", "rowcount")

    def __init__(self, result: Any, transformer: Any) -> None:
        self._result, self._transformer, self._place = result, transformer, 0
        has_rows = result.status == pq.ExecStatus.TUPLES_OK
        self.rowcount: int = result.ntuples if has_rows else result.command_tuples or 0
        if has_rows:
            transformer.set_pgresult(result)

    def fetchone(self) -> Any:
        """The next row, or None."""
        if self._place >= self.rowcount:
            return None
        self._place += 1
        return self._transformer.load_row(self._place - 1, tuple)

    def fetchall(self) -> list[Any]:
        """All rows that were not fetched yet."""
        first, self._place = self._place, self.rowcount
        rows: list[Any] = self._transformer.load_rows(first, self.rowcount, tuple)
        return rows


def execute(statement: str, values: Mapping[str, Any] | Sequence[Any], *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Execute a statement with its values, as Django's cursor would, and give what can be fetched. Raises Django's errors.

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
    ours: psycopg.Connection[Any] = connection.connection
    with connection.wrap_database_errors:
        begins = ours.pgconn.transaction_status == _IDLE and not ours.autocommit
        if begins or ours.prepare_threshold is None:
            # Not Django's class of cursor, which writes the values into the statement's text.
            return psycopg.Cursor(ours).execute(statement, values, prepare=False)
        return _execute(ours, statement, values)


def _execute(connection: "psycopg.Connection[Any]", statement: str, values: Mapping[str, Any] | Sequence[Any]) -> Result:
    text, names = _text(statement)
    given = [values[name] for name in names] if isinstance(values, Mapping) else values
    transformer: Any = Transformer(connection)
    pgconn: Any = connection.pgconn
    dumped = transformer.dump_sequence(given, [PyFormat.AUTO] * len(given))
    types = transformer.types or ()
    known: dict[Any, bytes] = vars(connection).setdefault("_prepared_here", {})
    name = known.get((text, types)) or _prepare(connection, known, text, types)
    if name:
        result = pgconn.exec_prepared(name, dumped, transformer.formats)
    else:
        result = pgconn.exec_params(text, dumped, types, transformer.formats)
    if result.status not in _DONE:
        error = error_of(connection, result)
        if isinstance(error, _OUTDATED):
            known.pop((text, types), None)
        raise error
    return Result(result, transformer)


def _prepare(connection: "psycopg.Connection[Any]", known: dict[Any, bytes], text: bytes, types: tuple[int, ...]) -> bytes:
    if len(known) >= STATEMENTS_MAX:
        return b""
    number = vars(connection)["_prepared_count"] = vars(connection).get("_prepared_count", 0) + 1
    name = b"hot_%d" % number
    result = connection.pgconn.prepare(name, text, types)
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_of(connection, result)
    known[text, types] = name
    return name


def error_of(connection: "psycopg.Connection[Any]", result: Any) -> psycopg.Error:
    """The error that psycopg would raise for a result of libpq."""
    if connection.pgconn.status == pq.ConnStatus.BAD:  # nobody answered: there is no code to choose a class by
        return psycopg.OperationalError(connection.pgconn.get_error_message())
    return errors.error_from_result(result, encoding=connection.info.encoding)


@lru_cache(_TEXTS_MAX)
def _text(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with the server's placeholders, and the names of its values in their order (none when they have none)."""
    names: list[str] = []
    places: list[str] = []

    def place(found: "re.Match[str]") -> str:
        if found[3]:
            return "%"
        if not found[1]:
            places.append("")
            return f"${len(places)}"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PLACE.sub(place, statement).encode(), tuple(names)
