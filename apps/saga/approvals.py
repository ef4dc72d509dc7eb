"""Questions to people, as the engine sees them: asked, passed on, given up, closed. All of it under the run's lock."""

from datetime import datetime

from apps.common.errors import DomainError
from apps.saga.failing import failed
from apps.saga.models import Approval, ApprovalStatus, AttemptOutcome, StepStatus
from apps.saga.session import Session
from apps.saga.shapes import REFUSE, ApprovalStep, Question

QUESTION_CHARACTERS_MAX = 2_000
FACTS_MAX = 30  # more are read by nobody
FACT_CHARACTERS_MAX = 500
CLOSED_BY = "the run"


class NotDecided(DomainError):
    """Nobody decided in time."""

    code = "R535"


def begin(session: Session, step: ApprovalStep) -> None:
    """Ask, and park the run."""
    run, question = session.run, step.ask(session.view())
    until = session.now + step.decide_within
    Approval.objects.create(
        run_id=run.id,
        position=session.position,
        use_case=run.use_case,
        step=step.name,
        business_key=run.business_key,
        question=question.text[:QUESTION_CHARACTERS_MAX],
        facts=_facts(question),
        deciders=list(step.deciders),
        delegates=list(step.delegates),
        asked_by=question.asked_by,
        asked_at=session.now,
        until=until,
    )
    session.end_attempt(AttemptOutcome.ASKED)
    session.wait(until)


def _facts(question: Question) -> list[tuple[str, str]]:
    if len(question.facts) > FACTS_MAX:
        raise ValueError(f"{len(question.facts)} facts, and {FACTS_MAX} is the most")
    return [(str(name), str(text)[:FACT_CHARACTERS_MAX]) for name, text in question.facts.items()]


def open_of(session: Session) -> Approval | None:
    """The question that the current step waits for."""
    return Approval.objects.filter(run_id=session.run.id, position=session.position, status=ApprovalStatus.OPEN).first()


def expire(session: Session, step: ApprovalStep) -> None:
    """The deadline is over: it passes to the delegates or, when they had their time, nobody decides any more."""
    approval = open_of(session)
    if approval is not None and approval.delegates and approval.delegated_at is None:
        approval.delegated_at, approval.until = session.now, session.now + step.delegate_within
        approval.save(update_fields=["delegated_at", "until"])
        session.wait(approval.until)
        return
    if approval is not None:
        settle(approval, ApprovalStatus.EXPIRED, by=CLOSED_BY, reason="", at=session.now)
    error = NotDecided(f"Nobody decided {step.name} in time.")
    if step.on_timeout == REFUSE:
        failed(session, error, answered=True)
        return
    session.end_attempt(AttemptOutcome.NO_ANSWER, error=error)
    session.fail(error, status=StepStatus.FAILED)
    session.stick(error)


def close(session: Session) -> None:
    """The current step is undone: nobody needs to decide any more."""
    approval = open_of(session)
    if approval is not None:
        reason = session.run.error_code
        settle(approval, ApprovalStatus.CLOSED, by=CLOSED_BY, reason=reason, at=session.now)


def settle(approval: Approval, status: ApprovalStatus, *, by: str, reason: str, at: datetime) -> None:
    """Write how it ended."""
    approval.status, approval.decided_by, approval.reason, approval.decided_at = status, by, reason, at
    approval.save(update_fields=["status", "decided_by", "reason", "decided_at"])
