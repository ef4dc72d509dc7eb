"""What the end of a run does for others, in the commit that ends it: its parent looks, and its keys go on.

The parent first, because its row may have to be waited for; keys that are freed are nobody's business before they are.
"""

from datetime import datetime

from django.db import connection

from apps.common.transactions import transaction_required
from apps.saga import chains
from apps.saga.rows import RunRow


@transaction_required
def ended(run: RunRow, *, now: datetime, due: datetime) -> None:
    """A run has just been written as over. ``due``: when those whom it wakes are due, should the wake-up be lost."""
    if run.parent_id is not None:
        _tell_parent(run, due=due)
    if run.awaits_key is not None:
        _free(run, now=now, due=due)


# See Note [Child before parent] in children.py.
_PARENT = "UPDATE saga_run SET due_at = %(due)s WHERE id = %(id)s AND due_at > %(due)s"


def _tell_parent(run: RunRow, *, due: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_PARENT, {"id": run.parent_id, "due": due})
    assert run.parent_id is not None  # noqa: S101  # the caller looked
    # A parent that has turned around meanwhile calls this run back: it looks up, when it is woken.
    chains.look_after_commit(run.parent_id, run.id)


# See Note [Taking without waiting] in locks.py.
_FREE = "DELETE FROM saga_lock WHERE run_id = %s RETURNING key, state"
_HAND_OVER = """
UPDATE saga_lock SET state = 'HELD', held_at = %(now)s WHERE id = (
    SELECT id FROM saga_lock WHERE key = %(key)s AND state = 'WAITING' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING run_id
"""
_LOCK_NEXT = "SELECT 1 FROM saga_run WHERE id = %(id)s AND due_at > %(due)s FOR NO KEY UPDATE SKIP LOCKED"
_NEXT = "UPDATE saga_run SET due_at = %(due)s WHERE id = %(id)s"


def _free(run: RunRow, *, now: datetime, due: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_FREE, [run.id])
        held = sorted(key for key, state in cursor.fetchall() if state == "HELD")
        for key in held:
            cursor.execute(_HAND_OVER, {"key": key, "now": now})
            found = cursor.fetchone()
            if found is not None:
                # Not waited for: whoever has that run may be about to give up its place in this queue.
                cursor.execute(_LOCK_NEXT, {"id": found[0], "due": due})
                if cursor.fetchone() is not None:  # see Note [Locked first] in sweeper.py
                    cursor.execute(_NEXT, {"id": found[0], "due": due})
                chains.look_after_commit(found[0])
