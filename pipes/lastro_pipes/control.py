"""What is sent to a saga from outside: its first message, another try of a step, a compensation. Pure.

The state manager writes the same messages; PROTOCOL.md, sections 6 to 8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lastro_pipes import addresses, ids, trace
from lastro_pipes.envelope import STEP, UNDO, encode, headers, is_key
from lastro_pipes.errors import Misconfigured
from lastro_pipes.transports.base import Outgoing


def start(
    steps: Sequence[str],
    body: Any,
    *,
    global_id: str = "",
    key: str = "",
    position: int = 0,
    meta: Mapping[str, Any] | None = None,
) -> Outgoing:
    """The message with which a saga begins, or goes on at ``position``. ``meta``: use-case and whatever shall travel along.

    Raises Misconfigured for steps that are no addresses, Invalid for a body that is no JSON.
    """
    _check(steps, position)
    global_id = global_id or str(ids.uuid7())
    made = {
        **(meta or {}),
        "global-id": global_id,
        "steps": list(steps),
        "position": position,
        "message-id": str(ids.uuid7()),
        "trace": trace.child(""),
        "schema": STEP,
    }
    return _record(steps[position], addresses.IN, key or global_id, made, body)


def compensate(
    steps: Sequence[str],
    *,
    global_id: str,
    position: int,
    code: str,
    reason: str,
    key: str = "",
    seek_end: bool = True,
    body: Any = None,
    meta: Mapping[str, Any] | None = None,
) -> Outgoing:
    """The message that undoes a saga from a step backwards. ``steps`` and ``position``: forward.

    With ``seek_end`` it first goes after the saga to the last step that was reached, however far that is by now.
    """
    _check(steps, position)
    made = {
        **(meta or {}),
        "global-id": global_id,
        "steps": list(reversed(steps)),
        "position": len(steps) - 1 - position,
        "message-id": str(ids.uuid7()),
        "trace": trace.child(""),
        "schema": UNDO,
        "error": {"code": code, "reason": reason, "kind": "outside"},
    }
    made |= {"seek-end": True} if seek_end else {}
    return _record(steps[position], addresses.COMPENSATE, key or global_id, made, body)


def again(topic: str, key: str, meta: Mapping[str, Any], body: Any) -> Outgoing:
    """A message once more: the one that became a dead letter, or that nobody answered. ``topic``: where it goes.

    The new id says that it is wanted again; the error of a dead letter is left out, that of a compensation kept.
    """
    made = {name: value for name, value in meta.items() if name != "error" or topic.endswith(addresses.COMPENSATE)}
    made["message-id"] = str(ids.uuid7())
    return Outgoing(topic, key, encode(made, body), headers(made))


def _check(steps: Sequence[str], position: int) -> None:
    if not steps or not all(addresses.is_address(step) for step in steps):
        raise Misconfigured("Every step is an address, as in shop.stock.reserve.")
    if not 0 <= position < len(steps):
        raise Misconfigured(f"There is no step {position}: the saga has {len(steps)}, counted from 0.")


def _record(address: str, kind: str, key: str, meta: Mapping[str, Any], body: Any) -> Outgoing:
    if not is_key(key):
        raise Misconfigured("A key has 1 to 200 characters.")
    return Outgoing(addresses.topic(address, kind), key, encode(meta, body), headers(meta))
