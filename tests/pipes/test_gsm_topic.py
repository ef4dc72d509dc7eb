"""An undo that is asked for by message, on the state manager's own topic: it answers, also when it refuses."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.messaging.consumer import deliver
from apps.messaging.contracts.saga import CompensationRequested
from apps.messaging.envelope import Meta, encode
from apps.messaging.models import Message, Redelivery
from apps.messaging.topics import desired_topics
from apps.messaging.transports.base import IncomingRecord
from apps.saga.handlers import GROUP
from apps.saga.models import Audit, Run
from tests.pipes.world import CARDS, SERVICES, STOCK, World, registered, use_case

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> Iterator[World]:
    with registered(use_case()) as definition:
        yield World(definition)


def ask(global_id: str, *, reason: str = "the customer has called", in_meta: bool = False, **more: Any) -> dict[str, Any]:
    """Send the request, and read the answer."""
    request = CompensationRequested(reason=reason, requested_by="shop.web", global_id="" if in_meta else global_id, **more)
    meta = Meta(message_id=uuid7(), schema=request.schema, global_id=global_id, reply_to="r-1")
    record = IncomingRecord(request.topic, 0, 0, "k", encode(meta.to_json(), request.to_body()))
    deliver(record, group=GROUP, now=timezone.now())
    answer = Message.objects.filter(topic="saga.pipes.gsm.event").latest("seq")
    assert answer.meta["reply-to"] == "r-1"
    return dict(answer.body)


class TestAccepted:
    @pytest.mark.parametrize("in_meta", [True, False])
    def test_the_saga_is_turned_round_and_the_answer_says_so(self, world: World, in_meta: bool) -> None:
        run_id = world.start()
        world.settle()
        answer = ask(str(run_id), in_meta=in_meta, code="CANCELLED")
        assert (answer["accepted"], answer["run_id"], answer["code"]) == (True, str(run_id), "")
        world.settle()
        assert (world.run.status, world.run.error_code) == ("COMPENSATED", "CANCELLED")
        assert world.effects == [["do", "undo"]] * 3
        assert list(Audit.objects.values_list("action", "actor")) == [("compensate", "message:shop.web")]


class TestRefused:
    def test_an_unknown_saga_may_be_asked_for_again(self, world: World) -> None:
        answer = ask("nobody")
        assert (answer["accepted"], answer["code"], answer["retryable"], answer["run_id"]) == (False, "R570", True, None)

    def test_one_that_is_undone_already(self, world: World) -> None:
        run_id = world.start()
        ask(str(run_id))
        answer = ask(str(run_id))
        assert (answer["accepted"], answer["code"], answer["retryable"]) == (False, "R572", False)
        assert Audit.objects.count() == 1

    def test_a_request_without_a_reason(self, world: World) -> None:
        run_id = world.start()
        before = Run.objects.get().status
        assert ask(str(run_id), reason=" ")["code"] == "R001"
        assert Run.objects.get().status == before
        assert not Redelivery.objects.exists()


class TestTopics:
    def test_all_that_the_services_read_and_write_is_wanted_of_the_broker(self, world: World) -> None:
        wanted = {topic.name: topic for topic in desired_topics()}
        for service in SERVICES:
            assert {f"{service}.{kind}" for kind in ("in", "compensate", "error", "event")} <= set(wanted)
        assert wanted[f"{STOCK}.in"].groups == ("saga.pipes", STOCK)
        assert wanted[f"{CARDS}.error"].groups == ("saga.pipes",)
        assert "saga.pipes.gsm.compensate" in wanted


class TestHearing:
    def test_what_cannot_be_written_down_is_tried_again_and_its_order_kept(self, world: World) -> None:
        from apps.saga import definition as definitions

        world.start()
        world.relay()
        known = definitions._registry.pop((world.definition.use_case, 1))
        wire = next(wire for wire in world.waiting if wire.reader == "saga.pipes")
        world.deliver(wire)
        assert Redelivery.objects.count() == 1, "its run's use case is not known to this release"
        definitions._registry[world.definition.use_case, 1] = known
        Redelivery.objects.update(due_at=timezone.now())
        from apps.messaging.redelivery import redeliver

        assert redeliver(group="saga.pipes", now=timezone.now()) == 1
        assert not Redelivery.objects.exists()
        world.settle()
        assert world.run.status == "COMPLETED"


def test_retention_forgets_what_was_heard(world: World, tmp_path: Any) -> None:
    from datetime import timedelta

    from apps.saga import retention
    from apps.saga.models import PipeFact, PipeRun

    world.start()
    world.settle()
    assert PipeFact.objects.exists()
    with transaction.atomic():
        Run.objects.update(
            started_at=timezone.now() - timedelta(days=800), finished_at=timezone.now() - timedelta(days=800)
        )
    done = retention.archive_runs(directory=tmp_path, now=timezone.now())
    assert sum(done.runs.values()) == 1
    assert not PipeFact.objects.exists()
    assert PipeRun.objects.exists(), "or the next message of the saga would begin a run"
