"""Servers by command: Kafka, Redis, RabbitMQ, Apicurio Registry and Debezium on loopback, with their data under DATA_DIR.

``python -m config.services start|stop|status [name ...]`` (``make services``, ``make services-stop``). Each server keeps
its ports and its password in ``<DATA_DIR>/services/<name>.json`` and says in ``<DATA_DIR>/services/env`` which environment
makes the project use it. For development, tests and CI; a deployment brings its own servers.
"""

from config.services.apicurio import Apicurio
from config.services.daemon import Daemon, ServiceFailed
from config.services.debezium import Debezium
from config.services.kafka import Kafka
from config.services.rabbitmq import RabbitMQ
from config.services.redis import Redis

SERVICES: dict[str, type[Daemon]] = {kind.name: kind for kind in (Kafka, Redis, RabbitMQ, Apicurio, Debezium)}
BY_DEFAULT = ("kafka", "redis", "rabbitmq")  # what `start` starts; Avro on the wire is a choice, made by name

__all__ = ["BY_DEFAULT", "SERVICES", "Apicurio", "Daemon", "Debezium", "Kafka", "RabbitMQ", "Redis", "ServiceFailed"]
