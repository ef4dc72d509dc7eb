"""Celery's edge of webhooks."""

import time
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from apps.webhooks import deliveries, retention, wakeup

# One task's share: then others' tasks have their turn, and the endpoint's next one is queued behind them.
SENT_MAX, SEND_S = 20, 30.0
_senders = BoundedSemaphore(settings.WEBHOOKS_SENDERS_MAX)


@shared_task(name="webhooks.send")
def send(*, endpoint_id: str, **_newer_args: Any) -> None:
    """Send what is due to an endpoint. Woken after a commit that wrote an event, and by the sweep.

    With all of this process's senders at work nothing is done: the sweep comes again.
    """
    if not _senders.acquire(blocking=False):
        return
    try:
        left = _send(UUID(endpoint_id))
    finally:
        _senders.release()
    if left:
        wakeup.wake([UUID(endpoint_id)])


def _send(endpoint_id: UUID) -> bool:
    """Is there perhaps more?"""
    until = time.monotonic() + SEND_S
    for _ in range(SENT_MAX):
        if not deliveries.send_next(endpoint_id, now=timezone.now()):
            return False
        if time.monotonic() > until:
            break
    return True


@shared_task(name="webhooks.sweep")
def sweep(**_newer_args: Any) -> None:
    """Wake the senders of every endpoint that has something due."""
    wakeup.wake(deliveries.waiting_endpoints(now=timezone.now()))


@shared_task(name="webhooks.forget")
def forget(**_newer_args: Any) -> None:
    """Delete what is older than it is kept for."""
    retention.forget(now=timezone.now())
