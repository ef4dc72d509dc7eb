"""Card payments: requests to the processor, its answers, and the facts about a payment.

A card number or its CVV is in none of them: a card is its first six and last four digits and its brand.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from apps.messaging.contracts.base import Message

PROCESSOR_IN = "payments.card.processor.in"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoriseRequested(Message):
    """May this card pay this amount? Repeated with the same operation_key it gets the same answer."""

    topic: ClassVar[str] = PROCESSOR_IN
    schema: ClassVar[str] = "payments.authorise.v1"

    operation_key: str
    payment_id: UUID
    amount: Decimal
    currency: str
    card_bin: str
    card_last4: str
    card_brand: str
    card_exp_month: int
    card_exp_year: int
    order_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequested(Message):
    """Take the authorised amount."""

    topic: ClassVar[str] = PROCESSOR_IN
    schema: ClassVar[str] = "payments.capture.v1"

    operation_key: str
    payment_id: UUID
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRequested(Message):
    """Give the authorised amount free. An authorisation that is still unknown is refused from now on."""

    topic: ClassVar[str] = PROCESSOR_IN
    schema: ClassVar[str] = "payments.void.v1"

    operation_key: str
    payment_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequested(Message):
    """Give back a part or all of what was captured."""

    topic: ClassVar[str] = PROCESSOR_IN
    schema: ClassVar[str] = "payments.refund.v1"

    operation_key: str
    payment_id: UUID
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CardResult(Message):
    """The processor's answer to one request. ``status`` is "approved" or "rejected"; ``kind`` is the request's verb."""

    topic: ClassVar[str] = "payments.card.result.event"
    schema: ClassVar[str] = "payments.card_result.v1"

    operation_key: str
    payment_id: UUID
    kind: str
    status: str
    processor_reference: str
    answered_at: datetime
    amount: Decimal | None = None
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentChanged(Message):
    """A payment is in a new state. ``status`` is "approved", "rejected" or "pending"; ``state`` says it exactly."""

    topic: ClassVar[str] = "payments.card.payment.event"
    schema: ClassVar[str] = "payments.payment_changed.v1"

    payment_id: UUID
    account_id: str
    order_ref: str
    status: str
    state: str
    currency: str
    captured_amount: Decimal
    refunded_amount: Decimal
    changed_at: datetime
    amount: Decimal | None = None
    card_bin: str = ""
    card_last4: str = ""
    card_brand: str = ""
    error_code: str = ""
    error_message: str = ""
