"""Two members of the state manager's group hear of one saga at the same moment."""

import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections, transaction
from django.utils import timezone
from lastro_pipes import control

from apps.messaging.consumer import deliver
from apps.messaging.transports.base import IncomingRecord
from apps.saga import engine
from apps.saga.choreography import verbs
from apps.saga.choreography.errors import AlreadyUndone
from apps.saga.models import Attempt, PipeFact, PipeRun, Run, Step
from apps.saga.pipes import GROUP
from tests.pipes.world import HOUR, PARCELS, SERVICES, STOCK, World, registered, use_case

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world() -> Iterator[World]:
    with registered(use_case()) as definition:
        yield World(definition)


def at_once(*calls: Any) -> list[Exception]:
    """Make these calls in threads that begin together. What they raised."""
    raised: list[Exception] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Any) -> None:
        try:
            barrier.wait()
            call()
        except Exception as error:
            raised.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def heard(record: Any, offset: int) -> Any:
    """A call that delivers a record to the state manager."""
    incoming = IncomingRecord(record.topic, 0, offset, record.key, record.value.encode())
    return lambda: deliver(incoming, group=GROUP, now=timezone.now())


def test_the_first_messages_of_a_saga_make_one_run(world: World) -> None:
    for number in range(10):
        gid = f"order-{number}"
        first = control.start(SERVICES, {"amount": "1"}, global_id=gid)
        later = control.start(SERVICES, {"amount": "1", "left": 1}, global_id=gid, position=1)
        last = control.start(SERVICES, {"amount": "1"}, global_id=gid, position=2)
        assert at_once(heard(first, 1), heard(later, 2), heard(last, 3)) == []
    assert Run.objects.count() == PipeRun.objects.count() == 10
    assert PipeFact.objects.count() == 30
    for run in Run.objects.all():
        assert run.data == {"amount": "1"}
        statuses = list(Step.objects.filter(run_id=run.pk).order_by("position").values_list("status", flat=True))
        assert statuses == ["DONE", "DONE", "WAITING"]


def test_a_message_and_its_copy_are_one_fact_and_one_attempt(world: World) -> None:
    first = control.start(SERVICES, {"amount": "1"}, global_id="order-1")
    assert at_once(*[heard(first, number) for number in range(4)]) == []
    assert PipeFact.objects.count() == 1
    assert Attempt.objects.count() == 1


def test_a_message_and_the_sweeper_meet(world: World) -> None:
    run_id = world.start()
    world.relay()
    world.waiting = []
    PipeFact.objects.update(at=timezone.now() - HOUR)
    Run.objects.update(due_at=timezone.now())
    record = world.asked(f"{STOCK}.in")[0]
    assert at_once(heard(record, 1), lambda: engine.advance(run_id)) == []
    assert PipeFact.objects.filter(what="ASKED").count() == 2, "the first message, and one more"
    assert Run.objects.get().status == "WAITING"


def test_an_undo_is_begun_once(world: World) -> None:
    run_id = world.start()

    def compensate() -> None:
        with transaction.atomic():
            verbs.compensate(run_id, reason="the customer has called", by=f"user:{uuid4()}", now=timezone.now())

    raised = at_once(compensate, compensate, compensate)
    assert [type(error) for error in raised] == [AlreadyUndone] * 2
    world.live_on()
    assert world.run.status == "COMPENSATED"


def test_reports_of_three_services_at_once(world: World) -> None:
    world.send(control.start(SERVICES, {"amount": "1"}, global_id="order-1"))
    mine = []
    while world.waiting:
        wire = world.waiting.pop(0)
        if wire.reader == GROUP:
            mine.append(wire)
        else:
            world.deliver(wire)
    assert at_once(*[heard(wire.record, number) for number, wire in enumerate(mine)]) == []
    assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)
    assert Attempt.objects.count() == 3
    assert json.loads(json.dumps(world.run.steps[2].output))["by"][-1] == PARCELS
