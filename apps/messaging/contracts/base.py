"""What a message is: a frozen dataclass with a topic and a versioned schema name.

Bodies are JSON: amounts and ids travel as text, moments in ISO 8601; on topics that end in ``.event`` they are Avro where
there is a schema registry (apps/messaging/wire.py). Either way the class's Avro schema decides what a field may hold, when
a message is published and when it is read. A reader ignores fields it does not know and fills defaults for fields it
misses, so that a producer may be newer or older than its consumer.

Whoever adds or changes a class runs ``manage.py verify_contracts --write``. A released version is never changed: a new
version is a new class. See releases.py.
"""

import functools
import re
from collections.abc import Collection
from typing import Any, ClassVar, Self

from apps.common.errors import DomainError
from apps.messaging.contracts.codec import Codec, family_of, version_of
from apps.messaging.contracts.scalars import Misfit

TOPIC = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+\.[a-z0-9_]+\.(in|compensate|error|event)")
SCHEMA = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\.v[0-9]+")

_registry: dict[str, type["Message"]] = {}


class InvalidMessage(DomainError):
    """The message does not follow its contract."""

    code, status = "R601", 422


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
    def codec(cls) -> Codec:
        """The class's Avro schema, and the values' way to JSON and back. For the post office itself."""
        return Codec(cls, schema=cls.schema)

    def to_body(self) -> dict[str, Any]:
        """The JSON body. Raises InvalidMessage, which names the field that the Avro schema refuses."""
        try:
            return self.codec().write(self)
        except Misfit as misfit:
            raise self.refusal(misfit) from None

    @classmethod
    def from_body(cls, body: Any) -> Self:
        """Read a body. Raises InvalidMessage, which names the field."""
        try:
            message: Self = cls.codec().read(body)
        except Misfit as misfit:
            raise cls.refusal(misfit) from None
        return message

    @classmethod
    def refusal(cls, misfit: Misfit) -> InvalidMessage:
        """The error that tells of a misfit."""
        return InvalidMessage(f"{cls.schema}: {misfit}.", field=misfit.path or None)


def message_class(schema: str) -> type[Message] | None:
    """The class of a schema name, or None when nobody here knows it."""
    return _registry.get(schema)


def closest_class(schema: str, *, among: Collection[str] | None = None) -> type[Message] | None:
    """The class of a schema, or of the version closest to it: versions of one message can read each other.

    So a release that knows v1 understands what a newer one sends as v2. ``among``: only these schemas.
    """
    known = _registry.get(schema)
    if known is not None and (among is None or schema in among):
        return known
    family, version = family_of(schema), version_of(schema)
    names = _registry if among is None else among
    relatives = [_registry[name] for name in names if family_of(name) == family]
    return min(relatives, key=lambda kind: abs(version_of(kind.schema) - version), default=None)


def message_classes() -> tuple[type[Message], ...]:
    """Every message class that was imported."""
    return tuple(_registry.values())
