"""How values without parts travel: their Avro types, and what they are in JSON. Table and forms: see shapes.py."""

import abc
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from fastavro import validate

# The longest amounts are the ledger's sums over a lifetime, numeric(20,2). Money has two places, everywhere.
DECIMAL_DIGITS, DECIMAL_PLACES = 20, 2
# In the first and the last year a moment's offset may lead out of the calendar.
YEAR_MIN, YEAR_MAX = 2, 9998
EPOCH_DAY = date(1970, 1, 1).toordinal()

UNFIT = (ValueError, TypeError, InvalidOperation, OverflowError)


class Misfit(ValueError):
    """A value that its field cannot hold. ``path`` leads to it: ``legs[1].amount``."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path.lstrip("."), reason
        super().__init__(f"{self.path}: {reason}" if self.path else reason)

    @classmethod
    def at(cls, step: str, error: Exception) -> "Misfit":
        """The error, seen from one level further out."""
        if isinstance(error, Misfit):
            return cls(step + ("" if error.path.startswith("[") or not error.path else ".") + error.path, error.reason)
        return cls(step, str(error))


class Shape(abc.ABC):
    """How values of one type travel."""

    encodes: bool = True  # does the body differ from the record?
    decodes: bool = True  # must a value of the body be converted, or even looked at, before fastavro sees it?
    packs: bool = False  # does the message differ from the record?

    @abc.abstractmethod
    def avro(self) -> Any:
        """The Avro type."""

    def encode(self, value: Any) -> Any:
        """Record to body."""
        return value

    def decode(self, value: Any) -> Any:
        """Body to record. What comes out is not yet validated."""
        return value

    def unpack(self, value: Any) -> Any:
        """Message to record."""
        return value

    def pack(self, value: Any) -> Any:
        """Record to message."""
        return value

    def default(self, value: Any) -> Any:
        """A default value as an Avro schema writes it."""
        return value

    @abc.abstractmethod
    def find_misfit(self, value: Any) -> Misfit | None:
        """Why fastavro refuses a record's value."""


class Scalar(Shape):
    """A value without parts."""

    def __init__(
        self,
        kind: type,
        avro: Any,
        expected: str,
        *,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        default: Callable[[Any], Any] | None = None,
    ) -> None:
        self._kind, self._avro, self._expected = kind, avro, expected
        self.encodes, self.decodes = encode is not None, decode is not None
        for name, function in (("encode", encode), ("decode", decode), ("default", default)):
            if function is not None:
                setattr(self, name, function)

    def avro(self) -> Any:
        """The Avro type."""
        return self._avro

    def find_misfit(self, value: Any) -> Misfit | None:
        """Why fastavro refuses a record's value."""
        if fits(value, self._avro):
            return None
        found = "" if type(value) is self._kind else f", not {type(value).__name__}"
        return Misfit("", f"expected {self._expected}{found}")


def fits(value: Any, avro: Any) -> bool:
    """Does fastavro take the value for this type?"""
    try:
        return bool(validate(value, avro, raise_errors=False, disable_tuple_notation=True))  # type: ignore[call-arg]  # its stub is behind
    except UNFIT:
        return False


def _writer(kind: type, expected: str, write: Callable[[Any], str]) -> Callable[[Any], str]:
    def encode(value: Any) -> str:
        if not isinstance(value, kind):
            raise ValueError(f"expected {expected}, not {type(value).__name__}")
        return write(value)

    return encode


def _reader(expected: str, read: Callable[[str], Any]) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected text, not {type(value).__name__}")
        try:
            return read(value)
        except Misfit:
            raise
        except (ValueError, ArithmeticError):
            # The parsers' own errors repeat the value, and that may be anything.
            raise ValueError(f"expected {expected}") from None

    return decode


def _amount(value: Decimal) -> Decimal:
    # fastavro looks at the digits alone, and would multiply out 1E+999999 first.
    if not value.is_finite() or value.adjusted() >= DECIMAL_DIGITS - DECIMAL_PLACES:
        raise Misfit("", f"expected {AMOUNT}")
    return value


# As people write it. Decimal reads far more: exponents, other alphabets' digits, underscores, spaces around.
_PLAIN = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


def _amount_of(text: str) -> Decimal:
    if not _PLAIN.fullmatch(text):
        raise Misfit("", f"expected {AMOUNT}")
    return _amount(Decimal(text))


def _moment(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset() is None:
        raise Misfit("", "expected a moment with its offset from UTC")
    if not YEAR_MIN <= value.year <= YEAR_MAX:
        raise Misfit("", f"expected a moment of the years {YEAR_MIN} to {YEAR_MAX}")
    return value


def _day(value: date) -> date:
    if isinstance(value, datetime):
        raise Misfit("", "expected a day without a time")
    return value


def _decimal_default(value: Decimal) -> str:
    unscaled = int(value.scaleb(DECIMAL_PLACES))
    # The bytes of a default are written as the characters of those numbers.
    return unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True).decode("latin-1")


AMOUNT = f"an amount of at most {DECIMAL_DIGITS} digits, {DECIMAL_PLACES} of them after the point"
DAY, MOMENT = "a day as in 2026-11-21", "a moment as in 2026-11-21T12:30:00+00:00"
_DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": DECIMAL_DIGITS, "scale": DECIMAL_PLACES}

SCALARS: dict[Any, Scalar] = {
    str: Scalar(str, "string", "text"),
    bool: Scalar(bool, "boolean", "true or false"),
    int: Scalar(int, "long", "a whole number of 64 bits"),
    Decimal: Scalar(
        Decimal,
        _DECIMAL,
        AMOUNT,
        encode=_writer(Decimal, "a Decimal", lambda value: f"{_amount(value):f}"),
        decode=_reader(AMOUNT, _amount_of),
        default=_decimal_default,
    ),
    UUID: Scalar(
        UUID,
        {"type": "string", "logicalType": "uuid"},
        "a UUID",
        encode=_writer(UUID, "a UUID", str),
        decode=_reader("a UUID", UUID),
        default=str,
    ),
    date: Scalar(
        date,
        {"type": "int", "logicalType": "date"},
        DAY,
        encode=_writer(date, "a day", lambda value: _day(value).isoformat()),
        decode=_reader(DAY, date.fromisoformat),
        default=lambda value: value.toordinal() - EPOCH_DAY,
    ),
    # Micros, although Kafka Connect and ksqlDB read them as BIGINT: millis would lose what PostgreSQL keeps.
    datetime: Scalar(
        datetime,
        {"type": "long", "logicalType": "timestamp-micros"},
        MOMENT,
        encode=_writer(datetime, "a moment", lambda value: _moment(value).isoformat()),
        decode=_reader(MOMENT, lambda text: _moment(datetime.fromisoformat(text))),
    ),
}
