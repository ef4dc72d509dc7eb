"""The example's three processes on a real broker, and the state manager in this one."""

import contextlib
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.test.utils import override_settings
from django.utils import timezone
from lastro_pipes import transports
from lastro_pipes.process import UNFINISHED
from lastro_pipes.settings import Settings, from_environment

from apps.messaging import topics
from apps.messaging.consumer import consume_once
from apps.messaging.relay import relay_all
from apps.messaging.transports import transport
from apps.messaging.transports.base import DesiredTopic
from apps.saga import engine
from apps.saga.definition import Definition
from apps.saga.models import Run, RunStatus
from apps.saga.pipes import GROUP, PipeStep
from apps.saga.queries import RunState, run_state
from apps.saga.terms import Sla
from tests.pipes.world import CARDS, PARCELS, SERVICES, STOCK, TellingHooks

ROOT = Path(__file__).resolve().parent.parent.parent
PARTITIONS = 2
WAIT_S = 150.0  # a member that was killed keeps its partitions for a while, and the machine may be busy
CLASSES = {STOCK: "stock:Reserve", CARDS: "cards:Charge", PARCELS: "parcels:Book"}
GSM_GROUPS = (GROUP, "saga.gsm")


class Nagging(PipeStep):
    """A step that is asked again soon, and hardly ever given up."""

    attempts_max = undo_attempts_max = 50
    answer_within = timedelta(seconds=2)


class Hasty(Nagging):
    """A step that is asked again soon, and given up then. Its undo is not."""

    attempts_max = 2


def purchase(name: str, step: type[PipeStep], hooks: TellingHooks) -> Definition:
    """The example's use case, with the patience of such a step in its middle, and some more beside it."""
    beside = Nagging if step is Hasty else step
    return Definition(
        name,
        1,
        (beside(STOCK), step(CARDS), beside(PARCELS)),
        hooks=hooks,
        owner="tests",
        description="A purchase.",
        sla=Sla(target=timedelta(seconds=5), deadline=timedelta(minutes=1)),
    )


class Shop:
    """See the module."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder, self.broker = folder, broker
        self.prefix = f"t{secrets.token_hex(4)}."
        self.gate = folder / "gate"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._members: list[tuple[str, Any]] = []
        self._topics = [t for t in topics.desired_topics() if t.name.startswith(("shop.", "saga.pipes."))]

    # --- Services ---------------------------------------------------------------------------------------------------
    def environment(self, service: str) -> dict[str, str]:
        folders = [ROOT / "pipes", ROOT / "pipes" / "examples" / "shop", ROOT / "tests" / "pipes"]
        own = {
            "PIPES_BROKER": self.broker,
            "PIPES_PREFIX": self.prefix,
            "PIPES_PARTITIONS": str(PARTITIONS),
            "PIPES_STORE": f"sqlite:///{self.folder}/{service}.sqlite3",
            "PIPES_SERVICE": service,
            "PIPES_KAFKA_SESSION_S": "6",
            "SHOP_GATE": str(self.gate),
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "PYTHONWARNINGS": "ignore",
        }
        return {**os.environ, **own}

    def settings(self, service: str) -> Settings:
        return from_environment(self.environment(service))

    def start(self, *services: str, slow: bool = False) -> None:
        """Start processes; of all three without a name."""
        for service in services or SERVICES:
            target = "slow_shop:SlowCharge" if slow else CLASSES[service]
            with (self.folder / f"{service}.log").open("ab") as log:
                self.processes[service] = subprocess.Popen(
                    [sys.executable, "-m", "lastro_pipes", "run", target],
                    cwd=self.folder,
                    env=self.environment(service),
                    stdout=log,
                    stderr=log,
                )

    def kill(self, service: str) -> None:
        """kill -9."""
        process = self.processes.pop(service)
        process.kill()
        process.wait(WAIT_S)

    def stop(self, service: str) -> None:
        """SIGTERM. One that has hardly begun has no handler for it yet; on a busy machine nine seconds may be too few."""
        process = self.processes.pop(service)
        process.terminate()
        assert process.wait(WAIT_S) in (0, UNFINISHED, -signal.SIGTERM), self.told()

    @contextlib.contextmanager
    def deaf(self, service: str) -> Iterator[Callable[[], int]]:
        """Instead of the service somebody reads its ``.in``, and throws away what comes. How much, says the answer."""
        settings = self.settings(service)
        own = transports.make(settings)
        member = own.member(group=settings.group, topics=[f"{service}.in"])
        heard = 0

        def listen() -> int:
            nonlocal heard
            for record in member.poll(records_max=100, timeout_s=0.1):
                member.done(record)
                heard += 1
            return heard

        try:
            yield listen
        finally:
            member.poll(records_max=1, timeout_s=0.1)
            member.close()
            own.close()

    def rows(self, service: str, query: str) -> list[Any]:
        """What a service has in its database."""
        with contextlib.closing(sqlite3.connect(self.folder / f"{service}.sqlite3", timeout=10)) as database:
            try:
                return database.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []  # it has never written anything

    def effects(self, run_id: UUID) -> tuple[int, int, int, int]:
        """Of one run: articles reserved, charges, refunds, parcels booked."""

        def count(service: str, query: str) -> int:
            return int(next(iter(self.rows(service, f"{query} step_key LIKE '{run_id}%'")), (0,))[0])

        return (
            count(STOCK, "SELECT count(*) FROM reserved WHERE"),
            count(CARDS, "SELECT count(*) FROM charged WHERE"),
            count(CARDS, "SELECT count(*) FROM charged WHERE refunded = 1 AND"),
            count(PARCELS, "SELECT count(*) FROM booked WHERE"),
        )

    def told(self) -> str:
        """What the processes said, for a test that failed."""
        return "\n".join(f"--- {log.stem}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))

    # --- The state manager --------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Topics and groups of this test's own, gone afterwards; the state manager listens."""
        own = {
            "MESSAGING_TRANSPORT": self.broker,
            "MESSAGING_PREFIX": self.prefix,
            "TOPIC_PARTITIONS": PARTITIONS,
            "KAFKA_BOOTSTRAP_SERVERS": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", ""),
            "RABBITMQ_URL": os.environ.get("RABBITMQ_URL", ""),
        }
        with override_settings(**own):
            transport.cache_clear()
            mine = [DesiredTopic(**{**_values(topic), "partitions": PARTITIONS}) for topic in self._topics]
            topics.apply(mine)
            heard = [topic.name for topic in mine if GROUP in topic.groups]
            self._members = [
                (GROUP, transport().consumer(group=GROUP, topics=heard)),
                ("saga.gsm", transport().consumer(group="saga.gsm", topics=["saga.pipes.gsm.compensate"])),
            ]
            try:
                yield
            finally:
                self._close()
                transport.cache_clear()

    def _close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(WAIT_S)
        for _, member in self._members:
            member.close()
        made = transport()
        drop = getattr(made, "_drop", None)
        if drop is not None:
            drop()
        elif getattr(made, "_made", None) is not None:
            made._made.close()  # type: ignore[attr-defined]
        clean(self.settings(STOCK), [topic.name for topic in self._topics])

    def turn(self) -> None:
        """What the relay, the consumers, the sweeper and the workers would do in this moment."""
        relay_all()
        for group, member in self._members:
            consume_once(member, group=group, timeout_s=0.05)
        due = Run.objects.filter(due_at__lte=timezone.now()).values_list("pk", "status")
        for run_id, status in list(due):
            engine.advance(run_id, undo=status == RunStatus.COMPENSATING)

    def until(self, question: Callable[[], Any], what: str) -> Any:
        """Work until the answer is true."""
        deadline = time.monotonic() + WAIT_S
        while not (found := question()):
            runs = list(Run.objects.values_list("status", "cursor", "error_code", "error_detail"))
            assert time.monotonic() < deadline, f"{what}: it never came true. Runs: {runs}\n{self.told()}"
            self.turn()
        return found

    def until_status(self, run_id: UUID, status: str) -> RunState:
        """Work until a run is so."""
        self.until(lambda: Run.objects.filter(pk=run_id, status=status).exists(), f"{run_id} is {status}")
        found = run_state(run_id)
        assert found is not None
        return found

    def buy(self, definition: Definition, **body: Any) -> UUID:
        """Start a purchase, in a commit of its own."""
        given = {"sku": "lamp", "amount": "49.90", "kg": 2, "address": "Rua A, 1", **body}
        with transaction.atomic():
            return engine.start(definition, subject_id=uuid4(), business_key="order 1", data=given, now=timezone.now())


def _values(topic: DesiredTopic) -> dict[str, Any]:
    return {name: getattr(topic, name) for name in DesiredTopic.__slots__}


def clean(settings: Settings, names: list[str]) -> None:
    """Delete what a test has made at the broker."""
    if settings.broker == "kafka":
        from lastro_pipes.transports import kafka_admin

        with kafka_admin.admin(settings) as client:
            client.delete_topics([f"{settings.prefix}{name}" for name in names])
        return
    from lastro_pipes.transports import rabbitmq_admin as admin

    with admin.connected(settings) as connection:
        channel = connection.channel()
        for name in names:
            for group in (*GSM_GROUPS, name.rpartition(".")[0]):
                for queue in admin.queue_names(settings, name, group):
                    channel.queue_delete(queue)
                channel.exchange_delete(admin.spread_name(settings, name, group))
                channel.exchange_delete(admin.strangers_name(settings, name, group))
                channel.exchange_delete(admin.members_name(settings, group))
            channel.queue_delete(f"{settings.prefix}{name}.log")
            channel.exchange_delete(f"{settings.prefix}{name}")
