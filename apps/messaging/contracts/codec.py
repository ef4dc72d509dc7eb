"""A message class, compiled once: its Avro schema, and the way of its values to JSON and back, validated by that schema."""

import re
from typing import Any

from fastavro import parse_schema

from apps.messaging.contracts.scalars import Misfit, fits
from apps.messaging.contracts.shapes import Record

NAMESPACE = "lastro"
VERSION = re.compile(r"\.v([0-9]+)$")


def family_of(schema: str) -> str:
    """The name that all versions of a message share: ``payments.card_result``."""
    return VERSION.sub("", schema)


def version_of(schema: str) -> int:
    """The version in a schema's name: 1 of ``payments.card_result.v1``."""
    found = VERSION.search(schema)
    return int(found[1]) if found else 0


def avro_name(schema: str) -> tuple[str, str]:
    """Avro's namespace and name: ``lastro.payments`` and ``CardResult``. Versions share them, and can read each other."""
    area, name = family_of(schema).rsplit(".", 1)
    return f"{NAMESPACE}.{area}", "".join(word.capitalize() for word in name.split("_"))


class Codec:
    """See the module. Raises Misfit, whose path leads to the value."""

    def __init__(self, kind: type, *, schema: str) -> None:
        namespace, name = avro_name(schema)
        self._shape = Record(kind, name=name, namespace=namespace)
        self.avro: dict[str, Any] = named_once(self._shape.avro(), set())
        self._parsed = parse_schema(self.avro)

    def write(self, message: Any) -> dict[str, Any]:
        """The JSON body of a message."""
        record = self._shape.unpack(message)
        body: dict[str, Any] = self._shape.encode(record)
        self._validate(record)
        return body

    def read(self, body: Any) -> Any:
        """The message of a JSON body."""
        return self._shape.pack(self.record(body))

    def record(self, body: Any) -> dict[str, Any]:
        """What Avro encodes, of a JSON body."""
        record: dict[str, Any] = self._shape.decode(body)
        self._validate(record)
        return record

    def _validate(self, record: dict[str, Any]) -> None:
        if not fits(record, self._parsed):
            raise self._shape.find_misfit(record) or Misfit("", "the schema refuses it")


def named_once(avro: Any, seen: set[str]) -> Any:
    """The schema with every record written out where it stands first, and named after that: Avro's own rule."""
    if isinstance(avro, list):
        return [named_once(branch, seen) for branch in avro]
    if not isinstance(avro, dict):
        return avro
    if avro["type"] == "array":
        return {**avro, "items": named_once(avro["items"], seen)}
    if avro["type"] != "record":
        return avro
    name = f"{avro['namespace']}.{avro['name']}"
    if name in seen:
        return name
    seen.add(name)
    fields = [{**field, "type": named_once(field["type"], seen)} for field in avro["fields"]]
    return {**avro, "fields": fields}
