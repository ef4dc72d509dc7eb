"""What the checks say of an account: its differences, and when it was last proved."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from apps.ledger.care_models import Check, Difference
from apps.ledger.rules import AccountRef

FINDINGS_MAX = 50  # of one account in one answer: so many have one cause
COUNTED_MAX = 1_000  # open ones, for a badge


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A difference of an account: what is stored, and what the rows prove. ``state``: OPEN or ACKNOWLEDGED."""

    id: UUID
    rule: str
    dateref: date | None
    stored: Decimal | None
    proven: Decimal | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedView:
    """The last check that looked at an account: ``at`` is the moment that it saw."""

    at: datetime
    kind: str


def find_differences(account: AccountRef, *, limit: int = FINDINGS_MAX) -> tuple[Finding, ...]:
    """The differences of an account that still are, the newest first."""
    rows = Difference.objects.exclude(state=Difference.State.GONE).order_by("-last_seen", "-id")
    mine = rows.filter(branch=account.branch, account=account.account, currency=account.currency)
    return tuple(_finding(row) for row in mine[: max(1, min(limit, FINDINGS_MAX))])


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
    return Finding(id=row.id, rule=row.rule, dateref=row.dateref, stored=row.stored, proven=row.proven, state=row.state)
