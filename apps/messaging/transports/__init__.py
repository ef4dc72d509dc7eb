"""The brokers. Only the files of this package import a broker's client."""

import functools

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from apps.messaging.transports.base import Transport

TRANSPORTS = {
    "kafka": "apps.messaging.transports.kafka.KafkaTransport",
    "local": "apps.messaging.transports.local.LocalTransport",
    "rabbitmq": "apps.messaging.transports.rabbitmq.RabbitMQTransport",
}


@functools.cache
def transport() -> Transport:
    """The broker that MESSAGING_TRANSPORT names, one client per process."""
    try:
        path = TRANSPORTS[settings.MESSAGING_TRANSPORT]
    except KeyError:
        known = ", ".join(sorted(TRANSPORTS))
        raise ImproperlyConfigured(f"MESSAGING_TRANSPORT is {settings.MESSAGING_TRANSPORT!r}; known: {known}.") from None
    made: Transport = import_string(path)()
    return made
