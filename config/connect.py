"""Where a database is, from its URL, and how a process connects to it: Django's words for both."""

from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# A host that vanishes sends no end of its connections, and without limits a question waits for it for 15 minutes, one that
# it has received for two hours: so long for what was sent, and for an answer while it does not even answer probes.
VANISHED = {"tcp_user_timeout": "3000", "keepalives_idle": "3", "keepalives_interval": "1", "keepalives_count": "3"}


def where(name: str, url: str) -> dict[str, Any]:
    """Host, port, database and user; what the URL's query says are options. ``name``: the setting, for the error."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(f"{name} begins with postgresql://")
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    return {
        "NAME": unquote(parts.path.lstrip("/")) or "lastro",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(query.pop("host", parts.hostname or "")),
        "PORT": str(parts.port or 5432),
        "OPTIONS": query,
    }


def how(*, pool_min: int = 2, pool_max: int, pool_timeout_s: int, prepare: bool, **server_settings: int) -> dict[str, Any]:
    """A process's pool (0: none), and what each of its connections says to the server (0: nothing)."""
    pool = {"min_size": min(pool_min, pool_max), "max_size": pool_max, "timeout": pool_timeout_s}
    options: dict[str, Any] = {"pool": pool} if pool_max else {}
    if words := [f"-c {name}={value}" for name, value in server_settings.items() if value]:
        options["options"] = " ".join(words)
    # None prepares nothing; otherwise only what asks for it, because no statement is executed so often in one connection.
    options["prepare_threshold"] = 2**31 if prepare else None
    base: dict[str, Any] = {"ENGINE": "config.database", "OPTIONS": options}
    if not pool_max:
        base |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    return base
