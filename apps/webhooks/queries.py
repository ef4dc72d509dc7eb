"""Questions about endpoints and deliveries, answered in values."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common.pagination import Page, newest_ids
from apps.webhooks.endpoints import EndpointView, UnknownEndpoint, view_of
from apps.webhooks.models import Delivery, Endpoint

ENDPOINTS_SHOWN = 1_000  # of one account; the setting allows far fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A delivery, as values. ``next_attempt_at``: None when none is to come."""

    id: UUID
    event_id: UUID
    type: str
    sequence: int
    occurred_at: datetime
    state: str
    attempts: int
    last_status: int | None
    last_error: str
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """What the endpoint's owner is shown."""
        return {
            "id": str(self.id),
            "webhook_id": str(self.event_id),
            "type": self.type,
            "sequence": self.sequence,
            "occurred_at": self.occurred_at.isoformat(),
            "state": self.state,
            "attempts": self.attempts,
            "last_status": self.last_status,
            "last_error": self.last_error,
            "created_at": self.created_at.isoformat(),
            "next_attempt_at": self.next_attempt_at and self.next_attempt_at.isoformat(),
            "finished_at": self.finished_at and self.finished_at.isoformat(),
        }


def _row(account_id: str, endpoint_id: UUID) -> Endpoint:
    row = Endpoint.objects.filter(pk=endpoint_id, account_id=account_id, deleted_at__isnull=True).first()
    if row is None:
        raise UnknownEndpoint
    return row


def endpoint(endpoint_id: UUID, *, account_id: str, now: datetime) -> EndpointView:
    """An endpoint. Raises UnknownEndpoint, also for another account's."""
    return view_of(_row(account_id, endpoint_id), now=now)


def endpoints_of(account_id: str, *, now: datetime) -> list[EndpointView]:
    """An account's endpoints, the oldest first."""
    rows = Endpoint.objects.filter(account_id=account_id, deleted_at__isnull=True).order_by("pk")
    return [view_of(row, now=now) for row in rows[:ENDPOINTS_SHOWN]]


def deliveries_page(
    endpoint_id: UUID, *, account_id: str, state: str | None, rows_max: int, cursor: str | None
) -> Page[DeliveryView]:
    """An endpoint's deliveries, newest first, from behind the cursor.

    Raises UnknownEndpoint, and InvalidRequest for a cursor that is none.
    """
    rows = Delivery.objects.filter(endpoint=_row(account_id, endpoint_id)).select_related("event")
    if state:
        rows = rows.filter(state=state)
    return newest_ids(rows, rows_max=rows_max, cursor=cursor).each(_view)


def _view(row: Delivery) -> DeliveryView:
    return DeliveryView(
        id=row.pk,
        event_id=row.event.id,
        type=row.event.type,
        sequence=row.event.sequence,
        occurred_at=row.event.occurred_at,
        state=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_attempt_at=row.due_at if row.state == Delivery.State.PENDING else None,
        finished_at=row.finished_at,
    )
