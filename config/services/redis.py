"""Redis from Debian: one node, loopback, a generated password, TLS beside plain, an append-only file."""

from config.services.daemon import Daemon, install_debian


class Redis(Daemon):
    """Celery's broker."""

    name = "redis"
    port_names = ("redis", "tls")

    def install(self) -> None:
        """redis-server from Debian when missing."""
        install_debian({"redis-server": "redis-server"})

    def prepare(self) -> None:
        """Write redis.conf."""
        certificates = self.certificates()
        lines = [
            "bind 127.0.0.1",
            "protected-mode yes",
            f"port {self.port('redis')}",
            f"tls-port {self.port('tls')}",
            f"tls-cert-file {certificates.server}",
            f"tls-key-file {certificates.server}",
            f"tls-ca-cert-file {certificates.authority}",
            "tls-auth-clients no",  # a client shows a password, not a certificate
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
        """CELERY_BROKER_URL, and for tests the listener that speaks TLS and the authority of its certificate."""
        return {
            "CELERY_BROKER_URL": self._url(),
            "REDIS_TLS_URL": f"rediss://:{self.state()['password']}@127.0.0.1:{self.port('tls')}/0",
            "SERVICES_CA_FILE": str(self.certificates().authority),
        }
