"""Runs as Parquet: one file for each table and batch, in folders by month that readers of data sets know how to skip.

<SAGA_ARCHIVE_DIR>/saga_run/month=2026-01/<first run id>.parquet      (and saga_step, saga_attempt, saga_approval)
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import models

from apps.common import parquet
from apps.common.clock import time_of_uuid7
from apps.saga.models import Approval, ArchivedBatch, Attempt, Run, Step

TABLES: tuple[type[models.Model], ...] = (Run, Step, Attempt, Approval)


def columns(model: type[models.Model]) -> list[str]:
    """The columns of a table, in the order of its file."""
    return [str(field.column) for field in model._meta.concrete_fields]


def path_of(first_run_id: UUID) -> str:
    """Where a batch lies, within the folder of each table."""
    return f"month={time_of_uuid7(first_run_id):%Y-%m}/{first_run_id}.parquet"


def write(directory: Path, model: type[models.Model], path: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write the rows of one table to its file, safe on disk when this returns. A file of this name is replaced."""
    table = _table(model, rows)
    with parquet.writing(directory / model._meta.db_table / path, table.schema) as file:
        file.write_table(table)


def _table(model: type[models.Model], rows: Sequence[Sequence[Any]]) -> Any:
    import pyarrow

    schema = pyarrow.schema([_field(field) for field in model._meta.concrete_fields])
    values: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pyarrow.array(map(_text, column) if pyarrow.types.is_string(kind.type) else column, type=kind.type)
        for kind, column in zip(schema, values, strict=True)
    ]
    return pyarrow.table(arrays, schema=schema)


def _field(field: Any) -> Any:
    """Times and numbers as what they are; ids and JSON as text, which every reader understands."""
    import pyarrow

    kinds = {
        models.DateTimeField: pyarrow.timestamp("us", tz="UTC"),
        models.BooleanField: pyarrow.bool_(),
        models.SmallIntegerField: pyarrow.int16(),
        models.PositiveSmallIntegerField: pyarrow.int16(),
        models.IntegerField: pyarrow.int32(),
        models.PositiveIntegerField: pyarrow.int32(),
    }
    return pyarrow.field(field.column, kinds.get(type(field), pyarrow.string()), nullable=field.null)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def find(directory: Path, run_id: UUID) -> str | None:
    """The path of the batch that holds an archived run, or None."""
    import pyarrow.parquet

    batches = ArchivedBatch.objects.filter(first_run_id__lte=run_id, last_run_id__gte=run_id)
    for path in batches.values_list("path", flat=True):
        file = directory / Run._meta.db_table / path
        if file.exists() and pyarrow.parquet.read_table(file, columns=["id"], filters=[("id", "=", str(run_id))]).num_rows:
            return str(path)
    return None
