"""A delivery's way: taken under a lease, sent by somebody who holds no transaction, and what came of it written down.

See Note [Who holds which lock] in models.py. Killed at any point, it is sent again with the same webhook-id when the lease
has run out: at least once, at most TRIES_MAX times before it is asked for again.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import SystemRandom
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from apps.common.transactions import leave_connection, transaction
from apps.identity.public import scopes_of
from apps.observability import ids
from apps.webhooks import endpoints, events, schedule, signatures
from apps.webhooks.models import Attempt, Delivery, Endpoint
from apps.webhooks.sender import GONE, Outcome, post

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)  # three times what an attempt may take
OWN_TROUBLE_PAUSE = timedelta(seconds=5)  # when nothing could be sent for a reason of our own
MENDING_PAUSE = timedelta(minutes=10)  # how often we look whether an account is free again, or a key is back
SPENT = "The worker died under every attempt."
SWEEP_ROWS_MAX = 200  # endpoints of one sweep; the next one comes a second later
USER_AGENT = "Lastro-Webhooks/1"
State = Delivery.State
_chance = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A delivery that was taken: everything that its attempt needs, so that nothing is read while it is under way."""

    delivery_id: UUID
    endpoint_id: UUID
    message_id: str
    number: int  # of the attempt
    url: str
    body: bytes
    keys: tuple[bytes, ...]

    def headers(self, *, now: datetime) -> Mapping[str, str]:
        """Standard Webhooks' headers, signed for this moment."""
        timestamp_s = int(now.timestamp())
        return {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": self.message_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": signatures.sign(
                self.keys, message_id=self.message_id, timestamp_s=timestamp_s, body=self.body
            ),
        }


# --- Taking -------------------------------------------------------------------------------------------------------------
@transaction
def take(endpoint_id: UUID, *, now: datetime) -> Job | None:
    """The endpoint's next due delivery, leased to the caller.

    None when there is none, or when the endpoint or its account may have no more at a time.
    """
    row = Endpoint.objects.select_for_update(no_key=True).filter(pk=endpoint_id, deleted_at__isnull=True).first()
    if row is None or row.disabled_at is not None or (row.paused_until is not None and row.paused_until > now):
        return None
    if row.account_id not in scopes_of([row.account_id]):
        row.paused_until = now + MENDING_PAUSE
        row.save(update_fields=["paused_until"])
        return None
    limit = 1 if row.failures else settings.WEBHOOKS_IN_FLIGHT_MAX
    flying = Delivery.objects.filter(lease_until__gt=now)
    if flying.filter(endpoint=row).count() >= limit:
        return None
    # Its other endpoints' rows are not locked: two at once may take one too many, which locks out nobody.
    if flying.filter(endpoint__account_id=row.account_id).count() >= settings.WEBHOOKS_IN_FLIGHT_OF_ACCOUNT_MAX:
        return None
    return _take(row, now)


def _take(row: Endpoint, now: datetime) -> Job | None:
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    due = Delivery.objects.filter(free, endpoint=row, state=State.PENDING, due_at__lte=now)
    delivery = due.select_for_update(no_key=True).order_by("due_at", "event_id").first()
    if delivery is None:
        return None
    if delivery.tries >= schedule.TRIES_MAX:  # its lease ran out each time
        _finish(delivery, State.FAILED, now, error=SPENT)
        return None
    try:
        keys = _keys(row, now)
    except signatures.SecretUnreadable as error:
        logger.error("endpoint %s is told nothing: its secret opens under no key of the site", row.pk)
        row.paused_until, delivery.last_error = now + MENDING_PAUSE, error.detail
        row.save(update_fields=["paused_until"])
        delivery.save(update_fields=["last_error"])
        return None
    delivery.attempts, delivery.tries, delivery.lease_until = delivery.attempts + 1, delivery.tries + 1, now + LEASE
    delivery.save(update_fields=["attempts", "tries", "lease_until"])
    Attempt.objects.create(delivery=delivery, number=delivery.attempts, started_at=now)
    return Job(
        delivery_id=delivery.pk,
        endpoint_id=row.pk,
        message_id=str(delivery.event.id),
        number=delivery.attempts,
        url=row.url,
        body=events.body_of(delivery.event),
        keys=keys,
    )


def _keys(row: Endpoint, now: datetime) -> tuple[bytes, ...]:
    """The secrets that sign now. Raises SecretUnreadable for the present one; the one before it may be unreadable."""
    keys = [signatures.unseal(bytes(row.sealed_secret), endpoint_id=row.pk)]
    if row.sealed_previous is not None and row.previous_until is not None and row.previous_until > now:
        with suppress(signatures.SecretUnreadable):
            keys.append(signatures.unseal(bytes(row.sealed_previous), endpoint_id=row.pk))
    return tuple(keys)


# --- What came of it ----------------------------------------------------------------------------------------------------
@transaction
def settle(job: Job, outcome: Outcome, *, now: datetime) -> None:
    """Write down an attempt. An answer that comes after its lease still counts when it is a yes."""
    row = Endpoint.objects.select_for_update(no_key=True).get(pk=job.endpoint_id)
    delivery = Delivery.objects.select_for_update(no_key=True).filter(pk=job.delivery_id).first()
    if delivery is None:
        return  # so old that it was forgotten meanwhile
    Attempt.objects.filter(delivery=delivery, number=job.number).update(
        took_ms=outcome.took_ms, status=outcome.status, error=outcome.error, answer=outcome.answer
    )
    is_same = job.url == row.url  # else it was another address that answered
    if outcome.succeeded:
        if delivery.state != State.DELIVERED:
            _finish(delivery, State.DELIVERED, now, status=outcome.status)
        if is_same:
            _well(row, now)
    elif delivery.attempts == job.number and delivery.lease_until is not None:  # nobody took it, or asked for it, since
        if outcome.is_ours:
            _give_back(delivery, job, outcome, now)
            return
        _failed(delivery, outcome, now)
        if is_same:
            _blame(row, outcome, now)


def _well(row: Endpoint, now: datetime) -> None:
    """A pause that another request was just asked for is kept."""
    over = row.paused_until is not None and row.paused_until <= now
    if row.failures or row.failing_since or over:
        row.failures, row.failing_since = 0, None
        row.paused_until = None if over else row.paused_until
        row.save(update_fields=["failures", "failing_since", "paused_until"])


def _give_back(delivery: Delivery, job: Job, outcome: Outcome, now: datetime) -> None:
    """As if nobody had taken it: nothing was sent, for a reason of our own."""
    Attempt.objects.filter(delivery=delivery, number=job.number).delete()
    delivery.attempts, delivery.tries = delivery.attempts - 1, delivery.tries - 1
    delivery.lease_until, delivery.due_at, delivery.last_error = None, now + OWN_TROUBLE_PAUSE, outcome.error
    delivery.save(update_fields=["attempts", "tries", "lease_until", "due_at", "last_error"])


def _failed(delivery: Delivery, outcome: Outcome, now: datetime) -> None:
    delay = schedule.delay_after(delivery.tries, _chance)
    if delay is None:
        _finish(delivery, State.FAILED, now, status=outcome.status, error=outcome.error)
        return
    delivery.lease_until, delivery.due_at = None, now + delay
    delivery.last_status, delivery.last_error = outcome.status, outcome.error
    delivery.save(update_fields=["lease_until", "due_at", "last_status", "last_error"])


def _blame(row: Endpoint, outcome: Outcome, now: datetime) -> None:
    row.failures += 1
    row.failing_since = row.failing_since or now
    row.paused_until = _paused_until(row, outcome, now)
    if row.disabled_at is None and outcome.status == GONE:
        endpoints.disable(row, "It answered 410: gone.", now=now)
    elif row.disabled_at is None and now - row.failing_since >= schedule.DISABLED_AFTER:
        endpoints.disable(row, f"All failed since {row.failing_since:%Y-%m-%d %H:%M} UTC: {outcome.error}", now=now)
    row.save(update_fields=["failures", "failing_since", "paused_until", "disabled_at", "disabled_reason"])


def _paused_until(row: Endpoint, outcome: Outcome, now: datetime) -> datetime | None:
    pause = schedule.pause_after(row.failures, _chance) or timedelta(0)
    asked = min(timedelta(seconds=outcome.retry_after_s), schedule.RETRY_AFTER_MAX)
    longest = max(pause, asked)
    until = now + longest if longest else None
    # Of several requests that were under way, the one that was asked to wait for longest counts.
    return max(filter(None, (until, row.paused_until)), default=None)


def _finish(
    delivery: Delivery, state: Delivery.State, now: datetime, *, status: int | None = None, error: str = ""
) -> None:
    delivery.state, delivery.finished_at, delivery.lease_until = state, now, None
    delivery.last_status, delivery.last_error = status, error
    delivery.save(update_fields=["state", "finished_at", "lease_until", "last_status", "last_error"])


# --- Sending ------------------------------------------------------------------------------------------------------------
def send_next(endpoint_id: UUID, *, now: datetime) -> bool:
    """Take, send and settle one delivery of an endpoint. False: there was none to take. It waits for the network."""
    job = take(endpoint_id, now=now)
    if job is None:
        return False
    leave_connection()
    with ids.bound(message_id=job.message_id, delivery_id=str(job.delivery_id), endpoint_id=str(job.endpoint_id)):
        outcome = post(job.url, body=job.body, headers=job.headers(now=now))
        settle(job, outcome, now=now + timedelta(milliseconds=outcome.took_ms))
        logger.info("webhook, attempt %d: %s", job.number, outcome.error or outcome.status)
    return True


# Each endpoint looks through its own index for one delivery that is due, so a million that wait for one cost the others
# nothing. The one that has waited longest is first; one that may have no more at a time is no work for anybody now.
_WAITING = """
WITH flying AS MATERIALIZED (
    SELECT d.endpoint_id, o.account_id FROM webhooks_delivery d JOIN webhooks_endpoint o ON o.id = d.endpoint_id
    WHERE d.lease_until > %(now)s
)
SELECT e.id FROM webhooks_endpoint e CROSS JOIN LATERAL (
    SELECT d.due_at FROM webhooks_delivery d
    WHERE d.endpoint_id = e.id AND d.state = 'PENDING' AND d.due_at <= %(now)s
      AND (d.lease_until IS NULL OR d.lease_until <= %(now)s)
    ORDER BY d.due_at LIMIT 1
) AS next
WHERE e.deleted_at IS NULL AND e.disabled_at IS NULL AND (e.paused_until IS NULL OR e.paused_until <= %(now)s)
  AND (SELECT count(*) FROM flying f WHERE f.endpoint_id = e.id) < CASE WHEN e.failures = 0 THEN %(most_of_one)s ELSE 1 END
  AND (SELECT count(*) FROM flying f WHERE f.account_id = e.account_id) < %(most_of_account)s
ORDER BY next.due_at LIMIT %(most)s
"""


def waiting_endpoints(*, now: datetime) -> list[UUID]:
    """Endpoints that have something to be sent now, at most SWEEP_ROWS_MAX."""
    with connection.cursor() as cursor:
        limits = {
            "most": SWEEP_ROWS_MAX,
            "most_of_one": settings.WEBHOOKS_IN_FLIGHT_MAX,
            "most_of_account": settings.WEBHOOKS_IN_FLIGHT_OF_ACCOUNT_MAX,
        }
        cursor.execute(_WAITING, {"now": now, **limits})
        return [endpoint_id for (endpoint_id,) in cursor.fetchall()]
