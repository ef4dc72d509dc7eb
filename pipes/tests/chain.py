"""Three pipe processes in a chain over a real broker, and an observer who reads all their topics."""

import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lastro_pipes import addresses, control, gsm, transports
from lastro_pipes.errors import BrokerDown
from lastro_pipes.process import topics_of
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.transports.base import Incoming, Outgoing
from tests.world import CHAIN, meta_of

ROOT = Path(__file__).resolve().parent.parent
CLASSES = dict(zip(CHAIN, ("First", "Second", "Third"), strict=True))
# Limits for a broken build, also on a machine that is four times slower than usual.
WAIT_S = 120.0  # a group that begins, or waits for a dead member's session, takes seconds
STOP_S = 40.0  # ours is ten seconds; of a handle that takes SLOW_S it waits for the end in no case
OBSERVER = "tests.observer"


class Process:
    """One ``pipes run``."""

    def __init__(self, service: str, environment: dict[str, str]) -> None:
        self.service = service
        self._output = Path(environment["PIPES_TEST_WISH"] + f".{service}.{secrets.token_hex(3)}.log")
        with self._output.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lastro_pipes", "run", f"tests.chain_steps:{CLASSES[service]}"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it logged, line by line."""
        return [json.loads(line) for line in self._output.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> float:
        """SIGTERM; how long it took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(WAIT_S)
        return time.monotonic() - began

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)


class Chain:
    """The processes, their topics under a prefix of this test's own, and what was observed."""

    def __init__(self, folder: Path, *, stores: str = "", **settings: str) -> None:
        self.folder = folder
        self._wish = folder / "wish"
        self._base = {**os.environ, "PIPES_PREFIX": f"t{secrets.token_hex(4)}.", "PIPES_PARTITIONS": "4"}
        self._base |= {"PIPES_TEST_WISH": str(self._wish), "PIPES_RETRY_S": "0.1", "PIPES_RETRY_S_MAX": "0.3"}
        self._base |= {"PIPES_KAFKA_SESSION_S": "6", **settings}
        self._base |= {"PYTHONWARNINGS": "ignore", "PIPES_HEALTH_PORT": "0"}
        self._stores = stores
        self.transport = transports.make(self.settings(CHAIN[0]))
        self.seen: list[Incoming] = []
        self._sagas: dict[str, gsm.Saga] = {}
        for service in CHAIN:
            self.transport.create(topics_of(self.settings(service)))
        self.topics = [addresses.topic(s, kind) for s in CHAIN for kind in ("in", "compensate", "error", "event")]
        self._observer = self.transport.member(group=OBSERVER, topics=self.topics)
        self.processes: list[Process] = []

    def environment(self, service: str) -> dict[str, str]:
        store = self._stores or f"sqlite:///{self.folder}/{service}.sqlite3"
        return {**self._base, "PIPES_STORE": store, "PIPES_SERVICE": service}

    def settings(self, service: str) -> Settings:
        return from_environment(self.environment(service))

    def start(self, *services: str) -> list[Process]:
        """Processes of these services; of all three without a name."""
        made = [Process(service, self.environment(service)) for service in services or CHAIN]
        self.processes += made
        return made

    def wish(self, moment: str) -> None:
        """The next process that comes to this moment kills itself."""
        self._wish.write_text(moment)

    @property
    def is_slow(self) -> bool:
        return Path(f"{self._wish}.slow").exists()

    def send(self, *records: Outgoing) -> None:
        assert [self.transport.send([record])[0] for record in records] == [""] * len(records)

    def begin(self, body: Any = None, **more: Any) -> str:
        record = control.start(CHAIN, body or {}, **more)
        self.send(record)
        return str(meta_of(record)["global-id"])

    def observe(self, timeout_s: float = 0.2) -> None:
        """Read what came."""
        with contextlib.suppress(BrokerDown):
            for record in self._observer.poll(records_max=500, timeout_s=timeout_s):
                self.seen.append(record)
                self._observer.done(record)
                with contextlib.suppress(gsm.Stray):
                    fact = gsm.read(record.topic, record.value)
                    self._sagas.setdefault(fact.global_id, gsm.Saga()).add(fact)

    def observe_again(self) -> None:
        """The broker was restarted: this process's own connections are of no use any more."""
        self.transport.close()
        with contextlib.suppress(BrokerDown):
            self._observer.close()
        self._observer = self.transport.member(group=OBSERVER, topics=self.topics)

    def until(self, question: Callable[[], Any], *, what: str, timeout_s: float = WAIT_S) -> Any:
        """Observe until the answer is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := question()):
            assert time.monotonic() < deadline, f"{what}: it never came true\n{self.told()}"
            self.observe()
        return found

    def told(self) -> str:
        """What the processes said, for a test that failed."""
        return "\n".join(f"--- {p.service}\n" + p._output.read_text()[-2500:] for p in self.processes)

    def saga(self, gid: str) -> gsm.Saga:
        return self._sagas.get(gid) or gsm.Saga()

    def until_status(self, gid: str, status: str) -> gsm.Saga:
        self.until(lambda: self.saga(gid).status == status, what=f"{gid} is {status}")
        return self.saga(gid)

    def records(self, gid: str, *kinds: str) -> list[dict[str, Any]]:
        """What was said about a saga on topics of these kinds, parsed, in the order of their sending."""
        found = [
            json.loads(r.value) | {"topic": r.topic, "headers": r.headers}
            for r in self.seen
            if r.topic.endswith(kinds) and gid.encode() in r.value
        ]
        mine = [record for record in found if record["meta"].get("global-id") == gid]
        return sorted(mine, key=lambda record: record["meta"].get("message-id", ""))

    def until_records(self, gid: str, *kinds: str, count: int = 1, of: str = "") -> list[dict[str, Any]]:
        """So many records at least, of reports those with an outcome if wanted.

        A saga's status may be known before all that led to it: what is in different queues may come in any order.
        """

        def found() -> list[dict[str, Any]]:
            return [each for each in self.records(gid, *kinds) if not of or each["body"]["outcome"] == of]

        self.until(lambda: len(found()) >= count, what=f"{count} records of {kinds}")
        return found()

    def effects(self, gid: str) -> dict[str, list[str]]:
        return {service.rsplit(".", 1)[1]: self._effects(gid, service) for service in CHAIN}

    def _effects(self, gid: str, service: str) -> list[str]:
        query = "SELECT what FROM effect WHERE global_id = {} AND service = {}"
        try:
            return self._ask(query, gid, service)
        except (sqlite3.OperationalError, LookupError):
            return []  # Nobody has written anything yet.

    def _ask(self, query: str, gid: str, service: str) -> list[str]:
        if self._stores:
            import psycopg

            with psycopg.connect(self._stores) as connection:
                if connection.execute("SELECT to_regclass('effect')").fetchone() == (None,):
                    raise LookupError("effect")
                return [row[0] for row in connection.execute(query.format("%s", "%s"), (gid, service))]
        with contextlib.closing(sqlite3.connect(self.folder / f"{service}.sqlite3", timeout=10)) as database:
            return [row[0] for row in database.execute(query.format("?", "?"), (gid, service))]

    def lag(self, service: str) -> int:
        settings = self.settings(service)
        return sum(self.transport.lag(group=settings.group, topics=settings.reads).values())

    def close(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()
        self._observer.close()
        _clean(self.transport, self.settings(CHAIN[0]), self.topics)
        self.transport.close()


def _clean(transport: Any, settings: Settings, topics: Sequence[str]) -> None:
    if settings.broker == "kafka":
        from lastro_pipes.transports import kafka_admin

        with kafka_admin.admin(settings) as client:
            client.delete_topics([f"{settings.prefix}{topic}" for topic in topics])
        return
    from lastro_pipes.transports import rabbitmq_admin as admin

    with admin.connected(settings) as connection:
        channel = connection.channel()
        for topic in topics:
            for group in (OBSERVER, topic.rsplit(".", 1)[0]):
                for queue in admin.queue_names(settings, topic, group):
                    channel.queue_delete(queue)
                channel.exchange_delete(admin.spread_name(settings, topic, group))
                channel.exchange_delete(admin.strangers_name(settings, topic, group))
                channel.exchange_delete(admin.members_name(settings, group))
            channel.queue_delete(f"{settings.prefix}{topic}.log")
            channel.exchange_delete(f"{settings.prefix}{topic}")


@contextlib.contextmanager
def running(folder: Path, **more: str) -> Iterator[Chain]:
    """A chain whose processes run."""
    chain = Chain(folder, **more)
    try:
        chain.start()
        yield chain
    finally:
        chain.close()
