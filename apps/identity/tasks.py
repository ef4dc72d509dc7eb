"""The Celery edge of identity."""

from celery import shared_task
from django.utils import timezone

from apps.identity import limits

BATCHES_MAX = 1_000  # a million rows in a run, and a run every hour


@shared_task(name="identity.forget_failed_logins", ignore_result=True)
def forget_failed_logins(**_newer_args: object) -> None:
    """Forget failed logins that count no more."""
    for _ in range(BATCHES_MAX):
        if limits.forget(now=timezone.now()) < limits.FORGET_ROWS_MAX:
            return
