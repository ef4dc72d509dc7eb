"""The door of messaging."""

from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import Meta
from apps.messaging.inbox import Overheard, Received, handles, handles_batch, listens, read_elsewhere
from apps.messaging.outbox import WITH_MESSAGES, Collected, collecting, publish, publish_many, publish_raw
from apps.messaging.overview import MessagesNow, MessageState, messages_now, messages_of

__all__ = [
    "WITH_MESSAGES",
    "Collected",
    "InvalidMessage",
    "Message",
    "MessageState",
    "MessagesNow",
    "Meta",
    "Overheard",
    "Received",
    "collecting",
    "handles",
    "handles_batch",
    "listens",
    "messages_now",
    "messages_of",
    "publish",
    "publish_many",
    "publish_raw",
    "read_elsewhere",
]
