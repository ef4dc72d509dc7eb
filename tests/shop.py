"""The demo's shop as a test world: what was there at the start, how to buy, and what a clean slate is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.test import Client
from django.utils import timezone

from apps.fiscal_docs.models import Document
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent
from apps.ledger import public as ledger
from apps.ledger.reconciliation import check_balances
from apps.messaging.models import Pending, Redelivery
from apps.orders.models import Order, Ticket
from apps.orders.sagas import money
from apps.payments.models import Payment
from apps.payments.processor.models import ProcessorTransaction
from apps.saga.models import Run
from config import demo

CUSTOMER_ACCOUNT = ledger.AccountRef("0001", "000000001")
SEED_BODY: dict[str, Any] = {
    "customerId": str(demo.CUSTOMER_ID),
    "amount": 10.5,
    "items": [{"id": str(demo.TICKET_ID), "name": "day-one", "amount": 200.00, "quantity": 1}],
}


def open_shop() -> demo.Demo:
    """Everything that ``make run`` loads."""
    now = timezone.now()
    demo.create_shop(now=now)
    return demo.issue_credentials(now=now)


def body(**changes: Any) -> dict[str, Any]:
    """The seed's body, changed."""
    return {**SEED_BODY, **changes}


def by_card(token: str) -> dict[str, Any]:
    """The seed's body, paid by this card."""
    return body(payment={"method": "card", "card_token": token})


def by_balance(**changes: Any) -> dict[str, Any]:
    """The seed's body, paid from the customer's account."""
    return body(payment={"method": "balance"}, **changes)


def post_order(client: Client, content: Any = None, **headers: str) -> Any:
    """POST /orders; by default it answers at once, because in tests nobody works in the background."""
    data = content if isinstance(content, str | bytes) else json.dumps(SEED_BODY if content is None else content)
    return client.post("/orders", data, content_type="application/json", headers={"Prefer": "respond-async", **headers})


def run_of(order_id: UUID | str) -> Run:
    """The order's run."""
    return Run.objects.get(subject_id=order_id)


def stock() -> int:
    """Tickets left."""
    return Ticket.objects.get(pk=demo.TICKET_ID).available


def assert_money(*, customer: str, sales: str, clearing: str) -> None:
    """The balances (posted), that nothing is held, and that the ledger proves itself."""
    found = {
        "customer": ledger.balance(CUSTOMER_ACCOUNT).posted,
        "sales": ledger.balance(money.sales_account()).posted,
        "clearing": ledger.balance(money.card_clearing_account()).posted,
    }
    assert found == {"customer": Decimal(customer), "sales": Decimal(sales), "clearing": Decimal(clearing)}
    assert ledger.balance(CUSTOMER_ACCOUNT).pending == 0
    assert check_balances() == []


def assert_clean_slate() -> None:
    """Nothing of any purchase is left: not in stock, in money, at the processor or at the tax authority."""
    assert stock() == demo.STOCK
    assert_money(customer="1000.00", sales="0.00", clearing="0.00")
    assert not Payment.objects.exclude(state__in=["VOIDED", "REJECTED"]).exists()
    taken = ProcessorTransaction.objects.filter(status="approved", voided_at__isnull=True)
    assert not taken.exists(), "the processor still holds the card's limit"
    valid = SandboxDocument.objects.exclude(access_key__in=SandboxEvent.objects.values("access_key"))
    assert not valid.exists(), "a valid fiscal document is left at the authority"
    assert not Document.objects.filter(state__in=["AUTHORISED", "SENT", "UNKNOWN", "SIGNED", "NUMBERED"]).exists()
    assert_nothing_left_over()


def assert_nothing_left_over() -> None:
    """No message waits anywhere."""
    assert not Pending.objects.exists()
    assert not Redelivery.objects.exists()


def order(order_id: UUID | str) -> Order:
    """The order's row."""
    return Order.objects.get(pk=order_id)


@contextmanager
def counted_orders(expected: int) -> Iterator[None]:
    """So many orders, and as many runs, come into being."""
    before = (Order.objects.count(), Run.objects.count())
    yield
    assert (Order.objects.count(), Run.objects.count()) == (before[0] + expected, before[1] + expected)
