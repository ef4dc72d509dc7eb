"""Actions on many runs: frozen when they are asked for, agreed to by a second person where that is demanded.

Note [One run, one commit]
The runs are written down when the action is asked for, with the trouble that each is in. A worker takes one after the other
(SKIP LOCKED) and settles it in one commit: the run's change, its audit row and the item's outcome. A worker that dies
leaves at most one run undecided, and that one untouched. What has moved on since is left alone, with a code. A worker
holds a share lock on the action meanwhile, so whoever cancels it knows that nothing is done afterwards.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection
from django.db import transaction as django_transaction

from apps.common.errors import DomainError
from apps.common.transactions import durable, transaction, transaction_required
from apps.saga import audit, incidents, triage
from apps.saga.attributes import amount_of
from apps.saga.models import BulkAction, BulkItem, Incident, Run, Step
from apps.saga.selection import READ_RUNS, NoRuns, Selection, at_risk, check_alone, check_expected, needs_approval, runs_of
from apps.saga.telling import error_code, error_detail
from apps.saga.triage import Action, Wanted

logger = logging.getLogger(__name__)

APPROVE_WITHIN = timedelta(hours=24)  # after a day the runs, and the reason, are others
LEASE = timedelta(seconds=30)  # of the worker; then another one goes on
INLINE_RUNS = 20  # so few are settled while the one who asks waits
CHUNK_RUNS = 500  # settled by one task: a few seconds, well within the lease


class UnknownAction(DomainError):
    """There is no such action."""

    code, status = "R550", 404


class NotWaiting(DomainError):
    """The action does not wait for this any more."""

    code = "R551"


class SamePerson(DomainError):
    """Whoever asked for an action does not approve it: a second person must."""

    code = "R552"


class ApprovalExpired(DomainError):
    """The action was asked for too long ago: ask again."""

    code = "R553"


# --- Asking -------------------------------------------------------------------------------------------------------------
@transaction_required
def ask(
    which: Selection,
    what: Wanted,
    *,
    reason: str,
    by: str,
    now: datetime,
    expected: str = "",
    runs_max: int | None = None,
) -> UUID:
    """Ask for an action: it begins after this commit, or waits for a second person (SAGA_FOUR_EYES). Its id.

    The runs are frozen now, each with its trouble; ``expected`` (``token_of``, for one run) demands its exact state.
    ``runs_max``: only the first ones. Raises NoRuns, TooManyRuns, UnknownIncident, Stale, InvalidRequest and the errors of
    filters. Not safe to repeat, but harmless: the runs have moved on by then. With an Idempotency-Key: ``asking.py``.
    """
    why = audit.check_reason(reason)
    runs, told = runs_of(which, runs_max=runs_max, now=now)
    if not runs and not (what.action is Action.HANDLE and which.incident_id is not None):
        raise NoRuns(f"No run is meant by: {told}.")
    check_expected(runs, expected)
    check_alone(runs, what)
    if expected:
        _check_not_stale(runs[0], expected, now=now)
    amount = at_risk(runs)
    waits = needs_approval(what.action, amount)
    action = BulkAction.objects.create(
        action=what.action,
        status=BulkAction.Status.ASKED if waits else BulkAction.Status.RUNNING,
        told=told,
        given=dict(what.given),
        incident_id=which.incident_id,
        reason=why,
        runs=len(runs),
        amount=amount,
        asked_by=by,
        asked_at=now,
    )
    BulkItem.objects.bulk_create((_item(action, run, expected) for run in runs), batch_size=READ_RUNS)
    if waits:
        _note(action, "ask", by=by, reason=why, now=now)
    elif len(runs) > INLINE_RUNS:
        _wake_after_commit(action.id)
    return action.id


request = transaction(ask)  # the same as a commit of its own


def _check_not_stale(run: Run, expected: str, *, now: datetime) -> None:
    session = triage.peek(run, list(Step.objects.filter(run_id=run.pk).order_by("position")), now=now)
    triage.check_seen(session, expected)


def _item(action: BulkAction, run: Run, expected: str) -> BulkItem:
    seen = expected or triage.trouble_of(run.status, run.cursor, run.error_code)
    return BulkItem(
        action=action, run_id=run.pk, business_key=run.business_key, amount=amount_of(run.attributes), seen=seen
    )


def _note(action: BulkAction, word: str, *, by: str, reason: str, now: datetime) -> None:
    incident = Incident.objects.filter(pk=action.incident_id).first() if action.incident_id else None
    use_case, step = (incident.use_case, incident.step) if incident else ("", "")
    detail = {"action": str(action.id), "told": action.told, "runs": action.runs, "amount": str(action.amount)}
    name = f"{word} {action.action}"
    audit.note(at=now, actor=by, action=name, use_case=use_case, step=step, reason=reason, detail=detail)


def _wake_after_commit(action_id: UUID) -> None:
    django_transaction.on_commit(lambda: wake(action_id), robust=True)


def wake(action_id: UUID) -> None:
    """Have a worker go on with an action. A lost message loses nothing: ``go_on`` finds it."""
    from apps.saga import tasks  # tasks import this module

    try:
        tasks.work_action.delay(action_id=str(action_id))
    except Exception:
        logger.warning("a worker could not be woken for action %s", action_id, exc_info=True)


def _locked(action_id: UUID) -> BulkAction:
    row = BulkAction.objects.select_for_update().filter(pk=action_id).first()
    if row is None:
        raise UnknownAction
    return row


@transaction
def approve(action_id: UUID, *, by: str, now: datetime) -> None:
    """Agree to an action that waits for a second person; it begins. Raises UnknownAction, NotWaiting, SamePerson,
    ApprovalExpired."""
    row = _locked(action_id)
    if row.status != BulkAction.Status.ASKED:
        raise NotWaiting(f"The action is {row.get_status_display().lower()}.")
    if row.asked_by == by:
        raise SamePerson
    if now - row.asked_at > APPROVE_WITHIN:
        raise ApprovalExpired
    row.status, row.approved_by, row.approved_at = BulkAction.Status.RUNNING, by, now
    row.save(update_fields=["status", "approved_by", "approved_at"])
    _note(row, "approve", by=by, reason=row.reason, now=now)
    if row.runs > INLINE_RUNS:
        _wake_after_commit(row.id)


@transaction
def cancel(action_id: UUID, *, reason: str, by: str, now: datetime) -> int:
    """Stop an action, or refuse one that waits for a second person. How many of its runs are left as they are.

    What was done stays done; after this nothing more is. Raises UnknownAction, NotWaiting, InvalidRequest.
    """
    why = audit.check_reason(reason)
    row = _locked(action_id)  # waits for the run that is being settled
    if row.status not in (BulkAction.Status.ASKED, BulkAction.Status.RUNNING):
        raise NotWaiting(f"The action is {row.get_status_display().lower()}.")
    row.status, row.cancelled_by, row.cancelled_at = BulkAction.Status.CANCELLED, by, now
    row.finished_at = now
    row.save(update_fields=["status", "cancelled_by", "cancelled_at", "finished_at"])
    pending = BulkItem.objects.filter(action_id=action_id, status=BulkItem.Status.PENDING)
    left = pending.update(status=BulkItem.Status.CANCELLED, at=now)
    _note(row, "cancel", by=by, reason=why, now=now)
    return left


# --- Doing --------------------------------------------------------------------------------------------------------------
@durable
def work(action_id: UUID, *, now: datetime, items_max: int = CHUNK_RUNS) -> int:
    """Settle the runs of an action that are left, unless another worker is at it. How many. Safe to repeat."""
    if not _take(action_id, now=now):
        return 0
    done = 0
    while done < items_max and _one(action_id, now=now):
        done += 1
    _end(action_id, now=now)
    return done


def _take(action_id: UUID, *, now: datetime) -> bool:
    free = BulkAction.objects.filter(pk=action_id, status=BulkAction.Status.RUNNING)
    free = free.exclude(worked_until__gt=now)
    return free.update(worked_until=now + LEASE) == 1


@transaction
def _one(action_id: UUID, *, now: datetime) -> bool:
    """Settle the next run. False when there is none. See Note [One run, one commit]."""
    sql = "SELECT * FROM saga_bulk_action WHERE id = %s AND status = 'RUNNING' FOR SHARE"
    action = next(iter(BulkAction.objects.raw(sql, [action_id])), None)
    if action is None:
        return False
    pending = BulkItem.objects.select_for_update(skip_locked=True).filter(
        action_id=action_id, status=BulkItem.Status.PENDING
    )
    item = pending.order_by("run_id").first()
    if item is None:
        return False
    status, code, detail = _settle(action, item, now=now)
    BulkItem.objects.filter(pk=item.pk).update(status=status, code=code, detail=detail, at=now)
    return True


def _settle(action: BulkAction, item: BulkItem, *, now: datetime) -> tuple[str, str, str]:
    what = Wanted(action=Action(action.action), given=action.given)
    noted = {"action": str(action.id), **({"approved_by": action.approved_by} if action.approved_by else {})}
    try:
        with django_transaction.atomic():
            told = triage.apply(
                item.run_id, what, reason=action.reason, by=action.asked_by, now=now, seen=item.seen, detail=noted
            )
    except DomainError as refusal:
        return BulkItem.Status.REFUSED, refusal.code, refusal.detail
    except DatabaseError as error:
        if not connection.is_usable():
            raise
        return _broken(item, error)
    except Exception as error:
        return _broken(item, error)
    return BulkItem.Status.DONE, "", told


def _broken(item: BulkItem, error: Exception) -> tuple[str, str, str]:
    logger.warning("run %s could not be changed", item.run_id, exc_info=error)
    return BulkItem.Status.FAILED, error_code(error)[:50], error_detail(error)


@transaction
def _end(action_id: UUID, *, now: datetime) -> None:
    """Let go of the action; it is done when no run of it is left."""
    row = BulkAction.objects.select_for_update().filter(pk=action_id, status=BulkAction.Status.RUNNING).first()
    if row is None:
        return
    row.worked_until = None
    if not BulkItem.objects.filter(action_id=action_id, status=BulkItem.Status.PENDING).exists():
        row.status, row.finished_at = BulkAction.Status.DONE, now
        if row.action == Action.HANDLE and row.incident_id is not None:
            incidents.fold_now()
            incidents.handle(row.incident_id, by=row.asked_by, reason=row.reason, now=now)
    row.save(update_fields=["status", "finished_at", "worked_until"])


@durable
def go_on(*, now: datetime) -> int:
    """Wake a worker for every action that runs and that nobody works on. How many."""
    left = BulkAction.objects.filter(status=BulkAction.Status.RUNNING).exclude(worked_until__gt=now)
    ids = list(left.order_by("id").values_list("pk", flat=True)[:100])  # more are not asked for at the same time
    for action_id in ids:
        wake(action_id)
    return len(ids)
