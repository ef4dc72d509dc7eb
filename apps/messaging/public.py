"""The door of messaging."""

from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import Meta
from apps.messaging.inbox import handles
from apps.messaging.outbox import publish
from apps.messaging.overview import MessagesNow, MessageState, messages_now, messages_of

__all__ = [
    "InvalidMessage",
    "Message",
    "MessageState",
    "MessagesNow",
    "Meta",
    "handles",
    "messages_now",
    "messages_of",
    "publish",
]
