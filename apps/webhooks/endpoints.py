"""Verbs on endpoints: register, change, rotate the secret, enable, disable, delete, ping."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db import transaction as django_transaction

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.webhooks import events, listening, signatures, wakeup
from apps.webhooks.addresses import check_url
from apps.webhooks.catalogue import PING, Happening
from apps.webhooks.models import ERROR_CHARACTERS_MAX, Delivery, Endpoint

OVERLAP = timedelta(hours=24)  # for which the secret before still signs: time to bring the new one everywhere
BY_MERCHANT = "Disabled by its owner."
# Two calls of one account at a time would both count the same endpoints.
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 9))"


class UnknownEndpoint(DomainError):
    """There is no such endpoint, or it is not yours."""

    code, status = "R901", 404


class TooManyEndpoints(DomainError):
    """Your account has the largest number of endpoints: delete one first."""

    code = "R903"


class EndpointExists(DomainError):
    """Your account has an endpoint with this URL already."""

    code = "R904"


class EndpointDisabled(DomainError):
    """The endpoint is disabled: enable it first."""

    code = "R905"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """An endpoint, as values."""

    id: UUID
    url: str
    description: str
    event_types: tuple[str, ...]
    enabled: bool
    disabled_reason: str
    failing_since: datetime | None
    previous_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime

    def to_json(self) -> dict[str, Any]:
        """What its owner is shown."""
        return {
            "id": str(self.id),
            "url": self.url,
            "description": self.description,
            "event_types": list(self.event_types),
            "enabled": self.enabled,
            "disabled_reason": self.disabled_reason,
            "failing_since": self.failing_since and self.failing_since.isoformat(),
            "previous_secret_until": self.previous_secret_until and self.previous_secret_until.isoformat(),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSecret:
    """An endpoint and its new secret: the only moment at which it is shown. It is kept out of every repr."""

    endpoint: EndpointView
    secret: str = field(repr=False)


def view_of(row: Endpoint, *, now: datetime) -> EndpointView:
    """The values of a row."""
    overlaps = row.previous_until is not None and row.previous_until > now
    return EndpointView(
        id=row.pk,
        url=row.url,
        description=row.description,
        event_types=tuple(row.event_types),
        enabled=row.disabled_at is None,
        disabled_reason=row.disabled_reason,
        failing_since=row.failing_since,
        previous_secret_until=row.previous_until if overlaps else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


@transaction
def register(*, account_id: str, url: str, event_types: Sequence[str], description: str, now: datetime) -> WithSecret:
    """Register an endpoint and give its secret. Raises InvalidUrl, TooManyEndpoints or EndpointExists."""
    check_url(url)
    mine = _alone(account_id)
    if mine.count() >= settings.WEBHOOKS_ENDPOINTS_MAX:
        raise TooManyEndpoints
    if mine.filter(url=url).exists():
        raise EndpointExists(field="url")
    secret, endpoint_id = signatures.new_secret(), uuid7()
    row = Endpoint.objects.create(
        id=endpoint_id,
        account_id=account_id,
        url=url,
        description=description,
        event_types=sorted(set(event_types)),
        sealed_secret=signatures.seal(secret, endpoint_id=endpoint_id),
        created_at=now,
        updated_at=now,
    )
    django_transaction.on_commit(lambda: listening.forget(account_id))
    return WithSecret(endpoint=view_of(row, now=now), secret=signatures.shown(secret))


@transaction
def change(
    *,
    account_id: str,
    endpoint_id: UUID,
    now: datetime,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
) -> EndpointView:
    """Change what is given; None stays as it is. Safe to repeat.

    Enabled again, it is told of everything that waited. Raises UnknownEndpoint, InvalidUrl or EndpointExists.
    """
    mine = _alone(account_id)
    row = locked(account_id, endpoint_id)
    if url is not None and url != row.url:
        check_url(url)
        if mine.filter(url=url).exists():
            raise EndpointExists(field="url")
        row.url = url
        recover(row)  # the failures were the other address's
    row.event_types = row.event_types if event_types is None else sorted(set(event_types))
    row.description = row.description if description is None else description
    if enabled is True:
        recover(row)
        row.disabled_at, row.disabled_reason = None, ""
        wakeup.send_after_commit([row.pk])
    elif enabled is False and row.disabled_at is None:
        disable(row, BY_MERCHANT, now=now)
    row.updated_at = now
    row.save()
    return view_of(row, now=now)


@transaction
def rotate(*, account_id: str, endpoint_id: UUID, overlap: timedelta = OVERLAP, now: datetime) -> WithSecret:
    """Give the endpoint a new secret. The one before signs beside it for ``overlap``; one still older ends at once.

    Not safe to repeat: each call makes a new one. Raises UnknownEndpoint.
    """
    row = locked(account_id, endpoint_id)
    secret = signatures.new_secret()
    overlaps = overlap > timedelta(0)
    row.sealed_previous = row.sealed_secret if overlaps else None
    row.previous_until = now + overlap if overlaps else None
    row.sealed_secret, row.updated_at = signatures.seal(secret, endpoint_id=row.pk), now
    row.paused_until = None  # it may have been unreadable
    row.save(update_fields=["sealed_previous", "previous_until", "sealed_secret", "paused_until", "updated_at"])
    return WithSecret(endpoint=view_of(row, now=now), secret=signatures.shown(secret))


@transaction
def delete(*, account_id: str, endpoint_id: UUID, now: datetime) -> None:
    """Delete an endpoint. Its secrets go at once, what waited for it is never sent. Raises UnknownEndpoint."""
    row = locked(account_id, endpoint_id)
    row.deleted_at = row.updated_at = now
    row.sealed_secret, row.sealed_previous, row.previous_until = b"", None, None
    row.save()


@transaction
def ping(*, account_id: str, endpoint_id: UUID, now: datetime) -> UUID:
    """Send an event of type ``ping``, and give its delivery's id: that of the one before while that is under way.

    Raises UnknownEndpoint or EndpointDisabled.
    """
    row = locked(account_id, endpoint_id)
    if row.disabled_at is not None:
        raise EndpointDisabled
    waiting = Delivery.objects.filter(endpoint=row, state=Delivery.State.PENDING, event__type=PING).first()
    if waiting is not None:
        return waiting.pk
    said = Happening(account_id=account_id, type=PING, object_id=None, data={"endpoint_id": str(row.pk)}, occurred_at=now)
    return events.tell_one(row, uuid7(), said, now=now).pk


# --- For verbs of this app ----------------------------------------------------------------------------------------------
def locked(account_id: str, endpoint_id: UUID) -> Endpoint:
    """The endpoint's row, locked until the commit. Raises UnknownEndpoint, also for another account's."""
    rows = Endpoint.objects.select_for_update(no_key=True)
    row = rows.filter(pk=endpoint_id, account_id=account_id, deleted_at__isnull=True).first()
    if row is None:
        raise UnknownEndpoint
    return row


def recover(row: Endpoint) -> None:
    """Forget that it failed, and for how long it was to be left alone. The caller saves the row."""
    row.failures, row.failing_since, row.paused_until = 0, None, None


def disable(row: Endpoint, reason: str, *, now: datetime) -> None:
    """Send nothing more until somebody enables it; the reason is shown. The caller saves the row."""
    row.disabled_at, row.disabled_reason = now, reason[:ERROR_CHARACTERS_MAX]


@transaction_required
def _alone(account_id: str) -> Any:
    """The account's endpoints, which nobody else adds to or renames until our commit."""
    with connection.cursor() as cursor:
        cursor.execute(_ALONE, [f"webhooks:{account_id}"])
    return Endpoint.objects.filter(account_id=account_id, deleted_at__isnull=True)
