"""RabbitMQ from Debian: one node, loopback, a login of its own, consistent-hash exchanges."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from config.services.daemon import Daemon, install_debian

# Debian's own command insists on the system's user and directories; the script behind it does not.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
USER = "lastro"
CHECK_TIMEOUT_S = 3


class RabbitMQ(Daemon):
    """The alternative broker, for messages and for Celery."""

    name = "rabbitmq"
    port_names = ("amqp", "distribution", "epmd")

    def install(self) -> None:
        """rabbitmq-server from Debian when missing."""
        if not SCRIPT.exists():
            install_debian({"rabbitmq-server": "rabbitmq-server"})

    def prepare(self) -> None:
        """Write the configuration, the list of plugins and the cookie."""
        lines = [
            f"listeners.tcp.local = 127.0.0.1:{self.port('amqp')}",
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
            "RABBITMQ_NODENAME": "lastro@localhost",
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
        """Erlang's name server runs beside the node and does not end with it."""
        if (epmd := shutil.which("epmd")) is not None:
            environment = {**os.environ, **self.process_environment()}
            subprocess.run([epmd, "-kill"], env=environment, check=False, capture_output=True, timeout=10)  # noqa: S603

    def _url(self) -> str:
        return f"amqp://{USER}:{self.state()['password']}@127.0.0.1:{self.port('amqp')}//"

    def environment(self) -> dict[str, str]:
        """RABBITMQ_URL."""
        return {"RABBITMQ_URL": self._url()}
