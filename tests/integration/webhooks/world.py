"""What the tests of webhooks start from: a merchant, an endpoint, something that happened."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from apps.common.clock import uuid7
from apps.identity import public as identity
from apps.webhooks import deliveries, endpoints, events
from apps.webhooks.catalogue import TYPES, Happening
from apps.webhooks.models import Delivery, Endpoint

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
LATER = timedelta(seconds=1)
ACCOUNT = "acc_shop"
URL = "http://localhost:9/hooks"
SCOPES = ("webhooks:read", "webhooks:write", "payments:read", "payments:write", "orders:read", "fiscal:read")


def account(code: str = ACCOUNT) -> str:
    with transaction.atomic():
        return identity.create_account(name="Shop", scopes=SCOPES, now=NOW, code=code).account_id


def register(
    url: str = URL, *, code: str = ACCOUNT, event_types: Sequence[str] = tuple(TYPES), now: datetime = NOW
) -> endpoints.WithSecret:
    """An endpoint of an account, which is made if need be."""
    if code not in identity.scopes_of([code]):
        account(code)
    return endpoints.register(account_id=code, url=url, event_types=event_types, description="", now=now)


def happening(event_type: str = "order.paid", *, code: str = ACCOUNT, **data: Any) -> Happening:
    return Happening(account_id=code, type=event_type, object_id=uuid7(), data=data, occurred_at=NOW)


def happen(count: int = 1, event_type: str = "order.paid", *, code: str = ACCOUNT, now: datetime = NOW) -> list[UUID]:
    """So many events. Their ids."""
    made = [(uuid7(), happening(event_type, code=code, n=n)) for n in range(count)]
    with transaction.atomic():
        events.record(made, now=now)
    return [message_id for message_id, _ in made]


def send_all(endpoint_id: UUID, *, now: datetime = NOW, most: int = 100) -> int:
    """Send what is due, one after the other. How many attempts."""
    for sent in range(most):
        if not deliveries.send_next(endpoint_id, now=now):
            return sent
    return most


def endpoint(endpoint_id: UUID) -> Endpoint:
    return Endpoint.objects.get(pk=endpoint_id)


def delivery(message_id: UUID) -> Delivery:
    return Delivery.objects.get(event__id=message_id)


def rows_read(statement: str, values: Any, *, without: str) -> int:
    """How many rows the busiest part of a plan reads, without these ways of reading them ("seqscan,indexscan")."""
    with transaction.atomic(), connection.cursor() as cursor:
        for way in without.split(","):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
        found = cursor.fetchone()[0]
    return _most((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def _most(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return int(max([own, *(_most(each) for each in plan.get("Plans", []))]))
