"""Celery edges of the ledger."""

from celery import shared_task
from django.db import transaction
from django.utils import timezone

from apps.ledger import holds, queue


@shared_task(name="ledger.expire_holds", ignore_result=True)
def expire_holds(**_newer_args: object) -> None:
    """End holds whose time is over. What does not fit in one commit is left for the next call."""
    with transaction.atomic(durable=True):
        holds.expire_holds(now=timezone.now())


@shared_task(name="ledger.forget_refusals", ignore_result=True)
def forget_refusals(**_newer_args: object) -> None:
    """Delete what is known of queued entries that were refused long ago. What is too much for one commit waits."""
    with transaction.atomic(durable=True):
        queue.forget_refusals(now=timezone.now())
