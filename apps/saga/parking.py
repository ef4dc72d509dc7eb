"""How the steps of apps/saga/shapes.py begin to wait, how a wait ends, and how such a step is undone."""

from apps.saga import approvals, children
from apps.saga.failing import no_answer
from apps.saga.models import AttemptOutcome, RunStatus
from apps.saga.session import Session
from apps.saga.shapes import ApprovalStep, ChildrenStep, TimerStep


def begin(session: Session) -> bool:
    """Begin the current step, whose attempt has begun. True: the run waits; False: there is nothing to wait for."""
    step = session.step
    if isinstance(step, TimerStep):
        return _begin_timer(session, step)
    if isinstance(step, ApprovalStep):
        approvals.begin(session, step)
        return True
    assert isinstance(step, ChildrenStep)  # noqa: S101  # the last of the shapes that wait
    return children.begin(session, step)


def may_end_early(session: Session) -> bool:
    """May the wait of the current step be over before its moment? Only branches end without telling more than that."""
    return isinstance(session.step, ChildrenStep)


def over(session: Session) -> None:
    """The moment has come until which the current step, or its undo, was to wait; or a branch has ended."""
    step = session.step
    if isinstance(step, ChildrenStep):
        children.look(session, step)
    elif session.run.status == RunStatus.COMPENSATING:
        no_answer(session)
    elif isinstance(step, TimerStep):
        session.end_attempt(AttemptOutcome.DONE)
        session.done({"until": session.row.waiting_until and session.row.waiting_until.isoformat()})
    elif isinstance(step, ApprovalStep):
        approvals.expire(session, step)
    else:
        no_answer(session)


def undo(session: Session) -> bool:
    """Undo the current step. True: its undo waits for other runs."""
    step = session.step
    if isinstance(step, ApprovalStep):
        approvals.close(session)
    return isinstance(step, ChildrenStep) and children.call_back(session)


def _begin_timer(session: Session, step: TimerStep) -> bool:
    moment = step.until(session.view())
    if moment > session.now + step.longest:
        raise ValueError(f"{step.name} would wait until {moment}, which is longer than {step.longest}")
    if moment <= session.now:
        session.end_attempt(AttemptOutcome.DONE)
        session.done({"until": moment.isoformat()})
        return False
    session.end_attempt(AttemptOutcome.ASKED)
    session.wait(moment)
    return True
