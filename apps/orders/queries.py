"""Questions about orders."""

import json
import time
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from apps.common import prepared
from apps.common.pagination import Page, Slice, newest_first
from apps.orders.models import DECIDED, Order, Reservation, ReservationStatus

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOrder:
    """An order as it stands in a list: without its items and its run, which its own address has."""

    id: UUID
    customer_id: UUID
    amount: Decimal
    currency: str
    payment_method: str
    status: str
    error_code: str
    error_detail: str
    created_at: datetime
    paid_at: datetime | None
    finished_at: datetime | None


# Asked for in every step and every answer: one prepared statement instead of two that the ORM makes anew each time.
_ORDER = """
SELECT o.id, o.account_id, o.customer_id, o.amount, o.currency, o.payment_method, o.card_token, o.status, o.error_code,
    o.error_detail, o.run_id, o.created_at, o.paid_at, o.finished_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(i.ticket_id, i.name, i.amount::text, i.quantity) ORDER BY i.id), '[]')
     FROM orders_item i WHERE i.order_id = o.id) AS items
FROM orders_order o WHERE o.id = %(id)s
"""
_COLUMNS = [column.name for column in fields(OrderView) if column.name not in ("decided", "items")]


def order(order_id: UUID) -> OrderView | None:
    """The order with this id, or None."""
    found = prepared.execute(_ORDER, {"id": order_id}).fetchone()
    if found is None:
        return None
    *columns, items = found
    values = dict(zip(_COLUMNS, columns, strict=True))
    return OrderView(
        **values,
        decided=values["status"] in DECIDED,
        items=tuple(
            ItemView(ticket_id=UUID(ticket_id), name=name, amount=Decimal(amount), quantity=quantity)
            for ticket_id, name, amount, quantity in json.loads(items)
        ),
    )


def has_ordered(account_id: str, customer_id: UUID) -> bool:
    """Has this account an order of this customer?"""
    return Order.objects.filter(account_id=account_id, customer_id=customer_id).exists()


def orders_page(
    account_id: str, wanted: Slice, *, status: str | None = None, customer_id: UUID | None = None
) -> Page[ListedOrder]:
    """A page of an account's orders, newest first; of one status or customer. Raises InvalidRequest for a wrong cursor."""
    columns = {"customer_id": customer_id, "status": status, "account_id": account_id}
    return newest_first(Order, wanted, columns).each(_line)


_LINE = [column.name for column in fields(ListedOrder)]


def _line(row: Order) -> ListedOrder:
    return ListedOrder(**{name: getattr(row, name) for name in _LINE})


def reserved(order_id: UUID) -> bool:
    """Are tickets out of stock for this order that are not sold yet?"""
    return Reservation.objects.filter(order_id=order_id, status=ReservationStatus.RESERVED).exists()


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
