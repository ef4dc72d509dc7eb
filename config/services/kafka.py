"""Kafka from Maven coordinates: one node, KRaft, loopback, topics only by hand (they are code: ``manage.py topics``)."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

from config.services.daemon import BASE_DIR, Daemon, ServiceFailed, fetch_jars, run

HEAP = "-Xmx512m"
POM = BASE_DIR / "deploy" / "kafka" / "pom.xml"
CHECK_TIMEOUT_MS = 3000
SET_UP_TIMEOUT_MS = 60_000  # it is asked once; on a busy machine a broker that has just started is slow
USER, STRANGER = "lastro", "stranger"  # three listeners ask who it is; the stranger may only what an ACL allows
SCRAM_ITERATIONS = 8192


class Kafka(Daemon):
    """A broker and controller in one process."""

    name = "kafka"
    port_names = ("broker", "controller", "sasl", "scram", "mutual")

    def install(self) -> None:
        """Java, and the broker's jars."""
        fetch_jars(POM, self._lib)

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
        ports = {name: f"127.0.0.1:{self.port(name)}" for name in self.port_names}
        # Of the listeners' names only these are ours; which protocol each speaks is said below.
        open_ = f"PLAINTEXT://{ports['broker']},LOGIN://{ports['sasl']},SCRAM://{ports['scram']},MUTUAL://{ports['mutual']}"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{ports['controller']}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{open_},CONTROLLER://{ports['controller']}",
            "advertised.listeners": open_,
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL"
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            **self._security(),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": f"User:ANONYMOUS;User:{USER};User:CN={USER}",
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

    def _security(self) -> dict[str, Any]:
        """Who may come in by which listener: a password, a password that is never sent over TLS, a certificate."""
        password, certificates = self.state()["password"], self.certificates()
        logins = f'user_{USER}="{password}" user_{STRANGER}="{password}"'
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return {
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f"{plain} required {logins};",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": certificates.server,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": certificates.authority,
        }

    def after_start(self) -> None:
        """SCRAM's users are records of the cluster, not settings."""
        from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

        password = self.state()["password"]
        users = [
            UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password, iterations=SCRAM_ITERATIONS)
            for user in (USER, STRANGER)
        ]
        admin = KafkaAdminClient(bootstrap_servers=self._servers("broker"), bootstrap_timeout_ms=SET_UP_TIMEOUT_MS)
        try:
            if refused := {user: error for user, error in admin.alter_user_scram_credentials(users).items() if error}:
                raise ServiceFailed(f"kafka does not take its SCRAM users: {refused}")
        finally:
            admin.close()

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
        """KAFKA_BOOTSTRAP_SERVERS, and for tests the listeners that ask who it is."""
        certificates = self.certificates()
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self._servers("broker"),
            "KAFKA_LOGIN_BOOTSTRAP_SERVERS": self._servers("sasl"),
            "KAFKA_LOGIN_PASSWORD": self.state()["password"],
            "KAFKA_SCRAM_BOOTSTRAP_SERVERS": self._servers("scram"),
            "KAFKA_MUTUAL_BOOTSTRAP_SERVERS": self._servers("mutual"),
            "SERVICES_CA_FILE": str(certificates.authority),
            "SERVICES_CLIENT_FILE": str(certificates.client),
        }
