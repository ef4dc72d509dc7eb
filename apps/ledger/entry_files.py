"""Files of entries: CSV with a row for each leg, read as a stream.

Note [Two readings]
    A file is read twice: ``check`` reads it to its end, then ``batches`` gives its entries. So a mistake in the last line
    is told before the first one is posted. Of each block the first reading keeps a digest; a block that reads differently
    later is refused before a row of it is used. Memory does not grow with the file, but for 8 bytes of each entry, by
    which a tracekey is found that comes back later: its first rows alone would be posted as an entry of their own.
"""

import csv
import hashlib
import io
import re
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.money import AMOUNT_TEXT, CURRENCY
from apps.ledger.forms import check_form
from apps.ledger.rules import ENTRY_LEGS_MAX, AccountRef, Entry, Leg, MalformedEntry, check_leg_count, read_details

REQUIRED = ("tracekey", "branch", "account", "amount", "debitcredit", "eventcode")
OPTIONAL = ("currency", "description", "details", "dateref")
COLUMNS = REQUIRED + OPTIONAL
LINE_BYTES_MAX = 128 * 1024  # the largest details, with each of its quotes doubled, and more
ROW_BYTES_MAX = 1024 * 1024  # quotation marks can make one row of all that follows
BLOCK_BYTES = 256 * 1024  # each is read, decoded and told of at once
KEYS_AT_ONCE = 100_000  # tracekeys to be looked at more closely, in some 20 MB
_TELL_ENTRIES = 1_000

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}").fullmatch
_is_day = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_is_code = re.compile(r"[0-9]{1,10}").fullmatch
_is_amount = AMOUNT_TEXT.fullmatch
_is_name = re.compile(r"[a-z_][a-z0-9_ -]{0,39}").fullmatch  # what else stands in a first line may be somebody's data


class FileRefused(DomainError):
    """The file of entries is malformed, or was changed while it was read."""

    code, status = "R147", 422


class Refused(NamedTuple):
    """An entry, or a row, that is not posted: in which line of the file it begins, and why."""

    line: int
    tracekey: UUID | None
    code: str
    reason: str
    field: str = ""

    @classmethod
    def by(cls, refusal: DomainError, *, line: int, tracekey: UUID | None) -> "Refused":
        return cls(line, tracekey, refusal.code, refusal.detail, refusal.field or "")


class Contents(NamedTuple):
    """How much a file holds. A row is a line, unless a cell has lines of its own."""

    entries: int
    rows: int


@dataclass(slots=True)
class Batch:
    """Entries that stand next to each other, and in which line of the file each begins."""

    entries: list[Entry]
    lines: list[int]
    rows: int


class _Read(NamedTuple):
    line: int
    rows: int
    entry: Entry


@contextmanager
def open_entries(path: Path) -> Iterator["EntryFile"]:
    """Open a file of entries. Raises FileRefused when it is none that can be read twice."""
    if str(path) == "-":
        raise FileRefused("Standard input cannot be read twice: save it to a file first.")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for its other end
            raise FileRefused(f"{path} is not a regular file: it is read twice.")
        file = path.open("rb")
    except OSError as error:
        raise FileRefused(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:  # a path with NUL
        raise FileRefused("This is not the path of a file.") from None
    with file:
        yield EntryFile(file)


class EntryFile:
    """A file of entries: Note [Two readings]. ``bytes_read``, of this reading, tells how far it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digests: list[bytes] = []
        self._is_read = False
        self._row_line = 0  # in which line the row begins that is being read
        self.bytes_read = 0

    def check(self, *, note: Callable[[Refused], None], tell: Callable[[int], None]) -> Contents:
        """Read all of it and check every entry's form. ``note`` hears of each mistake, ``tell`` how many rows were read.

        Raises FileRefused where reading cannot go on: a header that is wrong, what is no UTF-8 or no CSV.
        """
        keys = array("q")
        rows = 0
        for found in self._read():
            if isinstance(found, Refused):
                note(found)
                continue
            try:
                check_form(found.entry)
            except DomainError as refusal:
                note(Refused.by(refusal, line=found.line, tracekey=found.entry.tracekey))
            keys.append(hash(found.entry.tracekey.int))
            rows += found.rows
            if len(keys) % _TELL_ENTRIES == 0:
                tell(rows)
        for mistake in self._come_back(keys):
            note(mistake)
        return Contents(len(keys), rows)

    def batches(self, *, rows_max: int) -> Iterator[Batch]:
        """The entries of a file that was checked, so many rows at once; an entry with more is a batch of its own.

        Raises FileRefused when it is not the file that was checked.
        """
        batch = Batch([], [], 0)
        for found in self._read():
            if isinstance(found, Refused):
                raise FileRefused(f"Line {found.line}: {found.reason}")  # nobody looked at what ``check`` noted
            if batch.entries and batch.rows + found.rows > rows_max:
                yield batch
                batch = Batch([], [], 0)
            batch.entries.append(found.entry)
            batch.lines.append(found.line)
            batch.rows += found.rows
        if batch.entries:
            yield batch

    def _come_back(self, keys: "array[int]") -> Iterator[Refused]:
        """Entries whose tracekey was that of an earlier one; of very many, some."""
        import numpy as np  # takes a tenth of a second, which most processes don't owe

        if not keys:
            return
        ordered = np.sort(np.frombuffer(keys, dtype=np.int64))
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        for start in range(0, len(twice), KEYS_AT_ONCE):  # more than once only for keys that were made to look alike
            looked = set(twice[start : start + KEYS_AT_ONCE].tolist())
            first: dict[UUID, int] = {}
            has_found = False
            for found in self._read():
                if isinstance(found, Refused) or hash(found.entry.tracekey.int) not in looked:
                    continue
                tracekey = found.entry.tracekey
                earlier = first.setdefault(tracekey, found.line)
                if earlier != found.line:
                    reason = f"Its tracekey was in line {earlier}: the rows of an entry stand next to each other."
                    yield Refused(found.line, tracekey, FileRefused.code, reason, "tracekey")
                    has_found = True
            if has_found:
                return

    def _read(self) -> Iterator[_Read | Refused]:
        """Every entry whose cells can be read, and every row that cannot; an entry with such a row is left out."""
        lines = chain.from_iterable(io.StringIO(text, newline="\n") for text in self._texts())
        header = next(lines, "")
        delimiter = ";" if ";" in header else ","
        names = _names(header, delimiter)
        width = len(names)
        cells_of = itemgetter(*[names.index(name) if name in names else width for name in COLUMNS])
        growing: _Growing | None = None
        for line, row in self._rows(csv.reader(lines, delimiter=delimiter, strict=True)):
            if len(row) != width:
                refusal = MalformedEntry(f"The row has {len(row)} cells, the first line {width}.")
                yield Refused.by(refusal, line=line, tracekey=None)
                continue
            row.append("")  # what a column holds that is not there
            cells = [cell.strip() for cell in cells_of(row)]  # as the API does
            if growing is None or cells[0] != growing.text:
                if not _is_uuid(cells[0]):
                    refusal = MalformedEntry("tracekey is a UUID.", field="tracekey")
                    yield Refused.by(refusal, line=line, tracekey=None)
                    continue
                tracekey = UUID(cells[0])
                if growing is None or growing.tracekey != tracekey:
                    if growing and not growing.is_wrong:
                        yield growing.read()
                    growing = _Growing(line, cells[0], tracekey, cells[9], [])
            try:
                growing.add(cells)
            except MalformedEntry as refusal:
                growing.is_wrong = True
                yield Refused.by(refusal, line=line, tracekey=growing.tracekey)
        if growing and not growing.is_wrong:
            yield growing.read()

    def _rows(self, reader: Any) -> Iterator[tuple[int, list[str]]]:
        """Rows that are not empty, each with the line in which it begins. Raises FileRefused for what is no CSV."""
        self._row_line = line = 2
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise FileRefused(f"The row in line {line} is not CSV: {_reason(error)}.") from None
            if row is None:
                return
            if row:
                yield line, row
            self._row_line = line = reader.line_num + 2  # the reader has not seen the first line

    def _texts(self) -> Iterator[str]:
        """Whole lines, many at once. Raises FileRefused for what is no text."""
        line, rest = 1, b""
        row_line = row_bytes = 0
        for block in self._blocks():
            row_bytes = row_bytes + len(block) if row_line == self._row_line else 0
            row_line = self._row_line
            if row_bytes > ROW_BYTES_MAX:
                raise FileRefused(f"The row in line {row_line} does not end: a quotation mark is not closed.")
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield _text(whole + newline, line)
                line += whole.count(b"\n") + 1
            if len(rest) > LINE_BYTES_MAX:
                raise _too_long(line)
        if rest:
            yield _text(rest, line)

    def _blocks(self) -> Iterator[bytes]:
        self._file.seek(0)
        self.bytes_read = self._row_line = number = 0
        while block := self._file.read(BLOCK_BYTES):
            digest = hashlib.sha256(block).digest()
            if not self._is_read:
                self._digests.append(digest)
            elif self._digests[number : number + 1] != [digest]:
                raise FileRefused("The file was changed while it was read.")
            number += 1
            self.bytes_read += len(block)
            yield block
        if number < len(self._digests):
            raise FileRefused("The file was cut off while it was read.")
        self._is_read = True


def _text(raw: bytes, line: int) -> str:
    """Lines of the file as text; ``line`` is the number of the first. Raises FileRefused."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        at = line + raw.count(b"\n", 0, error.start)
        raise FileRefused(f"Line {at} is not UTF-8.") from None
    if (nul := raw.find(0)) >= 0:
        at = line + raw.count(b"\n", 0, nul)
        raise FileRefused(f"Line {at} holds a NUL.")
    parts = raw.split(b"\n")
    if max(map(len, parts)) > LINE_BYTES_MAX:
        raise _too_long(line + next(number for number, part in enumerate(parts) if len(part) > LINE_BYTES_MAX))
    return text.removeprefix("\ufeff") if line == 1 else text


def _too_long(line: int) -> FileRefused:
    return FileRefused(f"Line {line} is longer than {LINE_BYTES_MAX} bytes.")


def _names(header: str, delimiter: str) -> list[str]:
    """The columns' names. Raises FileRefused, which names those that are unknown, missing or there twice."""
    try:
        names = [name.strip().lower() for row in csv.reader([header], delimiter=delimiter, strict=True) for name in row]
    except csv.Error as error:
        raise FileRefused(f"Line 1 is not CSV: {_reason(error)}.") from None
    wrong = [
        f"{what}: {', '.join(found)}"
        for what, found in (
            ("missing", [name for name in REQUIRED if name not in names]),
            ("unknown", [name if _is_name(name) else "(no name)" for name in names if name not in COLUMNS]),
            ("there twice", sorted({name for name in names if name in COLUMNS and names.count(name) > 1})),
        )
        if found
    ]
    if wrong:
        raise FileRefused(f"The first line names the columns. {'; '.join(wrong)}.")
    return names


def _reason(error: csv.Error) -> str:
    """The csv module's words for programmers, in words for who made the file."""
    said = str(error)
    if "new-line character" in said:
        return "a carriage return stands within a line"
    if "unexpected end" in said:
        return "a quotation mark is not closed"
    if "field larger" in said:
        return "a cell is too long, or a quotation mark is not closed"
    return said


@dataclass(slots=True)
class _Growing:
    """The entry whose rows are being read. ``text``: its tracekey as written."""

    line: int
    text: str
    tracekey: UUID
    day: str
    legs: list[Leg]
    is_wrong: bool = False

    def add(self, cells: Sequence[str]) -> None:
        """One row. Raises MalformedEntry; for too many, once."""
        if len(self.legs) > ENTRY_LEGS_MAX:
            return
        self.legs.append(_leg(cells))
        if len(self.legs) > 1:
            check_leg_count(len(self.legs))
            if cells[9] != self.day:
                raise MalformedEntry("All rows of an entry have the same dateref.", field="dateref")
        elif self.day:
            _day(self.day)

    def read(self) -> _Read:
        dateref = _day(self.day) if self.day else None
        return _Read(self.line, len(self.legs), Entry(tracekey=self.tracekey, legs=tuple(self.legs), dateref=dateref))


def _day(text: str) -> date:
    try:
        if not _is_day(text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise MalformedEntry("dateref is a day such as 2026-01-31.", field="dateref") from None


def _leg(cells: Sequence[str]) -> Leg:
    """What can be said of cells alone; the rest is checked by the engine's rules. Raises MalformedEntry."""
    _, branch, account, amount, side, code, currency, description, details, _ = cells
    if not _is_amount(amount):
        raise MalformedEntry("amount is digits and at most two decimals behind a point, such as 1234.56.", field="amount")
    if not _is_code(code):
        raise MalformedEntry("eventcode is a whole number above zero.", field="eventcode")
    return Leg(
        account=AccountRef(branch, account, currency or CURRENCY),
        amount=Decimal(amount),
        debitcredit=side,  # type: ignore[arg-type]  # the engine's rules check it
        eventcode=int(code),
        description=description,
        details=read_details(details) if details else None,
    )
