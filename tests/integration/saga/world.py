"""What tests of pauses, breakers and versions share: toy journeys, governed like real ones."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.utils import timezone

from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.attributes import Attribute
from apps.saga.definition import Definition, Step
from apps.saga.models import Circuit, Pause, Run
from apps.saga.terms import Breaker, Sla
from tests.integration.saga.test_engine import Story, TellingHooks

TOY = "test.toy"
UNTIL_S = 90  # a limit for a broken build
REASON = "the partner asked us to"
SLA = Sla(target=timedelta(seconds=10), deadline=timedelta(minutes=1))
SEARCHED = (Attribute("customer", str), Attribute("amount", Decimal))
BREAKER = Breaker(failures=3, within=timedelta(minutes=1), probe_after=timedelta(seconds=30))


def toy(*steps: Step, story: Story, version: int = 1, use_case: str = TOY, **terms: Any) -> Definition:
    """A definition that manage.py check would let pass."""
    given = {"owner": "tests", "description": "A toy.", "sla": SLA, "attributes": SEARCHED, **terms}
    return Definition(use_case, version, steps, hooks=TellingHooks(story), **given)


@contextmanager
def registered(*made: Definition) -> Iterator[None]:
    """These definitions are known while the block runs."""
    before = set(definitions._registry)
    for definition in made:
        definitions.register(definition)
    try:
        yield
    finally:
        for key in set(definitions._registry) - before:  # those that it is made of too
            definitions._registry.pop(key)


def with_breaker(step: Step, breaker: Breaker = BREAKER) -> Any:
    """The step, with a breaker."""
    type(step).breaker = breaker
    type(step).partner = "partner"
    return step


def begin(definition: Definition, *, inline_ms: int = 0, key: str = "toy", data: dict[str, Any] | None = None) -> UUID:
    """Start a run in a commit of its own."""
    with transaction.atomic():
        return engine.start(
            definition,
            subject_id=uuid4(),
            business_key=key,
            data=data or {},
            now=timezone.now(),
            run_inline_for_ms=inline_ms,
        )


def assert_consistent() -> None:
    """What holds at every moment: who is held is held by a pause that is in force, and nobody sweeps it."""
    held = Run.objects.filter(held_by__isnull=False)
    in_force = set(Pause.objects.filter(lifted_at__isnull=True).values_list("pk", flat=True))
    assert {run.held_by for run in held} <= in_force
    assert not held.filter(due_at__isnull=False).exists()
    assert not Circuit.objects.exclude(pause_id=None).exclude(pause_id__in=in_force).exists()


def until(condition: Callable[[], bool]) -> None:
    """Look again and again until it is so; fail after a time that nothing takes."""
    pause = threading.Event()
    end = time.monotonic() + UNTIL_S
    while time.monotonic() < end:
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never became so")
