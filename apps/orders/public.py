"""The door of orders, for the pages above it."""

from apps.orders.operations import stock_tickets
from apps.orders.overview import AtStake, OrdersSince, at_stake, orders_since
from apps.orders.queries import ItemView, OrderView, order
from apps.orders.sagas.delivering import enter_contingency, leave_contingency
from apps.orders.sagas.document import preview_retry
from apps.orders.sagas.settling import LeftBehind, NothingToSettle, OrderNotSold, Settle, left_behind, settle_document

__all__ = [
    "AtStake",
    "ItemView",
    "LeftBehind",
    "NothingToSettle",
    "OrderNotSold",
    "OrderView",
    "OrdersSince",
    "Settle",
    "at_stake",
    "enter_contingency",
    "leave_contingency",
    "left_behind",
    "order",
    "orders_since",
    "preview_retry",
    "settle_document",
    "stock_tickets",
]
