"""A run's remaining steps as one Celery chain of tiny messages, its undo as the chain's errback.

The chain is only a wake-up: every task asks the run's row what is to be done. The errback is a ``bind=True`` task, so
that Celery sends it as a task of its own; an unbound one would run inside the failing process, once, unretried.

A chain is worth its price for steps that talk to the outside: each is a task of its own. Local steps are quicker than
the message that asks for them, so runs whose next step is local share one (apps/saga/wakeups.py).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from celery import chain, group
from django.db import transaction

from apps.saga import wakeups

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that a step has begun. ``calls``: the number of its steps when the first one is a call, else 0."""

    run_id: UUID
    calls: int


def wake(run_id: UUID, position: int, steps: int) -> None:
    """Send the chain of the steps from ``position`` on."""
    _chain(run_id, position, steps).apply_async()


def _chain(run_id: UUID, position: int, steps: int) -> Any:
    from apps.saga import tasks  # tasks import the engine, which imports this module

    names = [tasks.do_step.si(run_id=str(run_id), position=at) for at in range(position, steps)]
    return chain(*names).on_error(tasks.undo.si(run_id=str(run_id)))


def wake_group(begun: Iterable[Begun]) -> None:
    """Send the wake-ups of runs that begin together as one group."""
    from apps.saga import tasks

    group(
        _chain(each.run_id, 0, each.calls) if each.calls else tasks.advance.si(run_ids=[str(each.run_id)]) for each in begun
    ).apply_async()


def wake_group_after_commit(begun: list[Begun]) -> None:
    """The same when this transaction commits."""
    if begun:
        transaction.on_commit(partial(_hint, wake_group, begun), robust=True)


def look(*run_ids: UUID) -> None:
    """Have runs looked at by whoever comes first to them, waiting for whoever has them in this moment."""
    from apps.saga import tasks

    group(tasks.look.si(run_id=str(run_id)) for run_id in run_ids).apply_async()


def look_after_commit(*run_ids: UUID) -> None:
    """The same when this transaction commits."""
    transaction.on_commit(partial(_hint, look, *run_ids), robust=True)


def wake_undo(run_id: UUID) -> None:
    """Send the undo."""
    from apps.saga import tasks

    tasks.undo.apply_async(kwargs={"run_id": str(run_id)})


def wake_soon(run_id: UUID) -> None:
    """Have what is local of this run done soon, in one message with other runs that ask at this time."""
    wakeups.ask(run_id)


def wake_soon_after_commit(run_id: UUID) -> None:
    """The same when this transaction commits."""
    transaction.on_commit(partial(_hint, wake_soon, run_id), robust=True)


def wake_after_commit(run_id: UUID, position: int, steps: int) -> None:
    """Send the chain when this transaction commits."""
    transaction.on_commit(partial(_hint, wake, run_id, position, steps), robust=True)


def undo_after_commit(run_id: UUID) -> None:
    """Send the undo when this transaction commits."""
    transaction.on_commit(partial(_hint, wake_undo, run_id), robust=True)


def _hint(send: "partial[None] | object", *values: object) -> None:
    try:
        send(*values)  # type: ignore[operator]  # one of the two functions above
    except Exception:
        # Celery's broker is away. The run is due in the database, and the sweeper finds it there.
        logger.warning("a wake-up could not be sent", exc_info=True)
