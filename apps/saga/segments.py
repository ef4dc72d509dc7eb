"""Local steps, as many as there are in a row, in the transaction of whoever came for the first of them.

Note [Optimistic segment]
Consecutive local steps run in one transaction under one savepoint. A refusal rolls the savepoint back: nothing was
visible, so nothing is compensated. A technical error rolls back too, then the steps that worked are done again and
kept, and the failing one is put off. A segment ends at the pivot, because what follows it must not take it back.
"""

import time

from django.db import Error as DatabaseError
from django.db import connection

from apps.common.transactions import kept_savepoint
from apps.saga import parking, pauses
from apps.saga.definition import PIVOT, RETRIABLE, AskStep, CallStep, LocalStep
from apps.saga.failing import class_of, failed
from apps.saga.models import AttemptOutcome
from apps.saga.session import Session
from apps.saga.shapes import WaitingStep
from apps.saga.terms import ErrorClass


def run_segments(session: Session, *, until: float | None) -> None:
    """Do local steps, and the ask that ends them, up to the pivot or the next call."""
    first = session.position
    failure = _segment(session, until=until, before=None)
    while failure is not None:
        failing = session.position
        if class_of(session.step, failure) is ErrorClass.BUSINESS and session.step.kind is not RETRIABLE:
            session.roll_back(first, failing)
            failed(session, failure)
            return
        session.forget(first, failing)
        # What worked is done again. The world may have changed meanwhile: then an earlier step is the one that fails.
        sooner = _segment(session, until=None, before=failing) if failing > first else None
        if sooner is None:
            if session.at_end or session.position != failing:
                return  # this time they revised what follows them in another way
            session.begin_attempt()
            failed(session, failure)
            return
        failure = sooner


def _segment(session: Session, *, until: float | None, before: int | None) -> Exception | None:
    """Do local steps under one savepoint; the error of the one that failed, with which all of them are rolled back."""
    try:
        with kept_savepoint():
            do_local(session, until=until, before=before)
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        return error
    except Exception as error:
        return error
    return None


def do_local(session: Session, *, until: float | None, before: int | None) -> None:
    first = session.position
    while not session.at_end and session.position != before:
        step = session.step
        if isinstance(step, CallStep) or (until is not None and time.monotonic() >= until):
            return
        if session.position > first and pauses.is_known(session.run.use_case, step.name):
            return  # the next unit of work begins with it, and looks whether it is paused
        session.begin_attempt()
        if isinstance(step, AskStep):
            step.ask(session.view())
            session.end_attempt(AttemptOutcome.ASKED)
            session.wait(session.now + step.answer_within)
            return
        if isinstance(step, WaitingStep):
            if parking.begin(session):
                return
        else:
            assert isinstance(step, LocalStep)  # noqa: S101  # the last of the shapes
            output = step.handle(session.view())
            session.end_attempt(AttemptOutcome.DONE)
            session.done(output)
        if step.kind is PIVOT:
            return
