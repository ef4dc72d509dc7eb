"""The rows of steps that a run is given while it goes on, where it may have had others before.

Note [A place that was used]
A run that was reset may choose other steps than the first time. Their places had other steps, whose attempts are history
and whose keys may be known outside, even as undone. So a new row goes on counting the attempts of its place, and gets a
key that no step of this run ever had: the number of all attempts of the run so far, which any further one makes larger.
"""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import Max

from apps.saga.definition import Step
from apps.saga.models import Attempt
from apps.saga.rows import StepRow


def rows_of(run_id: UUID, steps: Sequence[Step], *, first: int, is_new: bool) -> list[StepRow]:
    """Rows of these steps from position ``first`` on. ``is_new``: the run is not in the database yet."""
    counted = {} if is_new else _counted(run_id, first)
    redone = Attempt.objects.filter(run_id=run_id, undo=False).count() if counted else 0
    made = []
    for position, step in enumerate(steps, start=first):
        done, undone = counted.get((position, False), 0), counted.get((position, True), 0)
        row = StepRow(position=position, name=step.name, kind=step.kind, shape=step.shape, redone=redone)
        row.attempts = row.attempts_forgiven = done
        row.undo_attempts = row.undo_attempts_forgiven = undone
        made.append(row)
    return made


def _counted(run_id: UUID, first: int) -> dict[tuple[int, bool], int]:
    """How many attempts there were at these positions, by position and direction."""
    there = Attempt.objects.filter(run_id=run_id, position__gte=first).order_by()
    found = there.values_list("position", "undo").annotate(most=Max("number"))
    return {(position, undo): most for position, undo, most in found}
