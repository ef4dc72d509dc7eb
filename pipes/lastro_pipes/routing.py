"""Where a message stands in its saga, and where it goes from there. Pure: values in, answer out.

``position`` is the index in the message's own ``steps``; on ``.compensate`` that list is inverted, as in the protocol.
Everything else here counts forward, so that a step has one number whichever way a message goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lastro_pipes import addresses, ids
from lastro_pipes.envelope import PER_MESSAGE, UNDO, Envelope
from lastro_pipes.envelope import STEP as STEP_SCHEMA
from lastro_pipes.errors import Code, Invalid

STEPS_MAX = 100  # a saga that is longer is a mistake; each step's messages carry the whole list


class Way(StrEnum):
    """Forward or backward."""

    DO = "do"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Place:
    """This service's place in a saga. ``steps``: forward, as they were written; ``position``: forward."""

    way: Way
    steps: tuple[str, ...]
    position: int
    service: str

    @property
    def is_first(self) -> bool:
        """Is there nothing before it?"""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Is there nothing behind it?"""
        return self.position == len(self.steps) - 1

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every step's address, forward."""
        return tuple(addresses.resolve(step, beside=self.service) for step in self.steps)


def find(meta: Mapping[str, Any], *, way: Way, service: str, next_steps: Sequence[str] = ()) -> Place:
    """The place of a message that this service was sent. Raises Invalid.

    Without ``position`` the service looks for itself in the list. ``next_steps`` follow it when there is no list at all.
    """
    steps = _steps(meta, service=service, next_steps=next_steps if way is Way.DO else ())
    index = meta.get("position")
    if index is None:
        index = _index_of(steps, service)
    elif isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(steps):
        raise Invalid(Code.BAD_META, f"position is {index!r}; the message has {len(steps)} steps, counted from 0.")
    elif addresses.resolve(steps[index], beside=service) != service:
        raise Invalid(Code.NOT_IN_STEPS, f"Step {index} is {steps[index]}, and this is {service}.")
    if way is Way.DO:
        return Place(way, steps, index, service)
    return Place(way, steps[::-1], len(steps) - 1 - index, service)


def _steps(meta: Mapping[str, Any], *, service: str, next_steps: Sequence[str]) -> tuple[str, ...]:
    found = meta.get("steps")
    if not found and next_steps:
        return (service, *next_steps)
    if not isinstance(found, list) or not 1 <= len(found) <= STEPS_MAX:
        raise Invalid(Code.BAD_META, f"steps is a list of 1 to {STEPS_MAX} names.")
    # A list within the list would be steps side by side. The protocol has no such thing, and guessing would be worse.
    if faulty := next((step for step in found if not addresses.is_step(step)), None):
        raise Invalid(Code.BAD_META, f"steps holds {str(faulty)[:100]!r}, which is no service's name or address.")
    if not all(found):
        raise Invalid(Code.BAD_META, "steps holds an empty name.")
    return tuple(found)


def _index_of(steps: Sequence[str], service: str) -> int:
    found = [index for index, step in enumerate(steps) if addresses.resolve(step, beside=service) == service]
    if not found:
        raise Invalid(Code.NOT_IN_STEPS, f"{service} is not in the message's steps: {', '.join(steps)}.")
    if len(found) > 1:
        raise Invalid(Code.NOT_IN_STEPS, f"{service} is {len(found)} times in the steps, and position does not say which.")
    return found[0]


@dataclass(frozen=True, slots=True)
class Sending:
    """A message of the saga to another step."""

    topic: str
    meta: dict[str, Any]
    body: Any


def onward(place: Place, envelope: Envelope, body: Any, *, trace: str) -> Sending | None:
    """To the next step's ``.in``; None behind the last."""
    if place.is_last:
        return None
    return _forward(place, envelope, place.position + 1, body, trace=trace)


def _forward(place: Place, envelope: Envelope, position: int, body: Any, *, trace: str) -> Sending:
    meta = _meta(envelope, list(place.steps), position, schema=STEP_SCHEMA, trace=trace)
    return Sending(addresses.topic(place.addresses[position], addresses.IN), meta, body)


def backward(
    place: Place, envelope: Envelope, body: Any, *, trace: str, error: Mapping[str, Any] | None = None
) -> Sending | None:
    """To the step before, on ``.compensate``, with the list inverted; None before the first.

    ``error`` says why when the saga turns round here; else what the message says is passed on.
    """
    if place.is_first:
        return None
    meta = _undo_meta(place, envelope, place.position - 1, trace=trace, error=error)
    return Sending(addresses.topic(place.addresses[place.position - 1], addresses.COMPENSATE), meta, body)


def is_seeking(envelope: Envelope) -> bool:
    """Does a compensation from outside still look for the last step that was reached?"""
    return envelope.meta.get("seek-end") is True


def chase(place: Place, envelope: Envelope, *, trace: str) -> Sending | None:
    """After the message that this step sent on: the compensation begins where that one is. None behind the last.

    The id follows from the message's: chased twice, it is one message.
    """
    if place.is_last:
        return None
    meta = _undo_meta(place, envelope, place.position + 1, trace=trace, error=None)
    meta |= {"seek-end": True, "message-id": str(ids.derived(envelope.message_id, "chase"))}
    return Sending(addresses.topic(place.addresses[place.position + 1], addresses.COMPENSATE), meta, envelope.body)


def _undo_meta(
    place: Place, envelope: Envelope, position: int, *, trace: str, error: Mapping[str, Any] | None
) -> dict[str, Any]:
    meta = _meta(envelope, list(reversed(place.steps)), len(place.steps) - 1 - position, schema=UNDO, trace=trace)
    found = error if error is not None else envelope.meta.get("error")
    return meta | ({"error": dict(found)} if isinstance(found, Mapping) and found else {})


def _meta(envelope: Envelope, steps: list[str], position: int, *, schema: str, trace: str) -> dict[str, Any]:
    carried = {name: value for name, value in envelope.meta.items() if name not in PER_MESSAGE}
    return carried | {
        "steps": steps,
        "position": position,
        "message-id": str(ids.uuid7()),
        "trace": trace,
        "schema": schema,
    }
