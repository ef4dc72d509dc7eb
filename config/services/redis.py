"""Redis from Debian: one node, loopback, a generated password, every write in an append-only file."""

from config.services.daemon import Daemon, install_debian


class Redis(Daemon):
    """Celery's broker."""

    name = "redis"
    port_names = ("redis",)

    def install(self) -> None:
        """redis-server from Debian when missing."""
        install_debian({"redis-server": "redis-server"})

    def prepare(self) -> None:
        """Write redis.conf."""
        lines = [
            "bind 127.0.0.1",
            "protected-mode yes",
            f"port {self.port('redis')}",
            f"requirepass {self.state()['password']}",
            f"dir {self.dir}",
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",  # a queue must never be evicted
            "daemonize no",
        ]
        self.write(self.dir / "redis.conf", "\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """redis-server in the foreground."""
        return ["redis-server", str(self.dir / "redis.conf")]

    def check(self) -> None:
        """Log in, and see that the append-only file is loaded."""
        import redis

        with redis.Redis.from_url(self._url(), socket_timeout=3) as client:
            if client.info("persistence")["loading"]:
                raise ConnectionError("the append-only file is being loaded")

    def _url(self) -> str:
        return f"redis://:{self.state()['password']}@127.0.0.1:{self.port('redis')}/0"

    def environment(self) -> dict[str, str]:
        """CELERY_BROKER_URL."""
        return {"CELERY_BROKER_URL": self._url()}
