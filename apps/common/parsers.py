"""JSON in: numbers become Decimal (a float would already have lost cents), duplicate keys and NaN are refused."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import IO, Any, NoReturn

from rest_framework.parsers import BaseParser

from apps.common.errors import MalformedJson
from apps.common.json_text import check_keepable

NUMBER_CHARACTERS_MAX = 40  # a longer number is no amount, and costs time to convert


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedJson("The body names a key twice in one object.")
    return result


def _number(text: str) -> Decimal:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise MalformedJson("The body holds a number that is too long.")
    return Decimal(text)


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


class StrictJSONParser(BaseParser):
    """The only parser of the API."""

    media_type = "application/json"

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return strict_json(stream.read())
