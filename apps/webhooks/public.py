"""The door of webhooks. Nobody calls it yet: what happened is heard on our own topics."""

from apps.webhooks.addresses import InvalidUrl
from apps.webhooks.endpoints import EndpointDisabled, EndpointView, UnknownEndpoint

__all__ = ["EndpointDisabled", "EndpointView", "InvalidUrl", "UnknownEndpoint"]
