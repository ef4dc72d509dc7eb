"""What a message is: a frozen dataclass with a topic and a versioned schema name.

Bodies are JSON: amounts and ids travel as text, moments in ISO 8601. A reader ignores fields it does not know and fills
defaults for fields it misses, so that a producer may be newer or older than its consumer.
"""

import dataclasses
import functools
import re
import types
import typing
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Self, Union
from uuid import UUID

from apps.common.errors import DomainError

TOPIC = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+\.[a-z0-9_]+\.(in|compensate|error|event)")
SCHEMA = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\.v[0-9]+")

_registry: dict[str, type["Message"]] = {}


class InvalidMessage(DomainError):
    """The message does not follow its contract."""

    code, status = "R601", 422


def _encode(value: Any) -> Any:
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise InvalidMessage(f"{value} has no offset from UTC.")
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _scalar(kind: type, value: Any) -> Any:
    if kind in (str, bool, int):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"expected {kind.__name__}")
        return value
    if not isinstance(value, str):
        raise ValueError("expected text")  # every contract error is a ValueError, see Message.from_body
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("expected a moment with its offset from UTC")
        return moment
    if kind is date:
        return date.fromisoformat(value)
    found = kind(value)
    if kind is Decimal and not found.is_finite():
        raise ValueError("expected a finite number")
    return found


def _decode(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _decode(next(arm for arm in typing.get_args(kind) if arm is not type(None)), value)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise ValueError("expected a list")
        return origin(_decode(typing.get_args(kind)[0], item) for item in value)
    return _scalar(kind, value)


class Message:
    """Base of all messages. A subclass is a frozen, slotted, keyword-only dataclass with ``topic`` and ``schema``."""

    __slots__ = ()

    topic: ClassVar[str]  # domain.subdomain.service.type
    schema: ClassVar[str]  # area.name.v<N>: a new version is a new class

    def __init_subclass__(cls) -> None:
        if not TOPIC.fullmatch(cls.topic) or not SCHEMA.fullmatch(cls.schema):
            raise TypeError(f"{cls.__name__}: topic {cls.topic!r} or schema {cls.schema!r} is malformed")
        known = _registry.get(cls.schema)
        # @dataclass(slots=True) makes the class a second time; the second one is the one that is used.
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"schema {cls.schema} is declared twice")
        _registry[cls.schema] = cls

    @classmethod
    @functools.cache
    def _kinds(cls) -> dict[str, Any]:
        return typing.get_type_hints(cls)

    def to_body(self) -> dict[str, Any]:
        """The JSON body."""
        return {field.name: _encode(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]  # every subclass is a dataclass

    @classmethod
    def from_body(cls, body: Any) -> Self:
        """Read a body. Raises InvalidMessage, which names the field."""
        if not isinstance(body, dict):
            raise InvalidMessage(f"{cls.schema}: the body is not an object.")
        values = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every subclass is a dataclass
            if field.name not in body:
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                    raise InvalidMessage(f"{cls.schema}: {field.name} is missing.", field=field.name)
                continue
            try:
                values[field.name] = _decode(cls._kinds()[field.name], body[field.name])
            except (ValueError, TypeError, InvalidOperation) as error:
                raise InvalidMessage(f"{cls.schema}: {field.name}: {error}.", field=field.name) from None
        return cls(**values)


def message_class(schema: str) -> type[Message] | None:
    """The class of a schema name, or None when nobody here knows it."""
    return _registry.get(schema)


def message_classes() -> tuple[type[Message], ...]:
    """Every message class that was imported."""
    return tuple(_registry.values())
