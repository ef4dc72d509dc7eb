"""Which step reads what of the outputs of the steps before it, and whether it is there.

Note [Declared reads]
A step is handed its own output and those that it ``reads``, and no others: what it does not declare it cannot find, in the
first test that runs it. So the declarations are whole, and whoever writes an output by hand (a person who skips a step,
another system whose transaction is taken over) is asked for exactly what is read later.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from apps.common.errors import DomainError
from apps.saga.attributes import InvalidAttribute, encode

if TYPE_CHECKING:
    from apps.saga.definition import Step

WORDS: dict[type, str] = {
    str: "text",
    UUID: "UUID",
    int: "whole number",
    bool: "true or false",
    Decimal: "amount",
    date: "date",
    datetime: "moment",
}


class OutputNeeded(DomainError):
    """A later step reads what this one would have left as its output: give it."""

    code = "R582"


def handed(step: "Step", outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The outputs that a step is handed. See Note [Declared reads]."""
    return {name: output for name, output in outputs.items() if output and (name in step.reads or name == step.name)}


def problems(steps: Iterable["Step"], optional: Iterable["Step"]) -> Iterator[str]:
    """What is wrong with what the steps of a definition read."""
    others = list(optional)
    known = {step.name for step in others}  # where they come is decided in each run
    for step in (*steps, *others):
        for name, fields in step.reads.items():
            if name not in known:
                yield f"step {step.name} reads the output of {name}, which does not come before it"
            for field, kind in fields.items():
                if kind not in WORDS:
                    yield f"step {step.name} reads {field} of {name} as a {kind.__name__}, which no output holds"
        known.add(step.name)


def needed(name: str, by: Iterable["Step"]) -> dict[str, tuple[type, str]]:
    """What these steps read of the output of this one: by field, its type and the step that reads it first."""
    found: dict[str, tuple[type, str]] = {}
    for step in by:
        for field, kind in step.reads.get(name, {}).items():
            found.setdefault(field, (kind, step.name))
    return found


def check(name: str, output: Mapping[str, Any], by: Iterable["Step"]) -> None:
    """Does the output of a step hold what these steps read of it? Raises OutputNeeded."""
    for lack, why in _lacks(name, output, by):
        raise OutputNeeded(f"{lack}{why}", field="output")


def lacking(done: Mapping[str, Mapping[str, Any]], ahead: Iterable["Step"]) -> str:
    """What the steps ahead read of those that are done, and do not find; empty when all is there."""
    steps = list(ahead)
    return next((lack for name, output in done.items() for lack, _ in _lacks(name, output, steps)), "")


def _lacks(name: str, output: Mapping[str, Any], by: Iterable["Step"]) -> Iterator[tuple[str, str]]:
    """What is read of an output and is not there, and why not."""
    for field, (kind, reader) in needed(name, by).items():
        lack = f"{_words(reader)} reads {field} ({WORDS[kind]}) of {_words(name)}"
        if output.get(field) is None:
            yield lack, ": give it as the output."
        elif not _is(kind, output[field]):
            yield lack, ", and what was given is none."


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is(kind: type, value: Any) -> bool:
    try:
        if kind is UUID:
            return isinstance(value, str) and bool(UUID(value))
        encode(kind, value)
    except (InvalidAttribute, ValueError):
        return False
    return True
