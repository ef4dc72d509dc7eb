"""Requests that move money mean all that they say."""

import re
from typing import Any, ClassVar

from rest_framework import serializers

NAMED_MAX = 20  # unknown fields that an answer names; whoever sent more has one mistake, not twenty
_is_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch


def shown(name: str) -> str:
    """A name that a caller made up, as an answer may quote it: not what is no name, a card's number perhaps."""
    return name if _is_name(name) else "(no name)"


class KnownFields(serializers.Serializer[Any]):
    """Refuses a field that it does not know: whoever writes ``payments`` for ``payment``, or ``datref``, means something.

    Only for requests that move money; what else an origin wants to keep has a field of its own (details, reference).
    """

    beside: ClassVar[frozenset[str]] = frozenset()  # names that somebody else reads

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := data.keys() - self.fields.keys() - self.beside):
            named = sorted({shown(name) for name in unknown})[:NAMED_MAX]
            raise serializers.ValidationError({name: ["There is no such field here."] for name in named})
        return super().to_internal_value(data)
