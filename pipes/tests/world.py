"""What the tests share: a saga of three services, each with a step that does what the message's body tells it."""

import json
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lastro_pipes import Refuse, control, gsm
from lastro_pipes.errors import BrokerDown, StoreDown
from lastro_pipes.message import Message
from lastro_pipes.process import topics_of
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.step import Kind, Loaded
from lastro_pipes.stores.sqlite import SqliteStore
from lastro_pipes.transports.base import Outgoing
from lastro_pipes.worker import Worker
from tests.memory import MemoryBroker, MemoryTransport

CHAIN = ("shop.test.first", "shop.test.second", "shop.test.third")
QUICK = {"PIPES_RETRY_S": "0.001", "PIPES_RETRY_S_MAX": "0.001"}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def settings(service: str = CHAIN[0], **more: str) -> Settings:
    return from_environment({"PIPES_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PIPES_SERVICE": service, **QUICK, **more})


def meta_of(record: Outgoing) -> dict[str, Any]:
    return dict(json.loads(record.value)["meta"])


def body_of(record: Outgoing) -> Any:
    return json.loads(record.value)["body"]


def plan_of(body: Any, service: str) -> list[str]:
    """What the body tells this service to do, attempt by attempt; the last word lasts."""
    plan = body.get("plan", {}).get(service.rsplit(".", 1)[-1], ["do"]) if isinstance(body, dict) else ["do"]
    return plan if isinstance(plan, list) else [plan]


class Scripted:
    """A step that writes its effects into the store's own database, in the store's own transaction."""

    def __init__(self, service: str, kind: Kind = Kind.COMPENSABLE) -> None:
        self.service, self.kind = service, kind
        self.calls: list[tuple[str, str, int]] = []  # way, global id, attempt
        self.messages: list[Message] = []

    def loaded(self, *, undoes: bool = True) -> Loaded:
        return Loaded(
            handle=self.handle,
            compensate=self.compensate if undoes else None,
            kind=self.kind,
            service=self.service,
            store=lambda _settings: None,
            close=lambda: None,
            name="Scripted",
        )

    def handle(self, message: Message) -> Any:
        self._note("do", message)
        self._act(message, "")
        return {**message.body, "by": [*message.body.get("by", []), self.service]}

    def compensate(self, message: Message) -> None:
        self._note("undo", message)
        self._act(message, "undo-")

    def _act(self, message: Message, prefix: str) -> None:
        plan = [word.removeprefix(prefix) for word in plan_of(message.body, self.service) if word.startswith(prefix)]
        if not prefix:
            plan = [word for word in plan if not word.startswith("undo-")]
        word = plan[min(message.attempt, len(plan)) - 1] if plan else "do"
        effect(message.connection, message, self.service, prefix + "done")
        if word == "refuse":
            raise Refuse("SOLD_OUT", "Nothing is left.")
        if word == "fail":
            raise RuntimeError("the machine is broken")
        if word == "bad-result":
            raise_bad_result()

    def _note(self, way: str, message: Message) -> None:
        self.calls.append((way, message.global_id, message.attempt))
        self.messages.append(message)


def raise_bad_result() -> None:
    json.dumps(float("nan"), allow_nan=False)


def effect(connection: Any, message: Message, service: str, what: str) -> None:
    values = (message.global_id, service, what)
    if isinstance(connection, sqlite3.Connection):
        connection.execute("CREATE TABLE IF NOT EXISTS effect (global_id text, service text, what text)")
        connection.execute("INSERT INTO effect VALUES (?, ?, ?)", values)
    else:
        connection.execute("CREATE TABLE IF NOT EXISTS effect (global_id text, service text, what text)")
        connection.execute("INSERT INTO effect VALUES (%s, %s, %s)", values)


class Service:
    """One service on the memory broker, driven turn by turn."""

    def __init__(
        self, broker: MemoryBroker, folder: Path, service: str, kind: Kind = Kind.COMPENSABLE, **more: str
    ) -> None:
        self.settings = settings(service, **more)
        self.transport = MemoryTransport(broker)
        self.transport.create(topics_of(self.settings))
        self.step = Scripted(service, kind)
        self._path = str(folder / f"{service}.sqlite3")
        self.start()

    def start(self, store: Any = None) -> None:
        """A process begins, or begins again after it was killed: only the store and the broker remember."""
        self.store = store or SqliteStore(self._path)
        self.worker = Worker(self.step.loaded(), self.settings, self.transport, self.store, clock=lambda: NOW)
        self.member = self.transport.member(group=self.settings.group, topics=self.settings.reads)
        self._never = threading.Event()

    def turn(self) -> None:
        self.worker._turn(self.member, self._never)

    def killed(self) -> None:
        self.store.close()
        self.start()

    def effects(self, global_id: str) -> list[str]:
        try:
            rows = self.store._connection().execute("SELECT what FROM effect WHERE global_id = ?", (global_id,))
        except sqlite3.OperationalError:
            return []
        return [what for (what,) in rows]


class World:
    """Three services and a broker."""

    def __init__(self, folder: Path, **kinds: Kind) -> None:
        self.broker = MemoryBroker()
        named = {name: kinds.get(name.rsplit(".", 1)[1], Kind.COMPENSABLE) for name in CHAIN}
        self.services = [Service(self.broker, folder, name, kind) for name, kind in named.items()]
        self.first, self.second, self.third = self.services

    def begin(self, body: Any = None, **more: Any) -> str:
        record = control.start(CHAIN, body or {}, **more)
        self.broker.append(record)
        return str(meta_of(record)["global-id"])

    def settle(self, timeout_s: float = 120) -> None:
        """Until nobody has anything to do."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for service in self.services:
                service.turn()
            if all(self._is_idle(service) for service in self.services):
                return
        raise AssertionError("they never come to rest")

    def _is_idle(self, service: Service) -> bool:
        settings = service.settings
        return not len(service.worker._room) and not self.broker.lag(settings.group, settings.reads)

    def effects(self, global_id: str) -> dict[str, list[str]]:
        return {service.settings.service.rsplit(".", 1)[1]: service.effects(global_id) for service in self.services}

    def saga(self, global_id: str) -> gsm.Saga:
        return gsm.fold(self.broker.pairs())[global_id, ""]

    def close(self) -> None:
        for service in self.services:
            service.store.close()


__all__ = ["BrokerDown", "StoreDown"]
