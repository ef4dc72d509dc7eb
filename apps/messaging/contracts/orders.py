"""Facts about the orders and returns of a merchant who listens (apps/webhooks): others' are not published."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from apps.messaging.contracts.base import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChanged(Message):
    """The outcome of an order is known, or has changed: PAID, COMPLETED, REJECTED, PAYMENT_NOT_COMPLETED, CANCELLED,
    RETURNED or HANDLED (closed by hand). What lies before is told to whoever placed it.
    """

    topic: ClassVar[str] = "orders.purchase.order.event"
    schema: ClassVar[str] = "orders.order_changed.v1"

    order_id: UUID
    account_id: str
    status: str
    amount: Decimal
    currency: str
    payment_method: str
    changed_at: datetime
    error_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnChanged(Message):
    """The return of an order is ACCEPTED, COMPLETED, REFUSED or HANDLED (closed by hand)."""

    topic: ClassVar[str] = "orders.purchase.return.event"
    schema: ClassVar[str] = "orders.return_changed.v1"

    return_id: UUID
    order_id: UUID
    account_id: str
    status: str
    amount: Decimal
    changed_at: datetime
    error_code: str = ""
