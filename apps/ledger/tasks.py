"""Celery edges of the ledger."""

import logging

from celery import shared_task
from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.ledger import checks, deferred, holds, months, queue

logger = logging.getLogger(__name__)


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


@shared_task(name="ledger.roll_up", ignore_result=True)
def roll_up(**_newer_args: object) -> None:
    """Move what waits of deferred accounts into the ledger. What does not fit in one commit is left for the next call."""
    with transaction.atomic(durable=True):
        deferred.roll_up(now=timezone.now())


@shared_task(name="ledger.open_months", ignore_result=True)
def open_months(**_newer_args: object) -> None:
    """Open the months ahead. A table that is busy for too long is left for the next call."""
    months.open_ahead(now=timezone.now())


@shared_task(name="ledger.check_changes", ignore_result=True, throws=(DomainError,))
def check_changes(**_newer_args: object) -> None:
    """Prove what changed since the last check. One that is running already is enough."""
    _check("INCREMENTAL")
    with transaction.atomic(durable=True):
        checks.forget_checks(now=timezone.now())


@shared_task(name="ledger.check_all", ignore_result=True, throws=(DomainError,))
def check_all(**_newer_args: object) -> None:
    """Prove the whole ledger, also what nobody has touched for long."""
    _check("FULL")


def _check(kind: checks.Kind) -> None:
    result = checks.run_check(kind=kind, now=timezone.now())
    if result.differences:
        logger.error("%s of the ledger's balances differ; see the list of differences", len(result.differences))
