"""The door of orders, for the pages above it."""

from apps.orders.operations import stock_tickets
from apps.orders.overview import AtStake, OrdersSince, at_stake, orders_since
from apps.orders.queries import ItemView, OrderView, order
from apps.orders.sagas.document import preview_retry

__all__ = [
    "AtStake",
    "ItemView",
    "OrderView",
    "OrdersSince",
    "at_stake",
    "order",
    "orders_since",
    "preview_retry",
    "stock_tickets",
]
