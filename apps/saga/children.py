"""Runs that are branches of another run's step: a saga within a saga, fan-out and fan-in.

Note [Child before parent]
Who waits for the lock of a second run has the branch's and wants the parent's, never the other way round.
The commit that ends a branch makes its parent due (apps/saga/endings.py); the parent's owner then looks at the
branches without locking them. On the way down, a parent that turns around turns those of its branches around that are
complete, if nobody has them in this moment (SKIP LOCKED: it does not wait), and sends messages to the others. A branch
that is not over looks up by itself, without a lock, whether its parent calls it back, whenever somebody works on it. So
a parent never waits for a branch's lock, and there is no circle. What was skipped or lost is done when the parent looks
again, which it does by itself.
Branches that end together find the parent locked one after the other: each makes it due behind the one before it, and
whoever looks last sees all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Q

from apps.common.clock import uuid7_after
from apps.common.errors import DomainError
from apps.saga import chains
from apps.saga.beginnings import Parent, new_run
from apps.saga.definition import CallStep
from apps.saga.failing import failed
from apps.saga.models import Attempt, AttemptOutcome, Run, RunStatus, Step
from apps.saga.rows import RunRow
from apps.saga.session import Session
from apps.saga.shapes import BRANCHES_MAX, Child, ChildrenStep


class CalledBack(DomainError):
    """The run to which this branch belongs has turned around: what the branch had done is undone."""

    code = "R537"


class BranchFailed(DomainError):
    """A branch of the step has failed, and is undone."""

    code = "R536"
    was_counted = False  # by the branch: see Note [Counted where it happened] in incidents.py


@dataclass(frozen=True, slots=True)
class _Branch:
    """The newest run of a branch."""

    id: UUID
    status: str
    is_over: bool
    error_code: str
    error_detail: str

    @property
    def failed(self) -> bool:
        """Is it over, and not complete? It is undone, or a person has dealt with it."""
        return self.is_over and self.status != RunStatus.COMPLETED


_NEWEST = """
SELECT DISTINCT ON (branch) branch, id, status, finished_at IS NOT NULL, error_code, error_detail FROM saga_run
WHERE parent_id = %s AND parent_position = %s ORDER BY branch, id DESC
"""


def _branches(run: RunRow) -> dict[str, _Branch]:
    """The newest run of each branch of the current step, as committed: not locked."""
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [run.id, run.cursor])
        return {name: _Branch(*values) for name, *values in cursor.fetchall()}


# --- Down -----------------------------------------------------------------------------------------------------------------
def begin(session: Session, step: ChildrenStep) -> bool:
    """Begin the branches in this commit, and wake them after it. Those that were done in an earlier attempt are kept."""
    wanted = step.children(session.view())
    _check(step, wanted)
    before = _branches(session.run) if session.row.attempts > 1 else {}
    begun = []
    for name, child in wanted.items():
        if name not in before or before[name].failed:
            begun.append(_begin(session, name, child, instead_of=before.get(name)))
    if not wanted:
        session.end_attempt(AttemptOutcome.DONE)
        session.done({})
        return False
    session.end_attempt(AttemptOutcome.ASKED)
    session.wait(session.now + step.answer_within)
    chains.wake_group_after_commit(begun)
    if len(begun) < len(wanted):
        chains.look_after_commit(session.run.id)  # all of them may be over already
    return True


def _check(step: ChildrenStep, wanted: Mapping[str, Child]) -> None:
    if len(wanted) > BRANCHES_MAX:
        raise ValueError(f"{step.name} would begin {len(wanted)} branches, and {BRANCHES_MAX} is the most")
    known = {id(definition) for definition in step.known()}
    unknown = [child.definition.use_case for child in wanted.values() if id(child.definition) not in known]
    if unknown:
        raise ValueError(f"{step.name} would begin {unknown[0]}, which is not among its definitions")


def _begin(session: Session, name: str, child: Child, *, instead_of: _Branch | None) -> chains.Begun:
    run = session.run
    # The newest run of a branch is the one with the greatest id, also when the process of the one before was ahead of time.
    run_id = uuid7_after(instead_of.id) if instead_of is not None else None
    begun = new_run(
        child.definition,
        subject_id=child.subject_id,
        business_key=child.business_key,
        data=dict(child.data),
        now=session.now,
        global_id=run.global_id,
        idempotency_key=run.idempotency_key,
        parent=Parent(run.id, session.position, name),
        run_id=run_id,
    )
    begun.flush()
    return chains.Begun(begun.run.id, len(begun.steps) if isinstance(begun.step, CallStep) else 0)


def call_back(session: Session) -> bool:
    """Have all branches of the current step undone, of whatever attempt. True: some are not yet."""
    mine = Run.objects.filter(parent_id=session.run.id, parent_position=session.position)
    left = list(mine.filter(Q(finished_at=None) | Q(status=RunStatus.COMPLETED)).values_list("pk", "status"))
    for run_id, status in left:
        if status == RunStatus.COMPLETED:
            _reopen(run_id, now=session.now)
    if left:
        chains.look_after_commit(*(run_id for run_id, _ in left))
    return bool(left)


def _reopen(run_id: UUID, *, now: datetime) -> None:
    """Make a complete branch live again, so that it is undone whatever messages are lost. Waits for nobody."""
    branch = Session.lock(run_id, now=now)
    if branch is not None and branch.run.status == RunStatus.COMPLETED:
        branch.reopen(CalledBack())
        branch.flush()


# --- Up -------------------------------------------------------------------------------------------------------------------
_CALLS_BACK = """
SELECT FROM saga_run WHERE id = %s AND status = 'COMPENSATING' AND cursor = %s AND held_by IS NULL
"""


def is_called_back(run: RunRow) -> bool:
    """Is the parent undoing the step of which this run is a branch? Read without a lock: see Note [Child before parent]."""
    with connection.cursor() as cursor:
        cursor.execute(_CALLS_BACK, [run.parent_id, run.parent_position])
        return cursor.fetchone() is not None


def look(session: Session, step: ChildrenStep) -> None:
    """What have the branches of the current step come to?"""
    if session.run.status == RunStatus.COMPENSATING:
        _look_back(session, step)
        return
    branches = _branches(session.run)
    bad = sorted(name for name, branch in branches.items() if branch.failed)
    if bad:
        failed(session, _error(bad[0], branches[bad[0]]), answered=True, prepared=True)
    elif all(branch.status == RunStatus.COMPLETED for branch in branches.values()):
        session.end_attempt(AttemptOutcome.ANSWERED)
        session.done(step.output(_outputs({branch.id: name for name, branch in branches.items()})))
    else:
        session.wait(session.now + step.answer_within)


def _look_back(session: Session, step: ChildrenStep) -> None:
    if call_back(session):
        session.wait_undo(session.now + step.answer_within)
        return
    session.end_attempt(AttemptOutcome.ANSWERED, undo=True)
    session.undone()


def _error(name: str, branch: _Branch) -> BranchFailed:
    """The refusal, under the code of what went wrong in the branch: that is what people look for."""
    error = BranchFailed(f"{name}: {branch.error_code} {branch.error_detail}".removeprefix(": "))
    error.code = branch.error_code or BranchFailed.code  # type: ignore[misc]  # of this occurrence
    error.was_counted = _was_counted(branch)
    return error


def _was_counted(branch: _Branch) -> bool:
    """Did the branch count its error? What failed for technical reasons, or made it stuck; a refusal it does not count."""
    same = Attempt.objects.filter(run_id=branch.id, error_code=branch.error_code).exclude(error_code="")
    # A refusal ends the run at once; one that was asked for again was taken for technical.
    return same.exclude(outcome=AttemptOutcome.REFUSED, number=1).exists()


def _outputs(names: Mapping[UUID, str]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names.values()}
    rows = Step.objects.filter(run_id__in=names).exclude(output={}).order_by("run_id", "position")
    for run_id, step, output in rows.values_list("run_id", "name", "output"):
        found[names[run_id]][step] = output
    return found
