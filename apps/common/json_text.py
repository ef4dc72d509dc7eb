"""What JSON can say and nobody can keep: PostgreSQL, UTF-8 and everything recursive have limits that JSON has not."""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

from apps.common.errors import MalformedJson

NESTING_MAX = 32  # nothing of ours is nested deeper than five; what walks a document afterwards is recursive
NUMBER_CHARACTERS_MAX = 40  # a longer number is no amount, and costs time to convert
# An escaped NUL: an odd number of backslashes before u0000. PostgreSQL's text and jsonb cannot hold it.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_keepable(text: str, value: Any) -> None:
    """``value`` was read from ``text``: can it be stored, and written out again? Raises ValueError, which says why not."""
    if text.count("[") + text.count("{") > NESTING_MAX and _deeper_than(NESTING_MAX, value):
        raise ValueError("nested too deeply")
    if "\\u" not in text:
        return
    if has_nul(text):
        raise ValueError("it holds the character U+0000")
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None


def has_nul(text: str) -> bool:
    """Does JSON text hold an escaped NUL? A backslash followed by the letters u0000 is none."""
    return _NUL.search(text) is not None


def _deeper_than(levels: int, value: Any) -> bool:
    level = [value]
    for _ in range(levels):
        inner = [part for part in level if isinstance(part, dict | list)]
        level = [child for part in inner for child in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedJson("The body names a key twice in one object.")
    return result


class WithExponent(Decimal):
    """A number that was written with an exponent, as nobody writes an amount: 1.5e1 is not told from 15 afterwards."""


def _number(text: str) -> Decimal:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise MalformedJson("The body holds a number that is too long.")
    return WithExponent(text) if "e" in text or "E" in text else Decimal(text)


def _integer(text: str) -> int:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise MalformedJson("The body holds a number that is too long.")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise MalformedJson(f"{text} is not a JSON value.")


def strict_json(raw: bytes) -> Any:
    """Read JSON. Raises MalformedJson, which says where reading stopped."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise MalformedJson("The body is not UTF-8.") from None
    except RecursionError:
        raise MalformedJson("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg}, at line {error.lineno}, column {error.colno}.") from None
    try:
        check_keepable(text, value)
    except ValueError as error:
        raise MalformedJson(f"The body cannot be kept: {error}.") from None
    return value
