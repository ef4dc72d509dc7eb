"""Keyset pagination: a page is read after a key, never by an offset."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from apps.common.errors import InvalidRequest

PAGE_ROWS_DEFAULT = 50
PAGE_ROWS_MAX = 500  # a page is one answer held in memory and one index range scan

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
    except (ValueError, binascii.Error):
        values = None
    if not isinstance(values, list) or len(values) != parts or not all(isinstance(v, str | int) for v in values):
        raise InvalidRequest("The cursor was not made by this list.", field="cursor")
    return values


def page_rows(requested: str | None) -> int:
    """How many rows the caller asked for, between 1 and PAGE_ROWS_MAX. Raises InvalidRequest for other values."""
    if requested is None:
        return PAGE_ROWS_DEFAULT
    if not requested.isascii() or not requested.isdigit() or not 1 <= int(requested) <= PAGE_ROWS_MAX:
        raise InvalidRequest(f"limit is a whole number from 1 to {PAGE_ROWS_MAX}.", field="limit")
    return int(requested)
