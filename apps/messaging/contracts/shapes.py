"""From the fields of a dataclass to their Avro types, and their values' way to JSON and back.

Three forms of one value. The *message* is the dataclass. The *record* is what Avro knows: a dict, whose values fastavro
validates and encodes. The *body* is JSON: amounts, ids and moments as text. A shape is compiled once per class.

| Python | Avro | JSON |
|---|---|---|
| str, bool, int | string, boolean, long | the same |
| Decimal | bytes, decimal(20, 2) | text |
| UUID, date, datetime | uuid, date, timestamp-micros | text, ISO 8601 |
| tuple[X, ...], list[X] | array | list |
| X or None | union with null | the same, or null |
| a frozen dataclass | record | object |
"""

import dataclasses
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps.messaging.contracts.scalars import SCALARS, UNFIT, Misfit, Shape


class Maybe(Shape):
    """A value, or None."""

    def __init__(self, inner: Shape) -> None:
        self._inner = inner
        self.encodes, self.decodes, self.packs = inner.encodes, inner.decodes, inner.packs

    def avro(self) -> Any:
        """The Avro type: null is first, so null is what a default may be."""
        return ["null", self._inner.avro()]

    def encode(self, value: Any) -> Any:
        """Record to body."""
        return None if value is None else self._inner.encode(value)

    def decode(self, value: Any) -> Any:
        """Body to record."""
        return None if value is None else self._inner.decode(value)

    def unpack(self, value: Any) -> Any:
        """Message to record."""
        return None if value is None else self._inner.unpack(value)

    def pack(self, value: Any) -> Any:
        """Record to message."""
        return None if value is None else self._inner.pack(value)

    def default(self, value: Any) -> Any:
        """A union's default is of its first type."""
        if value is not None:
            raise TypeError("what may be None has None as its default, or none at all")
        return None

    def find_misfit(self, value: Any) -> Misfit | None:
        """Why fastavro refuses a record's value."""
        return None if value is None else self._inner.find_misfit(value)


class Many(Shape):
    """A list of values of one type; ``factory`` is list or tuple."""

    def __init__(self, item: Shape, factory: type[list[Any]] | type[tuple[Any, ...]]) -> None:
        self._item, self._factory = item, factory
        self.packs = item.packs

    def avro(self) -> Any:
        """The Avro type."""
        return {"type": "array", "items": self._item.avro()}

    def _each(self, act: Callable[[Any], Any], values: Any) -> list[Any]:
        found = []
        for index, value in enumerate(values):
            try:
                found.append(act(value))
            except UNFIT as error:
                raise Misfit.at(f"[{index}]", error) from None
        return found

    def encode(self, value: Any) -> Any:
        """Record to body."""
        return self._each(self._item.encode, value) if self._item.encodes else list(value)

    def decode(self, value: Any) -> Any:
        """Body to record."""
        if not isinstance(value, list):
            raise ValueError("expected a list")  # every misfit is a ValueError
        return self._factory(self._each(self._item.decode, value) if self._item.decodes else value)

    def unpack(self, value: Any) -> Any:
        """Message to record."""
        if not isinstance(value, list | tuple):
            raise ValueError("expected a list")
        return self._factory(self._each(self._item.unpack, value))

    def pack(self, value: Any) -> Any:
        """Record to message."""
        return self._factory(map(self._item.pack, value))

    def default(self, value: Any) -> Any:
        """A default value as an Avro schema writes it."""
        return [self._item.default(item) for item in value]

    def find_misfit(self, value: Any) -> Misfit | None:
        """Why fastavro refuses a record's value."""
        if not isinstance(value, list | tuple):
            return Misfit("", f"expected a list, not {type(value).__name__}")
        found = ((index, self._item.find_misfit(item)) for index, item in enumerate(value))
        return next((Misfit.at(f"[{index}]", misfit) for index, misfit in found if misfit), None)


class Record(Shape):
    """A frozen dataclass."""

    packs = True

    def __init__(self, kind: type, *, name: str, namespace: str) -> None:
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        self._kind, self._name, self._namespace = kind, name, namespace
        self._fields = fields
        self._shapes = {field.name: shape_of(hints[field.name], namespace=namespace) for field in fields}
        self._names = tuple(self._shapes)
        # One field's getter gives the value itself, and not a tuple of one.
        getter = operator.attrgetter(*self._names)
        self._values = getter if len(self._names) > 1 else lambda message: (getter(message),)
        self._encoders = [(name, shape.encode) for name, shape in self._shapes.items() if shape.encodes]
        self._decoders = [(name, shape.decode) for name, shape in self._shapes.items() if shape.decodes]
        self._unpackers = [(name, shape.unpack) for name, shape in self._shapes.items() if shape.packs]
        self._packers = [(name, shape.pack) for name, shape in self._shapes.items() if shape.packs]

    def avro(self) -> Any:
        """The Avro type. The class's docstring is its doc; a default makes a field optional."""
        doc = " ".join(inspect.cleandoc(self._kind.__doc__ or "").split())
        fields = [self._avro_field(field) for field in self._fields]
        return {"type": "record", "name": self._name, "namespace": self._namespace, "doc": doc, "fields": fields}

    def _avro_field(self, field: "dataclasses.Field[Any]") -> dict[str, Any]:
        shape = self._shapes[field.name]
        made = {"name": field.name, "type": shape.avro()}
        return made | ({"default": shape.default(_default(field))} if is_optional(field) else {})

    def encode(self, value: Any) -> Any:
        """Record to body."""
        return self._convert(self._encoders, dict(value))

    def decode(self, value: Any) -> Any:
        """Body to record: unknown fields are left out, missing ones get their defaults."""
        if not isinstance(value, dict):
            raise Misfit("", f"not an object, but {type(value).__name__}")
        found = {name: value[name] for name in self._names if name in value}
        self._convert(self._decoders, found)
        if len(found) < len(self._names):
            self._fill(found)
        return found

    def _fill(self, found: dict[str, Any]) -> None:
        for field in self._fields:
            if field.name not in found:
                if not is_optional(field):
                    raise Misfit(field.name, "it is missing")
                found[field.name] = self._shapes[field.name].unpack(_default(field))

    def unpack(self, value: Any) -> Any:
        """Message to record."""
        if not isinstance(value, self._kind):
            raise Misfit("", f"expected {self._kind.__name__}, not {type(value).__name__}")
        return self._convert(self._unpackers, dict(zip(self._names, self._values(value), strict=True)))

    def pack(self, value: Any) -> Any:
        """Record to message."""
        for name, pack in self._packers:
            value[name] = pack(value[name])
        return self._kind(**value)

    def find_misfit(self, value: Any) -> Misfit | None:
        """Why fastavro refuses a record's value."""
        if not isinstance(value, Mapping):
            return Misfit("", f"expected {self._kind.__name__}, not {type(value).__name__}")
        found = ((name, shape.find_misfit(value[name])) for name, shape in self._shapes.items())
        return next((Misfit.at(name, misfit) for name, misfit in found if misfit), None)

    @staticmethod
    def _convert(steps: Sequence[tuple[str, Callable[[Any], Any]]], values: dict[str, Any]) -> dict[str, Any]:
        name = ""
        try:
            for name, convert in steps:  # the error wants it
                if name in values:
                    values[name] = convert(values[name])
        except UNFIT as error:
            raise Misfit.at(name, error) from None
        return values


def is_optional(field: "dataclasses.Field[Any]") -> bool:
    """May a body leave the field out?"""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def shape_of(hint: Any, *, namespace: str) -> Shape:
    """The shape of a type hint. Raises TypeError for what a message cannot carry."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) == 1 and len(arguments) == 2:
            return Maybe(shape_of(inner[0], namespace=namespace))
    elif origin is list or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        return Many(shape_of(arguments[0], namespace=namespace), origin)
    elif hint in SCALARS:
        return SCALARS[hint]
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        # A newer version of a part is another class, and the same record to Avro.
        return Record(hint, name=re.sub(r"V[0-9]+$", "", hint.__name__), namespace=namespace)
    known = ", ".join(kind.__name__ for kind in SCALARS)
    raise TypeError(f"a message cannot carry {hint}; it carries {known}, lists of them, and dataclasses")
