"""Orders at a glance."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, Q, Sum

from apps.orders.models import Order, OrderStatus

IDS_MAX = 1000  # of one question


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersSince:
    """The orders placed since a moment, by what became of them."""

    placed: int
    completed: int
    payment_not_completed: int
    rejected: int
    stuck: int
    amount_completed: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AtStake:
    """What some orders are worth, and how many customers wait for them."""

    orders: int
    customers: int
    amount: Decimal


def orders_since(since: datetime) -> OrdersSince:
    """Count the orders placed since then, through the index on their time."""
    completed = Q(status=OrderStatus.COMPLETED)
    counted = Order.objects.filter(created_at__gte=since).aggregate(
        placed=Count("pk"),
        completed=Count("pk", filter=completed),
        payment_not_completed=Count("pk", filter=Q(status=OrderStatus.PAYMENT_NOT_COMPLETED)),
        rejected=Count("pk", filter=Q(status=OrderStatus.REJECTED)),
        stuck=Count("pk", filter=Q(status=OrderStatus.STUCK)),
        amount_completed=Sum("amount", filter=completed, default=Decimal(0)),
    )
    return OrdersSince(**counted)


def at_stake(order_ids: Iterable[UUID]) -> AtStake:
    """What these orders are worth (at most IDS_MAX of them are looked at)."""
    ids = list(order_ids)[:IDS_MAX]
    counted = Order.objects.filter(pk__in=ids).aggregate(
        orders=Count("pk"), customers=Count("customer_id", distinct=True), amount=Sum("amount", default=Decimal(0))
    )
    return AtStake(**counted)
