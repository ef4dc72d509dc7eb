"""The door of messaging."""

from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import Meta
from apps.messaging.inbox import Received, handles, handles_batch
from apps.messaging.outbox import publish, publish_many
from apps.messaging.overview import MessagesNow, MessageState, messages_now, messages_of

__all__ = [
    "InvalidMessage",
    "Message",
    "MessageState",
    "MessagesNow",
    "Meta",
    "Received",
    "handles",
    "handles_batch",
    "messages_now",
    "messages_of",
    "publish",
    "publish_many",
]
