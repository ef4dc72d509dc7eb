"""Debezium from Maven coordinates: Kafka Connect with one connector, which reads the outbox instead of the relay."""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from config.services.daemon import BASE_DIR, Daemon, ServiceFailed, fetch_jars
from config.services.kafka import Kafka

HEAP = "-Xmx512m"
FOLDER = BASE_DIR / "deploy" / "debezium"
CONNECTOR = FOLDER / "outbox.properties"
NAMES = ("HOST", "PORT", "USER", "PASSWORD", "NAME")  # OUTBOX_DATABASE_...: what the connector reads
CHECK_TIMEOUT_S = 3


class Debezium(Daemon):
    """Kafka Connect in one process. It wants OUTBOX_DATABASE_* in the environment, and Kafka beside it."""

    name = "debezium"
    port_names = ("http",)

    def install(self) -> None:
        """Java, and the jars."""
        fetch_jars(FOLDER / "pom.xml", self._lib)

    @property
    def _lib(self) -> Path:
        return self.dir / "lib"

    @property
    def _properties(self) -> Path:
        return self.dir / "worker.properties"

    def prepare(self) -> None:
        """Write the worker's settings; the connector's are those of a deployment."""
        if missing := [name for name in NAMES if f"OUTBOX_DATABASE_{name}" not in os.environ]:
            raise ServiceFailed(
                f"debezium wants OUTBOX_DATABASE_{', OUTBOX_DATABASE_'.join(missing)}: whose outbox it reads."
            )
        self.write(self._properties, "".join(f"{name}={value}\n" for name, value in self._settings().items()))

    def _settings(self) -> dict[str, Any]:
        text = "org.apache.kafka.connect.storage.StringConverter"
        return {
            "bootstrap.servers": Kafka().environment()["KAFKA_BOOTSTRAP_SERVERS"],
            "listeners": f"http://127.0.0.1:{self.port('http')}",
            "offset.storage.file.filename": self.dir / "offsets",
            "offset.flush.interval.ms": 1000,
            "key.converter": text,
            "value.converter": text,
            "config.providers": "env",
            "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
            "producer.acks": "all",
        }

    def process_environment(self) -> dict[str, str]:
        """The prefix of our topics, which may be empty."""
        return {"OUTBOX_TOPIC_PREFIX": os.environ.get("OUTBOX_TOPIC_PREFIX", "")}

    def command(self) -> list[str]:
        """The worker in the foreground, with the connector."""
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        return ["java", HEAP, quiet, "-cp", f"{self._lib}/*", main, str(self._properties), str(CONNECTOR)]

    def check(self) -> None:
        """Ask for the connector's state: it runs when its task does."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
        address = f"http://127.0.0.1:{self.port('http')}/connectors/lastro-outbox/status"
        with opener.open(address, timeout=CHECK_TIMEOUT_S) as answer:
            status = json.loads(answer.read())
        states = [status["connector"]["state"], *(task["state"] for task in status["tasks"])]
        if states != ["RUNNING", "RUNNING"]:
            raise ConnectionError(f"the connector is {states}: {status['tasks']}")

    def environment(self) -> dict[str, str]:
        """Nothing: the project need not know."""
        return {}
