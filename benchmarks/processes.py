"""A benchmark's processes, and how it talks to them: they say ready, are told to go, and print one line of JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
END_S_MAX = 30


class Role:
    """A process of ours, of a peer's or a bare one. It is ready when this returns."""

    def __init__(
        self,
        module: str,
        role: str,
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        **given: Any,
    ) -> None:
        self.name = f"{module} {role}"
        command = [python, "-W", "ignore", "-m", f"benchmarks.{module}", role, json.dumps(given, default=str)]
        self._process = start(command, **(environment or {}))
        self._until("ready")

    def _until(self, wanted: str) -> str:
        return until(self._process, wanted, name=self.name)

    def go(self) -> "Role":
        """Let it work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self

    def slice(self) -> dict[str, Any]:
        """Let it work once more, and wait for what it measured. It stays."""
        found: dict[str, Any] = json.loads(self.go()._until("{"))
        self._until("ready")
        return found

    def done(self) -> dict[str, Any]:
        """What it measured, when it is done. It is not waited for."""
        found: dict[str, Any] = json.loads(self._until("{"))
        return found

    def result(self) -> dict[str, Any]:
        """What it measured, when it is done and gone."""
        found = self.done()
        self.end()
        return found

    def end(self) -> None:
        """Close its input, and wait until it is gone."""
        self._process.communicate(timeout=END_S_MAX)


class Background:
    """A process that works beside the others until it is stopped: a Celery worker or beat."""

    def __init__(self, command: list[str], *, ready: str = "", **environment: str) -> None:
        self._process = start(command, **environment)
        if ready:
            until(self._process, ready, name=command[-1])

    def cpu_s(self) -> float:
        """Seconds of CPU that it and its children have used so far."""
        process = psutil.Process(self._process.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(time.user + time.system for time in times))

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def start(command: list[str], **environment: str) -> "subprocess.Popen[str]":
    """Start a process that we can talk to."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(process: "subprocess.Popen[str]", wanted: str, *, name: str) -> str:
    """Read its output up to a line that begins so. Ends the benchmark when the process ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(wanted):
            return line
    raise SystemExit(f"{name} ended with {process.wait()}")
