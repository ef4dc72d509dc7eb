"""What the checks found, for whoever looks: differences, and when an account was last proved."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from apps.ledger.care_models import Check, Difference
from apps.ledger.rules import AccountRef

FINDINGS_MAX = 500  # in one answer: beyond some hundreds the cause is one
COUNTED_MAX = 1_000  # open ones, for a badge


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A difference: what is stored, and what the rows prove. ``state``: OPEN, ACKNOWLEDGED or GONE.

    ``account`` None: the rule is about an entry, or about nothing that has an account.
    """

    id: UUID
    rule: str
    account: AccountRef | None
    dateref: date | None
    tracekey: UUID | None
    stored: Decimal | None
    proven: Decimal | None
    state: str
    first_seen: datetime
    last_seen: datetime
    acknowledged_by: str
    acknowledged_at: datetime | None
    reason: str

    @property
    def differs_by(self) -> Decimal | None:
        """Stored − proven."""
        return self.stored - self.proven if self.stored is not None and self.proven is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedView:
    """The last check that looked at an account: ``at`` is the moment that it saw."""

    at: datetime
    kind: str


def find_differences(
    *, account: AccountRef | None = None, difference_id: UUID | None = None, gone: bool = False, limit: int = FINDINGS_MAX
) -> tuple[Finding, ...]:
    """The differences that still are, or those that are ``gone``, the newest first: all, of an account, or a single one."""
    rows = Difference.objects.order_by("-last_seen", "-id")
    if difference_id is not None:
        rows = rows.filter(pk=difference_id)
    else:
        rows = rows.filter(state=Difference.State.GONE) if gone else rows.exclude(state=Difference.State.GONE)
    if account is not None:
        rows = rows.filter(branch=account.branch, account=account.account, currency=account.currency)
    return tuple(_finding(row) for row in rows[: max(1, min(limit, FINDINGS_MAX))])


def open_differences() -> int:
    """How many differences nobody has acknowledged yet; COUNTED_MAX at most."""
    return Difference.objects.filter(state=Difference.State.OPEN).order_by()[:COUNTED_MAX].count()


def proved(account: AccountRef) -> ProvedView | None:
    """When an account was last looked at by a check that came to its end; None: never, as far as is kept."""
    branch, name, currency = account
    covers = (
        Q(branch__isnull=True) | Q(branch=branch, account__isnull=True) | Q(branch=branch, account=name, currency=currency)
    )
    rows = Check.objects.filter(covers, failure="", ended_at__isnull=False, snapshot_at__isnull=False)
    # From the newest back: checks come every few minutes, so the first that covers the account is near.
    row = rows.order_by("-id").first()
    return ProvedView(at=row.snapshot_at, kind=row.kind) if row is not None and row.snapshot_at is not None else None


def _finding(row: Difference) -> Finding:
    whole = row.branch is not None and row.account is not None and row.currency is not None
    return Finding(
        id=row.id,
        rule=row.rule,
        account=AccountRef(str(row.branch), str(row.account), str(row.currency)) if whole else None,
        dateref=row.dateref,
        tracekey=row.tracekey,
        stored=row.stored,
        proven=row.proven,
        state=row.state,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        acknowledged_by=row.acknowledged_by,
        acknowledged_at=row.acknowledged_at,
        reason=row.reason,
    )
