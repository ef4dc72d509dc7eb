"""Search attributes: what a run can be found by, declared by its definition and typed.

They are kept as JSON in the run's row, in one canonical form per value, so that equality is containment and the index
answers it. An amount is a text: JSON's numbers lose cents in many readers.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

logger = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
ATTRIBUTES_MAX = 20  # of a definition: each is an entry of the index, written with every run
TEXT_CHARACTERS_MAX = 200  # it names something; a longer one describes, and belongs into the data
DIGITS_MAX = 30
DECIMALS_LEAST = 2  # so that an amount looks like one
INTEGER_MAX = 2**63 - 1
AMOUNT = "amount"  # what is at risk while the run is not over, wherever it is declared
ACCOUNT = "account_id"  # whose request began it, wherever it is declared: everybody has Idempotency-Keys of their own

Scalar = str | int | bool | Decimal | date | datetime
Json = str | int | bool


class InvalidAttribute(TypeError):
    """A value is not of its attribute's type: a bug of whoever starts the run."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A name and a type: str, int, bool, Decimal, date or datetime.

    Its value is ``run.data[key]`` at the start or, with ``from_step``, that of this step's output; ``key`` is the name when
    it is not given. A value that is missing or None is left out.
    """

    name: str
    type: type
    description: str = ""
    from_step: str = ""
    key: str = ""

    def problems(self, steps: Iterable[str]) -> Iterator[str]:
        """What is wrong with it, for a definition of these steps."""
        if not NAME.fullmatch(self.name):
            yield f"attribute {self.name!r} is not a name of lower-case letters, digits and underscores"
        if self.type not in _ENCODERS:
            yield f"attribute {self.name} is of type {self.type.__name__}, which cannot be searched"
        elif self.name == AMOUNT and self.type is not Decimal:
            yield "attribute amount is money, and so a Decimal"
        if self.from_step and self.from_step not in steps:
            yield f"attribute {self.name} comes from step {self.from_step}, which does not exist"


# --- One value ------------------------------------------------------------------------------------------------------
def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX or "\x00" in value:
        raise ValueError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > INTEGER_MAX:
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _decimal(value: Any) -> str:
    if isinstance(value, bool | float) or not isinstance(value, str | int | Decimal):
        raise ValueError
    number = Decimal(value)
    if not number.is_finite() or number.adjusted() >= DIGITS_MAX or -int(number.as_tuple().exponent) > DIGITS_MAX:
        raise ValueError
    whole, _, decimals = format(number if number else Decimal(0), "f").partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(DECIMALS_LEAST, '0')}"


def _date(value: Any) -> str:
    day = date.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(day, date) or isinstance(day, datetime):
        raise ValueError
    return day.isoformat()


def _datetime(value: Any) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError
    # Of one width, so that texts compare as moments do.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_ENCODERS: dict[type, Callable[[Any], Json]] = {
    str: _text,
    int: _integer,
    bool: _boolean,
    Decimal: _decimal,
    date: _date,
    datetime: _datetime,
}


def encode(kind: type, value: Any) -> Json:
    """A value in the form in which it is kept. Raises InvalidAttribute."""
    try:
        return _ENCODERS[kind](value)
    except (ValueError, InvalidOperation, OverflowError):
        raise InvalidAttribute(f"{str(value)[:80]!r} is no {kind.__name__}") from None


def encode_text(kind: type, text: str) -> Json:
    """The same for a value that somebody typed. Raises InvalidAttribute."""
    if kind is bool:
        if text not in ("true", "false"):
            raise InvalidAttribute(f"{text[:80]!r} is neither true nor false")
        return text == "true"
    if kind is int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise InvalidAttribute(f"{text[:80]!r} is no int")
        return encode(int, int(text))
    return encode(kind, text)


# --- Of a run -------------------------------------------------------------------------------------------------------
def check(attributes: Iterable[Attribute], data: Mapping[str, Any]) -> None:
    """Are the data with which a run begins of the declared types? Raises InvalidAttribute, which names the attribute."""
    for attribute in attributes:
        if not attribute.from_step:
            _value(attribute, data)


def collect(
    attributes: Iterable[Attribute], data: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Json]:
    """The attributes of a run, from what it began with and what its steps found out.

    A step's value that does not fit is told in the log and left out: being found must not stop the run.
    """
    found = {}
    for attribute in attributes:
        source = outputs.get(attribute.from_step, {}) if attribute.from_step else data
        try:
            value = _value(attribute, source)
        except InvalidAttribute:
            logger.exception("search attribute %s is left out", attribute.name)
            continue
        if value is not None:
            found[attribute.name] = value
    return found


def _value(attribute: Attribute, source: Mapping[str, Any]) -> Json | None:
    value = source.get(attribute.key or attribute.name)
    if value is None:
        return None
    try:
        return encode(attribute.type, value)
    except InvalidAttribute as error:
        raise InvalidAttribute(f"attribute {attribute.name}: {error}") from None


def amount_of(values: Mapping[str, Any]) -> Decimal | None:
    """What is at risk, from the attributes of a run."""
    try:
        return Decimal(values[AMOUNT]) if AMOUNT in values else None
    except (InvalidOperation, TypeError, ValueError):  # written by a version that nobody remembers
        return None
