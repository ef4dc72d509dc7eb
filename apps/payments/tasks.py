"""The Celery edge of payments."""

from celery import shared_task
from django.utils import timezone

from apps.payments import operations


@shared_task(name="payments.ask_overdue", ignore_result=True)
def ask_overdue(**_newer_args: object) -> None:
    """Ask again about merchants' payments whose answer is overdue."""
    operations.ask_overdue(now=timezone.now())
