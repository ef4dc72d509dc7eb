"""Nobody posts to a part of the ledger for a while, so that an exclusive check, or a person, finds it standing still.

Note [Suspended]
    A suspension is a row. Writers read it with what they read anyway, behind the locks of their accounts: no round trip is
    added, and where nothing is suspended the look costs an empty index. They read FOR KEY SHARE, and so hold ROW SHARE on
    the table until their commit; who only reads (a backup, a list) does not. ``suspend`` makes two promises, to be kept at
    its commit:
    - no earlier writer is inside: it locks the table EXCLUSIVE, and so waits for each writer that has looked;
    - no later one slips in: whoever comes to look meanwhile waits for that lock. A lock on a table is taken before the
      statement's snapshot (one on a row is not: Note [Fences]), so what it reads then contains the new row.
    The table is locked first and the row inserted then, or two suspensions would wait for each other. A writer that looks
    a second time in one transaction holds the lock already and is never behind in the queue. The price: for the moment
    that the last writer takes to commit, writers of every branch wait. It ends after ``DRAIN_S``, or nothing is suspended.

    An account alone is fenced by its own row, which only its own writers hold, and they read suspensions behind it in a
    later statement; a deferred one, which nobody locks, by the lock that keeps its branch's days from being closed.

    What waits (WAIT) does so in one call on the server, with its locks held: nobody but a suspension needs those
    accounts for longer than it waits. A suspension ends when it is lifted, and at ``until`` whoever forgets to.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.transactions import transaction_required
from apps.ledger import rows
from apps.ledger.balances import AccountBook
from apps.ledger.care_models import Suspension
from apps.ledger.commands import Suspended
from apps.ledger.models import Account, Branch
from apps.ledger.rules import AccountRef

Mode = Literal["WAIT", "REFUSE"]

WAIT_S = 5.0  # of a writer, with its connection and its locks; a request's caller is still there, and so is a lock's
DRAIN_S = 3.0  # for who is inside: the longest batch takes half a second, and all writers wait as long
LASTS = timedelta(hours=1)  # when nobody says how long
LASTS_MAX = timedelta(hours=24)  # a day cannot be closed while its branch is suspended
ACTIVE_MAX = 100  # every writer reads all of them
TEXT_CHARACTERS_MAX = 500


class LedgerSuspended(DomainError):
    """Posting is suspended for a while: nothing was changed."""

    code, retryable, passes = "R130", True, True

    def __init__(self, detail: str | None = None, *, field: str | None = None, stops_queue: bool = False) -> None:
        """``stops_queue``: whatever comes from the queue would end so, and should rather wait there."""
        super().__init__(detail, field=field)
        self.stops_queue = stops_queue


class TooManySuspensions(DomainError):
    """So many suspensions are active that writers would feel it: lift some first."""

    code = "R131"


class WritersInside(DomainError):
    """Writers did not finish in time, so nothing was suspended."""

    code, retryable = "R132", True


@dataclass(frozen=True, slots=True)
class SuspensionView:
    """A suspension: of everything, of a branch, or of one account."""

    id: UUID
    branch: str | None
    account: str | None
    currency: str | None
    mode: str
    reason: str
    suspended_by: str
    since: datetime
    until: datetime
    lifted_at: datetime | None
    lifted_by: str


@transaction_required
def suspend(
    *,
    mode: Mode,
    reason: str,
    by: str,
    now: datetime,
    branch: str | None = None,
    account: AccountRef | None = None,
    until: datetime | None = None,
    drain_s: float = DRAIN_S,
) -> SuspensionView:
    """Suspend posting to an account, to a branch, or to the whole ledger; for an hour, or until a moment in a day's time.

    From the caller's commit on no writer is inside, and none comes in; commit at once, because writers wait until then.
    Not safe to repeat: each call is a suspension of its own, and all have to be lifted. Raises WritersInside when who is
    inside takes longer than ``drain_s`` seconds, TooManySuspensions, NotFound, InvalidRequest.
    """
    until = until or now + LASTS
    _check(mode, reason, by, until, now=now)
    try:
        with transaction.atomic():  # a lock that is not free leaves the caller's transaction as it was
            _drain(branch, account, drain_s)
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        raise WritersInside from None
    if Suspension.objects.filter(lifted_at=None, until__gt=now).count() >= ACTIVE_MAX:
        raise TooManySuspensions
    scope = dict(zip(("branch", "account", "currency"), account or (branch, None, None), strict=True))
    row = Suspension.objects.create(mode=mode, reason=reason, suspended_by=by, since=now, until=until, **scope)
    return _view(row)


def _check(mode: str, reason: str, by: str, until: datetime, *, now: datetime) -> None:
    if mode not in ("WAIT", "REFUSE"):
        raise InvalidRequest("mode is WAIT or REFUSE.", field="mode")
    for name, text in (("reason", reason), ("by", by)):
        if not text.strip() or len(text) > TEXT_CHARACTERS_MAX or "\0" in text:
            raise InvalidRequest(f"{name} is a text of 1 to {TEXT_CHARACTERS_MAX} characters.", field=name)
    if not now < until <= now + LASTS_MAX:
        hours = LASTS_MAX // timedelta(hours=1)
        raise InvalidRequest(f"until is a moment in the next {hours} hours.", field="until")


def _drain(branch: str | None, account: AccountRef | None, limit_s: float) -> None:
    """Wait for the writers inside, and keep others out until the commit. Raises OperationalError, NotFound."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout')")
        before = cursor.fetchone()[0]
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{round(limit_s * 1000)}ms"])
        if account is None:
            if branch is not None and not Branch.objects.filter(branch=branch).exists():
                raise NotFound(f"There is no branch {branch}.", field="branch")
            cursor.execute("LOCK TABLE ledger_suspension IN EXCLUSIVE MODE")
        else:
            _drain_account(account)
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])


def _drain_account(account: AccountRef) -> None:
    ref = {"branch": account.branch, "account": account.account, "currency": account.currency}
    row = Account.objects.select_for_update(no_key=True).filter(**ref).first()
    if row is None:
        raise NotFound(f"There is no account {'/'.join(account)}.", field="account")
    if row.deferred:
        rows.stop_deferred(account.branch)


@transaction_required
def resume(*, suspension_id: UUID, by: str, now: datetime) -> SuspensionView:
    """Lift a suspension: who waits goes on. Safe to repeat. Raises NotFound."""
    lifted = {"lifted_at": now, "lifted_by": by[:TEXT_CHARACTERS_MAX]}
    Suspension.objects.filter(pk=suspension_id, lifted_at=None).update(**lifted)
    row = Suspension.objects.filter(pk=suspension_id).first()
    if row is None:
        raise NotFound(f"There is no suspension {suspension_id}.")
    return _view(row)


def suspended(*, now: datetime) -> list[SuspensionView]:
    """The suspensions that hold now, oldest first."""
    active = Suspension.objects.filter(lifted_at=None, until__gt=now).order_by("since", "id")
    return [_view(row) for row in active[:ACTIVE_MAX]]


def _view(row: Suspension) -> SuspensionView:
    return SuspensionView(
        id=row.id,
        branch=row.branch,
        account=row.account,
        currency=row.currency,
        mode=row.mode,
        reason=row.reason,
        suspended_by=row.suspended_by,
        since=row.since,
        until=row.until,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
    )


def scope_text(of: SuspensionView | Suspended | Suspension) -> str:
    """What is suspended, in words."""
    return "/".join(part for part in (of.branch, of.account, of.currency) if part) or "the whole ledger"


def as_dict(view: SuspensionView) -> dict[str, str | None]:
    """For a document in JSON; times in ISO 8601."""
    values = asdict(view)
    return {
        name: value.isoformat() if isinstance(value, datetime) else value and str(value) for name, value in values.items()
    }


# --- What writers do ----------------------------------------------------------------------------------------------------
Refused = dict[AccountRef, LedgerSuspended]


def heed(refs: Collection[AccountRef], found: Sequence[Suspended], *, now: datetime, wait_s: float = WAIT_S) -> Refused:
    """Wait for suspensions of these accounts, whose locks the caller holds. Those that may not be written after all."""
    active = [suspension for suspension in found if suspension.until > now]
    if not active:
        return {}
    refused = {ref: _refusal(hit) for ref in refs if (hit := _covering(active, ref, "REFUSE"))}
    waiting = {ref: hit for ref in refs if ref not in refused and (hit := _covering(active, ref, "WAIT"))}
    # For all that cover them: while the locks are held no other suspension of these accounts begins.
    waited_for = {hit.id for hit in active if hit.mode == "WAIT" and any(hit.covers(ref) for ref in waiting)}
    if waited_for and not _await(waited_for, now=now, wait_s=wait_s):
        refused |= {ref: _refusal(hit) for ref, hit in waiting.items()}
    return refused


def _covering(active: Sequence[Suspended], ref: AccountRef, mode: Mode) -> Suspended | None:
    return next((each for each in active if each.mode == mode and each.covers(ref)), None)


def _refusal(hit: Suspended) -> LedgerSuspended:
    whole = hit.mode == "WAIT" or hit.branch is None
    until = f"{hit.until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return LedgerSuspended(f"Posting to {scope_text(hit)} is suspended until {until}.", stops_queue=whole)


def _await(suspension_ids: Collection[UUID], *, now: datetime, wait_s: float) -> bool:
    """Wait until all of these are lifted or over. False: they were not, in so many seconds."""
    sql = "SELECT ledger_await_resume(%s::uuid[], %s::timestamptz, %s::float8)"
    return bool(rows.fetch(sql, [list(suspension_ids), now, wait_s])[0][0])


def lock_to_write(refs: Collection[AccountRef], *, now: datetime) -> dict[AccountRef, AccountBook]:
    """Lock accounts for a change of what is held, in key order. Raises LedgerSuspended."""
    locked = rows.lock_accounts(refs, now=now)
    for refusal in heed(refs, locked.suspended, now=now).values():
        raise refusal
    return locked.books
