"""Which of our messages merchants are told of, under what name, and what they are told: ids, states and amounts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.messaging.contracts.fiscal import DocumentChanged
from apps.messaging.contracts.orders import OrderChanged, ReturnChanged
from apps.messaging.contracts.payments import PaymentChanged

PING = "ping"  # asked for by the merchant; nobody subscribes to it
PAYMENTS, ORDERS, FISCAL = "payments:read", "orders:read", "fiscal:read"  # who may look at it may be told of it

# What an endpoint may be told of, with what it means.
TYPES: dict[str, str] = {
    "payment.authorised": "The card may pay. A payment of your own is captured right after it.",
    "payment.captured": "The amount was taken.",
    "payment.partially_refunded": "A part of what was captured was given back.",
    "payment.refunded": "All that was captured was given back.",
    "payment.rejected": "The payment was refused; error_code says why.",
    "payment.voided": "The authorisation was given free, or the payment was undone before it was asked for.",
    "payment.operation_refused": "A capture, void or refund was refused; the payment is as it was.",
    "order.paid": "The money is taken: from here on the order only goes forward.",
    "order.completed": "The order is complete.",
    "order.rejected": "The tickets are sold out.",
    "order.payment_not_completed": "The customer did not pay; the tickets are free again.",
    "order.cancelled": "The order was undone.",
    "order.returned": "All was given back.",
    "order.handled": "A person settled it: ask the operator what became of it.",
    "return.accepted": "A return was accepted: the money goes back.",
    "return.completed": "All of the order was given back.",
    "return.refused": "The return was refused; error_code says why.",
    "return.handled": "A person settled it: ask the operator what became of it.",
    "document.authorised": "The tax authority authorised the fiscal document.",
    "document.rejected": "The tax authority rejected it; error_code is the authority's.",
    "document.cancelled": "The fiscal document was cancelled.",
    "document.number_voided": "Its number was declared unused.",
}
_SCOPES = {"payment": PAYMENTS, "order": ORDERS, "return": ORDERS, "document": FISCAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event before it is written. ``type`` empty: nobody is told."""

    account_id: str
    type: str
    object_id: UUID | None
    data: dict[str, Any]
    occurred_at: datetime


def scope_of(event_type: str) -> str:
    """The scope that an account needs to be told of it."""
    return _SCOPES[event_type.partition(".")[0]]


def of_payment(fact: PaymentChanged) -> Happening:
    """No card, not even its last digits: who wants them asks for the payment."""
    data = {
        "payment_id": str(fact.payment_id),
        "reference": fact.order_ref,
        "status": fact.status,
        "state": fact.state,
        "amount": None if fact.amount is None else _text(fact.amount),
        "captured_amount": _text(fact.captured_amount),
        "refunded_amount": _text(fact.refunded_amount),
        "currency": fact.currency,
        "error_code": fact.error_code,
    }
    return _happening(fact, _payment_type(fact), fact.payment_id, data)


def _payment_type(fact: PaymentChanged) -> str:
    """PENDING is what the caller was answered, and UNKNOWN ends as one of the others."""
    if fact.state in ("AUTHORISED", "CAPTURED") and fact.error_code:
        return "payment.operation_refused"
    if fact.state == "CAPTURED" and fact.refunded_amount > 0:
        return "payment.partially_refunded"
    return _known("payment", fact.state)


def of_order(fact: OrderChanged) -> Happening:
    """The order's own state."""
    data = {
        "order_id": str(fact.order_id),
        "status": fact.status,
        "amount": _text(fact.amount),
        "currency": fact.currency,
        "payment_method": fact.payment_method,
        "error_code": fact.error_code,
    }
    return _happening(fact, _known("order", fact.status), fact.order_id, data)


def of_return(fact: ReturnChanged) -> Happening:
    """The return's own state."""
    data = {
        "return_id": str(fact.return_id),
        "order_id": str(fact.order_id),
        "status": fact.status,
        "amount": _text(fact.amount),
        "error_code": fact.error_code,
    }
    return _happening(fact, _known("return", fact.status), fact.return_id, data)


def of_document(fact: DocumentChanged) -> Happening:
    """Without who bought: that stands in the document."""
    data = {
        "document_id": str(fact.document_id),
        "order_id": str(fact.order_id) if fact.order_id else None,
        "kind": fact.kind,
        "state": fact.state,
        "access_key": fact.access_key,
        "total": _text(fact.total),
        "error_code": fact.refusal_code,
    }
    return _happening(fact, _known("document", fact.state), fact.document_id, data)


# Each message with the words that make an event of it.
SOURCES: dict[type[Any], Callable[[Any], Happening]] = {
    PaymentChanged: of_payment,
    OrderChanged: of_order,
    ReturnChanged: of_return,
    DocumentChanged: of_document,
}


def _happening(fact: Any, event_type: str, object_id: UUID, data: dict[str, Any]) -> Happening:
    return Happening(
        account_id=fact.account_id, type=event_type, object_id=object_id, data=data, occurred_at=fact.changed_at
    )


def _known(family: str, state: str) -> str:
    found = f"{family}.{state.lower()}"
    return found if found in TYPES else ""


def _text(amount: Decimal) -> str:
    return f"{amount:.2f}"
