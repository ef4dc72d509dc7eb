"""Around a call: the right to make it is taken under the run's lock, its outcome is recorded under the lock again."""

from django.db import Error as DatabaseError
from django.db import connection

from apps.common.clock import uuid7
from apps.common.errors import DomainError, UnknownOutcome
from apps.common.transactions import kept_savepoint
from apps.saga import circuits
from apps.saga.calls import Claim, Outcome
from apps.saga.definition import CallStep
from apps.saga.failing import failed, undo_failed
from apps.saga.models import AttemptOutcome, StepStatus
from apps.saga.session import Session


class Unrecorded(UnknownOutcome):
    """The other side has answered, and the answer could not be written down."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")


def take(session: Session, *, undo: bool) -> Claim | None:
    """Take the token for a call. None when preparing settled it, one way or the other."""
    step = session.step
    assert isinstance(step, CallStep)  # noqa: S101  # the caller looked
    if session.run.token is not None and _give_up_abandoned(session, undo=undo):
        return None
    session.begin_attempt(undo=undo)
    needed = True
    try:
        with kept_savepoint():
            if undo:
                needed = step.undo_prepare(session.view(undo=True))
            else:
                step.prepare(session.view())
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        if undo:
            undo_failed(session, error)
        else:
            failed(session, error, prepared=session.row.attempts > 1)
        return None
    if not needed:
        session.end_attempt(AttemptOutcome.DONE, undo=True)
        session.undone()
        return None
    token = uuid7()
    session.touch().status = StepStatus.UNDOING if undo else StepStatus.RUNNING
    session.own(token, session.now + step.lease)
    return Claim(step=step, run=session.view(undo=undo), token=token, undo=undo)


def _give_up_abandoned(session: Session, *, undo: bool) -> bool:
    """The owner died or stalled, so its attempt's outcome is unknown. True when that was the last attempt."""
    session.end_attempt(AttemptOutcome.UNKNOWN, undo=undo)
    if session.exhausted(undo=undo):
        error = UnknownOutcome(f"{session.step.name}: its owner did not come back")
        (undo_failed if undo else failed)(session, error)
        return True
    return False


def record(session: Session, claim: Claim, outcome: Outcome) -> None:
    """Write down what came of a call."""
    if isinstance(outcome, Exception):
        _call_failed(session, claim, outcome)
        return
    output = None
    try:
        with kept_savepoint():
            if claim.undo:
                claim.step.undo_record(session.view(undo=True), outcome)
            else:
                output = claim.step.record(session.view(), outcome)
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        # The other side has done it: a pivot must not be turned away from because we could not write that down.
        _call_failed(session, claim, error if isinstance(error, DomainError | UnknownOutcome) else Unrecorded(error))
        return
    session.end_attempt(AttemptOutcome.DONE, undo=claim.undo)
    circuits.succeeded(session)
    if claim.undo:
        session.undone()
    else:
        session.done(output)


def _call_failed(session: Session, claim: Claim, error: Exception) -> None:
    if claim.undo:
        undo_failed(session, error)
    else:
        failed(session, error, answered=isinstance(error, DomainError), prepared=True)
