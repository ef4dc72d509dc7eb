"""What a person may do about an approval, and how it is found."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from apps.common.errors import DomainError, NotFound
from apps.common.pagination import newest_ids
from apps.common.transactions import kept_savepoint, transaction
from apps.saga import approvals, audit, engine
from apps.saga.failing import failed
from apps.saga.models import Approval, ApprovalStatus, AttemptOutcome, RunStatus, StepStatus
from apps.saga.session import Session
from apps.saga.shapes import ApprovalStep, Decision

TOTAL_MAX = 10_000  # counted at most


class AlreadyDecided(DomainError):
    """Somebody has decided it already."""

    code = "R531"


class ApprovalOver(DomainError):
    """The run does not wait for this decision any more."""

    code = "R532"


class NotYours(DomainError):
    """Others decide this, not you."""

    code, status = "R533", 403


class Disapproved(DomainError):
    """A person refused it."""

    code = "R534"


class YourOwn(DomainError):
    """Whoever asks for something does not decide it: somebody else has to."""

    code, status = "R580", 403


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides. ``may``: what he is and may do, as group:…, permission:… and scope:…"""

    name: str
    may: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalState:
    """A question to a person. ``who`` decides now; ``delegated``: the first ones did not in time."""

    id: UUID
    run_id: UUID
    use_case: str
    step: str
    business_key: str
    question: str
    facts: dict[str, str]
    status: str
    who: tuple[str, ...]
    delegated: bool
    asked_by: str
    asked_at: datetime
    until: datetime
    decided_at: datetime | None
    decided_by: str
    reason: str

    def may(self, by: Decider) -> bool:
        """Is it his to decide?"""
        return not by.may.isdisjoint(self.who) and not self.is_own(by)

    def is_own(self, by: Decider) -> bool:
        """Is it he who wants it?"""
        return bool(self.asked_by) and by.name == self.asked_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """A page of them, the newest first. ``total``: exact, or TOTAL_MAX and more."""

    rows: tuple[ApprovalState, ...]
    next_cursor: str | None
    total: int
    total_is_exact: bool


# --- Deciding ---------------------------------------------------------------------------------------------------------
@transaction
def decide(approval_id: UUID, *, approve: bool, by: Decider, reason: str, now: datetime) -> ApprovalState:
    """Approve, and the run goes on; or refuse, and what it did is undone. One commit, with its audit row.

    Raises NotFound, NotYours, YourOwn, AlreadyDecided, ApprovalOver, InvalidRequest for a reason that says nothing. What
    the step's ``on_decision`` refuses is a refusal of the step, not of this call. Repeating it finds it decided.
    """
    why = audit.check_reason(reason)
    # The run before its approval, as everywhere. Which run that is never changes.
    run_id = Approval.objects.filter(pk=approval_id).values_list("run_id", flat=True).first()
    if run_id is None:
        raise NotFound("There is no such approval.")
    session = Session.lock(run_id, now=now, wait=True)
    approval = Approval.objects.get(pk=approval_id)
    _check(session, approval, by)
    assert session is not None  # noqa: S101  # checked
    status = ApprovalStatus.APPROVED if approve else ApprovalStatus.REFUSED
    approvals.settle(approval, status, by=by.name, reason=why, at=now)
    with session.at_work():
        _take(session, Decision(approved=approve, by=by.name, reason=why, at=now))
    engine.wake(session)
    audit.note(
        at=now,
        actor=by.name,
        action="approve" if approve else "refuse",
        use_case=approval.use_case,
        step=approval.step,
        run_id=run_id,
        reason=why,
        detail={"approval": str(approval.id)},
    )
    return _state(approval)


def _check(session: Session | None, approval: Approval, by: Decider) -> None:
    state = _state(approval)
    if state.is_own(by):
        raise YourOwn
    if not state.may(by):
        raise NotYours(f"{' or '.join(state.who)} decides this.")
    if approval.status in (ApprovalStatus.APPROVED, ApprovalStatus.REFUSED):
        raise AlreadyDecided(f"{approval.decided_by} has decided: {ApprovalStatus(approval.status).label.lower()}.")
    waits = (
        session is not None
        and approval.status == ApprovalStatus.OPEN
        and session.run.status == RunStatus.WAITING
        and session.position == approval.position
        and session.row.status == StepStatus.WAITING
    )
    if not waits:
        raise ApprovalOver


def _take(session: Session, decision: Decision) -> None:
    step = session.step
    assert isinstance(step, ApprovalStep)  # noqa: S101  # its row is one
    if not decision.approved:
        failed(session, Disapproved(f"{decision.by}: {decision.reason}"), answered=True)
        return
    try:
        with kept_savepoint():
            output = step.on_decision(session.view(), decision)
    except DomainError as refusal:
        failed(session, refusal, answered=True)
        return
    session.end_attempt(AttemptOutcome.ANSWERED)
    session.done(output)


# --- Questions ----------------------------------------------------------------------------------------------------------
def approval(approval_id: UUID) -> ApprovalState | None:
    """One of them."""
    row = Approval.objects.filter(pk=approval_id).first()
    return _state(row) if row is not None else None


def approvals_of(run_id: UUID) -> tuple[ApprovalState, ...]:
    """What a run has asked people, the oldest first."""
    return tuple(_state(row) for row in Approval.objects.filter(run_id=run_id).order_by("id")[:100])  # a run has few


def find_approvals(
    *, limit: int, cursor: str | None = None, use_case: str = "", may: Decider | None = None, open_only: bool = True
) -> Approvals:
    """The newest approvals that wait, or all of them; ``may``: those that are his to decide now. Raises InvalidRequest."""
    rows = _matching(use_case=use_case, may=may, open_only=open_only)
    page = newest_ids(rows, rows_max=limit, cursor=cursor)
    all_found = cursor is None and page.next_cursor is None
    total = len(page.rows) if all_found else rows[: TOTAL_MAX + 1].count()
    return Approvals(
        rows=tuple(_state(row) for row in page.rows),
        next_cursor=page.next_cursor,
        total=min(total, TOTAL_MAX),
        total_is_exact=total <= TOTAL_MAX,
    )


def _matching(*, use_case: str, may: Decider | None, open_only: bool) -> "QuerySet[Approval]":
    rows = Approval.objects.filter(status=ApprovalStatus.OPEN) if open_only else Approval.objects.all()
    if use_case:
        rows = rows.filter(use_case=use_case)
    if may is not None:
        mine = sorted(may.may)
        rows = rows.filter(
            Q(delegated_at__isnull=True, deciders__overlap=mine) | Q(delegated_at__isnull=False, delegates__overlap=mine)
        ).exclude(asked_by=may.name)
    return rows


def _state(row: Approval) -> ApprovalState:
    delegated = row.delegated_at is not None
    return ApprovalState(
        id=row.id,
        run_id=row.run_id,
        use_case=row.use_case,
        step=row.step,
        business_key=row.business_key,
        question=row.question,
        facts=dict(row.facts),
        status=row.status,
        who=tuple(row.delegates if delegated else row.deciders),
        delegated=delegated,
        asked_by=row.asked_by,
        asked_at=row.asked_at,
        until=row.until,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        reason=row.reason,
    )
