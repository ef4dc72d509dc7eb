"""Drive the post office and the sagas in this process, without Celery and without a clock: the work is the same code.

Celery's tasks only call ``engine.advance``; here the test calls it, in whatever order it likes.
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.utils import timezone

from apps.messaging.consumer import consume_once
from apps.messaging.inbox import groups
from apps.messaging.models import Redelivery
from apps.messaging.relay import relay_all
from apps.messaging.transports import transport
from apps.saga import engine
from apps.saga.models import LIVE, Run, RunStatus, Step

ROUNDS_MAX = 300


def pump_messages() -> int:
    """Relay and consume until nothing moves."""
    moved = 0
    for _ in range(ROUNDS_MAX):
        before = moved
        moved += relay_all().acknowledged
        for group, topics in groups().items():
            consumer = transport().consumer(group=group, topics=topics)
            moved += consume_once(consumer, group=group, timeout_s=0)
            consumer.close()
        if moved == before:
            return moved
    raise AssertionError("the messages never come to rest")


def let_time_pass(run_id: UUID) -> None:
    """Make everything that waits for a time due now: retries, deadlines, leases, redeliveries."""
    past = timezone.now() - timedelta(seconds=1)
    Step.objects.filter(run_id=run_id, retry_at__isnull=False).update(retry_at=past)
    Step.objects.filter(run_id=run_id, waiting_until__isnull=False).update(waiting_until=past)
    Run.objects.filter(pk=run_id, lease_until__isnull=False).update(lease_until=past)
    Run.objects.filter(pk=run_id, due_at__isnull=False).update(due_at=past)
    Redelivery.objects.update(due_at=past)


def work(run_id: UUID, *, now: datetime | None = None) -> Run:
    """Advance a run until it parks or is over."""
    for _ in range(ROUNDS_MAX):
        run = Run.objects.get(pk=run_id)
        undo = run.status == RunStatus.COMPENSATING
        progress = engine.advance(run_id, undo=undo, now=now)
        pump_messages()
        after = Run.objects.get(pk=run_id)
        if after.status not in LIVE:
            return after
        moved = (after.status, after.cursor) != (run.status, run.cursor)
        if progress is engine.Progress.PARKED and not moved:
            return after
    raise AssertionError("the run never comes to rest")


def finish(run_id: UUID) -> Run:
    """Work, and let time pass, until the run is over."""
    pump_messages()
    for _ in range(ROUNDS_MAX):
        run = work(run_id)
        if run.status not in LIVE:
            return run
        let_time_pass(run_id)
    raise AssertionError(f"the run never ends: {run.status} at {run.cursor}")
