"""Celery's edge of the saga: ids in, one call inward."""

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import Task, shared_task
from celery.exceptions import Ignore
from django.conf import settings
from django.utils import timezone

from apps.saga import bulk, chains, engine, forks, incidents, months, retention
from apps.saga.engine import Progress
from apps.saga.sweeper import sweep as sweep_due

logger = logging.getLogger(__name__)

UNDO_ROUNDS_MAX = 200  # steps and their repetitions; a longer run continues with the sweeper
SEGMENTS_MAX = 20  # a run has two, before and after its pivot; more only when others come in between


class TurnedAround(Exception):
    """The run goes back from here: Celery calls the chain's errback."""


@shared_task(name="saga.advance")
def advance(*, run_ids: list[str], **_newer_args: Any) -> None:
    """Do what is local of these runs. A call is left to a chain of its own, an undo to its task."""
    for run_id in run_ids:
        try:
            _advance(UUID(run_id))
        except Exception:
            # The others must not suffer from it. The run is due in the database, and the sweeper finds it there.
            logger.warning("run %s could not go on", run_id, exc_info=True)


def _advance(run_id: UUID) -> None:
    for _ in range(SEGMENTS_MAX):
        progress = engine.advance(run_id, calls=False)
        if progress is Progress.UNDOING:
            chains.wake_undo(run_id)
        if progress is not Progress.MOVED:
            return


@shared_task(name="saga.look")
def look(*, run_id: str, **_newer_args: Any) -> None:
    """Look at a run for which something has come: a branch ended, a key is free, its parent calls it back."""
    run = UUID(run_id)
    progress = engine.advance(run, calls=False, wait=True)
    if progress is Progress.UNDOING:
        progress = engine.advance(run, undo=True, wait=True)
    if progress is Progress.UNDOING:
        chains.wake_undo(run)
    elif progress is Progress.MOVED:
        _advance(run)


@shared_task(name="saga.do_step", throws=(TurnedAround,))
def do_step(*, run_id: str, position: int, **_newer_args: Any) -> None:
    """Do the step at this position if the run has come to it. Ends the chain when the run must wait or is over."""
    progress = engine.advance(UUID(run_id), on=True, past=position)
    if progress is Progress.UNDOING:
        raise TurnedAround(run_id)
    if progress is not Progress.MOVED:
        raise Ignore


@shared_task(name="saga.undo", bind=True)
def undo(_self: Task, _failed_task_id: str | None = None, *, run_id: str, **_newer_args: Any) -> None:
    """Undo the run as far as it goes now. Does nothing unless the run's row says that it is undoing."""
    for _ in range(UNDO_ROUNDS_MAX):
        if engine.advance(UUID(run_id), undo=True) is not Progress.UNDOING:
            return


@shared_task(name="saga.sweep")
def sweep(**_newer_args: Any) -> None:
    """Wake every run that is due and that nobody woke."""
    sweep_due()


@shared_task(name="saga.triage")
def triage(**_newer_args: Any) -> None:
    """Count the errors of the last second, and go on with actions that nobody works on."""
    while incidents.fold() == incidents.FOLD_MAX:
        continue
    bulk.go_on(now=timezone.now())


@shared_task(name="saga.work_action")
def work_action(*, action_id: str, **_newer_args: Any) -> None:
    """Settle some runs of an action, and ask for a task that settles the next ones."""
    if bulk.work(UUID(action_id), now=timezone.now()) == bulk.CHUNK_RUNS:
        bulk.wake(UUID(action_id))


@shared_task(name="saga.tidy_incidents")
def tidy_incidents(**_newer_args: Any) -> None:
    """Handle incidents that are over by themselves, and find runs in trouble that belong to none."""
    incidents.tidy(now=timezone.now())
    incidents.adopt()


@shared_task(name="saga.archive")
def archive(**_newer_args: Any) -> None:
    """Open the months ahead; export and delete the finished runs that are old enough."""
    now = timezone.now()
    months.open_ahead(now=now)
    forks.forget_old(now=now)
    if settings.SAGA_ARCHIVE_DIR:
        retention.archive_runs(directory=Path(settings.SAGA_ARCHIVE_DIR), now=now)
