"""What may go wrong with a step: it is tried again, the run turns around, or a person is called.

Note [Classes of errors]
An error asks for one of three things. BUSINESS: they refused, so what was done is undone. TECHNICAL: it did not happen, so
it is tried again, within the step's budgets of attempts and of time. UNKNOWN: it may have happened, so the other side is
asked before it is repeated. A step may say otherwise for types of its own (``Step.errors``).

Note [In doubt]
A question without an answer, a line that went dead, an owner who did not come back: the step may have happened. It stays
in doubt, whatever happens to later attempts, until the other side answers. A compensable step in doubt is undone (its
undo may come before its do); a pivot in doubt is a person's case, because nobody knows on which side of it the run is.
"""

from apps.common.errors import DomainError, UnknownOutcome
from apps.saga import circuits
from apps.saga.budgets import backoff
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Step
from apps.saga.models import AttemptOutcome, RunStatus, StepStatus
from apps.saga.session import Session
from apps.saga.telling import error_code, error_detail
from apps.saga.terms import ErrorClass

BUSINESS, TECHNICAL, UNKNOWN = ErrorClass.BUSINESS, ErrorClass.TECHNICAL, ErrorClass.UNKNOWN


class NoAnswer(UnknownOutcome):
    """No answer came within the step's deadline."""


# --- Which class? -------------------------------------------------------------------------------------------------------
def declared_class(step: Step, error: Exception) -> ErrorClass | None:
    """What the step itself says about errors of this type; None when it says nothing."""
    return next((step.errors[kind] for kind in type(error).__mro__ if kind in step.errors), None)


def class_of(step: Step, error: Exception, *, undo: bool = False) -> ErrorClass:
    """What an error of this step asks for. See Note [Classes of errors]."""
    declared = declared_class(step, error)
    if declared is not None:
        return declared
    if isinstance(error, UnknownOutcome):
        return UNKNOWN
    if isinstance(error, DomainError):
        # What may be accepted later is asked for again where there is no other way: after the pivot, and on the way back.
        asked_again = error.retryable and (undo or step.kind is RETRIABLE)
        return TECHNICAL if asked_again or error.passes else BUSINESS
    return TECHNICAL


def _is_away(step: Step, error: Exception) -> bool:
    """Did the partner fail to answer? A refusal is an answer, unless the step says that it is none."""
    return (declared_class(step, error) or (BUSINESS if isinstance(error, DomainError) else TECHNICAL)) is not BUSINESS


def outcome_of(error: Exception, found: ErrorClass) -> AttemptOutcome:
    """What an attempt's end is called after this error."""
    if isinstance(error, NoAnswer):
        return AttemptOutcome.NO_ANSWER
    if found is UNKNOWN:
        return AttemptOutcome.UNKNOWN
    refused = found is BUSINESS or isinstance(error, DomainError)
    return AttemptOutcome.REFUSED if refused else AttemptOutcome.FAILED


# --- What follows? ------------------------------------------------------------------------------------------------------
def failed(session: Session, error: Exception, *, answered: bool = False, prepared: bool = False) -> None:
    """The current step was refused, failed or is in doubt: try again, turn around, or call a person.

    ``answered``: it is the other side that refused, so there is no doubt left. ``prepared``: a call's preparation is
    committed, so the undo includes this step even if the other side refused it.
    """
    step, row = session.step, session.row
    found = class_of(step, error)
    in_doubt = found is UNKNOWN or (not answered and session.was_in_doubt())
    session.end_attempt(outcome_of(error, found), error=error)
    session.fail(error, status=StepStatus.UNKNOWN if in_doubt else StepStatus.FAILED)
    if found is not BUSINESS:
        session.occurred(error, found)
    if not _is_away(step, error):
        if answered:
            circuits.succeeded(session)
    else:
        circuits.failed(session, error)
        if circuits.hold_instead(session, undo=False):
            session.run.status = RunStatus.RUNNING
            return
    if found is not BUSINESS and not session.exhausted():
        session.run.status = RunStatus.RUNNING
        session.retry_after(backoff(step, row.attempts))
        return
    # After the pivot there is no way back; see Note [In doubt].
    if step.kind is RETRIABLE or (step.kind is PIVOT and in_doubt):
        session.stick(error, found)
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
    found = class_of(step, error, undo=True)
    if not ended:
        session.end_attempt(outcome_of(error, found), undo=True, error=error)
    row.status, row.waiting_until = StepStatus.UNDOING, None
    if _is_away(step, error):
        circuits.failed(session, error)
        if circuits.hold_instead(session, undo=True):
            return
    if found is BUSINESS or session.exhausted(undo=True):
        row.error_code, row.error_detail = error_code(error)[:50], error_detail(error)
        session.stick(error, found)
        return
    session.retry_after(backoff(step, row.undo_attempts), undo=True)
