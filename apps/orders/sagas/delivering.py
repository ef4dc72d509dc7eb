"""Contingency: while the authority is away orders go on with receipts that were handed out first, and are delivered later.

The switch is a person's. While it is on, documents are signed for it and not sent, and each begins a run here, which waits:
the use case is paused as long. Switching it off lets them go. They have a day, says the law.
"""

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction

from apps.common.transactions import durable
from apps.fiscal_docs import public as fiscal
from apps.orders import queries
from apps.orders.sagas.document import AUTHORITY, LEASE, IssueDocument, TransmitDocument, correction_of
from apps.saga import public as saga

logger = logging.getLogger(__name__)

SLA = saga.Sla(target=timedelta(hours=12), deadline=timedelta(hours=24))
# Where an order meets the authority.
ISSUES = (
    ("orders.purchase.card", IssueDocument.name),
    ("orders.purchase.balance", TransmitDocument.name),
)
UNDONE = "undone"  # in an outcome: the order was taken back before its document was delivered


class DeliverDocument(saga.CallStep):
    """Send what was handed out. What the authority refuses is corrected under its number, as any other document."""

    name = "deliver_fiscal_doc"
    kind = saga.RETRIABLE
    lease = LEASE
    partner = AUTHORITY  # and no breaker: one run alone tries oftener than it takes to open it
    attempts_max = 160  # with these delays more than the day that the law gives
    retry_delay_max = timedelta(minutes=10)
    undo_attempts_max = 1  # nothing is undone

    def call(self, run: saga.Run) -> dict[str, Any]:
        again = partial(correction_of, run)
        with suppress(fiscal.IssueUndone):
            return fiscal.transmit(step_key=run.data["document_key"], now=run.now, again=again, deliver=True)
        return {UNDONE: True}

    def did_it_happen(self, run: saga.Run) -> dict[str, Any] | None:
        with suppress(fiscal.IssueUndone):
            return fiscal.ask_authority(step_key=run.data["document_key"], now=run.now)
        return {UNDONE: True}

    def record(self, run: saga.Run, outcome: dict[str, Any]) -> dict[str, Any]:
        if UNDONE in outcome:
            return outcome
        return fiscal.record_issue(step_key=run.data["document_key"], outcome=outcome, now=run.now)


DELIVER = saga.register(
    saga.Definition(
        "orders.document.delivery",
        version=1,
        description="A receipt that was handed out in contingency is delivered to the tax authority.",
        owner="orders",
        sla=SLA,
        steps=(DeliverDocument(),),
    )
)


def begin(order: queries.OrderView, *, document_key: str, now: datetime) -> None:
    """Have a document delivered that was handed out; in the commit that records it."""
    data = {"order_id": str(order.id), "document_key": document_key}
    try:
        saga.start(DELIVER, subject_id=order.id, business_key=document_key, data=data, now=now)
    except saga.UseCasePaused:
        # Somebody has new runs refused instead of letting them wait. The order is not to be undone for that: a person
        # settles the document, which the home page counts as handed out.
        logger.error("a receipt was handed out and nobody delivers it", extra={"order": str(order.id)})


@durable
def enter_contingency(*, reason: str, by: str, now: datetime) -> None:
    """Switch contingency on: orders no longer wait for the authority. Raises AlreadyInContingency, ReasonUnfit.

    Commits of their own. Should a later one fail, documents of the time are tried to be delivered at once, which does no
    harm, or orders are held by a pause that somebody lifts.
    """
    with transaction.atomic():
        fiscal.enter_contingency(reason=reason, by=by, now=now)
    with suppress(saga.AlreadyPaused):
        saga.pause(DELIVER.use_case, reason=reason, by=by, now=now)
    _let_go(reason=reason, by=by, now=now)


def _let_go(*, reason: str, by: str, now: datetime) -> None:
    """The breaker has held orders back from the authority. They need not wait for it any more."""
    for use_case, step in ISSUES:
        for pause in saga.pauses(use_case):
            if pause.breaker and pause.step == step:
                with suppress(saga.NotPaused):
                    saga.lift_pause(use_case, step, reason=reason, by=by, now=now, pause_id=pause.id)


@durable
def leave_contingency(*, reason: str, by: str, now: datetime) -> None:
    """Switch it off: the authority decides first again, and what was handed out is delivered. Raises NotInContingency."""
    with suppress(saga.NotPaused):
        saga.lift_pause(DELIVER.use_case, reason=reason, by=by, now=now)
    with transaction.atomic():
        fiscal.leave_contingency(by=by, now=now)
