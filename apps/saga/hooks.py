"""The end of a run is told to its journey's owner in the commit that ends it: a hook, which may fail.

Note [A hook that fails]
What the hook did is rolled back, and the run stays as it is, live, to end again a little later: ``hook_failures`` counts.
After HOOK_ATTEMPTS_MAX the run is stuck with a code that says so, because a hook that always raises is a bug. When
everything was undone, ``hook_failures`` stays in the stuck run: a person's retry calls the hook again, and nothing else.
"""

import logging
from typing import TYPE_CHECKING

from django.db import Error as DatabaseError
from django.db import connection

from apps.common.errors import DomainError
from apps.common.transactions import kept_savepoint
from apps.saga.models import RunStatus, StepStatus
from apps.saga.terms import ErrorClass

if TYPE_CHECKING:
    from apps.saga.session import Session

logger = logging.getLogger(__name__)

UNDOABLE = (StepStatus.DONE, StepStatus.UNKNOWN, StepStatus.UNDOING)
HOOK_ATTEMPTS_MAX = 8  # with the delays of a step's own retries: some minutes, for a database that is briefly in trouble


class HookFailed(DomainError):
    """The run came to its end, but its use case could not be told: its hook failed too often."""

    code = "R540"


def end_undone(session: "Session") -> None:
    """Everything is undone: tell the journey's owner, and finish; later, when the owner's hook fails."""
    if told(session, undone=True):
        session.finish(RunStatus.COMPENSATED)


def end_stuck(session: "Session") -> None:
    """Tell the journey's owner that the run is stuck, and leave it to a person; later, when the owner's hook fails."""
    if told(session, undone=False):
        session.run.status, session.run.due_at, session.run.token = RunStatus.STUCK, None, None


def end_again(session: "Session") -> None:
    """The run has come to its end, and its hook failed the last time. See Note [A hook that fails]."""
    if session.run.status == RunStatus.COMPENSATING and session.row.status not in UNDOABLE:
        end_undone(session)
    else:
        end_stuck(session)


def told(session: "Session", *, undone: bool) -> bool:
    """Call the hook of this end. False: it failed, and the run ends later, or is stuck because of it."""
    run, hooks = session.run, session.definition.hooks
    hook = hooks.on_compensated if undone else hooks.on_stuck
    try:
        with kept_savepoint():
            view = session.view(undo=undone, whole=True)
            hook(view, failed_step=run.failed_step, code=run.error_code, detail=run.error_detail)
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        logger.warning("the hook of %s %s failed", run.use_case, run.business_key, exc_info=error)
        _again_or_stuck(session, error, undone=undone)
        return False
    run.hook_failures = None
    return True


def _again_or_stuck(session: "Session", error: Exception, *, undone: bool) -> None:
    run = session.run
    failures = run.hook_failures = (run.hook_failures or 0) + 1
    if failures < HOOK_ATTEMPTS_MAX:
        run.status = RunStatus.RUNNING if run.status == RunStatus.WAITING else run.status
        session.retry_hook(failures)
        return
    name = "on_compensated" if undone else "on_stuck"
    cause = f"{run.error_code}: {run.error_detail}" if run.error_code else "no error"
    given_up = HookFailed(f"{name} failed {failures} times: {type(error).__name__}: {error}. Before: {cause}")
    session.tell(given_up)
    session.occurred(given_up, ErrorClass.TECHNICAL, step=run.failed_step)
    run.hook_failures = failures if undone else None
    run.status, run.due_at, run.token = RunStatus.STUCK, None, None


def awaits_hook(session: "Session") -> bool:
    """Is everything undone in this stuck run, and only its hook missing?"""
    return session.run.status == RunStatus.STUCK and session.run.hook_failures is not None


def begin_again(session: "Session") -> None:
    """Let a run that awaits its hook end once more, for the cause that it had before the hook failed."""
    run = session.run
    cause = next((step for step in session.steps if step.name == run.failed_step), None)
    if cause is not None and cause.error_code:
        run.error_code, run.error_detail = cause.error_code, cause.error_detail
    run.hook_failures, run.status = 0, RunStatus.COMPENSATING
