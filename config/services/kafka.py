"""Kafka from Maven coordinates: one node, KRaft, loopback, topics only by hand (they are code: ``manage.py topics``)."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

from config.services.daemon import BASE_DIR, Daemon, install_debian, run

HEAP = "-Xmx512m"
POM = BASE_DIR / "deploy" / "kafka" / "pom.xml"
CHECK_TIMEOUT_MS = 3000
USER, STRANGER = "lastro", "stranger"  # the second listener asks for a login; the stranger may only what an ACL allows


class Kafka(Daemon):
    """A broker and controller in one process."""

    name = "kafka"
    port_names = ("broker", "controller", "sasl")

    def install(self) -> None:
        """Java and Maven from Debian when missing, the jars by Maven when missing or when the pom has changed."""
        install_debian({"java": "default-jre-headless"})
        stamp = self._lib / "pom.xml"
        if stamp.exists() and stamp.read_bytes() == POM.read_bytes():
            return
        install_debian({"mvn": "maven"})
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        run(["mvn", "-q", "-B", "-f", str(POM), goal, f"-DoutputDirectory={self._lib}"])
        stamp.write_bytes(POM.read_bytes())

    @property
    def _lib(self) -> Path:
        return self.dir / "lib"

    @property
    def _properties(self) -> Path:
        return self.dir / "server.properties"

    def _java(self, main: str, *arguments: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", HEAP, quiet, "-cp", f"{self._lib}/*", main, *arguments]

    def prepare(self) -> None:
        """Write server.properties, and format the log directory once."""
        self.write(self._properties, "".join(f"{name}={value}\n" for name, value in self._settings().items()))
        if not (self.dir / "data" / "meta.properties").exists():
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            # "=": an id may begin with a dash.
            run(self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(self._properties)))

    def _settings(self) -> dict[str, Any]:
        broker, controller, sasl = (self.port(name) for name in self.port_names)
        password = self.state()["password"]
        logins = f'user_{USER}="{password}" user_{STRANGER}="{password}"'
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},LOGIN://127.0.0.1:{sasl}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker},LOGIN://127.0.0.1:{sasl}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f"{module} required {logins};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "log.dirs": self.dir / "data",
            "auto.create.topics.enable": "false",
            "delete.topic.enable": "true",
            # One node cannot keep three copies.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "min.insync.replicas": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 0,  # a development group need not wait for members that may come
            "log.cleaner.dedupe.buffer.size": 16_777_216,  # its default is a quarter of our heap
        }

    def command(self) -> list[str]:
        """kafka.Kafka in the foreground."""
        return self._java("kafka.Kafka", str(self._properties))

    def check(self) -> None:
        """Ask for the cluster's description: a broker without its controller does not answer it."""
        from kafka.admin import KafkaAdminClient

        admin = KafkaAdminClient(
            bootstrap_servers=self._servers("broker"),
            bootstrap_timeout_ms=CHECK_TIMEOUT_MS,
            request_timeout_ms=CHECK_TIMEOUT_MS,
        )
        try:
            if not json.loads(json.dumps(admin.describe_cluster(), default=str)).get("brokers"):
                raise ConnectionError("no broker is registered yet")
        finally:
            admin.close()

    def _servers(self, port: str) -> str:
        return f"127.0.0.1:{self.port(port)}"

    def environment(self) -> dict[str, str]:
        """KAFKA_BOOTSTRAP_SERVERS, and for tests the listener that asks for a login."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self._servers("broker"),
            "KAFKA_LOGIN_BOOTSTRAP_SERVERS": self._servers("sasl"),
            "KAFKA_LOGIN_PASSWORD": self.state()["password"],
        }
