"""How one new object is written: the same INSERT as Django's, prepared once on each connection."""

from typing import Any

from django.db.backends.postgresql.compiler import (
    SQLAggregateCompiler,
    SQLCompiler,
    SQLDeleteCompiler,
    SQLUpdateCompiler,
)
from django.db.backends.postgresql.compiler import SQLInsertCompiler as DjangoInsertCompiler

from apps.common import prepared

__all__ = ["SQLAggregateCompiler", "SQLCompiler", "SQLDeleteCompiler", "SQLInsertCompiler", "SQLUpdateCompiler"]


# The text of an INSERT by its model, its columns and what it gives back; None where Django has to write it. As many as
# there are models and ways to save them.
_texts: dict[tuple[Any, ...], str | None] = {}


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
        if key not in _texts:
            _texts[key] = self._text(returning_fields)
        statement = _texts[key]
        if statement is None:
            return super().execute_sql(returning_fields)
        cursor = prepared.execute(statement, values, using=self.connection.alias)
        if not returning_fields:
            return []
        rows = [cursor.fetchone()]
        table = query.get_meta().db_table
        converters = self.get_converters([field.get_col(table) for field in returning_fields])
        return list(self.apply_converters(rows, converters)) if converters else rows

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

    def _text(self, returning_fields: Any) -> str | None:
        fields = self.query.fields
        if getattr(self.query, "update_fields", None) or any(hasattr(field, "get_placeholder") for field in fields):
            return None
        self.returning_fields = returning_fields
        ((statement, _),) = self.as_sql()
        return str(statement)
