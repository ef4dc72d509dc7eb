"""Keyset pagination: a page is read after a key, never by an offset."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.db.models import BooleanField, F, Func, Model, Q, QuerySet, Value

from apps.common.errors import InvalidRequest

PAGE_ROWS_DEFAULT = 50
PAGE_ROWS_MAX = 500  # a page is one answer held in memory and one index range scan
CURSOR_CHARACTERS_MAX = 1000  # ours are far shorter; a longer one is not worth decoding
_BIGINT_MAX = 2**63 - 1

T = TypeVar("T")
V = TypeVar("V")
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows and the cursor that continues after them (None on the last page)."""

    rows: Sequence[T]
    next_cursor: str | None

    def each(self, view: Callable[[T], V]) -> "Page[V]":
        """The same page, of what is made of each row."""
        return Page([view(row) for row in self.rows], self.next_cursor)


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


def decode_moment_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Unpack the cursor of a list that is read after a moment and an id. Raises InvalidRequest for one that is none."""
    at, last = decode_cursor(cursor, parts=2)
    try:
        moment = datetime.fromisoformat(str(at))
        if moment.tzinfo is None:
            raise ValueError
        # In UTC: PostgreSQL takes no zone of more than sixteen hours, and no year past Python's.
        return moment.astimezone(UTC), UUID(str(last))
    except (ValueError, OverflowError):
        raise InvalidRequest("The cursor was not made by this list.", field="cursor") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Which part of a list is wanted: what was created from ``since`` on and before ``until``, behind the cursor."""

    rows_max: int
    cursor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def cut(found: Sequence[M], rows_max: int, *key: str) -> Page[M]:
    """A page of rows that were read, one more than it has: that one tells that another page follows.

    ``key``: the columns besides the id that the rows are sorted by, moments.
    """
    page = found[:rows_max]
    if len(found) <= rows_max:
        return Page(page, None)
    return Page(page, encode_cursor(*(getattr(page[-1], name).isoformat() for name in key), str(page[-1].pk)))


# Note [One index and no other]
#     PostgreSQL would often rather read an index on the time alone, backward, and leave out what is not wanted: cheap where
#     the wanted rows are spread evenly, and a walk over the whole table for a merchant whose rows are all old. So rows are
#     sorted by the column that the right index begins with, too. That it has one value is said as "= ANY", which is no
#     constant for the planner: then no other index is in order. (PostgreSQL 16 wants it to be the index's first column.)
def only(model: type[M], columns: Mapping[str, object]) -> QuerySet[M]:
    """Rows in which these columns are that, the narrowest first; None: any. They are sorted by the first one.

    See Note [One index and no other].
    """
    given = {name: value for name, value in columns.items() if value is not None}
    first = next(iter(given))
    one = Value([given.pop(first)], output_field=ArrayField(model._meta.get_field(first).clone()))  # type: ignore[union-attr]
    is_first = Func(F(first), one, template="(%(expressions)s))", arg_joiner=" = ANY (", output_field=BooleanField())
    return model._default_manager.filter(is_first, **given).order_by(first)


def newest_first(model: type[M], wanted: Slice, columns: Mapping[str, object]) -> Page[M]:
    """A page of rows with a created_at, newest first. ``columns``: what they have to be, see ``only``.

    An index serves it that begins with the first column that is given, may go on with others of them, and ends with
    -created_at, -id. What is created meanwhile comes before the first page: no page tells a row again, or leaves one out.
    Raises InvalidRequest for a cursor that is not this list's.
    """
    rows = only(model, columns)
    if wanted.since is not None:
        rows = rows.filter(created_at__gte=wanted.since)
    if wanted.until is not None:
        rows = rows.filter(created_at__lt=wanted.until)
    if wanted.cursor:
        at, last = decode_moment_cursor(wanted.cursor)
        # The first condition is for the index, which cannot begin a scan at an "or".
        rows = rows.filter(Q(created_at__lte=at), Q(created_at__lt=at) | Q(pk__lt=last))
    found = rows.order_by(*rows.query.order_by, "-created_at", "-pk")[: wanted.rows_max + 1]
    return cut(list(found), wanted.rows_max, "created_at")


def newest_ids(rows: QuerySet[M], *, rows_max: int, cursor: str | None) -> Page[M]:
    """A page of rows by their ids, the newest first, behind the cursor. ``rows``: as ``only`` gives them, or in no order.

    Raises InvalidRequest for a cursor that is not this list's.
    """
    if cursor:
        rows = rows.filter(pk__lt=decode_id_cursor(cursor))
    return cut(list(rows.order_by(*rows.query.order_by, "-pk")[: rows_max + 1]), rows_max)


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
