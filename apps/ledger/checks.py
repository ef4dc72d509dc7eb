"""Checks: a run that proves balances, its row, and a row for each difference that people look at. Nothing is corrected."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

from apps.common import clock
from apps.common.clock import business_date
from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.transactions import transaction, transaction_required
from apps.ledger import care_models as tables
from apps.ledger import increments, reconciliation, suspensions
from apps.ledger.chain_models import Patrol
from apps.ledger.increments import Scope
from apps.ledger.reconciliation import DIFFERENCES_MAX
from apps.ledger.reconciliation import Difference as Found
from apps.ledger.rules import AccountRef

Kind = Literal["FULL", "INCREMENTAL"]

# Far above what a check takes: one that hangs must not hold its snapshot for ever.
STATEMENT_TIMEOUTS = {"FULL": "2h", "INCREMENTAL": "10min"}
EXCLUSIVE_LASTS = timedelta(minutes=30)  # then writers go on, whatever became of the check
TURN_S = 3  # for the check that is running: the scheduled ones take turns, and one that came too late may go
KILLED_S = 5  # then the server has noticed that a check's process is gone
REASON_CHARACTERS_MAX = 1_000
COUNT_MAX = 10_000
CHECKS_KEPT = timedelta(days=30)  # of those that no difference names; one every ten minutes
FORGET_ROWS_MAX = 1_000


class CheckRunning(DomainError):
    """Another check is running: they take turns."""

    code, retryable = "R133", True


class DifferenceGone(DomainError):
    """The difference is gone: the last check found nothing wrong any more."""

    code = "R134"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check looked at, and what it found; a few hundred differences of each rule at most."""

    id: UUID
    kind: str
    exclusive: bool
    snapshot_at: datetime
    ended_at: datetime
    accounts: int
    days: int
    lines: int
    rules: int
    differences: Sequence[Found]


def run_check(
    *, kind: Kind, now: datetime, branch: str | None = None, account: AccountRef | None = None, exclusive: bool = False
) -> CheckResult:
    """Prove balances, and write down what differs. Several commits of its own; safe to repeat, and while writers run.

    FULL reads the whole ledger (of a branch or an account: all of it). INCREMENTAL reads what changed since it was last
    proved, see Note [Increments]; the first one everything. ``exclusive``: posting is suspended (WAIT) meanwhile. Raises
    CheckRunning; WritersInside when posting could not be suspended; whatever breaks the check, having resumed.
    """
    scope = Scope(*account) if account else Scope(branch)
    row_id = _begin(kind, scope, exclusive=exclusive, now=now)
    try:
        with _suspended(scope, now=now) if exclusive else nullcontext():
            seen = _prove(kind, scope, now=now)
        return _write_down(row_id, seen)
    except BaseException as error:  # also when the process is told to stop
        _break_off(row_id, error)
        raise


@transaction
def _begin(kind: Kind, scope: Scope, *, exclusive: bool, now: datetime) -> UUID:
    row = tables.Check.objects.create(
        kind=kind,
        exclusive=exclusive,
        began_at=now,
        **asdict(scope),
    )
    return row.id


@transaction
def _break_off(row_id: UUID, error: BaseException) -> None:
    text = f"{error.code} {error.detail}" if isinstance(error, DomainError) else repr(error)
    tables.Check.objects.filter(pk=row_id).update(failure=text[:REASON_CHARACTERS_MAX], ended_at=clock.now())


@contextmanager
def _suspended(scope: Scope, *, now: datetime) -> Iterator[None]:
    """Nobody posts meanwhile; resumed however it ends, and by its limit when this process dies."""
    suspension = _suspend(scope, now=now)
    try:
        yield
    finally:
        _resume(suspension.id)


@transaction
def _suspend(scope: Scope, *, now: datetime) -> suspensions.SuspensionView:
    account = scope.account and AccountRef(scope.branch or "", scope.account, scope.currency or "")
    return suspensions.suspend(
        mode="WAIT",
        reason="An exclusive check runs.",
        by="check_balances",
        branch=scope.branch,
        account=account or None,
        until=now + EXCLUSIVE_LASTS,
        now=now,
    )


@transaction
def _resume(suspension_id: UUID) -> None:
    suspensions.resume(suspension_id=suspension_id, by="check_balances", now=clock.now())


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a check saw in its snapshot."""

    at: datetime
    cluster: str
    whole: bool
    size: increments.Size
    found: Sequence[Found]
    afresh: Collection[tuple[str, str, str]]  # accounts that were proved from their first line


@transaction
def _prove(kind: Kind, scope: Scope, *, now: datetime) -> _Seen:
    """The check: one snapshot, which sees all that was committed, and nothing in between. It leaves its proofs.

    A process that dies before the differences are written down loses those of entries until the next full check; accounts
    in which something differs have no proof, so the next check finds it again.
    """
    _take_turn(kind)
    at, cluster = clock.now(), increments.cluster()
    if _last_cluster() not in (None, cluster):
        increments.forget_proofs()
    # Who has nothing to start from reads everything, and the whole is read faster as a whole than account by account.
    whole = scope == Scope() and (kind == "FULL" or not tables.Proof.objects.exists())
    size = increments.whole_size() if whole else increments.find_changed(scope, afresh=kind == "FULL")
    found = reconciliation.prove(reconciliation.CHECKS if whole else increments.CHECKS)
    _keep_proofs(found, whole=whole, day=business_date(now))
    return _Seen(at, cluster, whole, size, found, () if whole else increments.proven_afresh())


@transaction
def _write_down(row_id: UUID, seen: _Seen) -> CheckResult:
    """The rows for people. A commit of its own: somebody may have acknowledged a difference since the snapshot."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ledger_difference IN SHARE ROW EXCLUSIVE MODE")  # two checks may meet here
    _write_differences(row_id, seen)
    row = tables.Check.objects.get(pk=row_id)
    row.snapshot_at, row.ended_at, row.cluster, row.differences = seen.at, clock.now(), seen.cluster, len(seen.found)
    row.accounts, row.days, row.lines = seen.size
    row.save()
    rules = len(reconciliation.CHECKS)
    return CheckResult(row_id, row.kind, row.exclusive, seen.at, row.ended_at, *seen.size, rules, seen.found)


def _take_turn(kind: Kind) -> None:
    """One check at a time. The lock comes before the snapshot, which so contains what the last check wrote.

    Months can't come or go from here on, so the table has those that the snapshot knows.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUTS[kind]}'")
        cursor.execute(f"SET LOCAL lock_timeout = '{TURN_S}s'")
        # A worker kills what takes too long; the server would go on by itself, and nobody else had a turn meanwhile.
        cursor.execute(f"SET LOCAL client_connection_check_interval = '{KILLED_S}s'")
        try:
            cursor.execute("LOCK TABLE ledger_proof IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute(reconciliation.KEEP_MONTHS)
        except OperationalError as error:
            if isinstance(error.__cause__, LockNotAvailable):
                raise CheckRunning from None
            raise


def _last_cluster() -> str | None:
    return tables.Check.objects.exclude(cluster="").order_by("-id").values_list("cluster", flat=True).first()


def _keep_proofs(found: Sequence[Found], *, whole: bool, day: date) -> None:
    unsound = {place for each in found if (place := (each.branch, each.account, each.currency)) and all(place)}
    # A rule that filled its list did not name all accounts.
    keep = not _cut_off(found)
    increments.keep_proofs(unsound, all_accounts=whole, day=day, keep=keep)  # type: ignore[arg-type]  # not None


def _cut_off(found: Sequence[Found]) -> set[str]:
    """The rules that found as many differences as are reported."""
    rules = [each.rule for each in found]
    return {rule for rule in set(rules) if rules.count(rule) >= DIFFERENCES_MAX}


# --- Differences --------------------------------------------------------------------------------------------------------
_PLACE = ("rule", "branch", "account", "currency", "dateref", "tracekey")


def _place(of: Found | tables.Difference) -> tuple[Any, ...]:
    tracekey = UUID(of.tracekey) if isinstance(of.tracekey, str) else of.tracekey
    return (of.rule, of.branch, of.account, of.currency, of.dateref, tracekey)


def _write_differences(row_id: UUID, seen: _Seen) -> None:
    """A row for each place that differs. One that was acknowledged is open again when its amounts are others."""
    known = {_place(row): row for row in tables.Difference.objects.all().iterator()}
    places = {_place(each): each for each in seen.found}
    for place, each in places.items():
        row = known.get(place) or tables.Difference(**dict(zip(_PLACE, place, strict=True)), first_seen=seen.at)
        same = (row.stored, row.proven) == (each.stored, each.proven)
        if not (same and row.state == tables.Difference.State.ACKNOWLEDGED):
            row.state = tables.Difference.State.OPEN
        row.stored, row.proven = each.stored, each.proven
        row.last_seen, row.check_run_id, row.gone_at = seen.at, row_id, None
        row.save()
    _write_gone([row for place, row in known.items() if place not in places], seen)


def _write_gone(rows: Sequence[tables.Difference], seen: _Seen) -> None:
    """Differences that this check would have found again, and did not."""
    cut_off = _cut_off(seen.found)
    gone = [
        row.id
        for row in rows
        if row.rule not in cut_off and (seen.whole or (row.branch, row.account, row.currency) in seen.afresh)
    ]
    still = tables.Difference.objects.exclude(state=tables.Difference.State.GONE)
    still.filter(pk__in=gone).update(state=tables.Difference.State.GONE, gone_at=seen.at)


@dataclass(frozen=True, slots=True)
class CareNow:
    """What of the ledger's care needs a person."""

    differences: int  # that nobody has acknowledged; counted up to COUNT_MAX
    since: datetime | None  # the oldest of them
    suspensions: int
    suspended_since: datetime | None
    damage: str  # of the chain of hashes, in words; empty when its patrol has found none


def care_now(*, now: datetime) -> CareNow:
    """Open differences, suspensions that hold now, and whether somebody changed what was posted."""
    patrol = Patrol.objects.filter(id=1).first()
    damaged = patrol is not None and bool(patrol.damages or patrol.damages_before)
    open_ = tables.Difference.objects.filter(state=tables.Difference.State.OPEN)
    active = suspensions.suspended(now=now)
    return CareNow(
        differences=open_[:COUNT_MAX].count(),
        since=open_.order_by("first_seen").values_list("first_seen", flat=True).first(),
        suspensions=len(active),
        suspended_since=active[0].since if active else None,
        damage=(patrol.damage or "a block is not what was hashed") if patrol is not None and damaged else "",
    )


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """A difference as people see it."""

    id: UUID
    rule: str
    state: str
    stored: Decimal | None
    proven: Decimal | None
    acknowledged_by: str
    reason: str


@transaction_required
def acknowledge(*, difference_id: UUID, by: str, reason: str, now: datetime) -> DifferenceView:
    """Say that a difference is known, and why it may stay for now; the ledger is not changed. Safe to repeat.

    Another reason replaces the first one. Raises NotFound, InvalidRequest, DifferenceGone.
    """
    if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX or "\0" in reason:
        raise InvalidRequest(f"reason is a text of 1 to {REASON_CHARACTERS_MAX} characters.", field="reason")
    row = tables.Difference.objects.select_for_update().filter(pk=difference_id).first()
    if row is None:
        raise NotFound(f"There is no difference {difference_id}.")
    if row.state == tables.Difference.State.GONE:
        raise DifferenceGone
    row.state = tables.Difference.State.ACKNOWLEDGED
    row.acknowledged_at, row.acknowledged_by, row.reason = now, by, reason.strip()
    row.save(update_fields=["state", "acknowledged_at", "acknowledged_by", "reason"])
    return DifferenceView(row.id, row.rule, row.state, row.stored, row.proven, row.acknowledged_by, row.reason)


def last_whole(kind: str) -> tables.Check | None:
    """The last check of a kind that looked at the whole ledger and came to its end."""
    whole = tables.Check.objects.filter(kind=kind, branch=None, failure="", snapshot_at__isnull=False)
    return whole.filter(ended_at__isnull=False).order_by("-ended_at").first()


@transaction_required
def forget_checks(*, now: datetime) -> int:
    """Delete checks that ended more than CHECKS_KEPT ago and that no difference names. How many? Safe to repeat.

    The last whole one of each kind stays: that it is so old is what the alarm tells.
    """
    last = [row.pk for kind in tables.Check.Kind.values if (row := last_whole(kind))]
    old = tables.Check.objects.filter(began_at__lt=now - CHECKS_KEPT, difference=None).exclude(pk__in=last).order_by("id")
    return tables.Check.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:FORGET_ROWS_MAX])).delete()[0]
