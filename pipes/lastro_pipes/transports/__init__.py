"""Brokers. Only the modules here import a broker's client, and only that of the broker that is used."""

from typing import TYPE_CHECKING

from lastro_pipes.errors import Misconfigured

if TYPE_CHECKING:
    from lastro_pipes.settings import Settings
    from lastro_pipes.transports.base import Transport


def make(settings: "Settings") -> "Transport":
    """The transport of the settings. Raises Misconfigured when its client is not installed."""
    try:
        if settings.broker == "rabbitmq":
            from lastro_pipes.transports.rabbitmq import RabbitMQTransport

            return RabbitMQTransport(settings)
        from lastro_pipes.transports.kafka import KafkaTransport

        return KafkaTransport(settings)
    except ImportError as error:
        wanted = f"pip install 'lastro-pipes[{settings.broker}]'"
        raise Misconfigured(
            f"PIPES_BROKER is {settings.broker}, whose client is not installed: {wanted}. ({error})"
        ) from error
