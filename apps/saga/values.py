"""Values that people give: as JSON can keep them, and not too many."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from apps.common.errors import DomainError

BYTES_MAX = 64 * 1024  # of an input or an output: ids and values, no documents
DEPTH_MAX = 20  # of lists and objects in each other: deeper is nobody's data


_UNKEPT = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL keeps no such character


class InvalidValues(DomainError):
    """What was given is not what the use case or its steps take."""

    code, status = "R559", 422


def as_values(given: Any, field: str) -> dict[str, Any]:
    """An object as the database keeps it: amounts as text. Raises InvalidValues."""
    if not isinstance(given, Mapping):
        raise InvalidValues(f"{field} is an object.", field=field)
    try:
        values: dict[str, Any] = _plain(given, 0)
    except (TypeError, ValueError):
        raise InvalidValues(f"{field} holds what JSON or a text cannot hold, or is too deep.", field=field) from None
    if len(json.dumps(values)) > BYTES_MAX:
        raise InvalidValues(f"{field} has more than {BYTES_MAX} bytes.", field=field)
    return values


def _plain(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise TypeError
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise TypeError
        return {_text(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, Decimal):
        return format(value, "f")  # JSON's numbers lose cents in many readers
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, int):
        return value
    raise TypeError


def _text(value: str) -> str:
    if _UNKEPT.search(value):
        raise ValueError
    return value
