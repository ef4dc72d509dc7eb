"""Drive the post office and the sagas in this process, without Celery and without a clock: the work is the same code.

Celery's tasks only call ``engine.advance``; here the test calls it, in whatever order it likes.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.test.utils import override_settings
from django.utils import timezone

from apps.messaging import topics
from apps.messaging.consumer import consume_once
from apps.messaging.inbox import groups
from apps.messaging.lag import consumer_lag
from apps.messaging.models import Redelivery
from apps.messaging.relay import relay_all
from apps.messaging.transports import kafka_admin, transport
from apps.messaging.transports.base import Consumer
from apps.saga import engine
from apps.saga.models import LIVE, Run, RunStatus, Step

ROUNDS_MAX = 300
HELD_ROUNDS = 10
POLL_S = 0 if settings.MESSAGING_TRANSPORT == "local" else 0.05

_members: dict[str, Consumer] = {}


def pump_messages(*, held: int = 0) -> int:
    """Relay and consume until nothing moves. ``held``: so many messages are there that nobody takes for now."""
    moved = still = 0
    for _ in range(ROUNDS_MAX):
        before = moved
        moved += relay_all().acknowledged
        waiting = 0
        for group, names in _at_work().items():
            behind = _waiting(group)
            waiting += behind
            with _member(group, names) as consumer:
                moved += _consume(consumer, group=group, timeout_s=POLL_S if behind else 0)
        still = still + 1 if moved == before else 0
        # What is held was looked at, too: a server needs some polls to hand it out.
        if still > (HELD_ROUNDS if held else 0) and waiting <= held:
            return moved
    raise AssertionError("the messages never come to rest")


# A member joins, looks and leaves in some six statements, and nine times in ten it finds nothing.
_AT_WORK = """
SELECT n."group" FROM unnest(%(groups)s::text[], %(topics)s::text[]) AS n ("group", topic)
JOIN messaging_localpartition p ON p.topic = n.topic
LEFT JOIN messaging_localcursor c ON c."group" = n."group" AND c.topic = p.topic AND c.partition = p.partition
WHERE p.next_offset > coalesce(c.next_offset, 0)
UNION SELECT r."group" FROM messaging_redelivery r WHERE r.due_at <= %(now)s
"""


def _at_work() -> dict[str, list[str]]:
    """Groups that have something to read or to try again, with their topics. On a server, whose answer is late, all."""
    known = groups()
    if settings.MESSAGING_TRANSPORT != "local":
        return known
    pairs = [(group, topic) for group, names in known.items() for topic in names]
    with connection.cursor() as cursor:
        asked = {"groups": [group for group, _ in pairs], "topics": [topic for _, topic in pairs], "now": timezone.now()}
        cursor.execute(_AT_WORK, asked)
        found = {group for (group,) in cursor.fetchall()}
    return {group: names for group, names in known.items() if group in found}


def _consume(consumer: Consumer, *, group: str, timeout_s: float) -> int:
    """Poll and handle. On a server once more after that: it is then that the offsets are sent, and nothing waits."""
    found = consume_once(consumer, group=group, timeout_s=timeout_s)
    if found and settings.MESSAGING_TRANSPORT != "local":
        found += consume_once(consumer, group=group, timeout_s=0)
    return found


@contextmanager
def _member(group: str, names: list[str]) -> Iterator[Consumer]:
    """A member for one poll; on a server, where it takes a second to join, the same one for the whole test."""
    if settings.MESSAGING_TRANSPORT == "local":
        consumer = transport().consumer(group=group, topics=names)
        yield consumer
        consumer.close()
        return
    if group not in _members:
        _members[group] = transport().consumer(group=group, topics=names)
    yield _members[group]


def _waiting(group: str) -> int:
    """How many messages a group has not taken. A local poll has seen all; a server's answer may still be under way."""
    if settings.MESSAGING_TRANSPORT == "local":
        return 0
    return sum(consumer_lag(group).values())


@contextmanager
def server_world() -> Iterator[None]:
    """On a server: topics and groups of this test's own, gone afterwards. Nothing on the local transport."""
    if settings.MESSAGING_TRANSPORT == "local":
        yield
        return
    with override_settings(MESSAGING_PREFIX=f"t{secrets.token_hex(4)}.", TOPIC_PARTITIONS=2):
        transport.cache_clear()
        topics.apply()
        try:
            yield
        finally:
            for member in _members.values():
                member.close()
            _members.clear()
            _drop_topics()
            transport.cache_clear()


def _drop_topics() -> None:
    """A broker's clients hear of every topic that there is: two hundred tests leave eight thousand partitions."""
    if settings.MESSAGING_TRANSPORT == "kafka":
        with kafka_admin.admin() as client:
            client.delete_topics([kafka_admin.wire_name(topic.name) for topic in topics.desired_topics()])


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


def finish(run_id: UUID, *, meanwhile: Callable[[], object] = lambda: None) -> Run:
    """Work, and let time pass, until the run is over, and its branches with it. ``meanwhile``: what people do."""
    pump_messages()
    for _ in range(ROUNDS_MAX):
        for branch in _live_branches(run_id):
            work(branch)
        run = work(run_id)
        meanwhile()
        if run.status not in LIVE:
            return run
        for each in (run_id, *_live_branches(run_id)):
            let_time_pass(each)
    raise AssertionError(f"the run never ends: {run.status} at {run.cursor}")


def _live_branches(run_id: UUID) -> list[UUID]:
    return list(Run.objects.filter(parent_id=run_id, status__in=LIVE).order_by("pk").values_list("pk", flat=True))
