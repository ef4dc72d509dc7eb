"""What may go wrong with a step: it is tried again, the run turns around, or a person is called.

Note [In doubt]
A question without an answer, a line that went dead, an owner who did not come back: the step may have happened. It stays
in doubt, whatever happens to later attempts, until the other side answers. A compensable step in doubt is undone (its
undo may come before its do); a pivot in doubt is a person's case, because nobody knows on which side of it the run is.
"""

from apps.common.errors import DomainError, UnknownOutcome
from apps.saga import circuits
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE
from apps.saga.models import AttemptOutcome, RunStatus, StepStatus
from apps.saga.session import Session, backoff, outcome_of


class NoAnswer(UnknownOutcome):
    """No answer came within the step's deadline."""


def failed(session: Session, error: Exception, *, answered: bool = False, prepared: bool = False) -> None:
    """The current step was refused, failed or is in doubt: try again, turn around, or call a person.

    ``answered``: it is the other side that refused, so there is no doubt left. ``prepared``: a call's preparation is
    committed, so the undo includes this step even if the other side refused it.
    """
    step, row = session.step, session.row
    in_doubt = isinstance(error, UnknownOutcome) or (not answered and session.was_in_doubt())
    refused = isinstance(error, DomainError) and not (step.kind is RETRIABLE and error.retryable)
    session.end_attempt(AttemptOutcome.NO_ANSWER if isinstance(error, NoAnswer) else outcome_of(error), error=error)
    session.fail(error, status=StepStatus.UNKNOWN if in_doubt else StepStatus.FAILED)
    if isinstance(error, DomainError):
        if answered:
            circuits.succeeded(session)
    else:
        circuits.failed(session, error)
        if circuits.hold_instead(session, undo=False):
            session.run.status = RunStatus.RUNNING
            return
    if not refused and not session.exhausted():
        session.run.status = RunStatus.RUNNING
        session.retry_after(backoff(step, row.attempts))
        return
    # After the pivot there is no way back; see Note [In doubt].
    if step.kind is RETRIABLE or (step.kind is PIVOT and in_doubt):
        session.stick(error)
        return
    session.blame(error)
    session.begin_undo(include_current=step.kind is COMPENSABLE and (in_doubt or prepared))


def no_answer(session: Session) -> None:
    """The deadline of an ask is over: ask again, or give up and treat the outcome as unknown."""
    if session.run.status == RunStatus.COMPENSATING:
        session.end_attempt(AttemptOutcome.NO_ANSWER, undo=True)
        undo_failed(session, NoAnswer(f"no answer to the undo of {session.step.name}"), ended=True)
    else:
        failed(session, NoAnswer(f"no answer to {session.step.name} in time"))


def undo_failed(session: Session, error: Exception, *, ended: bool = False) -> None:
    """An undo did not succeed: try again for long, then call a person. ``ended``: its attempt is closed already."""
    step, row = session.step, session.touch()
    if not ended:
        session.end_attempt(outcome_of(error), undo=True, error=error)
    row.status, row.waiting_until = StepStatus.UNDOING, None
    if not isinstance(error, DomainError):
        circuits.failed(session, error)
        if circuits.hold_instead(session, undo=True):
            return
    hopeless = isinstance(error, DomainError) and not error.retryable
    if hopeless or session.exhausted(undo=True):
        row.error_code, row.error_detail = type(error).__name__[:50], str(error)[:2000]
        session.stick(error)
        return
    session.retry_after(backoff(step, row.undo_attempts))
