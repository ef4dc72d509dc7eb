"""The sweeper: finds runs that are due and that nobody woke.

It runs always, not only at start-up, so losing every Celery message loses nothing.

Note [Locked first]
    PostgreSQL 18.4 crashes, with all its connections, when a statement meets a row that was changed since it began and its
    plan chooses partitions while it runs (decision 33). So rows of a partitioned table are locked by a statement that
    knows nothing of partitions, and changed by the next one, by ids that it is given: nobody can change them in between,
    and their partitions are known before it runs.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from apps.common import clock, prepared
from apps.common.transactions import durable, transaction
from apps.saga import chains, circuits, pauses
from apps.saga.definition import CallStep
from apps.saga.models import RunStatus, Step

logger = logging.getLogger(__name__)

# Until a run that was woken is woken again. Longer than a full queue usually takes: waking each run every few seconds would
# only make the queue longer.
AGAIN_AFTER = timedelta(seconds=15)
RUNS_MAX = 500  # in one sweep; the next one is a second away

# due_at moves on, so that the next sweep does not wake the same runs again before a worker could come to them.
# A planned moment (a retry, the deadline of an answer or of the run) is the sweeper's ordinary work. A run that is due at
# any other moment was handed over and not taken up: its wake-up or its owner is lost, or the queue is long: a rescue.
_LOCK = "SELECT id FROM saga_run WHERE due_at <= %(now)s ORDER BY due_at LIMIT %(runs_max)s FOR UPDATE SKIP LOCKED"
_TAKE = """
UPDATE saga_run r SET due_at = CASE WHEN r.deadline_at > %(now)s THEN least(%(next)s, r.deadline_at) ELSE %(next)s END,
rescues = r.rescues + (
    SELECT count(*) FROM saga_step s
    WHERE s.run_id = r.id AND s.position = r.cursor AND r.due_at IS DISTINCT FROM coalesce(s.retry_at, s.waiting_until)
      AND r.due_at IS DISTINCT FROM r.deadline_at
)
WHERE r.id = ANY(%(ids)s::uuid[])
RETURNING r.id, r.status, r.cursor, (SELECT s.shape FROM saga_step s WHERE s.run_id = r.id AND s.position = r.cursor)
"""


@transaction
def _take(now: datetime) -> list[tuple[UUID, str, int, str | None]]:
    # See Note [Locked first].
    ids = [run_id for (run_id,) in prepared.execute(_LOCK, {"now": now, "runs_max": RUNS_MAX}).fetchall()]
    if not ids:
        return []
    found = prepared.execute(_TAKE, {"now": now, "next": now + AGAIN_AFTER, "ids": ids}).fetchall()
    return sorted(found)  # the oldest first: RETURNING has no order


@durable
def sweep(*, now: datetime | None = None) -> int:
    """Send a wake-up for every run that is due. How many were due. What a pause no longer holds is let go as well."""
    now = now or clock.now()
    pauses.release_rest(now=now)
    circuits.probe(now=now)
    due = _take(now)
    for run_id, status, position, shape in due:
        try:
            if status == RunStatus.COMPENSATING:
                chains.wake_undo(run_id)
            elif shape != CallStep.shape:
                chains.wake_soon(run_id)
            else:
                chains.wake(run_id, position, Step.objects.filter(run_id=run_id).count())
        except Exception:
            # Celery's broker is away; these runs are due again after AGAIN_AFTER.
            logger.warning("the sweeper could not wake a run", exc_info=True)
            return len(due)
    return len(due)
