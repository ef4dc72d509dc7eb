"""Questions about orders."""

import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from apps.orders.models import DECIDED, Item, Order

POLL_S = 0.01  # how often a waiting request looks; one read by primary key


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One line of an order."""

    ticket_id: UUID
    name: str
    amount: Decimal
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """An order as it is now."""

    id: UUID
    account_id: str
    customer_id: UUID
    amount: Decimal
    currency: str
    payment_method: str
    card_token: str
    status: str
    decided: bool
    error_code: str
    error_detail: str
    run_id: UUID | None
    created_at: datetime
    paid_at: datetime | None
    finished_at: datetime | None
    items: tuple[ItemView, ...]


def order(order_id: UUID) -> OrderView | None:
    """The order with this id, or None."""
    row = Order.objects.filter(pk=order_id).first()
    return _view(row) if row is not None else None


def _view(row: Order) -> OrderView:
    items = Item.objects.filter(order=row).order_by("id")
    return OrderView(
        id=row.id,
        account_id=row.account_id,
        customer_id=row.customer_id,
        amount=row.amount,
        currency=row.currency,
        payment_method=row.payment_method,
        card_token=row.card_token,
        status=row.status,
        decided=row.status in DECIDED,
        error_code=row.error_code,
        error_detail=row.error_detail,
        run_id=row.run_id,
        created_at=row.created_at,
        paid_at=row.paid_at,
        finished_at=row.finished_at,
        items=tuple(
            ItemView(ticket_id=item.ticket_id, name=item.name, amount=item.amount, quantity=item.quantity) for item in items
        ),
    )


def wait_until_decided(order_id: UUID, *, timeout_s: float) -> bool:
    """Wait until the order's outcome is known, at most ``timeout_s``. Holds no transaction while it waits."""
    end = time.monotonic() + timeout_s
    while True:
        if Order.objects.filter(pk=order_id, status__in=DECIDED).exists():
            return True
        left_s = end - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(POLL_S, left_s))
