"""Servers by command: Kafka, Redis, RabbitMQ and Apicurio Registry on loopback, with their data under DATA_DIR.

``python -m config.services start|stop|status [kafka redis rabbitmq apicurio]`` (``make services``, ``make services-stop``).
Each server keeps its ports and its password in ``<DATA_DIR>/services/<name>.json`` and says in ``<DATA_DIR>/services/env``
which environment makes the project use it. For development, tests and CI; a deployment brings its own servers.
"""

from config.services.apicurio import Apicurio
from config.services.daemon import Daemon, ServiceFailed
from config.services.kafka import Kafka
from config.services.rabbitmq import RabbitMQ
from config.services.redis import Redis

SERVICES: dict[str, type[Daemon]] = {"kafka": Kafka, "redis": Redis, "rabbitmq": RabbitMQ, "apicurio": Apicurio}
BY_DEFAULT = ("kafka", "redis", "rabbitmq")  # what `start` starts; Avro on the wire is a choice, made by name

__all__ = ["BY_DEFAULT", "SERVICES", "Apicurio", "Daemon", "Kafka", "RabbitMQ", "Redis", "ServiceFailed"]
