"""People act on orders and returns at any moment, while their steps fail and every kind of process is killed."""

import os
import random
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from django.db import connections
from django.utils import timezone

from apps.messaging.models import Pending, Redelivery
from apps.saga import triage
from apps.saga.models import LIVE, Run, RunStatus
from tests import shop
from tests.deployment import Deployment
from tests.failures.conftest import Deployments, Tell
from tests.flows.test_people_at_random import Schedule, assert_nobody_needs_help, assert_true, waits_for_a_person
from tests.saga_driver import let_time_pass

pytestmark = [
    pytest.mark.process,
    pytest.mark.distributed,
    pytest.mark.on_servers("local"),  # nothing here is about the broker
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(1200),
]
PEOPLE, ORDERS, ACTS_S = 3, 30, float(os.environ.get("ACTS_S", "15"))
KILL_EVERY_S, PACE_S, SHAKY = 3, 0.02, os.environ.get("FAULTS", "0.08")
KINDS = {"worker": 2, "consume": 2, "relay": 1}


@pytest.fixture(autouse=True)
def nobody_inherits(deployments: Deployments) -> Iterator[None]:
    """Runs that people have closed by hand stay so, and others' tests count on runs that come to their end."""
    yield
    deployments.end()


class Person(Schedule):
    """Somebody who acts on what all of them have placed."""

    def __init__(self, seed: int, placed: list[UUID], skipped: set[UUID], taken_back: set[UUID]) -> None:
        super().__init__(seed)
        self.placed, self.skipped, self.taken_back = placed, skipped, taken_back

    def act_for(self, seconds: float) -> None:
        deeds = {
            self.act: 20,
            self.reset: 4,
            self.give_back: 4,
            self.decide: 4,
            self.pause: 1,
            self.lift: 3,
            self.take_back: 1,
        }
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                (deed,) = self.chance.choices(list(deeds), list(deeds.values()))
                deed()
                threading.Event().wait(PACE_S)
        except Exception as error:
            self.tell(f"!!! {error!r}")
            raise
        finally:
            connections.close_all()


def come_to_rest(deployed: Deployment, person: Person) -> None:
    def resting() -> bool:
        person.decide()
        live = [run for run in Run.objects.filter(status__in=LIVE) if not waits_for_a_person(run)]
        for run in live:
            let_time_pass(run.pk)
        return not live and not Pending.objects.exists() and not Redelivery.objects.exists()

    def told() -> str:
        rows = Run.objects.filter(status__in=LIVE).values_list("use_case", "status", "at_step", "error_code", "awaits_key")
        return f"everything is at rest; live are {list(rows)}"

    deployed.until(resting, what=told, timeout_s=200, revive=True)


def test_every_order_says_what_became_of_it(deployed: Deployment, tell: Tell) -> None:
    deployed.scale(sandbox=1, web=1, beat=1)
    for kind, count in KINDS.items():
        for _ in range(count):
            deployed.start(kind, SHAKY=SHAKY)
    placed: list[UUID] = []
    people = [Person(seed, placed, set(), set()) for seed in random.sample(range(10**6), PEOPLE)]
    for person in people[1:]:
        person.skipped, person.taken_back = people[0].skipped, people[0].taken_back
    for number in range(ORDERS):
        body = shop.by_balance(amount=0.1) if number % 3 == 0 else shop.body(amount=250 if number % 5 == 0 else 10.5)
        status, order = deployed.request("POST", "/orders", body, Prefer="respond-async")
        assert status == 202, order
        placed.append(UUID(order["id"]))
    threads = [threading.Thread(target=person.act_for, args=(ACTS_S,)) for person in people]
    for thread in threads:
        thread.start()
    chance = random.Random()
    killed = 0
    while any(thread.is_alive() for thread in threads):
        threading.Event().wait(KILL_EVERY_S)
        names = [
            name for name, program in deployed.programs.items() if name.split("-")[0] in KINDS and not program.has_ended
        ]
        if names:
            deployed.programs[chance.choice(names)].kill()
            killed += 1
        deployed.revive()
    for thread in threads:
        thread.join()
    for name in [name for name in deployed.programs if name.split("-")[0] in KINDS]:
        deployed.programs.pop(name).kill()
    deployed.scale(sandbox=1, web=1, beat=1, **KINDS)
    person = people[0]
    try:
        assert not any(line.startswith("!!!") for each in people for line in each.told)
        person.lift()
        come_to_rest(deployed, person)
        tell("at rest", dict(by_status()))
        assert_true(person)
        for run in Run.objects.filter(status=RunStatus.STUCK).order_by("pk"):
            person.tell(f"help {run.pk} {person.name(run)} at {run.at_step}: {run.error_code} {run.error_detail}")
            person.process("a retry", lambda run=run: triage.retry(run.pk, now=timezone.now()))
        come_to_rest(deployed, person)
        tell("after help", dict(by_status()))
        assert_true(person)
        assert_nobody_needs_help(person)
    except AssertionError as error:
        error.add_note("\n".join(line for each in people for line in [*each.told, "----"]))
        raise
    tell("killed", killed)
    tell("deeds", sum(len(each.told) for each in people))


def by_status() -> list[tuple[str, int]]:
    from django.db.models import Count

    return list(Run.objects.values_list("status").annotate(count=Count("pk")).order_by("status"))
