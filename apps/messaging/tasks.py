"""Celery's edge: the relay."""

from typing import Any

from celery import shared_task

from apps.messaging.relay import relay_all


@shared_task(name="messaging.relay")
def relay(**_newer_args: Any) -> None:
    """Relay whatever is due. Woken after a commit that published, and by beat."""
    relay_all()
