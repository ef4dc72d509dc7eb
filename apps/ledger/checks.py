"""Checks: a run that proves balances, its row, and a row for each difference that people look at. Nothing is corrected."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet

from apps.common import clock
from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.ledger import care_models as tables
from apps.ledger import differences, increments, passes, reconciliation, regions, suspensions, turns
from apps.ledger.models import Account
from apps.ledger.reconciliation import Difference as Found
from apps.ledger.regions import Scope, Size
from apps.ledger.rows import fetch
from apps.ledger.rules import AccountRef

Kind = Literal["FULL", "INCREMENTAL"]

EXCLUSIVE_LASTS = timedelta(minutes=30)  # then writers go on, whatever became of the check
TURN_S = 30  # for the check that is running: a piece of a full one takes seconds, and one that came too late may go
BETWEEN_PIECES = "10min"  # as long as an incremental check may take; who waits here has done something already
# Of accounts that no check has proved yet. What is more waits for the next check, or for the full one.
UNPROVEN_ROWS_MAX = 1_000_000
MISSED = timedelta(hours=26)  # without a full check: the nightly one did not begin
OVERDUE = timedelta(days=2)  # as deploy/prometheus/alerts.yml says it
CHECKS_KEPT = timedelta(days=30)  # of those that no difference names; one every ten minutes
FORGET_ROWS_MAX = 1_000


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
    unproven: int  # accounts that no check has proved since something was wrong with them, or at all


@dataclass(frozen=True, slots=True)
class PassView:
    """How far a full check is that has not ended."""

    id: UUID
    began_at: datetime
    looked: int
    expected: int  # rows; an estimate, 0 when the server has none
    differences: int
    tries: int
    continued_at: datetime | None

    @property
    def percent(self) -> int | None:
        """Of what it has to look at; None when nobody knows. 100 is said by its end alone."""
        return min(99, 100 * self.looked // self.expected) if self.expected else None


def run_check(
    *,
    kind: Kind,
    now: datetime,
    branch: str | None = None,
    account: AccountRef | None = None,
    exclusive: bool = False,
    anew: bool = False,
    tell: Callable[[PassView], None] | None = None,
) -> CheckResult:
    """Prove balances, and write down what differs. Several commits of its own; safe to repeat, and while writers run.

    FULL reads the whole ledger (of a branch or an account: all of it) in pieces, see Note [Pieces]: that of the whole
    ledger goes on where one that was cut off came to, unless ``anew``; ``tell`` hears of each piece. INCREMENTAL reads what
    changed since it was last proved, see Note [Increments], and some of what never was. ``exclusive``: posting is
    suspended (WAIT) meanwhile. Raises CheckRunning; WritersInside when posting could not be suspended; whatever breaks
    the check, having resumed.
    """
    scope = Scope(*account) if account else Scope(branch)
    row_id, is_joined = _begin(kind, scope, exclusive=exclusive, anew=anew, now=now)
    try:
        with _suspended(scope, now=now) if exclusive else nullcontext():
            if kind == "FULL":
                while not _take_piece(row_id, tell, wait=None, now=now):
                    pass
                return _end_pass(row_id)
            return _write_down(row_id, _prove(scope, now=now))
    except BaseException as error:  # also when the process is told to stop
        if not is_joined:  # else it is somebody else's, who may be at its first piece
            _break_off(row_id, error)
        raise


def work_on_pass(*, budget_s: float, begin: bool, now: datetime) -> CheckResult | None:
    """Prove pieces of the whole ledger for so many seconds and a piece; what was found, if that was the last one.

    ``begin`` a full check when none is to go on with; it is begun anyway when a night was missed. Safe to repeat, and
    beside itself. Raises CheckRunning.
    """
    since = whole_since()
    missed = since is not None and now - since > MISSED
    if not (begin or missed or open_pass()):
        return None
    row_id, _ = _begin("FULL", Scope(), exclusive=False, anew=False, now=now)
    end = time.monotonic() + budget_s
    while not _take_piece(row_id, None, wait=f"{TURN_S}s", now=now):
        if time.monotonic() > end:
            return None
    return _end_pass(row_id)


def open_pass() -> PassView | None:
    """The full check of the whole ledger that has not ended, if there is one."""
    row = _open_passes().order_by("id").first()
    return _view(row) if row else None


def _open_passes() -> QuerySet[tables.Check]:
    return tables.Check.objects.filter(kind="FULL", branch=None, exclusive=False, ended_at=None, progress__isnull=False)


def _view(row: tables.Check) -> PassView:
    return PassView(row.id, row.began_at, row.looked, row.expected, row.differences, row.tries, row.continued_at)


@transaction
def _begin(kind: Kind, scope: Scope, *, exclusive: bool, anew: bool, now: datetime) -> tuple[UUID, bool]:
    """The row of a check; of a full one that may go on, the one that is there. Was it there?"""
    row = tables.Check(kind=kind, exclusive=exclusive, began_at=now, **asdict(scope))
    if kind == "FULL":
        row.progress = passes.BEGIN
        if scope == Scope():
            row.expected = passes.expected_rows()
            if not exclusive and (known := _pass_to_go_on_with(anew=anew)):
                return known, True
    row.save(force_insert=True)
    return row.id, False


def _pass_to_go_on_with(*, anew: bool) -> UUID | None:
    fetch("SELECT pg_advisory_xact_lock(hashtext('ledger.pass'))", [])  # two that begin may meet here
    row = _open_passes().order_by("id").first()
    if row is None:
        return None
    if not anew and row.cluster in ("", increments.cluster()):
        return UUID(str(row.id))
    row.ended_at, row.failure = clock.now(), "It was begun anew." if anew else "The database moved to another server."
    row.save(update_fields=["ended_at", "failure"])
    return None


@transaction
def _break_off(row_id: UUID, error: BaseException) -> None:
    """Say why, unless it goes on: then the next call tries the same piece."""
    text = f"{error.code} {error.detail}" if isinstance(error, DomainError) else repr(error)
    row = tables.Check.objects.filter(pk=row_id).exclude(pk__in=_open_passes().filter(snapshot_at__isnull=False))
    row.update(failure=text[: differences.REASON_CHARACTERS_MAX], ended_at=clock.now())


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


# --- Pieces of a full check ---------------------------------------------------------------------------------------------
def _take_piece(row_id: UUID, tell: Callable[[PassView], None] | None, *, wait: str | None, now: datetime) -> bool:
    """The next piece, and a row for what differs in it. Is it the last one?"""
    first = tables.Check.objects.filter(pk=row_id, snapshot_at=None).exists()
    row = passes.go_on(row_id, wait=wait or (f"{TURN_S}s" if first else BETWEEN_PIECES), now=now)
    if row.failure:
        raise turns.CheckRunning(f"Somebody else ended this one: {row.failure}")
    progress = passes.progress_of(row)
    if len(progress.found) > progress.told:
        _write_found(row_id)
    if tell:
        tell(_view(row))
    return progress.stage == "DONE"


@transaction
def _write_found(row_id: UUID) -> None:
    differences.lock(of_pass=True)
    _write_untold(tables.Check.objects.get(pk=row_id))


def _write_untold(row: tables.Check) -> Sequence[Found]:
    """The rows for people of what they were not told yet; whoever was killed before has left it here."""
    progress = passes.progress_of(row)
    if untold := progress.found[progress.told :]:
        differences.write(row.id, untold, at=row.continued_at or row.began_at)
        row.progress = replace(progress, told=len(progress.found)).as_json()
        row.save(update_fields=["progress"])
    return progress.found


@transaction
def _end_pass(row_id: UUID) -> CheckResult:
    """Its last commit. Safe to repeat."""
    differences.lock(of_pass=True)
    row = tables.Check.objects.get(pk=row_id)
    found = _write_untold(row)
    if row.ended_at is not None:  # somebody else was faster
        return _result(row, found)
    # What another check has seen since this one began may lie where it had been before.
    rows = tables.Difference.objects.filter(last_seen__lt=row.snapshot_at)
    differences.write_gone(_of_scope(rows, row), found, at=row.continued_at or row.began_at)
    row.ended_at, row.unproven = clock.now(), increments.unproven()
    row.save()
    return _result(row, found)


def _of_scope(rows: QuerySet[tables.Difference], row: tables.Check) -> QuerySet[tables.Difference]:
    """Those that a check would have found again: one of a part looks at the accounts that are there."""
    scope = {name: value for name in ("branch", "account", "currency") if (value := getattr(row, name)) is not None}
    if not scope:
        return rows
    place = {"branch_id": OuterRef("branch"), "account": OuterRef("account"), "currency": OuterRef("currency")}
    return rows.filter(Exists(Account.objects.filter(**place)), **scope)


def _result(row: tables.Check, found: Sequence[Found]) -> CheckResult:
    size = Size(row.accounts, row.days, row.lines)
    at, ended_at = row.snapshot_at or row.began_at, row.ended_at or row.began_at
    rules = len(reconciliation.CHECKS)
    return CheckResult(row.id, row.kind, row.exclusive, at, ended_at, *size, rules, list(found), row.unproven)


# --- What changed -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Seen:
    """What a check saw in its snapshot."""

    at: datetime
    cluster: str
    size: Size
    found: Sequence[Found]
    afresh: Collection[tuple[str, str, str]]  # accounts that were proved from their first line
    unproven: int


@transaction
def _prove(scope: Scope, *, now: datetime) -> _Seen:
    """The check: one snapshot, which sees all that was committed, and nothing in between. It leaves its proofs.

    A process that dies before the differences are written down loses those of entries until the next full check; accounts
    in which something differs have no proof, so the next check finds it again.
    """
    turns.take_turn("INCREMENTAL", wait=f"{TURN_S}s")
    at, cluster = clock.now(), turns.know_server()
    size = regions.find_changed(scope, rows_max=UNPROVEN_ROWS_MAX if scope == Scope() else None)
    found = reconciliation.prove(increments.CHECKS)
    increments.keep_proofs(found, day=business_date(now))
    return _Seen(at, cluster, size, found, regions.proven_afresh(), increments.unproven())


@transaction
def _write_down(row_id: UUID, seen: _Seen) -> CheckResult:
    """The rows for people. A commit of its own: somebody may have acknowledged a difference since the snapshot."""
    differences.lock(of_pass=False)
    differences.write(row_id, seen.found, at=seen.at)
    # What a piece of the full one has seen since is younger than what this one saw.
    still = tables.Difference.objects.exclude(state=tables.Difference.State.GONE).filter(last_seen__lte=seen.at)
    afresh = [row.pk for row in still if (row.branch, row.account, row.currency) in seen.afresh]
    differences.write_gone(still.filter(pk__in=afresh), seen.found, at=seen.at)
    row = tables.Check.objects.get(pk=row_id)
    row.snapshot_at, row.ended_at, row.cluster, row.differences = seen.at, clock.now(), seen.cluster, len(seen.found)
    row.accounts, row.days, row.lines = seen.size
    row.unproven = seen.unproven
    row.save()
    return _result(row, seen.found)


def last_whole(kind: str) -> tables.Check | None:
    """The last check of a kind that looked at the whole ledger and came to its end."""
    whole = tables.Check.objects.filter(kind=kind, branch=None, failure="", snapshot_at__isnull=False)
    return whole.filter(ended_at__isnull=False).order_by("-ended_at").first()


def whole_since() -> datetime | None:
    """What the last full check of the whole ledger saw; without one, since when checks are made at all."""
    if last := last_whole("FULL"):
        return last.snapshot_at
    first = tables.Check.objects.order_by("id").first()
    return first.began_at if first else None


@transaction_required
def forget_checks(*, now: datetime) -> int:
    """Delete checks that ended more than CHECKS_KEPT ago and that no difference names. How many? Safe to repeat.

    The last whole one of each kind stays: that it is so old is what the alarm tells.
    """
    last = [row.pk for kind in tables.Check.Kind.values if (row := last_whole(kind))]
    old = tables.Check.objects.filter(began_at__lt=now - CHECKS_KEPT, difference=None).exclude(pk__in=last).order_by("id")
    old = old.exclude(pk__in=_open_passes())
    return tables.Check.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:FORGET_ROWS_MAX])).delete()[0]
