"""PostgreSQL's binary forms for whole columns at once: COPY's rows, and arrays as parameters.

Values of one width stand in numpy's memory as they stand on the wire, so a column costs no call for each of its values, and
the server has no text to read. Forms: "Frontend/Backend Protocol", COPY's binary format, and the types' send and receive
functions. Numbers are cents: numeric with two places, as whole numbers of 64 bits.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from psycopg import pq
from psycopg.adapt import Dumper

Column = np.ndarray[Any, np.dtype[Any]]  # one value a row

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TAIL = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
EPOCH = date(2000, 1, 1).toordinal()
_EPOCH_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_BOUNDS = np.iinfo(np.int64)
_GROUPS = 6  # of four digits: five before the point, which are more than 64 bits fill, and one behind it
NUMERIC = np.dtype([("ndigits", ">i2"), ("weight", ">i2"), ("sign", ">u2"), ("dscale", ">i2"), ("digits", ">i2", _GROUPS)])
UUID = np.dtype("V16")
INTEGER = np.dtype(">i4")


def sized(value: bytes) -> bytes:
    """A value behind its length, as in a row of COPY."""
    return len(value).to_bytes(4, "big") + value


def microseconds(moment: datetime) -> int:
    """A timestamptz."""
    since = moment - _EPOCH_MOMENT
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def numerics(cents: Column) -> Column:
    """Cents as numeric. The server drops leading zeros."""
    made = np.zeros(len(cents), NUMERIC)
    made["ndigits"], made["weight"], made["dscale"] = _GROUPS, _GROUPS - 2, 2
    made["sign"] = np.where(cents < 0, 0x4000, 0)
    digits = made["digits"]
    left = np.abs(cents).astype(np.uint64)
    whole = left // np.uint64(100)
    digits[:, -1] = (left - whole * np.uint64(100)) * np.uint64(100)
    for place in range(_GROUPS - 2, -1, -1):
        if not whole.any():
            break
        left, whole = whole, whole // np.uint64(10_000)
        digits[:, place] = left - whole * np.uint64(10_000)
    return made


def uuids(values: Iterable[uuid.UUID]) -> Column:
    """Uuids as they stand on the wire."""
    return np.frombuffer(b"".join([value.int.to_bytes(16, "big") for value in values]), UUID)


def values(sent: bytes | None, kind: Any) -> Column:
    """Values of one width, one after the other, as the types' send functions make them."""
    return np.frombuffer(sent or b"", kind)


def uuid_of(value: Any) -> uuid.UUID:
    """One of them."""
    return uuid.UUID(bytes=bytes(value))


def uuid_run(first: int, count: int) -> Column:
    """Uuids that count on from the first one, whose lower 64 bits have room for it."""
    made = np.empty((count, 2), ">u8")
    made[:, 0] = first >> 64
    made[:, 1] = np.arange(count, dtype=np.uint64) + np.uint64(first & (1 << 64) - 1)
    return made.view(UUID).reshape(count)


class Layout:
    """The columns of a COPY that have one width. Those of other widths come behind them, each value ``sized``."""

    def __init__(self, columns: dict[str, Any], *, others: int = 0) -> None:
        fields: list[tuple[str, Any]] = [("count", ">i2")]
        for name, kind in columns.items():
            fields += [(f"{name} size", ">i4"), (name, kind)]
        self.names = tuple(columns)
        self.dtype = np.dtype(fields)
        self._empty = np.zeros(1, self.dtype)
        self._empty["count"] = len(columns) + others
        for name, kind in columns.items():
            self._empty[f"{name} size"] = np.dtype(kind).itemsize

    def rows(self, count: int, values: dict[str, Any]) -> Column:
        """Rows with these values, each one for all or a column. What is not named is zero."""
        made = np.repeat(self._empty, count)
        for name, value in values.items():
            made[name] = value
        return made


class Array:
    """A parameter of an array type, one value after the other; made ready to be sent when it is made."""

    oid, element, kind = 0, 0, UUID

    def __init__(self, values: Column) -> None:
        self.values = values
        elements = np.empty(len(values), np.dtype([("size", ">i4"), ("value", self.kind)]))
        elements["size"] = self.kind.itemsize
        elements["value"] = values
        dimensions = (1, 0, self.element, len(values), 1) if len(values) else (0, 0, self.element)
        self.sent = np.array(dimensions, ">i4").tobytes() + elements.tobytes()

    @staticmethod
    def text(value: Any) -> str:
        """A value within the literal."""
        return str(value)


class UuidArray(Array):
    """Of type uuid[]."""

    oid, element, kind = 2951, 2950, UUID

    @staticmethod
    def text(value: Any) -> str:
        return bytes(value).hex()


class IntegerArray(Array):
    """Of type integer[]."""

    oid, element, kind = 1007, 23, INTEGER


class XidArray(Array):
    """Of type xid[]: whole numbers of 32 bits."""

    oid, element, kind = 1011, 28, np.dtype(">u4")


class NumericArray(Array):
    """Of type numeric[]."""

    oid, element, kind = 1231, 1700, NUMERIC

    @staticmethod
    def text(value: Any) -> str:
        digits = "".join([f"{each:04d}" for each in value["digits"].tolist()])
        return f"{'-' if value['sign'] else ''}{digits[:-4]}.{digits[-4:-2]}"


class _ArrayDumper(Dumper):
    """As the server receives it, or as a literal: Django's cursor writes values into the statement's text."""

    format = pq.Format.BINARY

    def dump(self, obj: Any) -> bytes:
        sent: bytes = obj.sent
        return sent

    def quote(self, obj: Any) -> bytes:
        return b"'{" + ",".join([f'"{obj.text(value)}"' for value in obj.values]).encode() + b"}'"


def register(connection: Any) -> None:
    """Teach psycopg's connection to send arrays. May be called again."""
    if getattr(connection, "_sends_arrays", False):
        return
    for array in (UuidArray, IntegerArray, XidArray, NumericArray):
        for form in (pq.Format.TEXT, pq.Format.BINARY):  # the last one is asked first, where both would do
            dumper = type(f"{array.__name__}{form.name}", (_ArrayDumper,), {"format": form, "oid": array.oid})
            connection.adapters.register_dumper(array, dumper)
    connection._sends_arrays = True


def whole_numbers(text: str | None) -> Column:
    """Numbers as the server writes them with commas between them; those with two places become cents.

    Raises OverflowError when one does not fit 64 bits.
    """
    if text is None:
        return np.zeros(0, np.int64)
    found = np.fromstring(text.replace(".", ""), np.int64, sep=",")  # sets what does not fit to the bounds
    if len(found) and (found.max() == _BOUNDS.max or found.min() == _BOUNDS.min):
        raise OverflowError("a number does not fit 64 bits")
    return found


def texts(text: str | None) -> Sequence[str]:
    """Texts without a comma in them, with commas between them."""
    return () if text is None else text.split(",")
