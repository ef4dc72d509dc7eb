"""The Celery edge of payments."""

from celery import shared_task
from django.utils import timezone

from apps.payments import authorisations, operations


@shared_task(name="payments.ask_overdue", ignore_result=True)
def ask_overdue(**_newer_args: object) -> None:
    """Ask again about merchants' payments whose answer is overdue."""
    operations.ask_overdue(now=timezone.now())


@shared_task(name="payments.void_stale", ignore_result=True)
def void_stale(**_newer_args: object) -> None:
    """Give free what merchants authorised and did not capture in time."""
    authorisations.void_stale(now=timezone.now())
