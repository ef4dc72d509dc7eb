"""Where an order enters: one commit holds the order, its run, the steps that need not wait, and its messages."""

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.common.clock import uuid7
from apps.common.transactions import transaction
from apps.customers import public as customers
from apps.idempotency import public as idempotency
from apps.orders import operations, queries
from apps.orders.models import PaymentMethod
from apps.orders.operations import CreateOrder, NoSavedMethod, OrderLine
from apps.orders.sagas.purchase import PURCHASE_BY_BALANCE, PURCHASE_BY_CARD
from apps.orders.sagas.subject import CUSTOMER
from apps.payments import public as payments
from apps.saga import public as saga


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOrder:
    """What a caller asks for, checked for shape only. ``method`` None: the customer's saved one."""

    account_id: str
    customer_id: UUID
    amount: Decimal
    method: str | None
    card_token: str | None
    lines: tuple[OrderLine, ...]
    idempotency_key: str | None
    body: Any  # as it came, for the fingerprint of the key


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The order that was written, as it is with this commit, or the answer that the same request got before."""

    order_id: UUID | None
    order: queries.OrderView | None = None
    progress: saga.RunProgress | None = None
    begun: idempotency.Begun | None = None
    replay: idempotency.Replay | None = None


ROUTE = "POST /orders"


@transaction
def place_order(command: PlaceOrder, *, inline_ms: int, now: datetime) -> Placed:
    """Accept an order and run what can run now.

    Raises UnknownCustomer, UnknownItem, DuplicateItem, NoSavedMethod, UnknownCard, UseCasePaused, and the refusals of an
    Idempotency-Key; then nothing was written. A refusal of the purchase itself is no error here: it is the order's state.
    """
    begun = _begin(command, now=now)
    if isinstance(begun, idempotency.Replay):
        return Placed(order_id=None, replay=begun)
    customer = _customer(command)
    method, card_token = _method(command, customer)
    order_id, run_id = uuid7(), uuid7()
    operations.create_order(
        CreateOrder(
            order_id=order_id,
            account_id=command.account_id,
            customer_id=command.customer_id,
            amount=command.amount,
            payment_method=method,
            card_token=card_token,
            run_id=run_id,
            lines=command.lines,
        ),
        now=now,
    )
    came_to: list[saga.RunProgress] = []
    saga.start(
        PURCHASE_BY_BALANCE if method == PaymentMethod.BALANCE else PURCHASE_BY_CARD,
        subject_id=order_id,
        business_key=str(order_id),
        data={
            "customer_id": str(command.customer_id),
            "account_id": command.account_id or None,
            "amount": str(command.amount),
        },
        now=now,
        run_inline_for_ms=inline_ms,
        idempotency_key=command.idempotency_key or "",
        run_id=run_id,
        known={CUSTOMER: customer},
        told=came_to.append,
    )
    if begun is not None:
        location = f"/orders/{order_id}"
        body = {"id": str(order_id), "status": "PENDING", "links": {"self": location}}
        idempotency.provisional(begun, status=202, body=body, headers={"Location": location})
    return Placed(order_id=order_id, begun=begun, order=queries.order(order_id), progress=came_to[0])


def _begin(command: PlaceOrder, *, now: datetime) -> idempotency.Begun | idempotency.Replay | None:
    if command.idempotency_key is None:
        return None
    return idempotency.begin(
        account_id=command.account_id or "anonymous", key=command.idempotency_key, route=ROUTE, body=command.body, now=now
    )


def _customer(command: PlaceOrder) -> customers.CustomerView:
    """The caller's customer. Another's is answered like one that there is not: who guesses ids learns nothing.

    Nobody's customer is charged where anybody may order, and by those who have done so before customers had owners.
    """
    customer = customers.customer(command.customer_id)
    if customer.account_id == command.account_id:
        return customer
    open_to_all = not customer.account_id and settings.ORDERS_ALLOW_ANONYMOUS
    if open_to_all or (not customer.account_id and queries.has_ordered(command.account_id, command.customer_id)):
        return customer
    raise customers.UnknownCustomer


def _method(command: PlaceOrder, customer: customers.CustomerView) -> tuple[str, str]:
    """The payment method and the card token, given or saved."""
    method = command.method or customer.default_method
    if method == PaymentMethod.BALANCE:
        if customer.ledger_account is None:
            raise NoSavedMethod("The customer has no ledger account.", field="payment.method")
        return method, ""
    token = command.card_token or customer.card_token
    if not token:
        raise NoSavedMethod("The customer has no saved card.", field="payment.card_token")
    if command.card_token is not None:
        _check_owner(command, token)
    return method, token


def _check_owner(command: PlaceOrder, token: str) -> None:
    """A token pays for the customer whose card it is, or for the merchant who saved it."""
    try:
        payments.card(token, owner_id=str(command.customer_id))
    except payments.UnknownCard:
        try:
            payments.card(token, owner_id=command.account_id)
        except payments.UnknownCard:
            raise payments.UnknownCard(field="payment.card_token") from None


def json_of(body: Any) -> Any:
    """A body as JSON would carry it, to be stored with an Idempotency-Key."""
    return json.loads(json.dumps(body, default=str))
