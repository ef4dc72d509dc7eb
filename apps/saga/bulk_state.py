"""Questions about actions on runs: how far they are, and what became of each run. Read from the rows, so always true."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, Q

from apps.saga.bulk import UnknownAction
from apps.saga.models import BulkAction, BulkItem

LATEST_MAX = 100  # actions in one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionState:
    """An action, and how many of its runs are settled in which way."""

    id: UUID
    action: str
    status: str
    told: str
    given: dict[str, Any]
    incident_id: UUID | None
    reason: str
    runs: int
    amount: Decimal
    asked_by: str
    asked_at: datetime
    approved_by: str
    approved_at: datetime | None
    cancelled_by: str
    cancelled_at: datetime | None
    finished_at: datetime | None
    pending: int
    done: int
    refused: int
    failed: int
    cancelled: int

    @property
    def waits(self) -> bool:
        """Does it wait for a second person?"""
        return self.status == BulkAction.Status.ASKED

    @property
    def live(self) -> bool:
        """Will it change by itself, or by a second person?"""
        return self.waits or self.status == BulkAction.Status.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemState:
    """What became of one run. ``code`` empty: done, or not yet."""

    run_id: UUID
    business_key: str
    amount: Decimal | None
    status: str
    code: str
    detail: str
    at: datetime | None


_COUNTS = {
    name: Count("items__run_id", filter=Q(items__status=status))
    for name, status in (
        ("pending", BulkItem.Status.PENDING),
        ("done", BulkItem.Status.DONE),
        ("refused", BulkItem.Status.REFUSED),
        ("failed", BulkItem.Status.FAILED),
        ("cancelled", BulkItem.Status.CANCELLED),
    )
}


def _state(row: Any) -> ActionState:
    return ActionState(**{name: getattr(row, name) for name in ActionState.__dataclass_fields__})


def action_state(action_id: UUID) -> ActionState:
    """An action as it is now. Raises UnknownAction."""
    row = BulkAction.objects.filter(pk=action_id).annotate(**_COUNTS).first()
    if row is None:
        raise UnknownAction
    return _state(row)


def latest_actions(*, limit: int, waiting: bool = False, incident_id: UUID | None = None) -> tuple[ActionState, ...]:
    """The newest actions; those that wait for a second person, or those on an incident's runs."""
    rows = BulkAction.objects.order_by("-asked_at", "-id")
    rows = rows.filter(status=BulkAction.Status.ASKED) if waiting else rows
    rows = rows.filter(incident_id=incident_id) if incident_id else rows
    ids = list(rows.values_list("pk", flat=True)[: min(limit, LATEST_MAX)])
    found = BulkAction.objects.filter(pk__in=ids).annotate(**_COUNTS).order_by("-asked_at", "-id")
    return tuple(_state(row) for row in found)


def latest_of_incidents(ids: Collection[UUID]) -> dict[UUID, ActionState]:
    """The newest action on each of these incidents, of those on which there was one."""
    newest = BulkAction.objects.filter(incident_id__in=ids).order_by("incident_id", "-asked_at", "-id")
    pks = list(newest.distinct("incident_id").values_list("pk", flat=True))
    found = (_state(row) for row in BulkAction.objects.filter(pk__in=pks).annotate(**_COUNTS))
    return {state.incident_id: state for state in found if state.incident_id is not None}


def action_items(
    action_id: UUID, *, limit: int, after: UUID | None = None, status: str = ""
) -> tuple[tuple[ItemState, ...], UUID | None]:
    """What became of its runs, in the order in which they began, those after ``after``; and where the next page begins."""
    rows = BulkItem.objects.filter(action_id=action_id).order_by("run_id")
    rows = rows.filter(status=status) if status else rows
    rows = rows.filter(run_id__gt=after) if after is not None else rows
    found = [
        ItemState(**{name: getattr(row, name) for name in ItemState.__dataclass_fields__}) for row in rows[: limit + 1]
    ]
    return tuple(found[:limit]), found[limit - 1].run_id if len(found) > limit else None
