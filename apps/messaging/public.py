"""The door of messaging."""

from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import Meta
from apps.messaging.inbox import handles
from apps.messaging.outbox import publish

__all__ = ["InvalidMessage", "Message", "Meta", "handles", "publish"]
