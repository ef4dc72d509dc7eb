"""A month as Parquet: its lines in the order of seq, and its closing balances.

<LEDGER_ARCHIVE_DIR>/ledger_transaction/month=2026-01/lines.parquet and ledger_closing/month=2026-01/closings.parquet
"""

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

from apps.common import parquet
from apps.ledger import seals
from apps.ledger.chain_lines import COLUMNS, Line
from apps.ledger.chain_models import Month
from apps.ledger.rules import SUM_DIGITS_MAX

LINES_AT_ONCE = 10_000  # in memory, and in one row group at least
TEXTS = ("id", "branch", "account", "currency", "debitcredit", "description", "tracekey", "details")
SUMS = ("balanceafter", "pendingafter", "dayafter", "daynet")
FLAGS = ("balanced", "deferred")


def path_of(month: date) -> str:
    """Where the lines of a month lie, within the folder of the table."""
    return f"month={month:%Y-%m}/lines.parquet"


def file_of(directory: Path, path: str) -> Path:
    """The file with the lines of a month."""
    return directory / "ledger_transaction" / path


def write(month: date, directory: Path) -> str:
    """Write a month's lines and closing balances, in memory that does not grow with them; the path of the lines.

    Safe to repeat: a file that is there is replaced by one that is whole.
    """
    path = path_of(month)
    with parquet.writing(file_of(directory, path), _schema()) as file:
        waiting: list[Line] = []
        for _, lines in seals.lines_by_part(month):
            waiting += lines
            if len(waiting) >= LINES_AT_ONCE:
                file.write_table(_table(waiting))
                waiting = []
        if waiting:
            file.write_table(_table(waiting))
    write_closings(month, directory)
    return path


def _closings_of(month: date) -> str:
    """Where the closing balances of a month lie."""
    return f"ledger_closing/month={month:%Y-%m}/closings.parquet"


def write_closings(month: date, directory: Path) -> None:
    """Write a month's closing balances alone. Safe to repeat."""
    import pyarrow

    kinds = [(name, pyarrow.string()) for name in ("branch", "account", "currency")]
    kinds += [(name, pyarrow.decimal128(SUM_DIGITS_MAX, 2)) for name in ("accumulateddebit", "accumulatedcredit")]
    schema = pyarrow.schema(kinds)
    with parquet.writing(directory / _closings_of(month), schema) as file:
        waiting = []
        for row in seals.closing_sums(month):
            waiting.append(row)
            if len(waiting) == LINES_AT_ONCE:
                file.write_table(_rows_table(waiting, schema))
                waiting = []
        file.write_table(_rows_table(waiting, schema))


def _rows_table(rows: Sequence[Sequence[Any]], schema: Any) -> Any:
    import pyarrow

    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pyarrow.array(own, type=kind.type) for kind, own in zip(schema, values, strict=True)]
    return pyarrow.table(arrays, schema=schema)


def _schema() -> Any:
    """Numbers, amounts and times as what they are; ids and JSON as text, which every reader understands."""
    import pyarrow

    kinds = {
        "seq": pyarrow.int64(),
        "eventcode": pyarrow.int32(),
        "amount": pyarrow.decimal128(15, 2),
        "dateref": pyarrow.date32(),
        "createdat": pyarrow.timestamp("us", tz="UTC"),
        **dict.fromkeys(TEXTS, pyarrow.string()),
        **dict.fromkeys(SUMS, pyarrow.decimal128(SUM_DIGITS_MAX, 2)),
        **dict.fromkeys(FLAGS, pyarrow.bool_()),
    }
    return pyarrow.schema([pyarrow.field(name, kinds[name], nullable=name == "details") for name in COLUMNS])


def _table(lines: Sequence[Line]) -> Any:
    made: dict[str, Any] = {"dateref": date.fromisoformat, **dict.fromkeys(("amount", *SUMS), Decimal)}
    members = zip(*lines, strict=True)
    values = [list(map(made[name], own)) if name in made else own for name, own in zip(COLUMNS, members, strict=True)]
    return _rows_table(list(zip(*values, strict=True)), _schema())


def read(directory: Path, path: str) -> Iterator[list[Line]]:
    """The lines of a file as they were written, some at a time. Raises OSError or pyarrow's errors for a broken one."""
    import pyarrow
    import pyarrow.parquet

    said: dict[str, Any] = {"dateref": date.isoformat, **dict.fromkeys(("amount", *SUMS), str)}
    with pyarrow.parquet.ParquetFile(file_of(directory, path)) as file:
        for batch in file.iter_batches(batch_size=LINES_AT_ONCE, columns=list(COLUMNS)):
            members = []
            for name in COLUMNS:
                column = batch.column(name)
                if name == "createdat":
                    column = column.cast(pyarrow.int64())
                values = column.to_pylist()
                members.append(list(map(said[name], values)) if name in said else values)
            yield list(zip(*members, strict=True))


def difference(row: Month, directory: Path) -> str | None:
    """What of a month's file is not as it was chained; None when its every line is. Reads the whole file."""
    try:
        if row.file_hash and parquet.file_hash(file_of(directory, row.path)) != bytes(row.file_hash):
            return f"{row.path} is not the file that was written"
        what = seals.differing_part(row.month, (line for some in read(directory, row.path) for line in some))
        return f"in {row.path} {what}" if what else None
    except OSError as error:
        return f"{row.path} can't be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError) as error:  # pyarrow's own are ValueErrors and KeyErrors
        return f"{row.path} is broken: {error}"


def closings_difference(month: date, directory: Path) -> str | None:
    """What of the file with a month's closing balances is not as they were sealed; None when all of it is."""
    path = _closings_of(month)
    try:
        for sealed, there in zip_longest(seals.closing_sums(month), _read_closings(directory / path)):
            if sealed != there:
                return f"{path} does not have the closing balances that were sealed"
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
    except (ValueError, KeyError) as error:
        return f"{path} is broken: {error}"
    return None


def _read_closings(file: Path) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet

    names = ["branch", "account", "currency", "accumulateddebit", "accumulatedcredit"]
    with pyarrow.parquet.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=LINES_AT_ONCE, columns=names):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
