"""What checks found to differ: a row for each place that people look at. Nothing is corrected."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.transactions import transaction_required
from apps.ledger import care_models as tables
from apps.ledger import reconciliation
from apps.ledger.reconciliation import Difference as Found

REASON_CHARACTERS_MAX = 1_000


class DifferenceGone(DomainError):
    """The difference is gone: the last check found nothing wrong any more."""

    code = "R134"


def lock(*, of_pass: bool) -> None:
    with connection.cursor() as cursor:
        if of_pass:  # who has the turn writes the row of the pass
            cursor.execute("LOCK TABLE ledger_proof IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("LOCK TABLE ledger_difference IN SHARE ROW EXCLUSIVE MODE")  # two checks may meet here


_PLACE = ("rule", "branch", "account", "currency", "dateref", "tracekey")


def _place(of: Found | tables.Difference) -> tuple[Any, ...]:
    tracekey = UUID(of.tracekey) if isinstance(of.tracekey, str) else of.tracekey
    return (of.rule, of.branch, of.account, of.currency, of.dateref, tracekey)


def write(row_id: UUID, found: Sequence[Found], *, at: datetime) -> None:
    """A row for each place that differs. One that was acknowledged is open again when its amounts are others."""
    known = {_place(row): row for row in tables.Difference.objects.all().iterator()} if found else {}
    for place, each in {_place(each): each for each in found}.items():
        row = known.get(place) or tables.Difference(**dict(zip(_PLACE, place, strict=True)), first_seen=at)
        same = (row.stored, row.proven) == (each.stored, each.proven)
        if not (same and row.state == tables.Difference.State.ACKNOWLEDGED):
            row.state = tables.Difference.State.OPEN
        row.stored, row.proven = each.stored, each.proven
        row.last_seen, row.check_run_id, row.gone_at = at, row_id, None
        row.save()


def write_gone(rows: QuerySet[tables.Difference], found: Sequence[Found], *, at: datetime) -> None:
    """Of these differences those that the check would have found again, and did not."""
    cut_off, places = reconciliation.cut_off(found), {_place(each) for each in found}
    still = rows.exclude(state=tables.Difference.State.GONE)
    gone = [row.pk for row in still if row.rule not in cut_off and _place(row) not in places]
    still.filter(pk__in=gone).update(state=tables.Difference.State.GONE, gone_at=at)


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
