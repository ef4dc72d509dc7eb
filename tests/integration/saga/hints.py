"""Celery's messages in a list: each is carried out as its task would, once, twice or never, by one thread or by many."""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from django.utils import timezone

from apps.saga import engine, tasks
from apps.saga.chains import Begun
from apps.saga.engine import Progress
from apps.saga.models import LIVE, Run, RunStatus, Step
from apps.saga.sweeper import sweep

WORK_MAX = 3_000


class Hints:
    """What was sent and not carried out yet."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], None]] = deque()
        self.groups: list[list[UUID]] = []
        self.lost = 0
        self._loses = 0.0
        self._chance = random.Random(0)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.saga.chains.wake", lambda run_id, *_: self.send(_chain, run_id))
        monkeypatch.setattr("apps.saga.chains.wake_soon", lambda run_id: self.send(_advance, run_id))
        monkeypatch.setattr("apps.saga.chains.wake_undo", lambda run_id: self.send(_undo, run_id))
        monkeypatch.setattr("apps.saga.chains.wake_group", self._group)
        monkeypatch.setattr("apps.saga.chains.look", self._look)

    def loses(self, share: float, *, seed: int) -> None:
        """From now on so many of them are lost."""
        self._loses, self._chance = share, random.Random(seed)

    def send(self, what: Callable[[UUID], None], run_id: UUID) -> None:
        if self._chance.random() < self._loses:
            self.lost += 1
        else:
            self.waiting.append(partial(what, run_id))

    def _group(self, begun: Iterable[Begun]) -> None:
        runs = list(begun)
        self.groups.append([each.run_id for each in runs])
        for each in runs:
            self.send(_chain if each.calls else _advance, each.run_id)

    def _look(self, *run_ids: UUID) -> None:
        for run_id in run_ids:
            self.send(_look, run_id)

    def work_off(self) -> int:
        """Carry them out, and those that they send, until there are none."""
        for done in range(WORK_MAX):
            try:
                hint = self.waiting.popleft()
            except IndexError:
                return done
            hint()
        raise AssertionError("the messages never end")


def _advance(run_id: UUID) -> None:
    tasks.advance(run_ids=[str(run_id)])


def _undo(run_id: UUID) -> None:
    tasks.undo(run_id=str(run_id))


def _look(run_id: UUID) -> None:
    tasks.look(run_id=str(run_id))


def _chain(run_id: UUID) -> None:
    progress = Progress.MOVED
    while progress is Progress.MOVED:
        progress = engine.advance(run_id)
    if progress is Progress.UNDOING:
        _undo(run_id)


def end(hints: Hints, *run_ids: UUID, rounds: int = 60) -> list[str]:
    """Sweep, and let what waits for a moment come to it, until these runs are over. Their statuses."""
    for _ in range(rounds):
        hints.work_off()
        found = dict(Run.objects.filter(pk__in=run_ids).values_list("pk", "status"))
        if not any(status in LIVE for status in found.values()):
            return [found[run_id] for run_id in run_ids]
        let_all_pass()
        sweep()
    raise AssertionError(f"they never end: {found}")


def let_all_pass() -> None:
    """Every moment that something waits for has come, except the deadlines of whole runs."""
    past = timezone.now() - timedelta(seconds=1)
    Step.objects.filter(retry_at__isnull=False).update(retry_at=past)
    Step.objects.filter(waiting_until__isnull=False).update(waiting_until=past)
    Run.objects.filter(lease_until__isnull=False).update(lease_until=past)
    Run.objects.filter(due_at__isnull=False).update(due_at=past)


def many(hints: Hints, *, threads: int, rounds: int = 1_000) -> list[Callable[[], None]]:
    """Workers and a sweeper, until no run is live.

    ``rounds``: 20 s at least. Two hundred were over before the workers were, when the machine had ten times as much to do.
    """
    over = threading.Event()

    def worker() -> None:
        while not over.is_set():
            hints.work_off()
            over.wait(0.002)

    def sweeper() -> None:
        try:
            for n in range(rounds):
                if not Run.objects.filter(status__in=LIVE).exists():
                    return
                over.wait(0.02)
                sweep(now=timezone.now() + timedelta(minutes=n))  # what was woken a round ago is woken again
            raise AssertionError("some run never ends")
        finally:
            over.set()

    return [sweeper, *[worker] * threads]


def assert_whole(now: datetime | None = None) -> None:
    """What holds when nothing is under way: no live run without a moment, and none of a finished run's traces."""
    now = now or timezone.now()
    assert not Run.objects.filter(status__in=LIVE, due_at__isnull=True, held_by__isnull=True).exists()
    over = Run.objects.filter(status__in=[RunStatus.COMPLETED, RunStatus.COMPENSATED])
    assert not Step.objects.filter(run__in=over, waiting_until__isnull=False).exists()
