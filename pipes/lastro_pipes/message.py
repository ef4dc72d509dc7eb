"""What a step is handed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """What this step did in this saga: what it was given, and what it gave back."""

    input: Any
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a saga.

    ``body``: for ``handle`` what the step before gave back; for ``compensate`` what this step itself gave back, as far as
    it is known. ``done``: for ``compensate``, what ``handle`` did; None when its transaction did not commit.
    ``connection``: the store's, inside the transaction that also says that this message is done.
    """

    global_id: str
    body: Any
    steps: tuple[str, ...]  # forward, also for compensate
    position: int  # of this step in ``steps``
    key: str
    attempt: int  # of this message: 1, 2, …
    now: datetime
    trace: str = ""  # this step's span: hand it on as the header traceparent
    meta: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)  # for compensate: code and reason of who turned the saga round
    done: Done | None = None
    connection: Any = None
    branch: str = ""  # which of several routes of one saga

    @property
    def step_key(self) -> str:
        """The same in every repetition of this step of this saga, do or undo: pass it on as an idempotency key."""
        return f"{self.global_id}:{self.branch}:{self.position}" if self.branch else f"{self.global_id}:{self.position}"
