"""RabbitMQ from Debian: one node, loopback, a login of its own, consistent-hash exchanges."""

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from config.services.daemon import PORT_TIMEOUT_S, Daemon, ServiceFailed, install_debian, is_free

# Debian's own command insists on the system's user and directories; the script behind it does not.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
USER = "lastro"
NODE = "lastro@localhost"
CHECK_TIMEOUT_S = 3
CONTROL_TIMEOUT_S = 120  # it starts an Erlang of its own


class RabbitMQ(Daemon):
    """The alternative broker, for messages and for Celery."""

    name = "rabbitmq"
    port_names = ("amqp", "distribution", "epmd", "amqps")

    def install(self) -> None:
        """rabbitmq-server from Debian when missing."""
        if not SCRIPT.exists():
            install_debian({"rabbitmq-server": "rabbitmq-server"})

    def prepare(self) -> None:
        """Write the configuration, the list of plugins and the cookie."""
        certificates = self.certificates()
        lines = [
            f"listeners.tcp.local = 127.0.0.1:{self.port('amqp')}",
            f"listeners.ssl.local = 127.0.0.1:{self.port('amqps')}",
            f"ssl_options.cacertfile = {certificates.authority}",
            f"ssl_options.certfile = {certificates.server}",
            f"ssl_options.keyfile = {certificates.server}",
            "ssl_options.verify = verify_none",  # a client shows a password, not a certificate
            f"default_user = {USER}",
            f"default_pass = {self.state()['password']}",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "disk_free_limit.absolute = 50MB",
        ]
        self.write(self.dir / "rabbitmq.conf", "\n".join(lines) + "\n")
        self.write(self.dir / "enabled_plugins", "[rabbitmq_consistent_hash_exchange].\n")
        cookie = self.dir / ".erlang.cookie"
        if not cookie.exists():
            self.write(cookie, secrets.token_hex(20))
            cookie.chmod(0o400)

    def command(self) -> list[str]:
        """The server in the foreground."""
        return [str(SCRIPT) if SCRIPT.exists() else shutil.which("rabbitmq-server") or "rabbitmq-server"]

    def process_environment(self) -> dict[str, str]:
        """Everything of the node, its data, ports and cookie included, is in our directory and on loopback."""
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(self.dir),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_MNESIA_BASE": str(self.dir / "data"),
            "RABBITMQ_LOG_BASE": str(self.dir),
            "RABBITMQ_PID_FILE": str(self.dir / "rabbitmq.pid"),
            "RABBITMQ_CONF_ENV_FILE": str(self.dir / "rabbitmq-env.conf"),  # absent: the system's is not for us
            "RABBITMQ_CONFIG_FILE": str(self.dir / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self.port("distribution")),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.port("epmd")),
        }

    def check(self) -> None:
        """Log in and open a channel."""
        from kombu.connection import Connection

        with Connection(self._url(), connect_timeout=CHECK_TIMEOUT_S) as connection:  # type: ignore[no-untyped-call]
            connection.connect()
            connection.channel().close()

    def after_stop(self) -> None:
        """Erlang's name server runs beside the node and does not end with it.

        It refuses to end until it has noticed that the node is gone, and keeps the port that the next start wants.
        """
        if (epmd := shutil.which("epmd")) is None:
            return
        environment = {**os.environ, **self.process_environment()}
        deadline = time.monotonic() + PORT_TIMEOUT_S
        while not is_free(self.port("epmd")) and time.monotonic() < deadline:
            command = [epmd, "-kill"]
            subprocess.run(command, env=environment, check=False, capture_output=True, timeout=CONTROL_TIMEOUT_S)  # noqa: S603
            time.sleep(0.05)

    def _url(self, port: str = "amqp") -> str:
        scheme = "amqps" if port == "amqps" else "amqp"
        return f"{scheme}://{USER}:{self.state()['password']}@127.0.0.1:{self.port(port)}//"

    def environment(self) -> dict[str, str]:
        """RABBITMQ_URL, and for tests the listener that speaks TLS and the authority of its certificate."""
        return {
            "RABBITMQ_URL": self._url(),
            "RABBITMQ_TLS_URL": self._url("amqps"),
            "SERVICES_CA_FILE": str(self.certificates().authority),
        }

    def control(self, *words: str) -> str:
        """What rabbitmqctl answers, for tests that ask the broker itself. Raises ServiceFailed."""
        # Debian's own command insists on the system's user; the one behind it does not.
        command = [str(SCRIPT.with_name("rabbitmqctl")), "--quiet", "--node", NODE, *words]
        environment = {**os.environ, **self.process_environment()}
        try:
            done = subprocess.run(  # noqa: S603  # our own command
                command, env=environment, check=True, capture_output=True, text=True, timeout=CONTROL_TIMEOUT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServiceFailed(f"rabbitmqctl {words[0]} failed: {error}") from error
        return done.stdout
