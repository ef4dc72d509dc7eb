"""Runs of choreographed use cases: what the state manager knows by listening, and what it does where a service did not."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone
from lastro_pipes import control
from lastro_pipes.step import Kind

from apps.common.clock import BUSINESS_ZONE
from apps.messaging.models import Inbox, Message, Pending, Redelivery
from apps.saga import engine, pauses, triage
from apps.saga.adoption import adopt
from apps.saga.choreography import verbs
from apps.saga.choreography.errors import AlreadyUndone, GlobalIdTaken, NotChoreographed, PastThePivot, UnknownSaga
from apps.saga.definition import Definition
from apps.saga.models import Attempt, PipeFact, PipeRun, Run, Step
from apps.saga.pipes import GROUP
from apps.saga.retention import archive_runs
from apps.saga.search import find_runs
from apps.saga.values import InvalidValues
from tests.pipes.world import CARDS, PARCELS, SERVICES, STOCK, USE_CASE, TellingHooks, World, registered, use_case

pytestmark = pytest.mark.django_db


@pytest.fixture
def definition() -> Iterator[Definition]:
    with registered(use_case()) as found:
        yield found


@pytest.fixture
def world(definition: Definition) -> World:
    return World(definition)


def told(world: World) -> list[tuple[str, ...]]:
    hooks = world.definition.hooks
    assert isinstance(hooks, TellingHooks)
    return hooks.told


def foreign_start(global_id: str, body: Any = None, **meta: Any) -> Any:
    """As a service in another language would begin it: the talk's own message, without anything that is ours."""
    made = {"meta": {"global-id": global_id, "steps": list(SERVICES), **meta}, "body": body or {"amount": "3.00"}}
    from lastro_pipes.transports.base import Outgoing

    return Outgoing(f"{STOCK}.in", "", json.dumps(made))


class TestHappy:
    def test_a_run_that_is_started_here_is_completed_by_its_services(self, world: World) -> None:
        run_id = world.start()
        assert Run.objects.get(pk=run_id).status == "WAITING"
        world.settle()
        run = world.run
        assert (run.status, run.error_code, run.late_answers) == ("COMPLETED", "", 0)
        assert world.steps == ["DONE"] * 3
        assert world.effects == [["do"]] * 3
        assert told(world) == [("completed", "order 1")]
        assert [step.output.get("by") for step in run.steps] == [list(SERVICES[:n]) for n in (1, 2, 3)]
        assert [[each.outcome for each in step.tries] for step in run.steps] == [["DONE"]] * 3
        assert all(step.started_at and step.finished_at and step.started_at <= step.finished_at for step in run.steps)

    def test_its_first_message_is_published_in_the_callers_commit(self, world: World) -> None:
        with transaction.atomic():
            engine.start(world.definition, subject_id=uuid4(), business_key="k", data={"amount": "1"}, now=timezone.now())
            transaction.set_rollback(True)
        assert not Run.objects.exists()
        assert not Pending.objects.exists()
        assert not PipeRun.objects.exists()
        run_id = world.start()
        sent = Message.objects.get()
        assert sent.topic == f"{STOCK}.in"
        assert sent.meta["global-id"] == str(run_id)
        assert (sent.meta["steps"], sent.meta["position"], sent.meta["use-case"]) == (list(SERVICES), 0, USE_CASE)
        assert sent.body == {"amount": "12.50"}

    def test_is_found_by_attributes_of_its_data_and_of_its_steps(self, world: World) -> None:
        from apps.saga.filters import Filter, condition

        run_id = world.start()
        world.settle()
        for text in ("amount=12.50", "left=7"):
            wanted = Filter(use_case=USE_CASE, conditions=(condition(text),))
            assert [run.run_id for run in find_runs(wanted, now=timezone.now(), limit=5).rows] == [run_id]

    def test_a_run_that_somebody_else_began_is_known_by_its_first_message(self, world: World) -> None:
        world.send(foreign_start("order-4711"))
        world.settle()
        assert (world.run.status, world.run.business_key) == ("COMPLETED", "order-4711")
        assert Run.objects.get().data == {"amount": "3.00"}
        assert PipeRun.objects.get().global_id == "order-4711"

    def test_two_branches_of_one_saga_are_two_runs(self, world: World) -> None:
        for branch in ("left", "right"):
            world.send(foreign_start("order-1", branch=branch))
        world.settle()
        assert list(Run.objects.values_list("status", flat=True)) == ["COMPLETED"] * 2

    def test_services_that_report_nothing_are_known_by_what_they_ask_of_others(self, definition: Definition) -> None:
        world = World(definition)
        for service in (world.stock, world.cards):
            service.reports = False
            service.__post_init__()
        world.start()
        world.settle()
        assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)

    def test_a_message_of_no_registered_use_case_is_left_alone(self, world: World) -> None:
        world.send(control.start([STOCK, PARCELS], {}, global_id="g"))
        world.settle()
        assert not Run.objects.exists()
        assert not Pending.objects.exists()

    def test_what_is_no_envelope_is_left_to_its_readers(self, world: World) -> None:
        from lastro_pipes.transports.base import Outgoing

        for value in ("no json", "[]", '{"meta": {}, "body": 1}', '{"meta": {"global-id": 7}, "body": 1}'):
            world.send(Outgoing(f"{PARCELS}.event", "k", value))
        world.settle()
        assert not Run.objects.exists()
        assert not Pending.objects.exists(), "nothing is buried on somebody else's topic"


class TestOrder:
    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("fate", ["do", "refuse", "fail"])
    def test_the_rows_are_the_same_however_messages_arrive(self, definition: Definition, seed: int, fate: str) -> None:
        straight = World(definition)
        straight.parcels.plan = [fate]
        straight.send(foreign_start("order-1"))
        straight.live_on()
        wanted = (straight.run.status, straight.steps, straight.run.error_code, straight.run.failed_step)
        Run.objects.all().delete()
        PipeRun.objects.all().delete()
        PipeFact.objects.all().delete()
        shuffled = World(definition, seed=seed)
        shuffled.parcels.plan = [fate]
        shuffled.send(foreign_start("order-2"))
        shuffled.live_on()
        run = shuffled.run
        assert (run.status, shuffled.steps, run.error_code, run.failed_step) == wanted
        assert all(effects.count("do") <= 1 and effects.count("undo") <= 1 for effects in shuffled.effects)
        assert run.steps[0].started_at is not None

    def test_a_report_may_come_before_everything_else(self, world: World) -> None:
        world.send(control.start(SERVICES, {"amount": "3"}, global_id="order-1"))
        late = [wire for wire in world.waiting if wire.reader == GROUP]
        world.waiting = [wire for wire in world.waiting if wire.reader != GROUP]
        world.settle()
        world.waiting = late
        assert world.run.status == "COMPLETED"
        assert Run.objects.get().data == {}
        world.settle()
        assert Run.objects.get().data == {"amount": "3"}
        assert world.steps == ["DONE"] * 3


class TestRefusal:
    def test_of_the_third_undoes_the_second_and_the_first(self, world: World) -> None:
        world.parcels.plan = ["refuse"]
        world.start()
        world.settle()
        run = world.run
        assert run.status == "COMPENSATED"
        assert (run.failed_step, run.error_code, run.error_detail) == ("book", "SOLD_OUT", "Nothing is left.")
        assert world.steps == ["UNDONE", "UNDONE", "FAILED"]
        assert world.effects == [["do", "undo"], ["do", "undo"], []]
        assert told(world) == [("compensated", "book", "SOLD_OUT")]
        first, second, third = run.steps
        assert second.undone_at is not None
        assert first.undone_at is not None
        assert second.undone_at <= first.undone_at
        assert [each.outcome for each in third.tries] == ["REFUSED"]
        assert [(each.undo, each.outcome) for each in first.tries] == [(False, "DONE"), (True, "DONE")]

    def test_of_the_first_ends_the_run_at_once(self, world: World) -> None:
        world.stock.plan = ["refuse"]
        world.start()
        world.settle()
        assert (world.run.status, world.steps) == ("COMPENSATED", ["FAILED", "PENDING", "PENDING"])

    def test_whose_undo_was_lost_is_undone_by_the_state_manager(self, world: World) -> None:
        world.parcels.plan = ["refuse"]
        world.cards.is_up = True
        world.start()
        for _ in range(40):
            world.relay()
            wire = next((each for each in world.waiting if not each.record.topic.endswith(".compensate")), None)
            if wire is None:
                break
            world.waiting.remove(wire)
            world.deliver(wire)
        world.lose(reader=CARDS, kind="compensate")
        world.lose(reader=GROUP, kind="compensate")
        assert world.run.status == "COMPENSATING"
        world.live_on()
        assert (world.run.status, world.steps) == ("COMPENSATED", ["UNDONE", "UNDONE", "FAILED"])
        assert world.effects == [["do", "undo"], ["do", "undo"], []]


class TestTrouble:
    def test_a_service_that_tries_again_is_seen_doing_so(self, world: World) -> None:
        world.cards.plan = ["fail", "do"]
        world.start()
        world.settle()
        assert world.run.status == "COMPLETED"
        assert [(each.outcome, each.error_code) for each in world.run.steps[1].tries] == [
            ("FAILED", "RuntimeError"),
            ("DONE", ""),
        ]

    def test_a_dead_letter_is_tried_again_after_a_while(self, world: World) -> None:
        world.cards.plan = ["fail", "fail", "do"]
        world.start()
        world.settle()
        run = world.run
        assert (run.status, run.failed_step, run.error_code) == ("RUNNING", "charge", "RuntimeError")
        assert run.steps[1].status == "FAILED"
        assert run.steps[1].retry_at is not None
        assert run.due_at == run.steps[1].retry_at
        world.live_on()
        assert (world.run.status, world.run.error_code, world.steps) == ("COMPLETED", "", ["DONE"] * 3)
        assert world.effects == [["do"]] * 3

    def test_one_that_dies_again_and_again_is_undone(self, world: World) -> None:
        world.cards.plan = ["fail"]
        world.start()
        world.live_on()
        assert (world.run.status, world.run.failed_step, world.run.error_code) == ("COMPENSATED", "charge", "RuntimeError")
        assert world.steps[0] == "UNDONE"
        assert world.stock.effects == ["do", "undo"]
        assert len(world.asked(f"{CARDS}.in")) == 4, "asked once by the service before it, and three times by us"
        assert told(world) == [("compensated", "charge", "RuntimeError")]

    def test_past_the_pivot_it_is_a_persons_case(self) -> None:
        with registered(use_case(charge=Kind.PIVOT, book=Kind.RETRIABLE)) as definition:
            world = World(definition, charge=Kind.PIVOT, book=Kind.RETRIABLE)
            world.parcels.plan = ["fail"]
            world.start()
            world.live_on()
            assert (world.run.status, world.run.failed_step) == ("STUCK", "book")
            assert told(world) == [("stuck", "book", "RuntimeError")]
            assert not world.asked(f"{CARDS}.compensate")
            world.parcels.plan = ["do"]
            triage.retry(world.run.run_id, now=timezone.now())
            engine.advance(world.run.run_id)
            world.live_on()
            assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)

    def test_an_undo_that_dies_is_tried_for_longer_and_then_a_persons_case(self, world: World) -> None:
        world.parcels.plan = ["refuse"]
        world.stock.undo_plan = ["fail"]
        world.start()
        world.live_on()
        run = world.run
        assert (run.status, run.failed_step) == ("STUCK", "reserve")
        assert (run.steps[0].status, run.steps[1].status) == ("UNDOING", "UNDONE")
        assert len(world.asked(f"{STOCK}.compensate")) == 8
        world.stock.undo_plan = ["do"]
        triage.retry(run.run_id, now=timezone.now())
        engine.advance(run.run_id, undo=True)
        world.live_on()
        assert (world.run.status, world.stock.effects) == ("COMPENSATED", ["do", "undo"])

    def test_a_message_that_can_never_be_handled_is_a_persons_case(self, world: World) -> None:
        world.start()
        world.cards.handle = lambda message: {1, 2}  # type: ignore[method-assign, assignment, return-value]
        world.cards.__post_init__()
        world.settle()
        assert (world.run.status, world.run.error_code) == ("STUCK", "P005")


class TestSilence:
    def test_a_message_that_was_lost_is_sent_again(self, world: World) -> None:
        world.start()
        world.relay()
        world.lose(reader=STOCK, kind="in")
        world.settle()
        assert (world.run.status, world.steps[0]) == ("WAITING", "WAITING")
        world.time_passes()
        assert world.run.error_code == ""
        world.settle()
        assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)
        assert [each.outcome for each in world.run.steps[0].tries] == ["NO_ANSWER", "DONE"]
        assert world.effects == [["do"]] * 3

    def test_a_service_that_never_answers_is_given_up_and_waited_for_with_the_undo(self, world: World) -> None:
        world.cards.is_up = False
        world.start()
        world.live_on()
        run = world.run
        assert (run.status, run.failed_step, run.error_code) == ("STUCK", "charge", "NoReport")
        assert len(world.asked(f"{CARDS}.in")) == 4
        assert world.asked(f"{CARDS}.compensate")
        assert world.stock.effects == ["do"], "nobody knows what the silent one has done: nothing is undone past it"
        world.cards.is_up = True  # everything is still with the broker
        world.live_on()
        assert world.run.status == "COMPENSATED"
        assert world.stock.effects == ["do", "undo"]

    def test_an_answer_that_was_lost_is_said_again(self, world: World) -> None:
        world.start()
        for _ in range(100):
            world.relay()
            world.lose(reader=CARDS, kind="in")
            world.lose(reader=GROUP, kind="in")
            if not world.waiting:
                break
            world.deliver(world.waiting.pop(0))
        assert world.steps == ["DONE", "WAITING", "PENDING"] or world.steps == ["DONE", "PENDING", "PENDING"]
        world.live_on()
        assert (world.run.status, world.effects) == ("COMPLETED", [["do"]] * 3)


class TestUndoFromOutside:
    def compensate(self, run_id: UUID, **more: Any) -> None:
        with transaction.atomic():
            verbs.compensate(run_id, reason="the customer has called", by="user:ana", now=timezone.now(), **more)

    @pytest.mark.parametrize("deliveries", range(0, 14, 2))
    def test_at_any_moment_undoes_what_was_done(self, world: World, deliveries: int) -> None:
        run_id = world.start()
        for _ in range(deliveries):
            world.relay()
            if world.waiting:
                world.deliver(world.waiting.pop(0))
        self.compensate(run_id, code="CANCELLED")
        assert world.run.status == "COMPENSATING"
        world.live_on()
        assert (world.run.status, world.run.error_code) == ("COMPENSATED", "CANCELLED")
        assert all(effects in ([], ["undo"], ["do", "undo"]) for effects in world.effects)
        assert told(world)[-1][0] == "compensated"

    def test_of_a_completed_run_too(self, world: World) -> None:
        run_id = world.start()
        world.settle()
        self.compensate(run_id)
        world.settle()
        assert (world.run.status, world.steps) == ("COMPENSATED", ["UNDONE"] * 3)
        assert world.effects == [["do", "undo"]] * 3

    def test_is_refused_in_the_wrong_state_and_changes_nothing(self, world: World) -> None:
        run_id = world.start()
        self.compensate(run_id)
        sent = Message.objects.count()
        with pytest.raises(AlreadyUndone):
            self.compensate(run_id)
        with pytest.raises(UnknownSaga):
            self.compensate(uuid4())
        with pytest.raises(UnknownSaga):
            verbs.run_of("nobody")
        assert Message.objects.count() == sent

    def test_past_the_pivot_is_refused(self) -> None:
        with registered(use_case(charge=Kind.PIVOT, book=Kind.RETRIABLE)) as definition:
            world = World(definition, charge=Kind.PIVOT, book=Kind.RETRIABLE)
            run_id = world.start()
            world.settle()
            with pytest.raises(PastThePivot):
                self.compensate(run_id)
            assert world.run.status == "COMPLETED"

    def test_of_a_pivot_that_the_use_case_does_not_know_needs_a_person(self, definition: Definition) -> None:
        world = World(definition, charge=Kind.PIVOT)
        run_id = world.start()
        world.settle()
        self.compensate(run_id)
        world.live_on()
        assert (world.run.status, world.run.error_code) == ("STUCK", "P004")
        assert world.steps == ["DONE", "DONE", "UNDONE"]

    def test_that_its_services_refuse_leaves_the_run_as_it_was(self, definition: Definition) -> None:
        world = World(definition, charge=Kind.PIVOT, book=Kind.RETRIABLE)
        run_id = world.start()
        world.settle()
        self.compensate(run_id)
        world.live_on()
        assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)
        assert world.effects == [["do"]] * 3

    def test_of_a_run_whose_steps_are_done_here_is_refused(self) -> None:
        from tests.integration.saga import test_engine as toys
        from tests.integration.saga.world import begin, toy
        from tests.integration.saga.world import registered as toys_registered

        story = toys.Story()
        definition = toy(toys.local(story, "a"), story=story)
        with toys_registered(definition):
            run_id = begin(definition)
            with pytest.raises(NotChoreographed):
                self.compensate(run_id)

    def test_a_global_id_is_one_runs(self, world: World) -> None:
        run_id = world.start()
        with pytest.raises(GlobalIdTaken):
            world.start(global_id=run_id)
        assert Run.objects.count() == 1


class TestPeople:
    def test_a_paused_use_case_sends_nothing_until_it_is_lifted(self, world: World) -> None:
        pauses.pause(USE_CASE, reason="a sale is on", by="user:ana", now=timezone.now())
        run_id = world.start()
        assert not Pending.objects.exists()
        assert Run.objects.get().held_by is not None
        pauses.lift(USE_CASE, reason="it is over", by="user:ana", now=timezone.now())
        engine.advance(run_id)
        world.settle()
        assert world.run.status == "COMPLETED"

    def test_a_paused_step_is_not_asked_again(self, world: World) -> None:
        pauses.pause(USE_CASE, "charge", reason="they are away", by="user:ana", now=timezone.now())
        world.cards.is_up = False
        world.start()
        world.settle()
        world.time_passes()
        assert Run.objects.get().held_by is not None
        assert len(world.asked(f"{CARDS}.in")) == 1
        pauses.lift(USE_CASE, "charge", reason="they are back", by="user:ana", now=timezone.now())
        world.cards.is_up = True
        world.live_on()
        assert world.run.status == "COMPLETED"

    def test_a_step_that_a_person_skips_is_done_with_the_output_that_they_gave(self, world: World) -> None:
        world.cards.plan = ["fail"]
        world.start()
        world.settle()
        row = Step.objects.get(position=1)
        Step.objects.filter(run_id=row.run_id, position=1).update(status="DONE", output={"amount": "12.50", "by": ["hand"]})
        Run.objects.filter(pk=row.run_id).update(cursor=2)
        world.time_passes()
        world.settle()
        assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)
        assert world.run.steps[2].output["by"] == ["hand", PARCELS]
        assert world.parcels.effects == ["do"]


class TestRows:
    def test_attempts_are_rows_like_those_of_other_runs(self, world: World) -> None:
        world.cards.plan = ["fail", "do"]
        world.parcels.plan = ["refuse"]
        world.start()
        world.settle()
        rows = Attempt.objects.order_by("position", "undo", "number").values_list("position", "undo", "number", "outcome")
        assert list(rows) == [
            (0, False, 1, "DONE"),
            (0, True, 1, "DONE"),
            (1, False, 1, "FAILED"),
            (1, False, 2, "DONE"),
            (1, True, 1, "DONE"),
            (2, False, 1, "REFUSED"),
        ]

    def test_a_version_is_the_one_that_began_it(self) -> None:
        with registered(use_case()) as first, registered(use_case(version=2)):
            world = World(first)
            world.start()
            world.settle()
            assert world.run.version == 1


class TestTakenOver:
    def test_is_refused_for_its_steps_would_be_asked_for_again(self, world: World) -> None:
        """Services know of no message of it, so nobody could go on in its middle."""
        with pytest.raises(InvalidValues, match="in other services"), transaction.atomic():
            adopt(
                world.definition,
                at_step=world.definition.steps[2].name,
                subject_id=uuid4(),
                business_key="legacy 1",
                data={"amount": "1.00"},
                outputs={},
                reason="from the old system",
                by="t",
                now=timezone.now(),
            )
        world.settle()
        assert (world.effects, Run.objects.count()) == ([[], [], []], 0)


class TestArchived:
    def test_what_is_heard_of_it_later_begins_no_run(self, world: World, tmp_path: Path) -> None:
        world.start()
        world.settle()
        assert world.run.status == "COMPLETED"
        log = list(world.log)
        assert archive_runs(directory=tmp_path, now=timezone.now() + timedelta(days=1_000)).runs
        Inbox.objects.all().delete()  # it forgets sooner
        world.send(*(record for record in log if record.topic.endswith(".event")))  # somebody replays a topic
        world.settle()
        assert not Run.objects.exists()
        with pytest.raises(GlobalIdTaken):
            world.start(global_id=UUID(json.loads(log[0].value)["meta"]["global-id"]))


class TestAServicesClock:
    @pytest.mark.parametrize(
        "moment",
        ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T00:00:00Z"],
    )
    def test_that_tells_an_impossible_time_hides_no_run(self, world: World, moment: str) -> None:
        """A moment that was never set is the year 1 in some languages; beyond the years 1 and 9999 none can be read."""
        world.start()
        world.settle()
        log = [record for record in world.log if record.topic == f"{STOCK}.event"]
        made = json.loads(log[0].value)
        made["meta"]["message-id"] = str(uuid4())
        made["body"] |= dict.fromkeys(("asked_at", "started_at", "finished_at"), moment) | {"attempt": 2}
        world.send(log[0]._replace(value=json.dumps(made)))
        world.settle()
        assert not Redelivery.objects.exists()
        assert world.run.status == "COMPLETED"
        for begun in Attempt.objects.values_list("started_at", flat=True):
            assert begun.astimezone(BUSINESS_ZONE).year > 2000
