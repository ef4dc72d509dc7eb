"""JSON in: numbers become Decimal (a float would already have lost cents), duplicate keys and NaN are refused."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.parsers import BaseParser

from apps.common.json_text import strict_json


class StrictJSONParser(BaseParser):
    """The only parser of the API."""

    media_type = "application/json"

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return strict_json(stream.read())
