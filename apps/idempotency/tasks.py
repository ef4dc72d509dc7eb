"""The Celery edge of idempotency."""

from celery import shared_task
from django.utils import timezone

from apps.idempotency import operations

BATCHES_MAX = 1_000  # a million keys in a run, and a run every hour: 277 requests a second, day and night


@shared_task(name="idempotency.purge", ignore_result=True)
def purge(**_newer_args: object) -> None:
    """Forget keys that are older than the published time."""
    for _ in range(BATCHES_MAX):
        if operations.purge(now=timezone.now()) < operations.PURGE_ROWS_MAX:
            return
