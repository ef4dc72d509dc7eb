"""From a message of ours to the deliveries of it: rows in the consumer's commit, beside the inbox's."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from apps.common.transactions import transaction_required
from apps.identity.public import scopes_of
from apps.webhooks import wakeup
from apps.webhooks.catalogue import Happening, scope_of
from apps.webhooks.models import Delivery, Endpoint, Event


@transaction_required
def record(happened: Sequence[tuple[UUID, Happening]], *, now: datetime) -> int:
    """Write what happened, with its message's id, for the endpoints that want to be told. How many deliveries.

    Nothing is written where nobody listens, for blocked accounts, and for those that may not look at it. A disabled
    endpoint's deliveries wait until it is enabled again. Not safe to repeat by itself: the inbox is what lets a message in
    once.
    """
    told = [(message_id, one) for message_id, one in happened if one.type and one.account_id]
    listening = _listening({one.account_id for _, one in told})
    scopes = scopes_of(listening) if listening else {}
    events, wanted = [], []
    for message_id, one in told:
        if scope_of(one.type) not in scopes.get(one.account_id, ()):
            continue
        if endpoints := [endpoint for endpoint in listening[one.account_id] if one.type in endpoint.event_types]:
            events.append(_event(message_id, one, now))
            wanted.append(endpoints)
    if not events:
        return 0
    Event.objects.bulk_create(events)  # the sequence is drawn in this order
    return len(_deliver(list(zip(events, wanted, strict=True)), now))


def _listening(accounts: set[str]) -> dict[str, list[Endpoint]]:
    found: dict[str, list[Endpoint]] = defaultdict(list)
    if not accounts:
        return found
    rows = Endpoint.objects.filter(account_id__in=accounts, deleted_at__isnull=True).order_by("pk")
    for endpoint in rows.only("pk", "account_id", "event_types"):
        found[endpoint.account_id].append(endpoint)
    return found


def _event(message_id: UUID, one: Happening, now: datetime) -> Event:
    return Event(
        id=message_id,
        account_id=one.account_id,
        type=one.type,
        object_id=one.object_id,
        data=one.data,
        occurred_at=one.occurred_at,
        created_at=now,
    )


def _deliver(wanted: Sequence[tuple[Event, Sequence[Endpoint]]], now: datetime) -> list[Delivery]:
    rows = [
        Delivery(endpoint_id=endpoint.pk, event=event, due_at=now, created_at=now)
        for event, endpoints in wanted
        for endpoint in endpoints
    ]
    Delivery.objects.bulk_create(rows)
    wakeup.send_after_commit({row.endpoint_id for row in rows})
    return rows


@transaction_required
def tell_one(endpoint: Endpoint, message_id: UUID, one: Happening, *, now: datetime) -> Delivery:
    """Write an event for one endpoint alone: a ping."""
    event = _event(message_id, one, now)
    event.save(force_insert=True)
    (delivery,) = _deliver([(event, [endpoint])], now)
    return delivery


def body_of(event: Event) -> bytes:
    """What is sent: always the same bytes for the same event."""
    content: dict[str, Any] = {
        "id": str(event.id),
        "type": event.type,
        "occurred_at": event.occurred_at.isoformat(),
        "sequence": event.sequence,
        "data": event.data,
    }
    return orjson.dumps(content)
