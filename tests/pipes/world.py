"""Three services of a shop, as the SDK runs them, and the state manager, on wires that a test may cut and cross.

Each reader has a queue: one per service, one for the state manager. What is in them is delivered in whatever order, twice
or never; the services' desks and stores, the consumer, the inbox and the outbox are the real ones.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from lastro_pipes import Refuse
from lastro_pipes.desk import Desk
from lastro_pipes.message import Message
from lastro_pipes.settings import from_environment
from lastro_pipes.step import Kind, Loaded
from lastro_pipes.stores.sqlite import SqliteStore
from lastro_pipes.transports.base import Incoming, Outgoing

from apps.messaging import inbox
from apps.messaging.consumer import deliver
from apps.messaging.models import Message as LoggedMessage
from apps.messaging.models import Pending
from apps.messaging.transports.base import IncomingRecord
from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.attributes import Attribute
from apps.saga.definition import COMPENSABLE, Definition, Run
from apps.saga.models import LIVE, PipeFact
from apps.saga.models import Run as RunRow
from apps.saga.models import Step as StepRow
from apps.saga.pipes import GROUP, PipeHooks, PipeStep
from apps.saga.queries import RunState, run_state
from apps.saga.terms import Sla

STOCK, CARDS, PARCELS = SERVICES = ("shop.stock.reserve", "shop.cards.charge", "shop.parcels.book")
USE_CASE = "shop.buy"
DELIVERIES_MAX = 500
HOUR = timedelta(hours=1)


class TellingHooks(PipeHooks):
    """Remembers what the owner was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def on_completed(self, run: Run) -> None:
        self.told.append(("completed", run.business_key))

    def on_compensated(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        self.told.append(("compensated", failed_step, code))

    def on_stuck(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        self.told.append(("stuck", failed_step, code))


def use_case(hooks: PipeHooks | None = None, *, version: int = 1, name: str = USE_CASE, **kinds: Kind) -> Definition:
    """The shop's use case. ``kinds``: of a step, by name, where it is not compensable."""
    return Definition(
        name,
        version,
        tuple(
            PipeStep(
                service,
                kind=definitions.Kind(kinds.get(service.rpartition(".")[2], COMPENSABLE)),
                told=f"What {service} does.",
            )
            for service in SERVICES
        ),
        hooks=hooks or TellingHooks(),
        owner="tests",
        description="A purchase whose steps live elsewhere.",
        sla=Sla(target=timedelta(seconds=5), deadline=timedelta(minutes=10)),
        attributes=(Attribute("amount", Decimal), Attribute("left", int, from_step="reserve")),
    )


@contextmanager
def registered(definition: Definition) -> Iterator[Definition]:
    """The use case is known, and its topics are heard, while the block runs."""
    before = set(definitions._registry)
    definitions.register(definition)
    try:
        yield definition
    finally:
        for key in set(definitions._registry) - before:
            definitions._registry.pop(key, None)
        if not any(each.is_choreographed for each in definitions.registered()):
            inbox._listeners.pop(GROUP, None)
            inbox._topics.pop(GROUP, None)
            inbox._elsewhere.clear()


@dataclass
class Service:
    """A service as the SDK runs it. ``plan``: what each attempt of a do does (the last word lasts), ``undo_plan`` so."""

    address: str
    kind: Kind = Kind.COMPENSABLE
    plan: list[str] = field(default_factory=lambda: ["do"])
    undo_plan: list[str] = field(default_factory=lambda: ["do"])
    effects: list[str] = field(default_factory=list)
    is_up: bool = True
    reports: bool = True
    _tried: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {"PIPES_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PIPES_SERVICE": self.address, "PIPES_ATTEMPTS_MAX": "2"}
        values |= {"PIPES_UNDO_ATTEMPTS_MAX": "2"} | ({} if self.reports else {"PIPES_REPORT_TOPIC": "off"})
        self.settings = from_environment(values)
        self.store = SqliteStore(":memory:")
        compensates = None if self.kind is Kind.PIVOT else self.compensate
        step = Loaded(
            handle=self.handle,
            compensate=compensates,
            kind=self.kind,
            service=self.address,
            store=lambda _settings: None,
            close=lambda: None,
            name="Scripted",
        )
        self.desk = Desk(step, self.settings, self.store, clock=lambda: datetime.now(UTC))

    def handle(self, message: Message) -> Any:
        self._act("do", self.plan)
        return {**message.body, "left": 7, "by": [*message.body.get("by", []), self.address]}

    def compensate(self, message: Message) -> None:
        self._act("undo", self.undo_plan)

    def _act(self, way: str, plan: list[str]) -> None:
        self._tried[way] = self._tried.get(way, 0) + 1
        word = plan[min(self._tried[way], len(plan)) - 1]
        if word == "refuse":
            raise Refuse("SOLD_OUT", "Nothing is left.")
        if word == "fail":
            raise RuntimeError("the machine is broken")
        self.effects.append(way)


@dataclass(frozen=True)
class Wire:
    """A record on its way to one reader."""

    reader: str  # a service's address, or the state manager's group
    record: Outgoing
    sent_at: datetime


class World:
    """See the module."""

    def __init__(self, definition: Definition, *, seed: int | None = None, **kinds: Kind) -> None:
        self.definition = definition
        self.services = {
            address: Service(address, kind=kinds.get(address.rpartition(".")[2], Kind.COMPENSABLE)) for address in SERVICES
        }
        self.stock, self.cards, self.parcels = self.services.values()
        self.waiting: list[Wire] = []
        self.lost: list[Wire] = []
        self.log: list[Outgoing] = []
        self._random = random.Random(seed) if seed is not None else None
        self._offset = 0

    # --- Wires ------------------------------------------------------------------------------------------------------
    def send(self, *records: Outgoing) -> None:
        """Put records on the broker: everybody who reads the topic gets one."""
        now = datetime.now(UTC)
        for record in records:
            self.log.append(record)
            service, _, kind = record.topic.rpartition(".")
            readers = [service] if service in self.services and kind in ("in", "compensate") else []
            if inbox.is_listening(record.topic, group=GROUP):
                readers.append(GROUP)
            self.waiting += [Wire(reader, record, now) for reader in readers]

    def relay(self) -> int:
        """What was published here goes to the broker."""
        rows = list(Pending.objects.order_by("seq"))
        for row in rows:
            message = LoggedMessage.objects.get(message_id=row.message_id)
            self.send(Outgoing(message.topic, message.key, message.payload))
        Pending.objects.all().delete()
        return len(rows)

    def deliver(self, wire: Wire) -> None:
        """Hand a record to its reader."""
        self._offset += 1
        if wire.reader == GROUP:
            value = wire.record.value.encode()
            record = IncomingRecord(wire.record.topic, 0, self._offset, wire.record.key, value)
            deliver(record, group=GROUP, now=timezone.now())
            return
        service = self.services[wire.reader]
        for _ in range(20):
            incoming = Incoming(
                wire.record.topic, 0, self._offset, wire.record.key, wire.record.value.encode(), {}, wire.sent_at
            )
            taken = service.desk.take(incoming)
            self.send(*taken.outgoing)
            if taken.key is not None:
                service.store.published([taken.key])
            if taken.retry_s is None:
                return
        raise AssertionError("the service never ends")

    def settle(self) -> None:
        """Deliver everything, in order, or in the seed's order and some of it twice, until nothing is on its way."""
        for _ in range(DELIVERIES_MAX):
            self.relay()
            ready = [wire for wire in self.waiting if wire.reader == GROUP or self.services[wire.reader].is_up]
            if not ready:
                return
            wire = self._random.choice(ready) if self._random else ready[0]
            if self._random is None or self._random.random() > 0.2:
                self.waiting.remove(wire)
            self.deliver(wire)
        raise AssertionError("it never comes to rest")

    def lose(self, *, reader: str, kind: str) -> None:
        """Throw away what waits for a reader on its topics of a kind."""
        self.lost += [wire for wire in self.waiting if wire.reader == reader and wire.record.topic.endswith(f".{kind}")]
        self.waiting = [wire for wire in self.waiting if wire not in self.lost]

    # --- Runs -------------------------------------------------------------------------------------------------------
    def start(self, body: dict[str, Any] | None = None, **more: Any) -> UUID:
        """Start a run here, in a commit of its own."""
        with transaction.atomic():
            return engine.start(
                self.definition,
                subject_id=uuid4(),
                business_key="order 1",
                data=body if body is not None else {"amount": "12.50"},
                now=timezone.now(),
                **more,
            )

    def time_passes(self) -> None:
        """An hour for all that waits; then the sweeper would find what is due."""
        PipeFact.objects.update(at=F("at") - HOUR, retry_at=F("retry_at") - HOUR)
        past = timezone.now() - timedelta(seconds=1)
        RunRow.objects.filter(due_at__isnull=False).update(due_at=past)
        StepRow.objects.filter(retry_at__isnull=False).update(retry_at=past)
        StepRow.objects.filter(waiting_until__isnull=False).update(waiting_until=past)
        for run_id, status in list(RunRow.objects.filter(due_at__isnull=False).values_list("pk", "status")):
            assert status in LIVE
            engine.advance(run_id, undo=status == "COMPENSATING")

    def live_on(self, rounds: int = 30) -> None:
        """Deliver, and let time pass, until every run is over or needs a person."""
        for _ in range(rounds):
            self.settle()
            if not RunRow.objects.filter(status__in=LIVE).exists():
                return
            self.time_passes()
        raise AssertionError(f"it never ends: {RunRow.objects.values_list('status', 'cursor')}")

    @property
    def run(self) -> RunState:
        """The only run, as everybody sees it."""
        found = run_state(RunRow.objects.get().pk)
        assert found is not None
        return found

    @property
    def steps(self) -> list[str]:
        """The statuses of its steps."""
        return [step.status for step in self.run.steps]

    @property
    def effects(self) -> list[list[str]]:
        """What each service did."""
        return [service.effects for service in self.services.values()]

    def asked(self, topic: str) -> list[Outgoing]:
        """What was sent to a topic."""
        return [record for record in self.log if record.topic == topic]
