"""What stands of an order in stock, at the processor, in the ledger and at the authority, for whoever closes its run."""

from collections.abc import Iterator
from uuid import UUID

from apps.fiscal_docs import public as fiscal
from apps.ledger import public as ledger
from apps.observability.logs import mask_cards
from apps.orders import queries
from apps.payments import public as payments
from apps.saga import public as saga

OVER = frozenset({"VOIDED", "REJECTED"})  # of a payment: nothing is held or taken at the processor
NO_DOCUMENT = frozenset({"CANCELLED", "NUMBER_VOIDED", "REJECTED", "ABANDONED"})


def left_of_order(run: saga.Run) -> tuple[str, ...]:
    """What would stay as it is if nothing more happened, a sentence each. It looks only."""
    order = queries.order(run.subject_id)
    if order is None:
        return ()
    return (*_tickets(order), *_payments(order), *_money(run), *_documents(order))


def _tickets(order: queries.OrderView) -> Iterator[str]:
    if queries.reserved(order.id):
        tickets = ", ".join(f"{item.quantity} × {mask_cards(item.name)}" for item in order.items)  # the caller's words
        yield f"Out of stock for this order, and not sold: {tickets}."


def _payments(order: queries.OrderView) -> Iterator[str]:
    for payment in payments.payments_of(order_ref=str(order.id)):
        kept = payment.captured_amount - payment.refunded_amount
        if kept:
            back = f", {payment.refunded_amount} of it given back" if payment.refunded_amount else ""
            yield f"Taken from the card: {payment.captured_amount} {payment.currency}{back} (payment {payment.id})."
        elif payment.state not in OVER and not payment.captured_amount:
            amount = payment.amount if payment.amount is not None else order.amount
            yield f"Not taken from the card, and not given free: {amount} {payment.currency}, {_state(payment)}."


def _state(payment: payments.PaymentView) -> str:
    return f"{payment.state.lower().replace('_', ' ')} (payment {payment.id})"


def _money(run: saga.Run) -> Iterator[str]:
    for output in run.outputs.values():
        hold = ledger.hold_by_key(str(output["hold_key"])) if "hold_key" in output else None
        if hold is not None and hold.status == "OPEN" and hold.account is not None:
            yield f"Held on account {hold.account.branch} {hold.account.account}: {hold.amount}."
    for output in run.outputs.values():
        if "tracekey" in output:
            yield from _posted(UUID(str(output["tracekey"])))


def _posted(tracekey: UUID) -> Iterator[str]:
    try:
        posted = ledger.entry(tracekey)
    except ledger.MonthArchived:
        yield f"Posted in the ledger as a sale, in a month that is archived (entry {tracekey})."
        return
    if posted is not None and posted.reversed_by is None:
        yield f"Posted in the ledger as a sale: {posted.lines[0].amount} (entry {tracekey})."


def _documents(order: queries.OrderView) -> Iterator[str]:
    for document in fiscal.documents_of_order(order_id=order.id):
        if document.state not in NO_DOCUMENT:
            yield f"Fiscal document {document.access_key or document.id} is {document.state.lower().replace('_', ' ')}."
