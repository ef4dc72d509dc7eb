"""Wake-ups that runs share: the ids of those that ask within a few milliseconds go to a worker in one message.

Hints only: what a process does not send, because it ends or Celery's broker is away, the sweeper finds due.
"""

import logging
from uuid import UUID

from apps.common.gathering import Gathering

logger = logging.getLogger(__name__)

SEND_EVERY_S = 0.01  # between two sendings of one process; the first one waits for nothing
RUNS_MAX = 10  # in one message: a worker is done with them before anybody would miss them
WAITING_MAX = 10_000  # ids that a process holds; beyond them Celery's broker is away, and the sweeper has to do


def ask(run_id: UUID) -> None:
    """Have a worker do what is local of this run. Returns at once."""
    _waker.ask(run_id)


def _send_all(run_ids: list[UUID]) -> None:
    for first in range(0, len(run_ids), RUNS_MAX):
        send(run_ids[first : first + RUNS_MAX])


def send(run_ids: list[UUID]) -> None:
    """Send one message. A broker of Celery that is away fails nobody."""
    from apps.saga import tasks  # tasks import the engine, which leads to this module

    try:
        tasks.advance.delay(run_ids=[str(run_id) for run_id in run_ids])
    except Exception:
        logger.warning("%s runs could not be woken", len(run_ids), exc_info=True)


_waker: Gathering[UUID] = Gathering(_send_all, name="saga-waker", every_s=SEND_EVERY_S, waiting_max=WAITING_MAX)
