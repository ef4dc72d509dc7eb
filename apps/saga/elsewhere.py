"""Keys of what has no run of its own: the app that has it says how it stands, so that no search ends with "unknown"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a key is. ``run_id``: the run that asked for it; None: none did. ``lines``: for people; ``body``: as JSON."""

    run_id: UUID | None
    lines: tuple[str, ...]
    body: dict[str, Any]


Teller = Callable[[str], tuple[Known, ...]]  # given any text that somebody searches for
_tellers: list[Teller] = []


def register(teller: Teller) -> None:
    """Have an app asked about keys that no run has."""
    _tellers.append(teller)


def known(key: str) -> tuple[Known, ...]:
    """What a key is that no run has, the newest first of each kind; nothing when nobody knows it."""
    return tuple(each for teller in _tellers for each in teller(key))
