"""The steps of the chain whose processes the broker tests start. What they do is in the message's body, see world.py."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lastro_pipes import stores
from lastro_pipes.message import Message
from lastro_pipes.settings import Settings
from lastro_pipes.stores.base import Key, Store
from lastro_pipes.stores.postgres import PostgresStore
from lastro_pipes.stores.sqlite import SqliteStore
from tests.world import Scripted, plan_of

SLOW_S = 60.0


def kill_once(moment: str) -> None:
    """kill -9 to ourselves, if the test has asked for it at this moment, and only once."""
    wish = Path(os.environ.get("PIPES_TEST_WISH", "/nonexistent"))
    if wish.exists() and wish.read_text() == moment:
        wish.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class _Mortal:
    @contextmanager
    def transaction(self, key: Key) -> Iterator[Any]:
        with super().transaction(key) as work:  # type: ignore[misc]
            yield work
            kill_once("before-commit")
        kill_once("after-commit")

    def published(self, keys: Iterable[Key]) -> None:
        kill_once("after-publish")
        super().published(keys)  # type: ignore[misc]
        kill_once("after-mark")


class MortalSqlite(_Mortal, SqliteStore):
    pass


class MortalPostgres(_Mortal, PostgresStore):
    pass


class _Link(Scripted):
    service = ""

    def __init__(self) -> None:
        super().__init__(type(self).service)

    def store(self, settings: Settings) -> Store:
        if settings.store.startswith(stores.SQLITE):
            return MortalSqlite(settings.store.removeprefix(stores.SQLITE))
        return MortalPostgres(settings.store)

    def handle(self, message: Message) -> Any:
        found = super().handle(message)
        if plan_of(message.body, self.service)[:1] == ["slow"] and message.attempt == 1:
            Path(os.environ["PIPES_TEST_WISH"] + ".slow").touch()
            time.sleep(float(message.body.get("slow_s", SLOW_S)))
        return found


class First(_Link):
    service = "shop.test.first"


class Second(_Link):
    service = "shop.test.second"


class Third(_Link):
    service = "shop.test.third"
