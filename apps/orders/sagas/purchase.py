"""The journey of an order, by card and from the customer's ledger account, top to bottom, each step with its undo."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.orders import operations
from apps.orders.models import OrderStatus
from apps.orders.sagas import money
from apps.orders.sagas.document import CheckDocument, IssueDocument, SignDocument, TransmitDocument
from apps.orders.sagas.left import left_of_order
from apps.orders.sagas.subject import customer_of, order_of
from apps.payments import public as payments
from apps.saga import public as saga

APPROVED = "approved"
# A refusal by one of these steps means: the customer did not pay.
PAYMENT_STEPS = frozenset({"authorise_payment", "capture_payment", "hold_amount", "post_hold"})

OWNER = "orders"
# What a customer at the screen bears, and when support calls before the customer does.
SLA = saga.Sla(target=timedelta(seconds=10), deadline=timedelta(minutes=15))
SEARCHED = (
    saga.Attribute("customer_id", str, "who buys"),
    saga.Attribute("account_id", str, "the merchant; absent when the order was anonymous"),
    saga.Attribute("amount", Decimal, "what the customer pays"),
)
PROCESSOR = "payment processor"
# So many unanswered questions in a row are no accident: no single run can ask as often by itself.
PROCESSOR_BREAKER = saga.Breaker(failures=50, within=timedelta(minutes=5))


class SaleUnknown(DomainError):
    """The sale of this order is not posted under this trace key."""

    code = "R312"


def check_posted(run: saga.Run, output: Mapping[str, Any]) -> None:
    """May the step that posts the sale be passed over with this output? Raises SaleUnknown.

    Without a trace key, yes: the order is then not given back by itself. With one only if it is the step's own, and posted:
    a return reverses what stands there, and under any other key that may be another order's.
    """
    given = output.get("tracekey")
    if given is not None and (given != str(run.tracekey) or ledger.entry(run.tracekey) is None):
        raise SaleUnknown(f"Give {run.tracekey}, if it is posted under this one, or no trace key.", field="output")


class ReserveTickets(saga.LocalStep):
    """Take the tickets out of stock; undoing it puts them back."""

    name = "reserve_tickets"
    kind = saga.COMPENSABLE

    def handle(self, run: saga.Run) -> None:
        operations.reserve(order_id=run.subject_id, step_key=run.step_key, now=run.now)  # SoldOut: order REJECTED

    def compensate(self, run: saga.Run) -> None:
        operations.release(order_id=run.subject_id, step_key=run.step_key, now=run.now)


class AuthorisePayment(saga.AskStep):
    """Ask the processor whether the card may pay; undoing it gives the card's limit free."""

    name = "authorise_payment"
    kind = saga.COMPENSABLE
    attempts_max = 4
    partner, breaker = PROCESSOR, PROCESSOR_BREAKER

    def ask(self, run: saga.Run) -> None:
        order = order_of(run)
        payments.authorise(
            step_key=run.step_key,
            reply_to=run.reply_key,
            account_id=order.account_id,
            order_ref=str(order.id),
            card_token=order.card_token,
            amount=order.amount,
            now=run.now,
        )
        operations.await_payment(order_id=order.id)

    def on_answer(self, run: saga.Run, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["status"] != APPROVED:
            raise payments.PaymentRefused(answer["error_message"] or None)
        return {"payment_id": answer["payment_id"]}

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        own = {each.id for each in payments.payments_of(order_ref=str(run.subject_id))}
        if UUID(output["payment_id"]) not in own:
            raise payments.UnknownPayment("That is no payment of this order.", field="output")

    def ask_undo(self, run: saga.Run) -> bool:
        order = order_of(run)
        view = payments.void(
            step_key=run.step_key,
            reply_to=run.reply_key,
            account_id=order.account_id,
            order_ref=str(order.id),
            now=run.now,
        )
        return view.waits_for_answer

    def on_undo_answer(self, run: saga.Run, answer: dict[str, Any]) -> None:
        if answer["status"] != APPROVED:
            raise payments.PaymentRefused(f"The void was refused: {answer['error_message']}")


class CapturePayment(saga.AskStep):
    """Take the authorised amount. The pivot: from here on we only go forward."""

    name = "capture_payment"
    kind = saga.PIVOT
    partner, breaker = PROCESSOR, PROCESSOR_BREAKER
    reads = {AuthorisePayment.name: {"payment_id": UUID}}

    def ask(self, run: saga.Run) -> None:
        payment_id = run.outputs["authorise_payment"]["payment_id"]
        payments.capture(step_key=run.step_key, reply_to=run.reply_key, payment_id=payment_id, now=run.now)

    def on_answer(self, run: saga.Run, answer: dict[str, Any]) -> None:
        if answer["status"] != APPROVED:
            raise payments.PaymentRefused(answer["error_message"] or None)
        operations.mark_paid(order_id=run.subject_id, now=run.now)

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        operations.mark_paid(order_id=run.subject_id, now=run.now)


class PostSale(saga.LocalStep):
    """Post the sale: the acquirer owes us, the revenue is ours."""

    name = "post_sale"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> dict[str, Any]:
        order = order_of(run)
        entry = ledger.Entry.transfer(
            tracekey=run.tracekey,
            debit=money.card_clearing_account(),
            credit=money.sales_account(),
            amount=order.amount,
            eventcode=money.EVENT_CARD_SALE,
            description=f"Order {order.id}",
        )
        ledger.post(entry, now=run.now)
        return {"tracekey": str(run.tracekey)}

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        check_posted(run, output)


class HoldAmount(saga.LocalStep):
    """Hold the amount on the customer's account; undoing it lets go."""

    name = "hold_amount"
    kind = saga.COMPENSABLE

    def handle(self, run: saga.Run) -> dict[str, Any]:
        order = order_of(run)
        customer = customer_of(run, order.customer_id)
        if customer.ledger_branch is None or customer.ledger_account is None:
            raise operations.NoSavedMethod("The customer has no ledger account.")
        ledger.hold(
            key=run.step_key,
            branch=customer.ledger_branch,
            account=customer.ledger_account,
            amount=order.amount,
            now=run.now,
        )
        return {"hold_key": run.step_key}

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        """Only under its own key: an undo looks for that one, and any other may be another order's."""
        hold = ledger.hold_by_key(run.step_key)
        if (
            output["hold_key"] != run.step_key
            or hold is None
            or (hold.status, hold.amount) != ("OPEN", order_of(run).amount)
        ):
            raise ledger.UnknownHold(f"This order's hold, of its amount, has the key {run.step_key}.", field="output")

    def compensate(self, run: saga.Run) -> None:
        ledger.void_hold(key=run.step_key, now=run.now)


class PostHold(saga.LocalStep):
    """Post the held amount as the sale. The pivot: from here on we only go forward."""

    name = "post_hold"
    kind = saga.PIVOT
    reads = {HoldAmount.name: {"hold_key": str}}

    def handle(self, run: saga.Run) -> dict[str, Any]:
        ledger.post_hold(
            key=run.outputs["hold_amount"]["hold_key"],
            tracekey=run.tracekey,
            credit=money.sales_account(),
            eventcode=money.EVENT_BALANCE_SALE,
            description=f"Order {run.subject_id}",
            now=run.now,
        )
        operations.mark_paid(order_id=run.subject_id, now=run.now)
        return {"tracekey": str(run.tracekey)}

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        check_posted(run, output)
        operations.mark_paid(order_id=run.subject_id, now=run.now)


class ConfirmOrder(saga.LocalStep):
    """The tickets are sold, the order is complete."""

    name = "confirm_order"
    kind = saga.RETRIABLE

    def handle(self, run: saga.Run) -> None:
        operations.confirm(order_id=run.subject_id, now=run.now)

    def skipped(self, run: saga.Run, output: Mapping[str, Any]) -> None:
        self.handle(run)


class PurchaseEnds(saga.Hooks):
    """How the order is told that its run ended badly, in the commit that ends it."""

    def on_compensated(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        if code == operations.SoldOut.code:
            status = OrderStatus.REJECTED
        elif failed_step in PAYMENT_STEPS:
            status = OrderStatus.PAYMENT_NOT_COMPLETED
        else:
            status = OrderStatus.CANCELLED
        operations.end_unsold(order_id=run.subject_id, status=status, code=code, detail=detail, now=run.now)

    def reopens(self, run: saga.Run, *, step: str) -> bool:
        return operations.reopen(order_id=run.subject_id)

    def on_stuck(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        operations.mark_stuck(order_id=run.subject_id, code=code, detail=f"{failed_step}: {detail}")

    def on_handled(self, run: saga.Run, *, failed_step: str, code: str, detail: str) -> None:
        operations.close_by_hand(order_id=run.subject_id, code=code, detail=detail, now=run.now)

    def left(self, run: saga.Run) -> tuple[str, ...]:
        return left_of_order(run)


PURCHASE_BY_CARD = saga.register(
    saga.Definition(
        "orders.purchase.card",
        version=1,
        description="An order paid by card.",
        owner=OWNER,
        sla=SLA,
        attributes=(*SEARCHED, saga.Attribute("payment_id", str, "the card payment", from_step="authorise_payment")),
        hooks=PurchaseEnds(),
        steps=(
            ReserveTickets(),  # undo: release
            AuthorisePayment(),  # undo: void (asks over the bus, waits for the answer)
            IssueDocument(),  # undo: cancel the document, or void its number
            CapturePayment(),  # the pivot: from here on we only go forward
            PostSale(),
            ConfirmOrder(),
        ),
    )
)

PURCHASE_BY_BALANCE = saga.register(
    saga.Definition(
        "orders.purchase.balance",
        version=1,
        description="An order paid from the customer's ledger account. Up to the pivot all is local: one commit.",
        owner=OWNER,
        sla=SLA,
        attributes=SEARCHED,
        hooks=PurchaseEnds(),
        steps=(
            ReserveTickets(),  # undo: release
            HoldAmount(),  # undo: let go
            CheckDocument(),  # nothing to undo
            PostHold(),  # the pivot
            SignDocument(),
            TransmitDocument(),
            ConfirmOrder(),
        ),
    )
)
