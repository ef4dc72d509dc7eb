"""A process that owns steps of toy runs, on the database of the test that started it.

    python -m tests.failures.owners work            until no run is live that this release knows
    python -m tests.failures.owners advance <run>   once

OWNERS_FOLDER is where the outside world is kept, as files that everybody sees; OWNERS_VERSIONS are the versions of the use
case that this release of the code knows.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, CallStep, Definition, Kind, LocalStep, Run

USE_CASE = "test.owned"
POLL_S = 0.01
WAIT_S = 150  # of a process for its test: a limit for a broken build, it decides nothing
ROUNDS_MAX = 2_000  # of a worker
GATE = "gate"


def until(question: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true."""
    for _ in range(int(WAIT_S / POLL_S)):
        if found := question():
            return found
        Event().wait(POLL_S)
    raise AssertionError(f"it never became so: {what}")


def folder() -> Path:
    """Where the outside world is."""
    return Path(os.environ["OWNERS_FOLDER"])


def note(line: str) -> None:
    """Append to the outside world's log: a line is one write, so lines of several processes do not mix."""
    with (folder() / "log").open("a") as log:
        log.write(f"{line}\n")


class Local(LocalStep):
    """Notes that it was done. (A note of what is rolled back stays: that is what the tests look for.)"""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.kind = name, kind  # type: ignore[misc]

    def handle(self, run: Run) -> dict[str, Any]:
        note(f"do {self.name} {run.step_key}")
        return {"by": os.getpid()}

    def compensate(self, run: Run) -> None:
        note(f"undo {self.name} {run.step_key}")


class Call(CallStep):
    """Has an effect in the outside world: a file of the step's key, made once, and a line for each time it was asked for.

    While ``gate`` is there, a caller tells that it is ``in`` and waits, before it has the effect or after it.
    """

    lease = timedelta(minutes=5)  # the test ends it

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.kind = name, kind  # type: ignore[misc]

    def call(self, run: Run) -> dict[str, Any]:
        if os.environ.get("OWNERS_STALL") == "before":
            self._stall(run)
        answer = self._effect(run)
        if os.environ.get("OWNERS_STALL") == "after":
            self._stall(run)
        return answer

    def _stall(self, run: Run) -> None:
        (folder() / "in").touch()
        until(lambda: not (folder() / GATE).exists(), "the gate opens")

    def _effect(self, run: Run) -> dict[str, Any]:
        note(f"call {self.name} {run.step_key}")
        path = folder() / run.step_key.replace(":", "-")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            note(f"effect {self.name} {run.step_key}")
        except FileExistsError:
            pass  # asked before: the partner knows the key
        return {"by": self.name}

    def did_it_happen(self, run: Run) -> dict[str, Any] | None:
        return {"by": self.name} if (folder() / run.step_key.replace(":", "-")).exists() else None

    def record(self, run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
        note(f"record {self.name} {run.step_key}")
        return outcome

    def undo_prepare(self, run: Run) -> bool:
        return False

    def undo_call(self, run: Run) -> dict[str, Any]:
        return {}


VERSIONS = {
    1: Definition(USE_CASE, 1, (Local("a", COMPENSABLE), Call("b", PIVOT), Local("c", RETRIABLE))),
    2: Definition(USE_CASE, 2, (Local("a", COMPENSABLE), Call("b2", PIVOT), Local("c", RETRIABLE), Local("d", RETRIABLE))),
}


def main(words: list[str]) -> None:
    """Do it, and tell what it came to."""
    import django

    django.setup()
    from apps.saga import engine
    from apps.saga.definition import UnknownDefinition, register
    from apps.saga.models import LIVE
    from apps.saga.models import Run as RunRow

    known = [int(version) for version in os.environ["OWNERS_VERSIONS"].split(",")]
    for version in known:
        register(VERSIONS[version])
    if words[0] == "advance":
        try:
            sys.stdout.write(engine.advance(UUID(words[1])).value)
        except UnknownDefinition:
            sys.stdout.write("unknown definition")
        return
    for _ in range(ROUNDS_MAX):
        live = RunRow.objects.filter(use_case=USE_CASE, version__in=known, status__in=LIVE).values_list("pk", flat=True)
        if not live:
            return
        for run_id in live:
            engine.advance(run_id)
    raise AssertionError("the runs never end")


if __name__ == "__main__":
    main(sys.argv[1:])
