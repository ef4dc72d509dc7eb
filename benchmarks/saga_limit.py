"""The limit of benchmarks/saga.py: psycopg writes exactly the rows that one inline run leaves, in one commit and one round
trip, one statement for each table.

The rows are read back from the tables after a run, so this stays true when the engine changes. What must differ from run
to run is made anew: the ids that the run made (wherever they stand, also within texts), and numbers that must be unique.
Columns that the database fills itself are left to it.
"""

import itertools
import json
import os
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import saga_meter
from benchmarks.saga_meter import Wire, measure

# The first number of those that are made anew: far above what sequences have come to.
_FIRST_NUMBER = 10**15
_RECENT_S = 5  # before the capture; an id with an older time was there before the run: an account, a ticket

_TABLES = """
SELECT c.oid, coalesce(pg_partition_root(c.oid)::oid, c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relpersistence = 'p'
"""
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnum,
       a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid), '') LIKE 'nextval%%'
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum
"""
_UNIQUE = "SELECT indkey::int2[] FROM pg_index WHERE indrelid = %s AND indisunique"


def rows_since(database: "psycopg.Connection[Any]", xid: int) -> list[dict[str, Any]]:
    """Every row that a transaction from this one on has left, by table, in the order in which they were written."""
    found = []
    for oid, root in database.execute(_TABLES).fetchall():
        (name,) = database.execute("SELECT %s::oid::regclass::text", [oid]).fetchone() or ("",)
        columns = database.execute(_COLUMNS, [oid]).fetchall()
        values = ", ".join(f'"{column[0]}"::text' for column in columns)
        rows = database.execute(
            f"SELECT xmin::text::bigint, cmin::text::bigint, {values} FROM ONLY {name} "  # from the catalogue
            f"WHERE xmin::text::bigint >= {xid} ORDER BY 1, 2"
        ).fetchall()
        if rows:
            found.append((rows[0][:2], _table(database, oid, root, columns, [row[2:] for row in rows])))
    return [table for _, table in sorted(found, key=lambda pair: pair[0])]


def _table(database: "psycopg.Connection[Any]", oid: int, root: int, columns: Any, rows: Any) -> dict[str, Any]:
    (root_name,) = database.execute("SELECT %s::oid::regclass::text", [root]).fetchone() or ("",)
    by_number = {number: name for name, _, number, _ in columns}
    unique = [[by_number.get(number, "") for number in key] for (key,) in database.execute(_UNIQUE, [oid]).fetchall()]
    return {
        "name": root_name,
        "columns": [{"name": name, "type": kind, "filled": filled} for name, kind, _, filled in columns],
        "unique": unique,
        "rows": [list(row) for row in rows],
    }


def uuid7() -> str:
    """A time-ordered id, as the project makes them."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    return str(uuid.UUID(int=(value & ~(0x3 << 62)) | (0x2 << 62)))


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Template:
    """One run's rows, ready to be written again under new ids: one statement for each table."""

    def __init__(self, tables: list[dict[str, Any]], *, captured_at: float) -> None:
        self._captured_at = captured_at
        self._ids: dict[str, int] = {}  # an id of the captured run, and which of the new ones stands for it
        self._numbers = itertools.count(_FIRST_NUMBER + time.time_ns() // 1000)
        self._lock = threading.Lock()
        self.statements = [self._statement(table) for table in tables]

    def _statement(self, table: dict[str, Any]) -> tuple[sql.Composed, list[Any]]:
        kept = [index for index, column in enumerate(table["columns"]) if not column["filled"]]
        renumbered = self._renumbered(table)
        parts = []
        for row in table["rows"]:
            for index in kept:
                number = table["columns"][index]["name"] in renumbered
                parts.append(None if number else self._pieces(row[index]))
        names = sql.SQL(", ").join(sql.Identifier(table["columns"][index]["name"]) for index in kept)
        one = sql.SQL("({})").format(
            sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(table["columns"][index]["type"])) for index in kept)
        )
        values = sql.SQL(", ").join([one] * len(table["rows"]))
        insert = sql.SQL("INSERT INTO {} ({}) VALUES {}")
        return insert.format(sql.SQL(table["name"]), names, values), parts

    def _renumbered(self, table: dict[str, Any]) -> set[str]:
        """Columns whose numbers must be new, because nothing else of a unique index is."""
        columns = {column["name"]: (index, column) for index, column in enumerate(table["columns"])}
        found = set()
        for key in table["unique"]:
            new = any(
                name not in columns
                or columns[name][1]["filled"]
                or any(self._is_new(row[columns[name][0]]) for row in table["rows"])
                for name in key
            )
            if not new:
                found |= {name for name in key if columns[name][1]["type"] in ("bigint", "integer")}
        return found

    def _is_new(self, text: str | None) -> bool:
        return isinstance(self._pieces(text), tuple)

    def _pieces(self, text: str | None) -> Any:
        """A constant as a one-element list, or a text in pieces between new ids."""
        recent = [found for found in _UUID.findall(text or "") if self._captured_at - _made_at(found) < _RECENT_S]
        if text is None or not recent:
            return [text]
        places = re.split("(" + "|".join(map(re.escape, dict.fromkeys(recent))) + ")", text)
        return tuple(self._ids.setdefault(piece, len(self._ids)) if piece in recent else piece for piece in places)

    def fill(self) -> list[list[Any]]:
        """The parameters of each statement for one more run."""
        ids = [uuid7() for _ in self._ids]
        filled = []
        for _, parts in self.statements:
            row = []
            for part in parts:
                if part is None:
                    with self._lock:
                        row.append(str(next(self._numbers)))
                elif isinstance(part, list):
                    row.append(part[0])
                else:
                    row.append("".join([ids[piece] if isinstance(piece, int) else piece for piece in part]))
            filled.append(row)
        return filled


def _made_at(text: str) -> float:
    """The time within an id, in seconds."""
    return (uuid.UUID(text).int >> 80) / 1000


def limit(given: dict[str, Any]) -> None:
    """Write the rows of one run after another, in each thread on a connection of its own."""
    template = Template(**json.loads(Path(given["path"]).read_text()))
    wire = Wire(given["wire"]) if "wire" in given else None
    local = threading.local()

    def connect() -> "psycopg.Connection[Any]":
        connection = psycopg.connect(given["dsn"], autocommit=True, prepare_threshold=0)
        if wire is not None:
            wire.listen(connection.pgconn)
        local.connection = connection
        return connection

    def write() -> None:
        connection = getattr(local, "connection", None) or connect()
        # One round trip: psycopg's own transaction() would wait for BEGIN, for the rows and for COMMIT.
        with connection.pipeline():
            connection.execute("BEGIN")
            for (statement, _), values in zip(template.statements, template.fill(), strict=True):
                connection.execute(statement, values)
            connection.execute("COMMIT")

    def leave() -> None:
        local.connection.close()

    measure(
        write,
        threads=given["threads"],
        seconds=given["seconds"],
        runs_max=given.get("runs_max", 1_000_000),
        leave=leave,
    )


if __name__ == "__main__":
    limit(saga_meter.arguments()[1])
