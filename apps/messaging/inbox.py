"""Handlers, and the inbox that lets each message take effect once per group."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db import connection

from apps.common.arrays import array_text
from apps.common.transactions import transaction_required
from apps.messaging.contracts.base import InvalidMessage, Message, closest_class
from apps.messaging.envelope import Meta, complete_meta, read_meta
from apps.observability import ids

M = TypeVar("M", bound=Message)

# Messages that share a commit also share its locks: few enough that nobody waits long for them.
SHARED_COMMIT_MAX = 100
# In an envelope's meta: the one group that shall handle the message. The others of its topic have handled the original.
FOR_GROUP = "for-group"


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A message as it came in, with the key that keeps its order."""

    message: M
    meta: Meta
    key: str


@dataclass(frozen=True, slots=True)
class Handling:
    """Who handles a schema for a group. ``rows_max``: how many messages may be handled in one transaction."""

    function: Callable[..., None]
    rows_max: int = 1
    takes_a_batch: bool = False

    def call(self, received: Sequence[Received[Any]]) -> None:
        """Handle messages, in the caller's transaction."""
        if self.takes_a_batch:
            self.function(received)
            return
        for one in received:
            meta = one.meta
            with ids.bound(
                global_id=meta.global_id, trace=meta.trace, steps=",".join(meta.steps), message_id=str(meta.message_id)
            ):
                self.function(one.message, meta)


_handlers: dict[str, dict[str, Handling]] = defaultdict(dict)  # group -> schema -> handler
_topics: dict[str, set[str]] = defaultdict(set)  # group -> topics
_elsewhere: dict[str, set[str]] = defaultdict(set)  # topic -> groups of other services
_listeners: dict[str, dict[str, Handling]] = defaultdict(dict)  # group -> topic of others -> handler


def handles(
    message: type[M], *, group: str, shares_commit: bool = False
) -> Callable[[Callable[[M, Meta], None]], Callable[[M, Meta], None]]:
    """Let a function handle a message for a consumer group. It is called inside the consumer's transaction.

    What it writes, the inbox row and what it publishes are one commit. What it raises is retried with backoff, and
    after the last attempt the message goes to the topic's ``.error``.

    ``shares_commit`` lets several messages of one poll be handled in one transaction, which is several times quicker.
    For handlers that lock only rows of their own message's key: others could wait for each other in a circle. When one of
    them fails, each is handled again in a transaction of its own.
    """

    def register(function: Callable[[M, Meta], None]) -> Callable[[M, Meta], None]:
        _register(message, group, Handling(function, rows_max=SHARED_COMMIT_MAX if shares_commit else 1))
        return function

    return register


def handles_batch(
    message: type[M], *, group: str, rows_max: int
) -> Callable[[Callable[[Sequence[Received[M]]], None]], Callable[[Sequence[Received[M]]], None]]:
    """Let a function handle up to ``rows_max`` messages of one partition at once, in order, in one transaction.

    Messages that took effect before are not among them. When it raises, it is called again with one message at a time,
    each in a transaction of its own, so that only the poisoned one is retried and at last buried.
    """

    def register(function: Callable[[Sequence[Received[M]]], None]) -> Callable[[Sequence[Received[M]]], None]:
        _register(message, group, Handling(function, rows_max=rows_max, takes_a_batch=True))
        return function

    return register


@dataclass(frozen=True, slots=True)
class Overheard:
    """A message between others, as it is: it follows no contract of ours, and its meta may say little."""

    topic: str
    meta: dict[str, Any]
    body: Any
    key: str


def listens(topics: Sequence[str], *, group: str, function: Callable[[Overheard, Meta], None]) -> None:
    """Let a function hear everything on topics of others, for a consumer group. It is called as a handler is.

    Any envelope will do: where there is no ``message-id`` it follows from the bytes, where there is no key it is the
    global id. What is no envelope, or for one group alone, is its readers' business: it is passed over, not buried.
    """
    for topic in topics:
        _listeners[group][topic] = Handling(function)
        _topics[group].add(topic)


def read_elsewhere(topics: Sequence[str], *, group: str) -> None:
    """Say that a service which is not ours reads these topics: where the broker keeps records per group (RabbitMQ), what
    is sent before the service's first start waits for it.
    """
    for topic in topics:
        _elsewhere[topic].add(group)


def readers_elsewhere() -> dict[str, set[str]]:
    """The topics that other services read, with their groups."""
    return {topic: set(names) for topic, names in _elsewhere.items()}


def is_listening(topic: str, *, group: str) -> bool:
    """Does the group hear a topic of others?"""
    return topic in _listeners[group]


def overhear(envelope: dict[str, Any], meta: Meta, *, topic: str, key: str, group: str) -> tuple[Handling, Received[Any]]:
    """A message on a topic of others, and who hears it."""
    heard = Overheard(topic, envelope["meta"], envelope["body"], key)
    return _listeners[group][topic], Received(heard, meta, key)


def _register(message: type[Message], group: str, handling: Handling) -> None:
    known = _handlers[group].get(message.schema)
    if known is not None and known.function.__qualname__ != handling.function.__qualname__:
        raise TypeError(f"group {group} handles {message.schema} twice")
    _handlers[group][message.schema] = handling
    _topics[group].add(message.topic)


def groups() -> dict[str, list[str]]:
    """Every consumer group with the topics that it reads."""
    return {group: sorted(topics) for group, topics in sorted(_topics.items())}


def rows_max(group: str) -> int:
    """The largest number of messages that a handler of the group takes at once."""
    return max((handling.rows_max for handling in _handlers[group].values()), default=1)


def read(envelope: dict[str, Any], meta: Meta, *, key: str, group: str) -> tuple[Handling, Received[Any]] | None:
    """A message and its handler, or None for one that this group leaves to others.

    Raises InvalidMessage for a schema that nobody knows, and for a body that does not follow its contract.
    """
    if envelope["meta"].get(FOR_GROUP, group) != group:
        return None
    kind = closest_class(meta.schema)  # versions read each other: an older release understands what a newer one sends
    if kind is None:
        raise InvalidMessage(f"Nobody here knows the schema {meta.schema!r}. Deploy the release that does, then replay.")
    # A group that handles another version of it reads it as that one: what it does not handle at all is not for it.
    kind = closest_class(meta.schema, among=_handlers[group])
    if kind is None:
        return None
    return _handlers[group][kind.schema], Received(kind.from_body(envelope["body"]), meta, key)


@transaction_required
def handle(handling: Handling, received: Sequence[Received[Any]], *, group: str, now: datetime) -> int:
    """Handle those that took no effect yet, in the caller's commit. How many."""
    fresh = take_many([one.meta.message_id for one in received], group=group, now=now)
    todo = []
    for one in received:
        if one.meta.message_id in fresh:
            fresh.remove(one.meta.message_id)  # a batch may hold a message and its copy
            todo.append(one)
    if todo:
        handling.call(todo)
    return len(todo)


@transaction_required
def handle_once(envelope: dict[str, Any], *, key: str, group: str, now: datetime, topic: str = "") -> int:
    """Run the group's handler unless this message id was handled before. For how many messages: 1 or 0.

    Raises InvalidMessage for a message that no retry can mend, and whatever the handler raises.
    """
    found: tuple[Handling, Received[Any]] | None
    if is_listening(topic, group=group):
        meta = complete_meta(envelope["meta"], value=b"")  # its id was put into it when it came
        found = overhear(envelope, meta, topic=topic, key=key, group=group)
    else:
        found = read(envelope, read_meta(envelope["meta"]), key=key, group=group)
    return handle(found[0], [found[1]], group=group, now=now) if found is not None else 0


@transaction_required
def take(message_id: UUID, *, group: str, now: datetime) -> bool:
    """Mark a message as done for a group, in the caller's commit. False when it was done before."""
    return bool(take_many([message_id], group=group, now=now))


@transaction_required
def take_many(message_ids: Sequence[UUID], *, group: str, now: datetime) -> set[UUID]:
    """Mark messages as done for a group; those that were not done before."""
    with connection.cursor() as cursor:
        # Insert first: a concurrent copy waits here for our commit, and then finds that it is a copy.
        cursor.execute(
            """INSERT INTO messaging_inbox ("group", message_id, handled_at)
               SELECT %s, id, %s FROM unnest(%s::uuid[]) AS ids (id) ON CONFLICT DO NOTHING RETURNING message_id""",
            [group, now, array_text(message_ids)],
        )
        return {message_id for (message_id,) in cursor.fetchall()}


__all__ = [
    "Handling",
    "InvalidMessage",
    "Overheard",
    "Received",
    "groups",
    "handle",
    "handle_once",
    "handles",
    "handles_batch",
    "is_listening",
    "listens",
    "overhear",
    "read",
    "read_elsewhere",
    "readers_elsewhere",
    "rows_max",
    "take",
    "take_many",
]
