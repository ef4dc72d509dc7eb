"""What people do about choreographed runs: the actions and incidents of all runs, told to the services."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import triage
from apps.saga.definition import Definition, Run
from apps.saga.models import Audit, Occurrence
from apps.saga.models import Run as RunRow
from apps.saga.triage import Action
from tests.pipes.world import CARDS, PARCELS, TellingHooks, World, registered, use_case

pytestmark = pytest.mark.django_db


@pytest.fixture
def definition() -> Iterator[Definition]:
    with registered(use_case()) as found:
        yield found


@pytest.fixture
def world(definition: Definition) -> World:
    return World(definition)


def act(world: World, action: Action, **given: Any) -> str:
    from django.db import transaction

    with transaction.atomic():
        return triage.apply(
            world.run.run_id,
            triage.wanted(action, **given),
            reason="the partner has called",
            by="user:ana",
            now=timezone.now(),
        )


class TestRetry:
    def test_sends_the_message_again_in_the_same_commit(self, world: World) -> None:
        world.cards.plan = ["fail", "fail", "do"]
        world.start()
        world.settle()
        assert world.run.status == "RUNNING"
        assert act(world, Action.RETRY) == "tries charge again"
        assert len(world.asked(f"{CARDS}.in")) == 1
        world.settle()
        assert (world.run.status, len(world.asked(f"{CARDS}.in"))) == ("COMPLETED", 2)
        assert list(Audit.objects.values_list("action", "step")) == [("retry", "charge")]

    def test_with_another_input_changes_the_messages_body(self, world: World) -> None:
        world.cards.plan = ["fail", "fail", "do"]
        world.start()
        world.settle()
        act(world, Action.RETRY, patch={"card": "another", "left": None})
        world.settle()
        assert world.run.status == "COMPLETED"
        output = world.run.steps[1].output
        assert (output["card"], output["amount"]) == ("another", "12.50")

    def test_of_an_undo(self, world: World) -> None:
        world.parcels.plan = ["refuse"]
        world.cards.undo_plan = ["fail", "fail", "do"]
        world.start()
        world.settle()
        assert (world.run.status, world.steps[1]) == ("COMPENSATING", "UNDOING")
        act(world, Action.RETRY)
        world.settle()
        assert world.run.status == "COMPENSATED"

    def test_is_refused_for_a_run_that_goes_on_by_itself(self, world: World) -> None:
        world.start()
        with pytest.raises(triage.NotStuck):
            act(world, Action.RETRY)


class TestCompensate:
    @pytest.mark.parametrize("deliveries", [0, 1, 4, 7])
    def test_turns_a_run_round_wherever_it_is(self, world: World, deliveries: int) -> None:
        world.start()
        for _ in range(deliveries):
            world.relay()
            world.deliver(world.waiting.pop(0))
        act(world, Action.COMPENSATE)
        world.live_on()
        assert (world.run.status, world.run.error_code) == ("COMPENSATED", "R546")
        assert all(effects in ([], ["undo"], ["do", "undo"]) for effects in world.effects)

    def test_keeps_the_error_that_it_was_in(self, world: World) -> None:
        world.cards.plan = ["fail"]
        world.start()
        world.settle()
        act(world, Action.COMPENSATE)
        world.live_on()
        assert (world.run.status, world.run.error_code) == ("COMPENSATED", "RuntimeError")


class TestSkip:
    def test_asks_the_next_step_with_the_output_that_was_given(self, world: World) -> None:
        world.cards.plan = ["fail"]
        world.start()
        world.settle()
        act(world, Action.SKIP, output={"amount": "12.50", "by": ["hand"]})
        world.settle()
        assert (world.run.status, world.steps) == ("COMPLETED", ["DONE"] * 3)
        assert world.run.steps[2].output["by"] == ["hand", PARCELS]

    def test_of_the_last_step_completes_the_run(self, world: World) -> None:
        world.parcels.plan = ["fail"]
        world.start()
        world.settle()
        act(world, Action.SKIP, output={"booked": "by telephone"})
        assert world.run.status == "COMPLETED"
        assert ("completed", "order 1") in world.definition.hooks.told  # type: ignore[attr-defined]

    def test_of_an_undo_goes_on_with_the_one_before_it(self, world: World) -> None:
        world.parcels.plan = ["refuse"]
        world.cards.undo_plan = ["fail"]
        world.start()
        world.settle()
        act(world, Action.SKIP)
        world.live_on()
        assert world.run.status == "COMPENSATED"
        assert (world.stock.effects, world.cards.effects) == (["do", "undo"], ["do"])


class TestHandle:
    def test_closes_a_stuck_run_and_what_comes_later_is_only_told(self, world: World) -> None:
        world.cards.is_up = False
        world.start()
        world.live_on()
        assert world.run.status == "STUCK"
        act(world, Action.HANDLE)
        world.cards.is_up = True
        world.settle()
        assert world.run.status == "HANDLED"
        assert world.stock.effects == ["do", "undo"], "the services went on by themselves"
        assert "UNDONE" in world.steps


class TestIncidents:
    def test_errors_of_services_are_occurrences_of_their_steps(self, world: World) -> None:
        world.cards.plan = ["fail", "do"]
        world.parcels.plan = ["refuse"]
        world.start()
        world.settle()
        found = Occurrence.objects.order_by("id").values_list("step", "error_code", "error_class")
        assert list(found) == [("charge", "RuntimeError", "technical"), ("book", "SOLD_OUT", "business")]

    def test_a_lost_service_is_one_too(self, world: World) -> None:
        world.cards.is_up = False
        world.start()
        world.live_on()
        assert ("charge", "NoReport", "unknown") in set(Occurrence.objects.values_list("step", "error_code", "error_class"))


class TestHooks:
    def test_one_that_fails_is_called_again_and_the_run_completes_then(self) -> None:
        class Failing(TellingHooks):
            left = 2

            def on_completed(self, run: Run) -> None:
                if self.left:
                    self.left -= 1
                    raise RuntimeError("the owner is not well")
                super().on_completed(run)

        hooks = Failing()
        with registered(use_case(hooks)) as definition:
            world = World(definition)
            world.start()
            world.settle()
            assert (world.run.status, RunRow.objects.get().hook_failures) == ("RUNNING", 1)
            world.live_on()
            assert world.run.status == "COMPLETED"
            assert hooks.told == [("completed", "order 1")]

    def test_one_that_always_fails_leaves_the_run_to_a_person(self) -> None:
        class Broken(TellingHooks):
            def on_completed(self, run: Run) -> None:
                raise RuntimeError("a bug")

        with registered(use_case(Broken())) as definition:
            world = World(definition)
            world.start()
            world.live_on()
            assert (world.run.status, world.run.error_code) == ("STUCK", "R540")
            assert world.steps == ["DONE"] * 3


def test_refusals_change_nothing(world: World) -> None:
    world.start()
    before = world.run
    for action in Action:
        if action in (Action.RETRY, Action.HANDLE):
            with pytest.raises(DomainError):
                act(world, action)
    assert world.run == before
