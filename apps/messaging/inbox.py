"""Handlers, and the inbox that lets each message take effect once per group."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection

from apps.common.transactions import transaction_required
from apps.messaging.contracts.base import InvalidMessage, Message, message_class
from apps.messaging.envelope import Meta, read_meta
from apps.observability import ids

M = TypeVar("M", bound=Message)
Handler = Callable[[Any, Meta], None]

_handlers: dict[str, dict[str, Handler]] = defaultdict(dict)  # group -> schema -> handler
_topics: dict[str, set[str]] = defaultdict(set)  # group -> topics


def handles(message: type[M], *, group: str) -> Callable[[Callable[[M, Meta], None]], Callable[[M, Meta], None]]:
    """Let a function handle a message for a consumer group. It is called inside the consumer's transaction.

    What it writes, the inbox row and what it publishes are one commit. What it raises is retried with backoff, and
    after the last attempt the message goes to the topic's ``.error``.
    """

    def register(function: Callable[[M, Meta], None]) -> Callable[[M, Meta], None]:
        known = _handlers[group].get(message.schema)
        if known is not None and known.__qualname__ != function.__qualname__:
            raise TypeError(f"group {group} handles {message.schema} twice")
        _handlers[group][message.schema] = function
        _topics[group].add(message.topic)
        return function

    return register


def groups() -> dict[str, list[str]]:
    """Every consumer group with the topics that it reads."""
    return {group: sorted(topics) for group, topics in sorted(_topics.items())}


@transaction_required
def handle_once(envelope: dict[str, Any], *, group: str, now: datetime) -> bool:
    """Run the group's handler unless this message id was handled before. True when it ran.

    A schema that the group does not handle is passed over: topics may carry messages for others.
    Raises InvalidMessage for a message that no retry can mend, and whatever the handler raises.
    """
    meta = read_meta(envelope["meta"])
    handler = _handlers[group].get(meta.schema)
    kind = message_class(meta.schema)
    if handler is None or kind is None:
        return False
    if not take(meta.message_id, group=group, now=now):
        return False
    with ids.bound(global_id=meta.global_id, trace=meta.trace, steps=",".join(meta.steps), message_id=str(meta.message_id)):
        handler(kind.from_body(envelope["body"]), meta)
    return True


@transaction_required
def take(message_id: UUID, *, group: str, now: datetime) -> bool:
    """Mark a message as done for a group, in the caller's commit. False when it was done before."""
    with connection.cursor() as cursor:
        # Insert first: a concurrent copy waits here for our commit, and then finds that it is a copy.
        cursor.execute(
            'INSERT INTO messaging_inbox ("group", message_id, handled_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING',
            [group, message_id, now],
        )
        return bool(cursor.rowcount)


__all__ = ["InvalidMessage", "groups", "handle_once", "handles", "take"]
