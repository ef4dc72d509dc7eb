"""Deliver again: one delivery, or all that were given up since a moment. The webhook-id stays the same."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.webhooks import wakeup
from apps.webhooks.endpoints import EndpointDisabled, locked
from apps.webhooks.models import Delivery, Endpoint

ROWS_MAX = 1_000  # of one call: a short transaction; whoever has more calls again
State = Delivery.State


class UnknownDelivery(DomainError):
    """There is no such delivery, or it is not yours."""

    code, status = "R906", 404


@transaction
def redeliver_one(*, account_id: str, endpoint_id: UUID, delivery_id: UUID, now: datetime) -> int:
    """Send one again, whatever became of it; one that waits for its next attempt is sent now. Always 1.

    Raises UnknownEndpoint, EndpointDisabled or UnknownDelivery.
    """
    row = _enabled(locked(account_id, endpoint_id))
    if not _again(row, [delivery_id], now):
        raise UnknownDelivery
    return 1


@transaction
def redeliver_failed(*, account_id: str, endpoint_id: UUID, since: datetime, now: datetime) -> int:
    """Send all again that were written since then and given up, the oldest first, at most ROWS_MAX. How many.

    Raises UnknownEndpoint or EndpointDisabled.
    """
    row = _enabled(locked(account_id, endpoint_id))
    failed = Delivery.objects.filter(endpoint=row, state=State.FAILED, created_at__gte=since).order_by("id")
    return _again(row, list(failed.values_list("pk", flat=True)[:ROWS_MAX]), now)


@transaction_required
def redeliver(delivery_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Send these again, of any account; for the back office. Which of them: those of disabled endpoints are left out."""
    found = Delivery.objects.filter(pk__in=delivery_ids).values_list("endpoint_id", flat=True)
    rows = Endpoint.objects.select_for_update(no_key=True).filter(pk__in=set(found)).order_by("pk")
    done: list[UUID] = []
    for row in rows:
        if row.disabled_at is None and row.deleted_at is None:
            mine = list(Delivery.objects.filter(endpoint=row, pk__in=delivery_ids).values_list("pk", flat=True))
            _again(row, mine, now)
            done += mine
    return done


def _enabled(row: Endpoint) -> Endpoint:
    if row.disabled_at is not None:
        raise EndpointDisabled
    return row


def _again(row: Endpoint, delivery_ids: Sequence[UUID], now: datetime) -> int:
    """The endpoint's row is locked, so nobody takes one of them meanwhile.

    One that is under way is not sent twice: the attempt that is under way is the first of the new ones.
    """
    chosen = Delivery.objects.filter(endpoint=row, pk__in=delivery_ids)
    flying = chosen.filter(lease_until__gt=now).update(tries=1)
    waiting = chosen.exclude(lease_until__gt=now)
    again = waiting.update(state=State.PENDING, tries=0, due_at=now, lease_until=None, finished_at=None)
    if again and row.paused_until is not None:
        row.paused_until = None  # whoever asks has mended it
        row.save(update_fields=["paused_until"])
    wakeup.send_after_commit([row.pk])
    return flying + again
