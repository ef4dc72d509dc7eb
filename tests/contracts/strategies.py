"""Messages of any class, for property tests: built from the types of its fields, and with odd but allowed values."""

import dataclasses
import typing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
amounts = st.integers(-(10**20 - 1), 10**20 - 1).map(lambda cents: Decimal(cents).scaleb(-2))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    Decimal: amounts,
    UUID: st.uuids(),
    date: st.dates(),
    datetime: st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=offsets),
}


@cache
def messages_of(kind: type) -> st.SearchStrategy[Any]:
    """Instances of a message class, or of a part of one. Fields with a default are sometimes left out."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: _values_of(hints[field.name]) for field in dataclasses.fields(kind)}
    optional = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    required = {name: strategy for name, strategy in fields.items() if name not in optional}
    rest = {name: fields[name] for name in optional}
    return st.fixed_dictionaries(required, optional=rest).map(lambda values: kind(**values))


def _values_of(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if origin in (list, tuple):
        return st.lists(_values_of(arguments[0]), max_size=3).map(origin)
    if type(None) in arguments:
        return st.none() | _values_of(next(argument for argument in arguments if argument is not type(None)))
    return messages_of(hint)
