"""What a step is: a class with ``handle`` and, if it can be undone, ``compensate``. Step is a base for type checkers."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from lastro_pipes.errors import Misconfigured
from lastro_pipes.message import Message

if TYPE_CHECKING:
    from lastro_pipes.settings import Settings
    from lastro_pipes.stores.base import Store


class Kind(StrEnum):
    """What may happen to a step that was done."""

    COMPENSABLE = "COMPENSABLE"  # it can be undone
    PIVOT = "PIVOT"  # it may refuse, but once it is done there is no way back
    RETRIABLE = "RETRIABLE"  # behind the pivot: it may not refuse either, only be tried again


class Step:
    """Base of steps. Not required: any class with the same methods will do.

    ``handle`` and ``compensate`` may be repeated, and ``compensate`` may come although ``handle`` never took effect: it
    does nothing then. What they write through ``message.connection`` is committed once, together with the note that the
    message is done; everything else they do must bear repetition, with ``message.step_key`` as its idempotency key.
    """

    service: ClassVar[str] = ""  # domain.subdomain.service; PIPES_SERVICE overrules it
    kind: ClassVar[Kind] = Kind.COMPENSABLE

    def handle(self, message: Message) -> Any:
        """Do it. What it returns is the next step's body; None: the body goes on as it came.

        Raises Refuse for a business error: what was done before is undone. Anything else is technical: it is tried again.
        """
        raise NotImplementedError(type(self).__name__)

    def store(self, settings: "Settings") -> "Store | None":
        """The store, when it is not PIPES_STORE: for a connection of one's own."""
        return None

    def close(self) -> None:
        """The process ends."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A step, ready to be called."""

    handle: Callable[[Message], Any]
    compensate: Callable[[Message], Any] | None
    kind: Kind
    service: str
    store: Callable[["Settings"], "Store | None"]
    close: Callable[[], None]
    name: str


def load(target: str) -> Loaded:
    """Import ``module:Class`` and make one. Raises Misconfigured, which says what is wrong with it."""
    module_name, colon, class_name = target.partition(":")
    if not (module_name and colon and class_name):
        raise Misconfigured(f"{target!r} is not module:Class, as in shop.stock:Reserve.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise Misconfigured(f"{target} cannot be imported: {error}.") from error
    return prepare(found)


def prepare(kind: Any) -> Loaded:
    """Make one of a class that has the methods. Raises Misconfigured."""
    if not isinstance(kind, type):
        raise Misconfigured(f"{kind!r} is not a class.")
    if faults := problems(kind):
        raise Misconfigured(f"{kind.__name__} is no step: {'; '.join(faults)}.")
    made: Any = kind()
    return Loaded(
        handle=made.handle,
        compensate=getattr(made, "compensate", None),
        kind=Kind(getattr(kind, "kind", Kind.COMPENSABLE)),
        service=getattr(kind, "service", ""),
        store=getattr(made, "store", lambda _settings: None),
        close=getattr(made, "close", lambda: None),
        name=kind.__name__,
    )


def problems(kind: Any) -> list[str]:
    """What is wrong with a class; empty when nothing is."""
    found = []
    handle = getattr(kind, "handle", None)
    if not callable(handle) or handle is Step.handle:
        found.append("it has no handle(self, message)")
    declared = getattr(kind, "kind", Kind.COMPENSABLE)
    if declared not in set(Kind):
        found.append(f"its kind is {declared!r}; it is one of {', '.join(Kind)}")
    elif declared == Kind.COMPENSABLE and not callable(getattr(kind, "compensate", None)):
        found.append("it has no compensate(self, message); write one that does nothing when there is nothing to undo")
    found += [f"{name} is a coroutine" for name in ("handle", "compensate") if _is_async(getattr(kind, name, None))]
    return found


def _is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method)
