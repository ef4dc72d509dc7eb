"""PostgreSQL's arrays as text.

For hot statements that unnest long columns: the driver would look at every value, and at every quote in it, and take longer
than the statement itself.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# How PostgreSQL reads a value within an array; for all other types as str() writes them.
_ELEMENTS: dict[type, Callable[[Any], str]] = {
    str: _quoted,
    bytes: lambda value: f'"\\\\x{value.hex()}"',
    UUID: attrgetter("hex"),  # with hyphens it takes longer to write
}


def array_text(column: Sequence[Any]) -> str:
    """One array of values of one type, or None. Cast it in the statement: ``%s::text[]``."""
    kind = next((type(value) for value in column if value is not None), str)
    element = _ELEMENTS.get(kind, str)
    return "{" + ",".join(["NULL" if value is None else element(value) for value in column]) + "}"
