"""The door of webhooks: whether a fact about an account's orders or documents has a listener."""

from apps.webhooks.listening import listens

__all__ = ["listens"]
