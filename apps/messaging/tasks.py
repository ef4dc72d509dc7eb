"""Celery's edge: the relay, and what is forgotten."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from apps.messaging import retention
from apps.messaging.relay import relay_all


@shared_task(name="messaging.relay")
def relay(**_newer_args: Any) -> None:
    """Relay whatever is due. Woken after a commit that published, and by beat."""
    relay_all()


@shared_task(name="messaging.forget")
def forget(**_newer_args: Any) -> None:
    """Delete what is older than it is kept for."""
    retention.forget(now=timezone.now())
