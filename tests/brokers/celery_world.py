"""Real Celery workers and beats as processes of their own, and what both brokers' tests ask of them."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from celery import Celery
from django.test.utils import override_settings

from config import celery_settings
from tests.brokers import celery_tasks
from tests.brokers.celery_tasks import ROOT, lines
from tests.brokers.world import eventually

START_S_MAX = 120
STOP_S_MAX = 60  # ours is below ten seconds; a busy machine may take longer
NO_DATABASE = "postgresql://nobody:none@127.0.0.1:1/none"  # most of these tasks need none


class Broker(Protocol):
    """A broker with a name space of this test's own."""

    url: str
    ca_file: str

    def waiting(self, queue: str) -> int:
        """Messages that no worker has."""

    def taken(self, queue: str) -> int:
        """Messages that a worker has and has not acknowledged, maybe as it was some seconds ago."""


def sender(broker: Broker, **settings: Any) -> Celery:
    """The project's Celery application as it is with this broker, for sending."""
    wanted = {"CELERY_BROKER_URL": broker.url, "CELERY_BROKER_CA_FILE": broker.ca_file, **settings}
    with override_settings(**wanted):
        values = runpy.run_path(celery_settings.__file__)
    app = Celery("lastro", set_as_current=False)
    app.conf.update({name: value for name, value in values.items() if name.islower() and not name.startswith("_")})
    return app


def environment(broker: Broker, **more: str) -> dict[str, str]:
    """What a process on this broker needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "KAFKA_", "MESSAGING_"))}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": NO_DATABASE,
        "DATABASE_POOL_MAX": "0",
        "LASTRO_EMBEDDED": "1",
        "CELERY_BROKER_URL": broker.url,
        "CELERY_BROKER_CA_FILE": broker.ca_file,
        "CELERY_LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


class CeleryProcess:
    """``celery -A config …``. Its output goes to a file, so that it never blocks."""

    def __init__(self, broker: Broker, folder: Path, *words: str, **more: str) -> None:
        self.log = folder / f"celery-{time.monotonic_ns()}.log"
        command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "config", *words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(broker, **more),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, words: str) -> bool:
        text = self.log.read_text(errors="replace")
        assert words in text or self.process.poll() is None, f"it ended: {text}"
        return words in text

    def wait_for(self, words: str) -> None:
        eventually(lambda: self.said(words), what=words, timeout_s=START_S_MAX)

    def stop(self) -> float:
        """SIGTERM, as an orchestrator stops a process. How long it took, in seconds."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_S_MAX)
        return time.monotonic() - started

    def kill(self) -> None:
        """kill -9 of the worker and of its children: a machine that is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S_MAX)


@contextlib.contextmanager
def worker(
    broker: Broker,
    folder: Path,
    *options: str,
    queues: str = "ledger",
    pool: str = "prefork",
    processes: int = 1,
    **more: str,
) -> Iterator[CeleryProcess]:
    """A worker that is ready."""
    words = ["worker", "-P", pool, "-c", str(processes), "-Q", queues, "-I", "tests.brokers.celery_tasks", *options]
    running = CeleryProcess(broker, folder, *words, CELERY_TESTS_FILE=str(notes(folder)), **more)
    try:
        running.wait_for("ready.")
        yield running
    finally:
        running.kill()


def notes(folder: Path) -> Path:
    """Where the tasks of a test write."""
    path = folder / "notes"
    path.touch()
    return path


def told(folder: Path, word: str, name: str) -> int:
    """How often a task wrote this."""
    return sum(1 for line in lines(notes(folder)) if line[:2] == [word, name])


class CeleryContract:
    """What tasks may rely on with every broker. ``broker`` is each subclass's own fixture."""

    @pytest.fixture
    def app(self, broker: Broker) -> Celery:
        return sender(broker)

    def test_a_task_goes_to_its_apps_queue_and_an_expired_one_is_not_run(
        self, broker: Broker, app: Celery, tmp_path: Path
    ) -> None:
        for name, task in (("mine", celery_tasks.write), ("others", celery_tasks.write_elsewhere)):
            app.tasks[task.name].apply_async((name,))
        app.tasks[celery_tasks.write.name].apply_async(("late",), expires=0.01)
        app.tasks[celery_tasks.write.name].apply_async(("last",))
        with worker(broker, tmp_path):
            eventually(lambda: told(tmp_path, "ran", "last") == 1, what="the last task")
            eventually(lambda: broker.waiting("ledger") + broker.taken("ledger") == 0, what="an empty queue")
        assert [line[1] for line in lines(notes(tmp_path))] == ["mine", "last"]
        assert broker.waiting("payments") == 1, "nobody reads the other app's queue here"

    def test_a_worker_has_one_message_a_process(self, broker: Broker, app: Celery, tmp_path: Path) -> None:
        for n in range(3):
            app.tasks[celery_tasks.hang.name].apply_async((f"task{n}", 60))
        with worker(broker, tmp_path):
            eventually(lambda: told(tmp_path, "begun", "task0") == 1, what="the first task")
            eventually(lambda: broker.taken("ledger") == 1, what="one message taken")
            assert broker.waiting("ledger") == 2

    def test_what_a_killed_worker_had_is_done_by_another(self, broker: Broker, app: Celery, tmp_path: Path) -> None:
        limit = "4"  # on Redis what nobody acknowledges comes again after three times the limit
        short = sender(broker, CELERY_TASK_TIME_LIMIT_S=int(limit))
        with worker(broker, tmp_path, CELERY_TASK_TIME_LIMIT_S=limit) as first:
            short.tasks[celery_tasks.take_long.name].apply_async(("a", 60))
            eventually(lambda: told(tmp_path, "begun", "a") == 1, what="the task begins")
            first.kill()
        with worker(broker, tmp_path, CELERY_TASK_TIME_LIMIT_S=limit):
            eventually(lambda: told(tmp_path, "ended", "a") == 1, what="another worker does it")
            eventually(lambda: broker.waiting("ledger") + broker.taken("ledger") == 0, what="an empty queue")
        assert told(tmp_path, "begun", "a") == 2

    def test_a_task_that_kills_its_process_is_tried_three_times_and_then_undone(
        self, broker: Broker, app: Celery, tmp_path: Path
    ) -> None:
        errback = app.tasks[celery_tasks.undo.name].si(name="a")
        app.tasks[celery_tasks.die.name].apply_async(("a",), link_error=errback)
        with worker(broker, tmp_path) as running:
            eventually(lambda: told(tmp_path, "undone", "a") == 1, what="the errback")
            eventually(lambda: broker.waiting("ledger") + broker.taken("ledger") == 0, what="an empty queue")
            errback_process = int(lines(notes(tmp_path))[-1][2])
            assert errback_process != running.process.pid, "the errback ran in the worker's main process"
        assert told(tmp_path, "dies", "a") == 3

    def test_a_task_beyond_its_time_is_killed_once(self, broker: Broker, app: Celery, tmp_path: Path) -> None:
        limit = "4"
        short = sender(broker, CELERY_TASK_TIME_LIMIT_S=int(limit))
        errback = short.tasks[celery_tasks.undo.name].si(name="a")
        short.tasks[celery_tasks.hang.name].apply_async(("a", 60), link_error=errback)
        with worker(broker, tmp_path, CELERY_TASK_TIME_LIMIT_S=limit):
            # Celery 5.7.0 calls it twice after a time limit; an undo may be repeated.
            eventually(lambda: told(tmp_path, "undone", "a") >= 1, what="the errback")
            eventually(lambda: broker.waiting("ledger") + broker.taken("ledger") == 0, what="an empty queue")
        assert (told(tmp_path, "begun", "a"), told(tmp_path, "ended", "a")) == (1, 0)

    def test_sigterm_lets_a_running_task_finish(self, broker: Broker, app: Celery, tmp_path: Path) -> None:
        app.tasks[celery_tasks.hang.name].apply_async(("short", 3.5))  # longer than the warm part, shorter than all of it
        app.tasks[celery_tasks.write.name].apply_async(("next",))
        with worker(broker, tmp_path) as running:
            eventually(lambda: told(tmp_path, "begun", "short") == 1, what="the task begins")
            running.stop()
        assert told(tmp_path, "ended", "short") == 1
        eventually(lambda: broker.taken("ledger") == 0, what="no message is taken")
        assert broker.waiting("ledger") == 1, "what was not begun stays, and what was done does not come again"
        assert told(tmp_path, "ran", "next") == 0

    def test_sigterm_gives_a_task_that_takes_too_long_back_at_once(
        self, broker: Broker, app: Celery, tmp_path: Path
    ) -> None:
        app.tasks[celery_tasks.hang.name].apply_async(("long", 120))
        with worker(broker, tmp_path) as running:
            eventually(lambda: told(tmp_path, "begun", "long") == 1, what="the task begins")
            running.stop()
        assert told(tmp_path, "ended", "long") == 0
        eventually(lambda: broker.waiting("ledger") == 1, what="the message is back")
        eventually(lambda: broker.taken("ledger") == 0, what="no message is taken")
