"""Points at which a process of a deployment ends as by a power cut: SIGKILL to itself and its children.

BREAK_AT names them, comma separated; each kills once, whichever process comes to it first, and leaves a mark in
BREAK_MARKS. BREAK_AFTER lets so many passes of each go by first.

    relay.acknowledged    the broker has acknowledged, the rows are still there
    <group>.inside        the handler has written, nothing is committed
    <group>.committed     the database has committed, the offset is not
    worker.advanced       the engine has committed, the next wake-up is not sent and this one not acknowledged
    beat.sent             beat has sent a task
    step:<use case>:<step>:<method>    the method has done its work, and returns

SHAKY is how often a step's method fails by itself, refused or broken, before or behind its work: 0.1 is one time in ten.
"""

import functools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_armed = frozenset(filter(None, os.environ.get("BREAK_AT", "").split(",")))
_marks = Path(os.environ.get("BREAK_MARKS", "."))
_shaky = float(os.environ.get("SHAKY", "0"))
_to_pass = dict.fromkeys(_armed, int(os.environ.get("BREAK_AFTER", "0")))


def reach(point: str, *, said: str = "") -> None:
    """Die here, if this is a point to die at and nobody did before. ``said`` is what its mark says."""
    if point not in _armed:
        return
    if _to_pass[point] > 0:
        _to_pass[point] -= 1
        return
    _marks.mkdir(parents=True, exist_ok=True)
    try:
        mark = os.open(_marks / point, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.write(mark, said.encode())
    os.killpg(0, signal.SIGKILL)


def _then_reach(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        reach(point)
        return found

    return wrapped


def arm() -> None:
    """Put the points of BREAK_AT behind the functions that they name, and shake the steps."""
    if _shaky:
        _shake()
    for point in _armed:
        if point == "relay.acknowledged":
            _arm_relay(point)
        elif point == "worker.advanced":
            from apps.saga import engine

            engine.advance = _then_reach(point, engine.advance)
        elif point == "beat.sent":
            from celery.beat import Scheduler

            Scheduler.apply_async = _then_reach(point, Scheduler.apply_async)
        elif point.startswith("step:"):
            _arm_step(point)


def _arm_relay(point: str) -> None:
    from apps.messaging.transports import transport
    from apps.messaging.transports.base import Fate, SendsInBackground

    def watched(outcomes_of: Callable[..., Any]) -> Callable[..., Any]:
        def outcomes(*args: Any) -> Any:
            found = outcomes_of(*args)
            if acknowledged := sum(one.fate is Fate.ACKNOWLEDGED for one in found):
                reach(point, said=str(acknowledged))
            return found

        return outcomes

    kind: Any = type(transport())
    kind.send = watched(kind.send)
    if issubclass(kind, SendsInBackground):
        begin = kind.begin
        kind.begin = lambda *args: SimpleNamespace(outcomes=watched(begin(*args).outcomes))


def _arm_step(point: str) -> None:
    from apps.saga.definition import registered

    _, use_case, name, method = point.split(":")
    (definition,) = (one for one in registered() if one.use_case == use_case)
    step = definition.steps[definition.position_of(name)]
    setattr(step, method, _then_reach(point, getattr(step, method)))


# An answer is not refused here: a refusal of an answer says that the other side has refused, which it has not.
SHAKEN = {
    "local": ("handle", "compensate"),
    "ask": ("ask", "ask_undo"),
    "call": ("prepare", "call", "record", "undo_prepare", "undo_call", "undo_record"),
}


def _shake() -> None:
    from apps.saga.definition import registered

    for definition in registered():
        for step in definition.steps if definition.use_case.startswith("orders.") else ():
            for method in SHAKEN.get(step.shape, ()):
                setattr(step, method, _shaken(getattr(step, method)))


def _shaken(function: Callable[..., Any]) -> Callable[..., Any]:
    from apps.common.errors import InvalidRequest

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if random.random() >= _shaky:  # no secret
            return function(*args, **kwargs)
        if random.random() < 0.5:
            function(*args, **kwargs)
        raise random.choice((InvalidRequest("shaken"), RuntimeError("shaken")))

    return wrapped
