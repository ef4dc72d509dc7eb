"""The demo's shop as a test world: what was there at the start, how to buy, and what a clean slate is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from django.conf import settings
from django.db.models import QuerySet
from django.test import Client
from django.utils import timezone

from apps.common.transactions import transaction
from apps.fiscal_docs.models import Certificate, Document, Issuer
from apps.fiscal_docs.operations.issuers import register_issuer
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent
from apps.ledger import public as ledger
from apps.ledger.models import Deferred, Transaction
from apps.ledger.reconciliation import check_balances
from apps.messaging.models import Pending, Redelivery
from apps.orders.models import Order, OrderReturn, Ticket
from apps.orders.sagas import money
from apps.payments.models import Payment
from apps.payments.processor.models import ProcessorTransaction
from apps.saga.models import Run
from config import demo
from tests.again import again

CUSTOMER_ACCOUNT = ledger.AccountRef("0001", "000000001")
SEED_BODY: dict[str, Any] = {
    "customerId": str(demo.CUSTOMER_ID),
    "amount": 10.5,
    "items": [{"id": str(demo.TICKET_ID), "name": "day-one", "amount": 200.00, "quantity": 1}],
}


@cache
def _key() -> RSAPrivateKey:
    """The shop's issuer signs with this one in every test: to make one takes half of what opening the shop does."""
    return generate_private_key(public_exponent=65537, key_size=2048)


_certificates: list[dict[str, Any]] = []  # the issuer's, as a row


@transaction
def _register_issuer(*, now: datetime) -> None:
    """With the certificate of the shop before, if there was one: making and opening it takes half of opening the shop."""
    for row in _certificates:
        issuer_id = register_issuer(cnpj=settings.FISCAL_ISSUER_CNPJ, name=demo.ISSUER_NAME, now=now)
        certificate = Certificate.objects.create(**{**row, "issuer_id": issuer_id})
        Issuer.objects.filter(pk=issuer_id).update(certificate=certificate)


def open_shop() -> demo.Demo:
    """Everything that ``make run`` loads."""
    return again("shop", _open_shop)


def _open_shop() -> demo.Demo:
    now = timezone.now()
    _register_issuer(now=now)
    demo.create_shop(now=now, key=_key())
    _certificates[:] = Certificate.objects.values()
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


def post_return(client: Client, order_id: UUID | str, reason: str = "It does not fit.", **headers: str) -> Any:
    """POST /orders/{id}/returns."""
    return client.post(
        f"/orders/{order_id}/returns", json.dumps({"reason": reason}), content_type="application/json", headers=headers
    )


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


def sale_legs() -> int:
    """Lines of sales in the ledger, those that wait to be rolled up included."""
    return sum(model.objects.filter(event_code__in=money.EVENTS).count() for model in (Transaction, Deferred))


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


def assert_books_agree() -> None:
    """Whatever happened: stock, money, cards, documents and ledger say what the orders say, each sale once."""
    assert not Run.objects.exclude(status__in=["COMPLETED", "COMPENSATED"]).exists()
    sold = Order.objects.filter(status="COMPLETED")
    runs = dict(Run.objects.values_list("subject_id", "status"))
    assert {order_id for order_id, status in runs.items() if status == "COMPLETED"} == set(
        sold.values_list("pk", flat=True)
    )
    assert stock() == demo.STOCK - sold.count()
    by_card = list(sold.filter(payment_method="card").values_list("amount", flat=True))
    by_balance = list(sold.filter(payment_method="balance").values_list("amount", flat=True))
    none = Decimal("0.00")
    assert_money(
        customer=str(Decimal("1000.00") - sum(by_balance, none)),
        sales=str(sum(by_card + by_balance, none)),
        clearing=str(none - sum(by_card, none)),
    )
    assert sale_legs() == 2 * sold.count(), "each sale is posted once"
    _assert_cards(sold.filter(payment_method="card"))
    _assert_documents(sold)
    assert_nothing_left_over()


def _assert_cards(sold: "QuerySet[Order]") -> None:
    """We and the processor hold the same money, of these orders and of no other."""
    captured = Payment.objects.filter(state="CAPTURED")
    assert set(captured.values_list("order_ref", flat=True)) == {
        str(order_id) for order_id in sold.values_list("pk", flat=True)
    }
    assert captured.count() == sold.count()
    assert not Payment.objects.exclude(state__in=["CAPTURED", "VOIDED", "REJECTED"]).exists()
    kept = ProcessorTransaction.objects.filter(status="approved", voided_at__isnull=True)
    assert set(kept.values_list("payment_id", "captured_amount")) == set(captured.values_list("pk", "captured_amount"))


def _assert_documents(sold: "QuerySet[Order]") -> None:
    """We and the authority know the same valid documents: one for each of these orders."""
    cancelled = SandboxEvent.objects.filter(event_type="110111").values("access_key")
    valid = SandboxDocument.objects.exclude(access_key__in=cancelled).values_list("access_key", flat=True)
    ours = Document.objects.filter(state="AUTHORISED")
    assert sorted(valid) == sorted(ours.values_list("access_key", flat=True))
    assert sorted(ours.values_list("order_id", flat=True)) == sorted(sold.values_list("pk", flat=True))
    assert not Document.objects.filter(state__in=["SENT", "UNKNOWN", "SIGNED", "NUMBERED"]).exists()


def assert_returned() -> None:
    """Every order was given back: stock, cards and documents say so, and no message waits."""
    assert set(Order.objects.values_list("status", flat=True)) == {"RETURNED"}
    assert set(OrderReturn.objects.exclude(status="REFUSED").values_list("status", flat=True)) == {"COMPLETED"}
    assert stock() == demo.STOCK
    assert not Payment.objects.exclude(state="REFUNDED").exists()
    assert set(Document.objects.values_list("state", flat=True)) == {"CANCELLED"}
    kept = SandboxDocument.objects.exclude(access_key__in=SandboxEvent.objects.values("access_key"))
    assert not kept.exists(), "a valid fiscal document is left at the authority"
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
