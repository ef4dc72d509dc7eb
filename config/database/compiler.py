"""How one new object is written: the same INSERT as Django's, prepared once on each connection."""

from typing import Any, NamedTuple

from django.db.backends.postgresql.compiler import (
    SQLAggregateCompiler,
    SQLCompiler,
    SQLDeleteCompiler,
    SQLUpdateCompiler,
)
from django.db.backends.postgresql.compiler import SQLInsertCompiler as DjangoInsertCompiler

from apps.common import prepared

__all__ = ["SQLAggregateCompiler", "SQLCompiler", "SQLDeleteCompiler", "SQLInsertCompiler", "SQLUpdateCompiler"]


class _Insert(NamedTuple):
    text: str
    converters: dict[int, Any]  # of what it gives back


# By its model, its columns and what it gives back; None where Django has to write it. As many as there are models and ways
# to save them.
_known: dict[tuple[Any, ...], _Insert | None] = {}


class SQLInsertCompiler(DjangoInsertCompiler):
    """``save()`` and ``create()`` of one object with plain values. Everything else is left to Django."""

    def execute_sql(self, returning_fields: Any = None) -> Any:  # type: ignore[override]  # the stubs are a SELECT's
        """Insert, and give the rows of what the database filled in."""
        values = self._plain_values()
        if values is None:
            return super().execute_sql(returning_fields)
        query = self.query
        returned = tuple([field.column for field in returning_fields]) if returning_fields else ()
        key = (query.model, returned, getattr(query, "on_conflict", None), *[field.column for field in query.fields])
        if key not in _known:
            _known[key] = self._insert(returning_fields)
        insert = _known[key]
        if insert is None:
            return super().execute_sql(returning_fields)
        cursor = prepared.execute(insert.text, values, using=self.connection.alias)
        if not returning_fields:
            return []
        rows = [cursor.fetchone()]
        return list(self.apply_converters(rows, insert.converters)) if insert.converters else rows

    def _plain_values(self) -> list[Any] | None:
        """The values as the database takes them, or None: an expression's may need the types that only literals have."""
        query, found = self.query, []
        if len(query.objs) != 1 or not query.fields or query.raw:
            return None
        for field in query.fields:
            value = field.pre_save(query.objs[0], add=True)
            if hasattr(value, "resolve_expression"):
                return None
            found.append(field.get_db_prep_save(value, connection=self.connection))
        return found

    def _insert(self, returning_fields: Any) -> _Insert | None:
        fields = self.query.fields
        if getattr(self.query, "update_fields", None) or any(hasattr(field, "get_placeholder") for field in fields):
            return None
        self.returning_fields = returning_fields
        ((statement, _),) = self.as_sql()
        table = self.query.get_meta().db_table
        return _Insert(str(statement), self.get_converters([field.get_col(table) for field in returning_fields or ()]))
