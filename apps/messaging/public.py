"""The door of messaging."""

from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import Meta
from apps.messaging.inbox import Received, handles, handles_batch
from apps.messaging.outbox import WITH_MESSAGES, Collected, collecting, publish, publish_many
from apps.messaging.overview import MessagesNow, MessageState, messages_now, messages_of

__all__ = [
    "WITH_MESSAGES",
    "Collected",
    "InvalidMessage",
    "Message",
    "MessageState",
    "MessagesNow",
    "Meta",
    "Received",
    "collecting",
    "handles",
    "handles_batch",
    "messages_now",
    "messages_of",
    "publish",
    "publish_many",
]
