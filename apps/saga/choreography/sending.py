"""The messages with which the state manager begins a saga, asks again, or turns it round. Pure, but for their ids.

The services answer them as they answer each other: pipes/PROTOCOL.md, sections 6 to 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.common.clock import uuid7
from apps.saga.choreography.facts import COMPENSATE, IN, STEP_SCHEMA, UNDO_SCHEMA

# Said anew in each message; every other name of a meta is carried on as it came.
PER_MESSAGE = frozenset(
    {"message-id", "trace", "schema", "steps", "position", "error", "seek-end", "for-group", "replay-of"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that is to be published."""

    topic: str
    key: str
    meta: dict[str, Any]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Letterhead:
    """What all messages of a saga carry. ``carried``: of its other messages."""

    global_id: str
    branch: str
    use_case: str
    version: int
    services: Sequence[str]
    key: str = ""
    trace: str = ""
    carried: Mapping[str, Any] | None = None

    def meta(self, *, steps: Sequence[str], position: int, schema: str) -> dict[str, Any]:
        """The meta of a message."""
        carried = {name: value for name, value in (self.carried or {}).items() if name not in PER_MESSAGE}
        own = {"global-id": self.global_id, "use-case": self.use_case, "use-case-version": self.version}
        own |= {"branch": self.branch} if self.branch else {}
        said = {
            "steps": list(steps),
            "position": position,
            "message-id": str(uuid7()),
            "trace": self.trace,
            "schema": schema,
        }
        return {**carried, **own, **said}


def ask(head: Letterhead, position: int, body: Any) -> Sent:
    """Do this step."""
    meta = head.meta(steps=head.services, position=position, schema=STEP_SCHEMA)
    return Sent(topic=f"{head.services[position]}.{IN}", key=head.key or head.global_id, meta=meta, body=body)


def undo(head: Letterhead, position: int, body: Any, *, error: Mapping[str, Any], seek: bool) -> Sent:
    """Undo this step and those before it; with ``seek``, from the last one that was reached."""
    back = len(head.services) - 1 - position
    meta = head.meta(steps=list(reversed(head.services)), position=back, schema=UNDO_SCHEMA) | {"error": dict(error)}
    meta |= {"seek-end": True} if seek else {}
    return Sent(topic=f"{head.services[position]}.{COMPENSATE}", key=head.key or head.global_id, meta=meta, body=body)


def again(topic: str, key: str, meta: Mapping[str, Any], body: Any) -> Sent:
    """The same once more, under a new id: a step that is done says its answer again, a dead one is opened again."""
    left_out = {"for-group", "replay-of"} | (set() if topic.endswith(f".{COMPENSATE}") else {"error"})
    made = {name: value for name, value in meta.items() if name not in left_out}
    return Sent(topic=topic, key=key, meta=made | {"message-id": str(uuid7())}, body=body)
