"""A run's remaining steps as one Celery chain of tiny messages, its undo as the chain's errback.

The chain is only a wake-up: every task asks the run's row what is to be done. The errback is a ``bind=True`` task, so
that Celery sends it as a task of its own; an unbound one would run inside the failing process, once, unretried.

A chain is worth its price for steps that talk to the outside: each is a task of its own. Local steps are quicker than
the message that asks for them, so runs whose next step is local share one (apps/saga/wakeups.py).
"""

import logging
from functools import partial
from uuid import UUID

from celery import chain
from django.db import transaction

from apps.saga import wakeups

logger = logging.getLogger(__name__)


def wake(run_id: UUID, position: int, steps: int) -> None:
    """Send the chain of the steps from ``position`` on."""
    from apps.saga import tasks  # tasks import the engine, which imports this module

    names = [tasks.do_step.si(run_id=str(run_id), position=at) for at in range(position, steps)]
    chain(*names).on_error(tasks.undo.si(run_id=str(run_id))).apply_async()


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
