"""What becomes of a fiscal document that its run has left behind: it is sent, or its number is voided.

An operator may pass over the step that sends, or close the run by hand, and the order goes on. Its document then is neither
valid nor taken back, and its number a gap that the authority asks about. Somebody decides later, in a run of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError, NotFound
from apps.common.transactions import transaction
from apps.fiscal_docs import public as fiscal
from apps.orders import queries
from apps.orders.models import OrderStatus
from apps.orders.sagas.document import AUTHORITY, AUTHORITY_BREAKER, INSTEAD_OF, LEASE, preview_document, sale_of
from apps.orders.sagas.purchase import OWNER, SEARCHED
from apps.saga import public as saga

# An authority may be away for hours; by the next day somebody looks.
SLA = saga.Sla(target=timedelta(hours=1), deadline=timedelta(days=1))
UNSOLD = (OrderStatus.REJECTED, OrderStatus.PAYMENT_NOT_COMPLETED, OrderStatus.CANCELLED, OrderStatus.RETURNED)


class Settle(StrEnum):
    """What shall become of it."""

    SEND = "send"
    RENUMBER = "renumber"
    VOID = "void"


class NothingToSettle(DomainError):
    """This order has no fiscal document that was left behind."""

    code = "R310"


class OrderNotSold(DomainError):
    """This order was not sold: the number of its document can only be voided."""

    code = "R311"


class SettleDocument(saga.CallStep):
    """Send the document, signed anew where that is needed; or void its number."""

    name = "settle_fiscal_doc"
    kind = saga.RETRIABLE
    lease = LEASE
    partner, breaker = AUTHORITY, AUTHORITY_BREAKER
    attempts_max = 40  # as for transmitting: an authority may be away for hours
    undo_attempts_max = 1  # nothing is undone

    def prepare(self, run: saga.Run) -> None:
        if _voids(run):
            fiscal.undo_prepare(
                step_key=_key(run),
                now=run.now,
                order_id=run.subject_id,
                actor=run.data["by"],
                reason=run.data["reason"],
            )

    def call(self, run: saga.Run) -> dict[str, Any]:
        if _voids(run):
            return fiscal.undo_call(step_key=_key(run), now=run.now)
        # Its own run may have sent it, so even the first attempt asks.
        found = fiscal.ask_authority(step_key=_key(run), now=run.now)
        again = partial(_correction, run)
        return found or fiscal.transmit(step_key=_key(run), now=run.now, again=again, deliver=True)

    def did_it_happen(self, run: saga.Run) -> dict[str, Any] | None:
        ask = fiscal.undo_did_it_happen if _voids(run) else fiscal.ask_authority
        return ask(step_key=_key(run), now=run.now)

    def record(self, run: saga.Run, outcome: dict[str, Any]) -> dict[str, Any]:
        record = fiscal.undo_record if _voids(run) else fiscal.record_issue
        return record(step_key=_key(run), outcome=outcome, now=run.now)


def _key(run: saga.Run) -> str:
    return str(run.data["document_key"])


def _voids(run: saga.Run) -> bool:
    return bool(run.data["settle"] == Settle.VOID)


def _correction(run: saga.Run) -> fiscal.Correction:
    data = run.data
    return fiscal.Correction(sale=sale_of(run), actor=data["by"], reason=data["reason"], instead_of=data[INSTEAD_OF])


def _keys(data: Mapping[str, Any]) -> Iterable[str]:
    yield f"order:{data['order_id']}"


SETTLE = saga.register(
    saga.Definition(
        "orders.document",
        version=1,
        description="A fiscal document that its run left behind is sent, or its number voided. A person asks for it.",
        owner=OWNER,
        sla=SLA,
        attributes=SEARCHED,
        locks=_keys,  # neither beside a return of the order, nor twice
        on_conflict=saga.REFUSE,
        steps=(SettleDocument(),),
    )
)


@transaction
def settle_document(*, order_id: UUID, settle: Settle, reason: str, by: str, now: datetime) -> UUID:
    """Have the document of an order settled that its run left behind; workers do it. The id of the run that does.

    ``settle``: SEND has it signed anew where that is needed, and sent; RENUMBER the same, under the next number if another
    document has its own (539) and a person has made sure that this is not the same order's; VOID has its number voided,
    because the sale was documented in another way (should the authority have authorised it after all, it is cancelled).
    ``reason``, ``by``: kept with the document.

    Raises NotFound, NothingToSettle, OrderNotSold, KeyHeld while a return of the order goes on.
    """
    order = queries.order(order_id)
    if order is None:
        raise NotFound("There is no such order.")
    key = fiscal.unsettled_of_order(order_id)
    if key is None:
        raise NothingToSettle
    if _runs_still(key) is not None:
        raise NothingToSettle("The run of this document is not over: retry that one.")
    if settle is not Settle.VOID and order.status in UNSOLD:
        raise OrderNotSold
    data = {
        "order_id": str(order.id),
        "customer_id": str(order.customer_id),
        "account_id": order.account_id or None,
        "amount": str(order.amount),
        "document_key": key,
        INSTEAD_OF: _number_of(key) if settle is Settle.RENUMBER else None,
        "settle": str(settle),
        "reason": reason,
        "by": by,
    }
    return saga.start(SETTLE, subject_id=order.id, business_key=str(order.id), data=data, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """A document that is neither valid nor taken back.

    ``run_id``: its run, while that is not over and has to be retried instead. ``preview``: what would be signed anew, of
    one that the authority refused. ``may_send``: was the order sold?
    """

    document: fiscal.DocumentView
    run_id: UUID | None
    preview: fiscal.CorrectionPreview | None
    may_send: bool


def left_behind(*, order_id: UUID, now: datetime) -> LeftBehind:
    """The order's document to settle. Looks only. Raises NotFound, NothingToSettle."""
    order = queries.order(order_id)
    if order is None:
        raise NotFound("There is no such order.")
    key = fiscal.unsettled_of_order(order_id)
    document = fiscal.document_of(step_key=key) if key else None
    if key is None or document is None:
        raise NothingToSettle
    return LeftBehind(
        document=document,
        run_id=_runs_still(key),
        preview=preview_document(order=order, step_key=key, now=now),
        may_send=order.status not in UNSOLD,
    )


def _number_of(step_key: str) -> int | None:
    document = fiscal.document_of(step_key=step_key)
    return document.number if document else None


def _runs_still(step_key: str) -> UUID | None:
    """The run that issues the document, or that delivers it, unless they are over."""
    for run in (saga.run_state(UUID(step_key.partition(":")[0])), saga.run_state_by_key(step_key)):
        if run is not None and run.finished_at is None:
            return run.run_id
    return None
