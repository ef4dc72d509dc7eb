"""Real processes of the project that need not import it: a server of forks has done that once, and has no connection.

A start costs 20 ms instead of a second and more of processor time. Each process has memory, connections and an environment
of its own, and dies alone.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest.mock import patch

END_S = 150  # of a process that is told to end, or whose work is done
READY = "tests.failures.forks_ready"

_context = multiprocessing.get_context("forkserver")


class Forked:
    """One process. What it says goes to files."""

    def __init__(self, process: ForkServerProcess, said: Path) -> None:
        self._process, self._said = process, said

    def ended(self) -> str:
        """The last line of what it said, when its work is done."""
        self._process.join(END_S)
        assert self._process.exitcode == 0, f"{self._process.exitcode}: {_text(self._said, 'err')}"
        return (_text(self._said, "out").strip().splitlines() or [""])[-1]

    def kill(self) -> None:
        """kill -9, and wait for its end. Safe to repeat."""
        self._process.kill()
        self._process.join(END_S)


def start(main: Callable[[list[str]], None], words: list[str], *, environment: Mapping[str, str], said: Path) -> Forked:
    """Fork a process that does ``main``. ``environment`` is put over ours; the settings are those of the first start."""
    with patch.dict(os.environ, environment):  # the server reads the settings when it starts, which is now or was before
        _context.set_forkserver_preload([READY])
        forkserver.ensure_running()
    process = _context.Process(target=_do, args=(main, words, dict(environment), said), daemon=True)
    process.start()
    return Forked(process, said)


def _do(main: Callable[[list[str]], None], words: list[str], environment: Mapping[str, str], said: Path) -> None:
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    main(words)
    sys.stdout.flush()


def _text(said: Path, name: str) -> str:
    path = Path(f"{said}.{name}")
    return path.read_text() if path.exists() else ""
