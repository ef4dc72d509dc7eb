"""What stands behind the question mark of an address, read. Each raises InvalidRequest, which names the parameter."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from rest_framework.request import Request

from apps.common.errors import InvalidRequest
from apps.common.pagination import Slice, page_rows

_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def moment(request: Request, name: str) -> datetime | None:
    """A moment with its zone, in UTC; None when it is absent."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} is a moment with its zone, such as 2025-01-31T15:04:05Z.", field=name) from None


def uuid(request: Request, name: str) -> UUID | None:
    """A UUID; None when it is absent."""
    text = request.query_params.get(name)
    try:
        return UUID(text) if text is not None else None
    except ValueError:
        raise InvalidRequest(f"{name} is a UUID.", field=name) from None


def text(request: Request, name: str, *, characters_max: int) -> str | None:
    """A text as it was stored; None when it is absent."""
    found: str | None = request.query_params.get(name)
    if found is not None and (not 1 <= len(found) <= characters_max or _CONTROL.search(found)):
        raise InvalidRequest(f"{name} has 1 to {characters_max} characters, and no control characters.", field=name)
    return found


def one_of(request: Request, name: str, words: Collection[str]) -> str | None:
    """One of these words; None when it is absent."""
    found: str | None = request.query_params.get(name)
    if found is not None and found not in words:
        raise InvalidRequest(f"{name} is one of {', '.join(words)}.", field=name)
    return found


def part_of_list(request: Request, *, since: str, until: str) -> Slice:
    """Which part of a list is wanted: ``limit``, ``cursor``, and the moments under these two names."""
    wanted = Slice(
        rows_max=page_rows(request.query_params.get("limit")),
        cursor=request.query_params.get("cursor"),
        since=moment(request, since),
        until=moment(request, until),
    )
    if wanted.since is not None and wanted.until is not None and wanted.until < wanted.since:
        raise InvalidRequest("The period ends before it begins.", field=until)
    return wanted
