"""Keyset pagination: a page is read after a key, never by an offset."""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from apps.common.errors import InvalidRequest

PAGE_ROWS_DEFAULT = 50
PAGE_ROWS_MAX = 500  # a page is one answer held in memory and one index range scan
CURSOR_CHARACTERS_MAX = 1000  # ours are far shorter; a longer one is not worth decoding
_BIGINT_MAX = 2**63 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows and the cursor that continues after them (None on the last page)."""

    rows: Sequence[T]
    next_cursor: str | None


def encode_cursor(*key: str | int) -> str:
    """Pack the sort key of the last row into an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *, parts: int) -> list[str | int]:
    """Unpack a cursor of ``parts`` values. Raises InvalidRequest for anything that encode_cursor did not make."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        values = None
    known = len(cursor) <= CURSOR_CHARACTERS_MAX and isinstance(values, list) and len(values) == parts
    if not known or not all(_is_key(value) for value in values):
        raise InvalidRequest("The cursor was not made by this list.", field="cursor")
    found: list[str | int] = values
    return found


def decode_id_cursor(cursor: str) -> UUID:
    """Unpack the cursor of a list that is read after an id. Raises InvalidRequest for one that is none."""
    (text,) = decode_cursor(cursor, parts=1)
    try:
        return UUID(str(text))
    except ValueError:
        raise InvalidRequest("The cursor was not made by this list.", field="cursor") from None


def _is_key(value: object) -> bool:
    """Can it be compared with a column? A forged one must not reach the database, which would answer with an error."""
    if isinstance(value, str):
        return not re.search("[\x00\ud800-\udfff]", value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _BIGINT_MAX


def page_rows(requested: str | None) -> int:
    """How many rows the caller asked for, between 1 and PAGE_ROWS_MAX. Raises InvalidRequest for other values."""
    if requested is None:
        return PAGE_ROWS_DEFAULT
    plain = requested.isascii() and requested.isdigit() and len(requested) <= 10  # int() refuses thousands of digits
    if not plain or not 1 <= int(requested) <= PAGE_ROWS_MAX:
        raise InvalidRequest(f"limit is a whole number from 1 to {PAGE_ROWS_MAX}.", field="limit")
    return int(requested)
