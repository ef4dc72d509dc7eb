"""Contingency: while the authority is away, receipts (NFC-e) are handed out first and delivered later (tpEmis 9).

Note [Handed out offline]
A person switches it on, with the reason that the law wants on every document, and off. A receipt of that time has its own
number and key, as every document. One that was signed before is signed again for it, under its number, when it is certain
that it was never sent; else it may be at the authority, is asked about, and sent when that is back. So no order ever has
two numbers that are both on their way.
"""

from dataclasses import dataclass
from datetime import datetime

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs.lifecycle import State
from apps.fiscal_docs.models import Contingency, Document, DocumentKind
from apps.fiscal_docs.operations.cancel import fit_reason

PERIODS_SHOWN = 20
WAITING_MAX = 10_000  # past this a page says "more than"


class AlreadyInContingency(DomainError):
    """Contingency is on already."""

    code = "R417"


class NotInContingency(DomainError):
    """Contingency is not on."""

    code = "R418"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContingencyPeriod:
    """A time of contingency; ``ended_at`` None: it goes on."""

    began_at: datetime
    began_by: str
    reason: str
    ended_at: datetime | None
    ended_by: str


@transaction_required
def enter_contingency(*, reason: str, by: str, now: datetime) -> None:
    """From now on receipts are handed out before the authority has them. ``reason``: 15 to 255 characters, printed on them.

    Raises AlreadyInContingency, ReasonUnfit.
    """
    text = fit_reason(reason)
    _, created = Contingency.objects.get_or_create(
        kind=DocumentKind.NFCE,
        ended_at=None,
        defaults={"began_at": now, "began_by": by, "reason": text},
    )
    if not created:
        raise AlreadyInContingency


@transaction_required
def leave_contingency(*, by: str, now: datetime) -> None:
    """From now on the authority decides first again; what was handed out is delivered. Raises NotInContingency."""
    ended = Contingency.objects.filter(kind=DocumentKind.NFCE, ended_at=None).update(ended_at=now, ended_by=by)
    if not ended:
        raise NotInContingency


def contingency() -> ContingencyPeriod | None:
    """The time of contingency that goes on, if one does."""
    return next((each for each in contingencies(rows_max=1) if each.ended_at is None), None)


def contingencies(*, rows_max: int = PERIODS_SHOWN) -> tuple[ContingencyPeriod, ...]:
    """The latest times of contingency, the newest first."""
    return tuple(
        ContingencyPeriod(
            began_at=row.began_at,
            began_by=row.began_by,
            reason=row.reason,
            ended_at=row.ended_at,
            ended_by=row.ended_by,
        )
        for row in Contingency.objects.order_by("-began_at", "-id")[:rows_max]
    )


def handed_out() -> int:
    """How many documents were handed out and are not delivered yet; WAITING_MAX + 1 at most."""
    return Document.objects.filter(state=State.OFFLINE)[: WAITING_MAX + 1].count()
