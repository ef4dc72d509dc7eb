"""Wake-ups are hints: what nobody was woken for, the sweep finds a second later."""

import logging
from collections.abc import Collection
from uuid import UUID

from django.db import transaction

from apps.common.gathering import Gathering

logger = logging.getLogger(__name__)

WAKE_EVERY_S = 0.05  # a hundred events of one endpoint are one wake-up
WAITING_MAX = 1_000
EXPIRES_S = 30  # a wake-up that nobody took by then was replaced by the sweep's


def send_after_commit(endpoints: Collection[UUID]) -> None:
    """Wake the senders of these endpoints when this transaction commits."""
    transaction.on_commit(lambda: _ask(endpoints), robust=True)


def _ask(endpoints: Collection[UUID]) -> None:
    for endpoint in endpoints:
        _waker.ask(endpoint)


def wake(endpoints: Collection[UUID]) -> None:
    """Queue the task of each endpoint. A broker that is away fails nobody: the rows are there."""
    from apps.webhooks.tasks import send  # the Celery edge imports the deliveries, which import this module

    for endpoint in dict.fromkeys(endpoints):
        try:
            send.apply_async(kwargs={"endpoint_id": str(endpoint)}, expires=EXPIRES_S)
        except Exception:
            logger.warning("the senders of webhooks could not be woken", exc_info=True)
            return


_waker: Gathering[UUID] = Gathering(wake, name="webhooks-waker", every_s=WAKE_EVERY_S, waiting_max=WAITING_MAX)
