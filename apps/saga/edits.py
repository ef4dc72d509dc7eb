"""What a person gives to an action on a run: a change of its input, or a step's output. Plain JSON, of a sane size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from apps.common.errors import DomainError
from apps.saga import attributes
from apps.saga.attributes import InvalidAttribute
from apps.saga.definition import Definition, UnknownDefinition, lookup
from apps.saga.reading import WORDS, needed

CHARACTERS_MAX = 20_000  # a run's input is ids and values
DEPTH_MAX = 20  # nested deeper, nobody has read what they typed

Json = dict[str, Any]


class InvalidInput(DomainError):
    """The input or output that was given cannot be used."""

    code, status = "R544", 422


def plain(given: Any, *, field: str) -> Json:
    """What was given as the database keeps it: an object, decimals as texts. Raises InvalidInput."""
    if not isinstance(given, Mapping):
        raise InvalidInput(f"{field} is a JSON object.", field=field)
    try:
        _check_depth(given, DEPTH_MAX)
        text = json.dumps(given, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError):  # not JSON, no number, nested too deep, or half a character
        raise InvalidInput(f"{field} is not JSON of at most {DEPTH_MAX} levels.", field=field) from None
    if len(text) > CHARACTERS_MAX or "\\u0000" in text:
        raise InvalidInput(
            f"{field} is longer than {CHARACTERS_MAX} characters, or holds one that no text has.", field=field
        )
    found: Json = json.loads(text)
    return found


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise ValueError("too deep")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        _check_depth(each, left - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputField:
    """A field that the output of a skipped step must have. ``kind``: its type in words; ``reader``: who reads it first."""

    name: str
    kind: str
    reader: str


def output_fields(use_case: str, version: int, names: Sequence[str], at: int) -> tuple[OutputField, ...]:
    """What the output of the step at this place must hold, when it is skipped in a run of these steps."""
    try:
        definition = lookup(use_case, version)
        ahead = [definition.by_name[name] for name in names[at + 1 :]]
    except (UnknownDefinition, KeyError):  # judged elsewhere: nobody here knows this run
        return ()
    if definition.is_choreographed or at >= len(names):
        return ()
    found = needed(names[at], ahead).items()
    return tuple(OutputField(name=name, kind=WORDS[kind], reader=reader) for name, (kind, reader) in found)


def merged(data: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """JSON merge (RFC 7396): objects are merged, null removes, everything else replaces."""
    found = dict(data)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping):
            old = found.get(name)
            found[name] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            found[name] = value
    return found


def edited(definition: Definition, data: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """A run's input after a change. Raises InvalidInput when a search attribute would not be of its type, or be gone, and
    when the run would need other keys than it took when it began."""
    found = merged(data, patch)
    try:
        attributes.check(definition.attributes, found)
    except InvalidAttribute as error:
        raise InvalidInput(f"With this input {error}.", field="input") from None
    before = attributes.collect(definition.attributes, data, {})
    gone = sorted(set(before) - set(attributes.collect(definition.attributes, found, {})))
    if gone:
        raise InvalidInput(f"This input would take away the search attribute {gone[0]}.", field="input")
    _check_keys(definition, data, found)
    return found


def _check_keys(definition: Definition, data: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """A run holds the keys of its first input to its end: with others it would work on what another run holds."""
    if definition.locks is None:
        return
    try:
        same = set(definition.locks(found)) == set(definition.locks(data))
    except Exception as error:  # whatever a use case's function raises on an input that it cannot read
        raise InvalidInput(
            f"With this input nobody can tell the run's keys: {type(error).__name__}.", field="input"
        ) from None
    if not same:
        raise InvalidInput("With this input the run would need other keys than it holds: begin another run.", field="input")


def before(data: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """The old values of what a change touches, for the audit; what was not there is absent."""
    return {name: data[name] for name in patch if name in data}
