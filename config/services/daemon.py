"""A server that we start as a daemon: its state file, its process, its log, and when it is ready."""

import abc
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil

from config import env
from config.services.certificates import Certificates

BASE_DIR = Path(__file__).resolve().parent.parent.parent
PORTS = range(20_000, 30_000)  # below the system's own range, where a stopped server's port could be given to a client
READY_TIMEOUT_S = 240.0  # a Java server on a busy machine; one that has ended is not waited for
STOP_TIMEOUT_S = 20.0  # then it is killed; all three recover from that
INSTALL_TIMEOUT_S = 900
PORT_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 2000


class ServiceFailed(Exception):
    """A server cannot be started; the message says what to do."""


def services_dir() -> Path:
    """Where all servers of this checkout live: SERVICES_DIR, or ``services`` in DATA_DIR."""
    data_dir = env.text("DATA_DIR", str(BASE_DIR / ".data"))
    return Path(env.text("SERVICES_DIR", str(Path(data_dir) / "services"))).resolve()


def is_free(port: int) -> bool:
    """May a server listen on this loopback port?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _becomes_free(port: int) -> bool:
    """A server that has just ended may need a moment to give its port back (Erlang's name server does)."""
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_ports(count: int) -> list[int]:
    """Different loopback ports on which nobody listens."""
    candidates = random.sample(PORTS, 200)
    found = [port for port in candidates if is_free(port)][:count]
    if len(found) < count:
        raise ServiceFailed("No free loopback port was found between 20000 and 30000.")
    return found


def run(command: list[str], *, timeout_s: int = INSTALL_TIMEOUT_S, environment: Mapping[str, str] | None = None) -> None:
    """Run a command to its end. Raises ServiceFailed with the end of what it said."""
    try:
        done = subprocess.run(  # noqa: S603  # our own commands
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceFailed(f"{command[0]} could not be run: {error}") from None
    if done.returncode:
        raise ServiceFailed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-LOG_TAIL_BYTES:]}")


def install_debian(commands: Mapping[str, str]) -> None:
    """Install the Debian packages of the commands that are missing. Raises ServiceFailed when that is not ours to do."""
    missing = sorted({package for command, package in commands.items() if shutil.which(command) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceFailed(
            f"Missing: {', '.join(missing)}. Install them, for example: apt-get install {' '.join(missing)}"
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment=quiet)
    with _no_system_daemons():
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], environment=quiet)


def fetch_jars(pom: Path, lib: Path) -> None:
    """Java and Maven from Debian when missing, the jars of a pom by Maven when missing or when the pom has changed."""
    install_debian({"java": "default-jre-headless"})
    stamp = lib / "pom.xml"
    if stamp.exists() and stamp.read_bytes() == pom.read_bytes():
        return
    install_debian({"mvn": "maven"})
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    run(["mvn", "-q", "-B", "-f", str(pom), goal, f"-DoutputDirectory={lib}"])
    stamp.write_bytes(pom.read_bytes())


class _no_system_daemons:  # reads as a word in `with`
    """Debian starts what it installs, on its default port; here it must only be installed."""

    _policy = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self._ours = not self._policy.exists()
        if self._ours:
            self._policy.write_text("#!/bin/sh\nexit 101\n")
            self._policy.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._policy.unlink(missing_ok=True)


class Daemon(abc.ABC):
    """One server. Subclasses say how it is installed, configured, started and asked."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self.dir = services_dir() / self.name
        self.log_path = self.dir / "server.log"
        self._pid_path = self.dir / "pid.json"
        self._state_path = services_dir() / f"{self.name}.json"

    @abc.abstractmethod
    def install(self) -> None:
        """Bring the programs, unless they are there."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write the configuration, and what the data directory needs before the first start. Safe to repeat."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """What to run in the foreground."""

    @abc.abstractmethod
    def check(self) -> None:
        """Use the server as a client would; raises anything while it is not ready."""

    @abc.abstractmethod
    def environment(self) -> dict[str, str]:
        """The environment that makes the project use this server."""

    def process_environment(self) -> dict[str, str]:
        """The server's own environment, on top of ours."""
        return {}

    def after_stop(self) -> None:  # noqa: B027  # most leave nothing behind
        """Clear away what a stopped server leaves behind."""

    def after_start(self) -> None:  # noqa: B027  # most need nothing
        """Set up what only a running server takes. Safe to repeat."""

    def state(self) -> dict[str, Any]:
        """Ports and password: chosen once, then kept. A port that a newer version wants is added."""
        found: dict[str, Any] = {"ports": {}, "password": secrets.token_urlsafe(24)}
        if self._state_path.exists():
            found = json.loads(self._state_path.read_text())
        missing = [name for name in self.port_names if name not in found["ports"]]
        if missing:
            found["ports"] |= dict(zip(missing, free_ports(len(missing)), strict=True))
            self._state_path.parent.mkdir(parents=True, exist_ok=True)
            self.write(self._state_path, json.dumps(found, indent=2))
        return found

    def certificates(self) -> Certificates:
        """The authority of this folder's servers, and what it has signed."""
        return Certificates(services_dir() / "certificates").make()

    def port(self, name: str) -> int:
        """A port of this server."""
        return int(self.state()["ports"][name])

    def write(self, path: Path, text: str) -> None:
        """Write a file that only its owner may read: passwords are inside."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def pid(self) -> int | None:
        """The process id while the server runs. A process that got the number later is not the server."""
        process = self._process()
        return None if process is None else int(process.pid)

    def _process(self) -> Any:
        try:
            kept = json.loads(self._pid_path.read_text())
            process = psutil.Process(kept["pid"])
            alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - kept["created"]) < 1
        except (OSError, ValueError, KeyError, psutil.Error):
            return None
        return process if alive else None

    def start(self) -> bool:
        """Install, configure, start and wait until it answers. False when it was running. Raises ServiceFailed."""
        if self.pid() is not None:
            self._wait_until_ready()
            return False
        self.install()
        self.dir.mkdir(parents=True, exist_ok=True)
        for name, port in self.state()["ports"].items():
            if not _becomes_free(port):
                raise ServiceFailed(f"{self.name}: port {port} ({name}) is taken. Free it, or delete {self._state_path}.")
        self.prepare()
        self._spawn()
        self._wait_until_ready()
        self.after_start()
        return True

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # our own command
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env={**os.environ, **self.process_environment()},
                start_new_session=True,  # Ctrl-C of a terminal is not for it
            )
        created = psutil.Process(process.pid).create_time()
        self.write(self._pid_path, json.dumps({"pid": process.pid, "created": created}))
        # The server outlives us; nobody will wait for it here.
        process.returncode = 0

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                self.check()
                return
            except Exception as error:
                if self.pid() is None:
                    raise ServiceFailed(f"{self.name} ended at its start:\n{self._log_tail()}") from None
                if time.monotonic() > deadline:
                    raise ServiceFailed(f"{self.name} is not ready after {READY_TIMEOUT_S} s: {error!r}") from error
            time.sleep(0.1)

    def _log_tail(self) -> str:
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if self.log_path.exists() else ""

    def stop(self) -> bool:
        """Stop it in order, or kill it when that takes too long. False when it was not running."""
        return self._end(signal.SIGTERM)

    def kill(self) -> bool:
        """End it as a power cut would."""
        return self._end(signal.SIGKILL)

    def _end(self, sign: signal.Signals) -> bool:
        process = self._process()
        if process is None:
            return False
        self._signal_group(process.pid, sign)
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            self._signal_group(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)
        self._signal_group(process.pid, signal.SIGKILL)  # children that did not follow
        self._pid_path.unlink(missing_ok=True)
        self.after_stop()
        return True

    @staticmethod
    def _signal_group(pid: int, sign: signal.Signals) -> None:
        try:
            os.killpg(pid, sign)
        except ProcessLookupError:
            return
