"""The door of orders, for the pages above it."""

from apps.orders.operations import stock_tickets
from apps.orders.queries import ItemView, OrderView, order

__all__ = ["ItemView", "OrderView", "order", "stock_tickets"]
