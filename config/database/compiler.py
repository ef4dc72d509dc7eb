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


class SQLInsertCompiler(DjangoInsertCompiler):
    """``save()`` and ``create()`` of one object with plain values. Everything else is left to Django."""

    def execute_sql(self, returning_fields: Any = None) -> Any:  # type: ignore[override]  # the stubs are a SELECT's
        """Insert, and give the rows of what the database filled in."""
        if len(self.query.objs) != 1 or not self.query.fields or self._has_expressions():
            return super().execute_sql(returning_fields)
        self.returning_fields = returning_fields
        ((statement, values),) = self.as_sql()
        cursor = prepared.execute(statement, values, using=self.connection.alias)
        if not returning_fields:
            return []
        table = self.query.get_meta().db_table
        converters = self.get_converters([field.get_col(table) for field in returning_fields])
        rows = [cursor.fetchone()]
        return list(self.apply_converters(rows, converters)) if converters else rows

    def _has_expressions(self) -> bool:
        # An expression's SQL may need the types that only literals have: its values stay in the statement's text.
        row = self.query.objs[0]
        return any(hasattr(getattr(row, field.attname), "resolve_expression") for field in self.query.fields)
