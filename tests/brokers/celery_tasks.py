"""Tasks that a real worker runs for the tests. What they do they write down in the file of CELERY_TESTS_FILE."""

import os
import signal
import threading
from pathlib import Path

from celery import Task, shared_task
from django.db import connection

ROOT = Path(__file__).resolve().parents[2]


def note(word: str, name: str) -> None:
    """One line, in one write, so that processes do not mix: word, name, process."""
    with open(os.environ["CELERY_TESTS_FILE"], "ab", buffering=0) as file:
        file.write(f"{word} {name} {os.getpid()}\n".encode())


def _work(seconds: float) -> None:
    threading.Event().wait(seconds)


@shared_task(name="ledger.tests_note")
def write(name: str) -> None:
    note("ran", name)


@shared_task(name="payments.tests_note")
def write_elsewhere(name: str) -> None:
    note("ran", name)


@shared_task(name="ledger.tests_long")
def take_long(name: str, seconds: float) -> None:
    """Long the first time, and at once when it is repeated."""
    repeated = f"begun {name} " in Path(os.environ["CELERY_TESTS_FILE"]).read_text()
    note("begun", name)
    if not repeated:
        _work(seconds)
    note("ended", name)


@shared_task(name="ledger.tests_hang")
def hang(name: str, seconds: float) -> None:
    """Long each time."""
    note("begun", name)
    _work(seconds)
    note("ended", name)


@shared_task(name="ledger.tests_die")
def die(name: str) -> None:
    """What the kernel does to a process without memory."""
    note("dies", name)
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="ledger.tests_undo", bind=True)
def undo(_self: Task, _failed_task_id: str | None = None, *, name: str) -> None:
    note("undone", name)


@shared_task(name="ledger.tests_connection")
def tell_connection(name: str) -> None:
    """Which connection of PostgreSQL this process has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        note(f"backend-{cursor.fetchone()[0]}", name)


def lines(path: Path) -> list[list[str]]:
    """What was written: [word, name, process] of each line."""
    return [line.split() for line in path.read_text().splitlines()]
