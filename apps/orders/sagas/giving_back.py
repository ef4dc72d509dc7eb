"""The journey of a return, top to bottom: asked for, perhaps approved by a person, then all is given back at once.

A small return is accepted by itself; its first step drops the approval and the cooling-off from its list. From the pivot on
the money, the tickets and the fiscal document go their ways in parallel, each a run of its own, and all of them end.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.fiscal_docs import public as fiscal
from apps.ledger import public as ledger
from apps.orders import queries, returns
from apps.orders.models import PaymentMethod
from apps.orders.sagas.document import AUTHORITY, AUTHORITY_BREAKER, LEASE
from apps.orders.sagas.left import left_of_order
from apps.orders.sagas.purchase import APPROVED, OWNER, PROCESSOR, PROCESSOR_BREAKER
from apps.orders.sagas.subject import order_of
from apps.payments import public as payments
from apps.saga import public as saga

# What a customer is told when he asks, and by when the law's patience ends.
SLA = saga.Sla(target=timedelta(days=1), deadline=timedelta(days=4))
# Longer than an approval with its delegates and the cooling-off: whoever has no answer by then is refused with a reason.
DEADLINE = timedelta(days=5)
SEARCHED = (
    saga.Attribute("customer_id", str, "who gives it back"),
    saga.Attribute("account_id", str, "the merchant; absent when the order was anonymous"),
    saga.Attribute("amount", Decimal, "what the customer gets back"),
)
CANCELLED, NO_DOCUMENT, RETURN_DOCUMENT_NEEDED = "CANCELLED", "NO_DOCUMENT", "RETURN_DOCUMENT_NEEDED"
CANCEL_REASON = "Compra devolvida pelo consumidor."


def return_id_of(run: saga.Run) -> UUID:
    """The return that a run, or a branch of it, is about."""
    return UUID(str(run.data["return_id"]))


# --- Until it is accepted -------------------------------------------------------------------------------------------------
class CheckReturn(saga.LocalStep):
    """May this order be returned, and is its money still where it was? It looks only."""

    name = "check_return"
    kind = saga.COMPENSABLE

    def handle(self, run: saga.Run) -> dict[str, Any] | saga.Revise:
        asked = returns.return_of(return_id_of(run))
        if asked is None:
            raise LookupError(f"run {run.id} has no return {return_id_of(run)}")
        returns.check_returnable(run.subject_id, asked_at=asked.created_at)
        found = _money_of(order_of(run))
        if asked.amount > settings.ORDERS_RETURN_APPROVAL_ABOVE:
            return found
        return saga.Revise(found, then=(AcceptReturn.name, GiveBack.name, CloseReturn.name))

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        """The order may be too old for it, but its money is its own: any other payment or sale is another order's."""
        found = _money_of(order_of(run))
        if {name: output[name] for name in found} != found:
            told = ", ".join(f"{name} {value or 'empty'}" for name, value in found.items())
            raise returns.NothingToGiveBack(f"Of this order it is: {told}.", field="output")

    def compensate(self, run: saga.Run) -> None:
        """Nothing was done, so nothing is undone."""


def _money_of(order: queries.OrderView) -> dict[str, str]:
    """How it was paid, and where its money is. Raises NothingToGiveBack."""
    return {"payment_method": order.payment_method, "payment_id": _payment_of(order), "tracekey": _sale_of(order)}


def _payment_of(order: queries.OrderView) -> str:
    """The card payment to refund; empty when it was paid from the balance."""
    if order.payment_method != PaymentMethod.CARD:
        return ""
    for payment in payments.payments_of(order_ref=str(order.id)):
        if payment.captured_amount - payment.refunded_amount >= order.amount:
            return str(payment.id)
    raise returns.NothingToGiveBack("No payment of this order has that much left to refund.")


def _sale_of(order: queries.OrderView) -> str:
    """The trace key under which the sale was posted, and stands."""
    purchase = saga.run_progress(order.run_id) if order.run_id else None
    for step in purchase.steps if purchase else ():
        if "tracekey" in step.output:
            check_sale_stands(str(step.output["tracekey"]))
            return str(step.output["tracekey"])
    raise returns.NothingToGiveBack("Nothing tells under which trace key this order was posted.")


def check_sale_stands(tracekey: str) -> None:
    """Past the pivot nobody could end a return whose sale an operator has taken back. Raises NothingToGiveBack."""
    posted = ledger.entry(UUID(tracekey))
    if posted is not None and posted.reversed_by is not None:
        raise returns.NothingToGiveBack("The sale was taken back in the ledger already.")


class ApproveReturn(saga.ApprovalStep):
    """A person decides about a large amount: not whoever asked for it."""

    name = "approve_return"
    kind = saga.COMPENSABLE
    deciders = ("permission:orders.approve_return", "scope:sagas:operate")
    decide_within = timedelta(days=2)
    delegates = ("permission:saga.change_approval", "scope:sagas:operate")
    delegate_within = timedelta(days=1)

    def ask(self, run: saga.Run) -> saga.Question:
        order, asked = order_of(run), returns.return_of(return_id_of(run))
        assert asked is not None  # noqa: S101  # the step before this one looked
        return saga.Question(
            f"Give back {asked.amount} {order.currency}?",
            {
                "Reason": asked.reason,
                "Order": str(order.id),
                "Tickets": ", ".join(f"{item.quantity} × {item.name}" for item in order.items),
                "Paid by": order.payment_method,
                "Bought": f"{order.created_at:%Y-%m-%d %H:%M} UTC",
            },
            asked_by=f"account:{asked.account_id}" if asked.account_id else "",
        )


class CoolOff(saga.TimerStep):
    """A moment in which an approved return can still be stopped."""

    name = "cool_off"
    kind = saga.COMPENSABLE

    def until(self, run: saga.Run) -> datetime:
        return run.now + timedelta(seconds=settings.ORDERS_RETURN_COOLING_OFF_S)


class AcceptReturn(saga.LocalStep):
    """Say yes. The pivot: from here on the customer gets everything back."""

    name = "accept_return"
    kind = saga.PIVOT
    reads = {CheckReturn.name: {"tracekey": UUID}}

    def handle(self, run: saga.Run) -> None:
        check_sale_stands(run.outputs[CheckReturn.name]["tracekey"])  # a person may have thought about it for days
        returns.accept(return_id=return_id_of(run), now=run.now)

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        returns.accept(return_id=return_id_of(run), now=run.now)


# --- What is given back -------------------------------------------------------------------------------------------------
class RefundCard(saga.AskStep):
    """Ask the processor to give the amount back to the card."""

    name = "refund_card"
    kind = saga.RETRIABLE
    partner, breaker = PROCESSOR, PROCESSOR_BREAKER

    def ask(self, run: saga.Run) -> None:
        payments.refund(
            step_key=run.step_key,
            reply_to=run.reply_key,
            payment_id=UUID(run.data["payment_id"]),
            amount=Decimal(run.data["amount"]),
            now=run.now,
        )

    def on_answer(self, run: saga.Run, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["status"] != APPROVED:
            raise payments.PaymentRefused(f"The refund was refused: {answer['error_message']}")
        return {"payment_id": run.data["payment_id"]}


class ReverseSale(saga.LocalStep):
    """Reverse the sale in the ledger: what was paid from the customer's account is there again."""

    name = "reverse_sale"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> dict[str, Any]:
        ledger.reverse(tracekey=UUID(run.data["tracekey"]), reversal_tracekey=run.tracekey, now=run.now)
        return {"tracekey": str(run.tracekey)}


class RestockTickets(saga.LocalStep):
    """Put the tickets back into stock."""

    name = "restock_tickets"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> dict[str, Any]:
        return {"kinds": returns.restock(order_id=run.subject_id, now=run.now)}


class CancelDocument(saga.CallStep):
    """Cancel the order's fiscal document. Too late for that: a person issues a return document, and the return says so.

    A document whose sending was passed over is in doubt: it is undone as a step would, that is asked about first.
    """

    name = "cancel_fiscal_doc"
    kind = saga.RETRIABLE
    lease = LEASE
    partner, breaker = AUTHORITY, AUTHORITY_BREAKER
    attempts_max = 40  # as for transmitting: an authority may be away for hours

    def prepare(self, run: saga.Run) -> None:
        key = run.data["document_key"]
        if _in_doubt(run):
            fiscal.undo_prepare(step_key=key, now=run.now, order_id=run.subject_id)
        elif key:
            fiscal.prepare_cancel(step_key=key, now=run.now, reason=CANCEL_REASON)

    def call(self, run: saga.Run) -> dict[str, Any]:
        key = run.data["document_key"]
        if _in_doubt(run):
            return fiscal.undo_call(step_key=key, now=run.now)
        return fiscal.cancel(step_key=key, now=run.now) if key else {}

    def did_it_happen(self, run: saga.Run) -> dict[str, Any] | None:
        key = run.data["document_key"]
        if _in_doubt(run):
            return fiscal.undo_did_it_happen(step_key=key, now=run.now)
        return fiscal.ask_cancelled(step_key=key, now=run.now) if key else None

    def record(self, run: saga.Run, outcome: dict[str, Any]) -> dict[str, Any]:
        became = self._became(run, outcome)
        returns.note_document(return_id=return_id_of(run), became=became)
        return {"document": became}

    def _became(self, run: saga.Run, outcome: dict[str, Any]) -> str:
        key = run.data["document_key"]
        if not key:
            return NO_DOCUMENT
        record = fiscal.undo_record if _in_doubt(run) else fiscal.record_cancel
        try:
            document = record(step_key=key, outcome=outcome, now=run.now)
        except fiscal.ReturnDocumentNeeded:
            return RETURN_DOCUMENT_NEEDED
        return CANCELLED if document["state"] == CANCELLED else NO_DOCUMENT


def _in_doubt(run: saga.Run) -> bool:
    return bool(run.data.get("in_doubt"))  # absent in branches that began before there was such a thing


def _document_of(order_id: UUID) -> dict[str, Any]:
    """The document to take back: the one the order was sold under, or one of which nobody knows whether it is valid."""
    authorised = fiscal.authorised_of_order(order_id)
    unsettled = None if authorised else fiscal.unsettled_of_order(order_id)
    return {"document_key": authorised or unsettled or "", "in_doubt": unsettled is not None}


def _branch(name: str, description: str, *steps: saga.Step) -> saga.Definition:
    return saga.register(
        saga.Definition(
            f"orders.return.{name}", 1, steps, description=description, owner=OWNER, sla=SLA, attributes=SEARCHED
        )
    )


MONEY_BY_CARD = _branch("card", "The money of a returned order, back to the card.", RefundCard(), ReverseSale())
MONEY_BY_BALANCE = _branch("balance", "The money of a returned order, back to the ledger account.", ReverseSale())
GOODS = _branch("goods", "The tickets of a returned order.", RestockTickets())
DOCUMENT = _branch("document", "The fiscal document of a returned order.", CancelDocument())


class GiveBack(saga.ParallelStep):
    """Money, tickets and document at once: none of them waits for the tax authority's or the processor's bad hour."""

    name = "give_back"
    kind = saga.RETRIABLE
    definitions = (MONEY_BY_CARD, MONEY_BY_BALANCE, GOODS, DOCUMENT)
    reads = {CheckReturn.name: {"payment_method": str, "tracekey": UUID, "payment_id": str}}

    def branches(self, run: saga.Run) -> Mapping[str, saga.Child]:
        found = run.outputs[CheckReturn.name]
        money = MONEY_BY_CARD if found["payment_method"] == PaymentMethod.CARD else MONEY_BY_BALANCE
        more: dict[str, dict[str, Any]] = {
            "money": {"tracekey": found["tracekey"], "payment_id": found["payment_id"]},
            "goods": {},
            "document": _document_of(run.subject_id),
        }
        made = {"money": money, "goods": GOODS, "document": DOCUMENT}
        return {
            name: saga.Child(definition, run.subject_id, run.business_key, {**run.data, **more[name]})
            for name, definition in made.items()
        }


class CloseReturn(saga.LocalStep):
    """The order is returned."""

    name = "close_return"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> None:
        returns.close(return_id=return_id_of(run), now=run.now)

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        self.handle(run)


class ReturnEnds(saga.Hooks):
    """How the return is told that its run ended badly, in the commit that ends it."""

    def on_compensated(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        returns.refuse(return_id=return_id_of(run), code=code, detail=detail, now=run.now)

    def on_stuck(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        returns.mark_stuck(return_id=return_id_of(run), code=code, detail=f"{failed_step}: {detail}")

    def on_handled(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        returns.close_by_hand(return_id=return_id_of(run), code=code, detail=detail, now=run.now)

    def left(self, run: saga.Run) -> tuple[str, ...]:
        return left_of_order(run)

    def reopens(self, run: saga.Run, *, step: str) -> bool:
        return returns.reopen(return_id=return_id_of(run))


def _keys(data: Mapping[str, Any]) -> Iterable[str]:
    yield f"order:{data['order_id']}"


RETURN = saga.register(
    saga.Definition(
        "orders.return",
        version=1,
        description="A completed order is given back. A large amount needs a person's approval and a moment to cool off.",
        owner=OWNER,
        sla=SLA,
        attributes=SEARCHED,
        hooks=ReturnEnds(),
        locks=_keys,  # one return of an order at a time
        on_conflict=saga.REFUSE,
        deadline=DEADLINE,
        steps=(
            CheckReturn(),  # drops the next two for a small amount
            ApproveReturn(),
            CoolOff(),
            AcceptReturn(),  # the pivot
            GiveBack(),
            CloseReturn(),
        ),
    )
)
