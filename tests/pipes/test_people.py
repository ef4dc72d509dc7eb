"""Seeded schedules with people, who retry, skip, undo and close a saga of services at any moment, while messages get lost.

A seed that fails is in the test's name and fails alone: pytest -k 'seed17'. More of them: GSM_SEEDS=2000.
"""

import os
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import triage
from apps.saga.definition import Definition
from apps.saga.models import LIVE, Run
from tests.pipes.test_simulation import GOOD, Schedule
from tests.pipes.world import World, registered, use_case

pytestmark = pytest.mark.django_db

SEEDS = int(os.environ.get("GSM_SEEDS", "12"))
FIRST = int(os.environ.get("GSM_FIRST", "0"))
ACTS = 60
WEIGHTS = (4, 1, 3, 2)  # of retry, undo, skip and close
BAD = (["do"], ["fail", "do"], ["fail"], ["refuse"])
BAD_UNDO = (["do"], ["fail", "fail", "do"], ["fail"], ["refuse"])


@pytest.fixture
def definition() -> Iterator[Definition]:
    with registered(use_case()) as found:
        yield found


class WithPeople(Schedule):
    """One saga, what happens to it, and what people do about it."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.told: list[str] = []
        self.skipped = False
        for service in world.services.values():
            service.plan = self.random.choice(BAD)
            service.undo_plan = self.random.choice(BAD_UNDO)

    def act(self) -> None:
        super().act()
        if self.random.random() < 0.2:
            self.somebody()

    def somebody(self) -> None:
        run = Run.objects.first()
        if run is None:
            return
        (action,) = self.random.choices(list(triage.Action), WEIGHTS)
        given = {}
        if action is triage.Action.RETRY and self.random.random() < 0.3:
            given = {"patch": {"note": "edited"}}
        if action is triage.Action.SKIP and self.random.random() < 0.5:
            given = {"output": {"left": 3}}
        try:
            with transaction.atomic():
                what = triage.wanted(action, **given)
                did = triage.apply(run.pk, what, reason="by the schedule", by="user:ana", now=timezone.now())
        except DomainError as refusal:
            did = f"{refusal.code} {refusal.detail}"
        else:
            self.skipped |= action is triage.Action.SKIP
        self.told.append(f"{action} ({run.status} at {run.at_step}): {did}")

    def help(self) -> None:
        """The services are well again, and somebody lets a stuck saga go on, as often as it takes."""
        for service in self.world.services.values():
            service.plan, service.undo_plan = ["do"], ["do"]
        for _ in range(6):
            run = Run.objects.get()
            if run.status != "STUCK":
                return
            self.told.append(f"help ({run.at_step}): {run.error_code} {run.error_detail}")
            self._retry(run)
            self.world.settle()
            self.world.live_on(rounds=60)

    def _retry(self, run: Run) -> None:
        with transaction.atomic():
            what = triage.wanted(triage.Action.RETRY)
            triage.apply(run.pk, what, reason="by the schedule", by="user:ana", now=timezone.now())


def invariants(world: World, schedule: WithPeople) -> None:
    run = world.run
    assert not Run.objects.filter(status__in=LIVE).exists()
    for effects in world.effects:
        assert effects.count("do") <= 1
        assert effects.count("undo") <= 1
    if schedule.skipped or run.status == "HANDLED":
        return
    assert run.status in ("COMPLETED", "COMPENSATED", "STUCK"), run.status
    if run.status == "COMPLETED":
        assert world.effects == [["do"]] * 3
    if run.status == "COMPENSATED":
        assert all(effects in GOOD for effects in world.effects), world.effects


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS), ids=lambda seed: f"seed{seed}")
def test_every_saga_ends_or_is_told_to_be_stuck(definition: Definition, seed: int) -> None:
    world = World(definition)
    schedule = WithPeople(world, seed)
    schedule.begin()
    try:
        for _ in range(ACTS):
            schedule.act()
        for service in world.services.values():
            service.is_up = True
        world.settle()
        world.live_on(rounds=60)
        invariants(world, schedule)
        schedule.help()
        invariants(world, schedule)
        assert world.run.status != "STUCK"
    except Exception as error:
        error.add_note("\n".join([*schedule.told, f"{world.run.status} {world.steps} {world.effects}"]))
        raise
