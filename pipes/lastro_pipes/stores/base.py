"""What a step remembers: which messages took effect, what they gave, and what is still to be published.

Note [One commit]
The row that says "done", what the step has to publish, and whatever the step wrote through ``message.connection`` are one
commit. What was committed is published after that, and the record's offset is committed last. A crash in between means
that the record is read again: the row is found, and what it holds is published (again) under the same message ids.

Note [Attempts]
An attempt is counted in a commit of its own, before the step is called. So a message that kills its process is
counted too, and becomes a dead letter instead of a loop of crashes.

Note [Which rows]
A step of a saga has a row for the way forward and one for the way back. A transaction locks both, so that a do and an undo
of the same step, read by two members from two topics, come one after the other; the undo marks the do as undone, also one
that has not come yet, and a late do then finds that it is not wanted any more.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lastro_pipes.transports.base import Outgoing

NEW, DONE, REFUSED, DEAD, UNDONE = "", "DONE", "REFUSED", "DEAD", "UNDONE"


class Key(NamedTuple):
    """A step of a saga, and a way: "do" or "undo"."""

    service: str
    global_id: str
    branch: str
    position: int
    way: str


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a step and a way. ``message_id``: the message that was worked on last."""

    state: str
    message_id: str
    attempts: int
    outgoing: tuple[Outgoing, ...] = ()
    published: bool = False
    input: Any = None
    output: Any = None


class Transaction(Protocol):
    """The store's transaction around one call of a step."""

    @property
    def connection(self) -> Any:
        """For what the step writes. It must not be committed or rolled back by the step."""

    @property
    def mine(self) -> Row:
        """The row of the message's own way."""

    @property
    def do(self) -> Row:
        """The row of the way forward."""

    def finish(self, state: str, *, outgoing: Iterable[Outgoing], input: Any = None, output: Any = None) -> None:
        """The message is done, and this is to be published. Undone marks the way forward too."""


class Store(Protocol):
    """The inbox of one service. For one thread. Every method raises StoreDown when the store does not answer."""

    def attempt(self, key: Key, message_id: str) -> Row:
        """Count an attempt, in a commit of its own, unless the way is finished: then tell how.

        A new message for a dead way opens it again, and every new message begins to count anew.
        """

    def transaction(self, key: Key) -> AbstractContextManager[Transaction]:
        """Lock the step's rows. Commits at the end, rolls back when it is left by an exception."""

    def published(self, keys: Iterable[Key]) -> None:
        """What these have to say is with the broker."""

    def purge(self, *, older_than_s: float, rows_max: int) -> int:
        """Forget finished rows that nobody has touched for so long, at most so many; how many there were."""

    def is_usable(self) -> bool:
        """Does it answer? Asked after a step has failed: was it the step, or the store under it?"""

    def describe(self) -> str:
        """What it is, without its password."""

    def close(self) -> None:
        """Let go of the connection."""
