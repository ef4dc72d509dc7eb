"""Celery edges of the ledger."""

import logging
from pathlib import Path

from celery import shared_task
from django.conf import settings
from django.db import OperationalError, transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.ledger import batches, checks, deferred, detaching, holds, months, queue, seals
from apps.ledger import chain as chained
from apps.ledger import patrol as patrols

logger = logging.getLogger(__name__)

FORGET_COMMITS_MAX = 100  # of an hour: 27 batches a second, day and night
PASS_S = 20.0  # of a full check in one call: a piece more is far below a task's limit, and other tasks wait no longer


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


@shared_task(name="ledger.forget_batches", ignore_result=True)
def forget_batches(**_newer_args: object) -> None:
    """Forget the keys of batches that nobody repeats any more; a commit for each thousand."""
    for _ in range(FORGET_COMMITS_MAX):
        with transaction.atomic(durable=True):
            count = batches.forget_batches(now=timezone.now())
        if count < batches.FORGET_ROWS_MAX:
            return


@shared_task(name="ledger.roll_up", ignore_result=True, throws=(DomainError,))
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
    _tell(checks.run_check(kind="INCREMENTAL", now=timezone.now()))
    with transaction.atomic(durable=True):
        checks.forget_checks(now=timezone.now())


@shared_task(name="ledger.check_all", ignore_result=True, throws=(DomainError,))
def check_all(**_newer_args: object) -> None:
    """Begin to prove the whole ledger, also what nobody has touched for long; ``check_on`` goes on with it."""
    _tell(checks.work_on_pass(budget_s=PASS_S, begin=True, now=timezone.now()))


@shared_task(name="ledger.check_on", ignore_result=True, throws=(DomainError,))
def check_on(**_newer_args: object) -> None:
    """Prove the next pieces of the whole ledger, if that was begun and has not ended."""
    _tell(checks.work_on_pass(budget_s=PASS_S, begin=False, now=timezone.now()))


def _tell(result: checks.CheckResult | None) -> None:
    if result and result.differences:
        logger.error("%s of the ledger's balances differ; see the list of differences", len(result.differences))


@shared_task(name="ledger.chain", ignore_result=True)
def chain(**_newer_args: object) -> None:
    """Hash what was posted since the last call and is settled. What is too much for one call is left for the next."""
    chained.chain(now=timezone.now())


@shared_task(name="ledger.patrol", ignore_result=True)
def patrol(**_newer_args: object) -> None:
    """Prove the next blocks of the chain, round after round. What is damaged is logged, and kept for the metrics."""
    patrols.patrol(now=timezone.now())


@shared_task(name="ledger.tell_head", ignore_result=True)
def tell_head(**_newer_args: object) -> None:
    """Log the head of the chain, so that it stands where nobody who changes the database can change it."""
    if head := chained.head():
        logger.info("the head of the ledger's chain is %s", head, extra={"head": str(head), "seq": head.seq_to})


@shared_task(name="ledger.archive_months", ignore_result=True)
def archive_months(**_newer_args: object) -> None:
    """Take one step: seal a month that is over, or export or detach one older than LEDGER_MONTHS_ONLINE. 0: none at all.

    A month that is refused stops the others, and the log says why. What it says is there until somebody looks.
    """
    if not settings.LEDGER_MONTHS_ONLINE or not settings.LEDGER_ARCHIVE_DIR:
        return
    now = timezone.now()
    try:
        seals.check_clock(now)
        detaching.archive_months(
            online=settings.LEDGER_MONTHS_ONLINE,
            directory=Path(settings.LEDGER_ARCHIVE_DIR),
            by="ledger.archive_months",
            now=now,
            steps_max=1,  # each may take minutes, and a task has a time limit
        )
    except OperationalError as error:  # somebody reads or writes for longer than we wait
        logger.warning("the months of the ledger have to wait for the next call: %s", error)
    except OSError as error:  # full, read-only, or not there: the month is as it was
        logger.error("the archive's folder %s can't be used: %s", settings.LEDGER_ARCHIVE_DIR, error)
    except DomainError as refusal:
        logger.error("a month of the ledger can't be archived: %s %s", refusal.code, refusal.detail)
