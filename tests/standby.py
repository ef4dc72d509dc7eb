"""A real streaming replica of the server that the tests use: PostgreSQL's own tools, in a folder that goes away."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from django.db import connections

TIMEOUT_S = 180


def _tools() -> Path:
    """Where the running server's own binaries are."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        configured = Path(cursor.fetchone()[0])
        cursor.execute("SHOW data_directory")
        data = Path(cursor.fetchone()[0])
    if (configured / "pg_basebackup").exists():
        return configured
    command = (data / "postmaster.opts").read_text().split()[0].strip('"')
    return Path(command).parent


class Standby:
    """A replica that follows, and waits for questions that are in the way of the log (30 s, PostgreSQL's own default).

    ``lose_patience`` cancels them at once from now on, ``stop`` ends it as a crash would.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self._tools = _tools()
        # PostgreSQL refuses to run as root, and so does the embedded server: it has a user of its own.
        owner = Path(connections["default"].settings_dict["HOST"]).stat().st_uid
        self._user = pwd.getpwuid(owner).pw_name if os.getuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)

    def _run(self, tool: str, *words: str) -> None:
        # A server keeps what it inherits open, and whoever reads a pipe would wait for its end.
        with (self.folder / "out").open("ab") as out:
            subprocess.run(
                [str(self._tools / tool), *words],
                user=self._user,
                cwd=self.folder,
                check=True,
                timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Copy the primary, then follow it."""
        primary = connections["default"].settings_dict
        place = ["-h", primary["HOST"], "-p", str(primary["PORT"] or 5432), "-U", primary["USER"]]
        self._run("pg_basebackup", *place, "-D", str(self.data), "-X", "stream", "-c", "fast", "-R", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c shared_buffers=8MB -c fsync=off"
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def lose_patience(self) -> None:
        """Cancel at once what is in the way of the log: any question may be, also one that a test asks by itself."""
        self.ask("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        self.ask("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it, if it runs."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def ask(self, sql: str) -> Any:
        """The first value of one statement on the replica, beside the code under test."""
        primary = connections["default"].settings_dict
        where = {"host": str(self.folder), "port": primary["PORT"] or 5432, "user": primary["USER"]}
        with psycopg.connect(**where, dbname=primary["NAME"], autocommit=True) as own:
            cursor = own.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None

    def database(self) -> dict[str, Any]:
        """Django's settings for it."""
        primary = connections["default"].settings_dict
        return {**primary, "HOST": str(self.folder), "OPTIONS": {"connect_timeout": "2"}}


@contextmanager
def following() -> Iterator[Standby]:
    """A replica that follows while the block runs."""
    # Not in pytest's own folder, which PostgreSQL's user may not enter; and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="lastro-standby-", ignore_cleanup_errors=True) as folder:
        standby = Standby(Path(folder))
        try:
            standby.start()
            yield standby
        finally:
            standby.stop()


@contextmanager
def as_replica(database: dict[str, Any]) -> Iterator[None]:
    """Let the project know of a replica while the block runs."""
    connections.databases["replica"] = database
    wrapper = connections["replica"]

    def ensure_connection() -> None:
        # Django's own is patched while a test runs: it knows the databases of the test's class alone.
        if wrapper.connection is None:
            with wrapper.wrap_database_errors:
                wrapper.connect()

    wrapper.ensure_connection = ensure_connection  # type: ignore[method-assign]
    try:
        yield
    finally:
        connections["replica"].close()
        del connections["replica"], connections.databases["replica"]
