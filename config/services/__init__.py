"""Servers by command: Kafka, Redis and RabbitMQ on loopback, with their data under DATA_DIR.

``python -m config.services start|stop|status [kafka redis rabbitmq]`` (``make services``, ``make services-stop``). Each
server keeps its ports and its password in ``<DATA_DIR>/services/<name>.json`` and says in ``<DATA_DIR>/services/env``
which environment makes the project use it. For development, tests and CI; a deployment brings its own servers.
"""

from config.services.daemon import Daemon, ServiceFailed
from config.services.kafka import Kafka
from config.services.rabbitmq import RabbitMQ
from config.services.redis import Redis

SERVICES: dict[str, type[Daemon]] = {"kafka": Kafka, "redis": Redis, "rabbitmq": RabbitMQ}

__all__ = ["SERVICES", "Daemon", "Kafka", "RabbitMQ", "Redis", "ServiceFailed"]
