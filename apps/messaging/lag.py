"""How far the consumer groups are behind."""

from apps.messaging.inbox import groups
from apps.messaging.transports import transport


def consumer_lag(group: str) -> dict[tuple[str, int], int]:
    """Records that a group has not handled yet, by topic and partition. Raises TransportDown, KeyError."""
    return transport().lag(group=group, topics=groups()[group])
