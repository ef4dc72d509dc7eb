"""A merchant's own payments in the ledger: what was taken, less what was given back, to the cent."""

from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.models import Deferred, Transaction
from apps.ledger.reconciliation import check_balances
from apps.messaging.models import Message
from apps.messaging.public import publish_raw
from apps.orders.sagas import money
from apps.payments import authorisations
from apps.payments.models import Payment, PaymentOperation
from config import demo
from tests import shop
from tests.flows.test_order_requests import basic
from tests.saga_driver import finish, pump_messages

CARD: dict[str, Any] = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2035, "cvv": "123"}


@pytest.fixture
def merchant(opened: demo.Demo, settings: Settings) -> Client:
    settings.LEDGER_MERCHANTS_ACCOUNT = "merchants"
    demo._open_merchants(now=timezone.now())
    return Client(headers=basic(opened.account, opened.secret))


def ask(merchant: Client, path: str, **body: Any) -> str:
    found: str = merchant.post(path, body, content_type="application/json").json()["id"]
    return found


def pay(merchant: Client, number: str = CARD["number"]) -> str:
    payment_id = ask(merchant, "/payments", amount="10.50", card={**CARD, "number": number})
    pump_messages()
    return payment_id


def refund(merchant: Client, payment_id: str, **body: Any) -> str:
    refund_id = ask(merchant, f"/payments/{payment_id}/refunds", **body)
    pump_messages()
    return refund_id


def assert_owed(amount: str) -> None:
    """What we owe the merchants is what the acquirer owes us, and the ledger proves itself."""
    merchants = money.merchants_account()
    assert merchants is not None
    assert ledger.balance(merchants).posted == Decimal(amount)
    assert ledger.balance(money.card_clearing_account()).posted == -Decimal(amount)
    assert check_balances() == []


def command() -> str:
    said = StringIO()
    call_command("merchants_money", stdout=said)
    return said.getvalue()


class TestMerchantsMoney:
    def test_is_posted_as_it_is_taken_and_given_back(self, merchant: Client) -> None:
        payment_id = pay(merchant)
        assert_owed("10.50")
        first = refund(merchant, payment_id, amount=4)
        assert_owed("6.50")
        refund(merchant, payment_id, amount="0.01")
        assert_owed("6.49")
        refund(merchant, payment_id)
        assert_owed("0.00")
        lines = merchant.get(f"/ledger/transactions/{first}").json()["transactions"]
        assert [(line["account"], line["debitcredit"], line["amount"]) for line in lines] == [
            ("merchants", "D", "4.00"),
            ("card-clearing", "C", "4.00"),
        ]

    def test_of_refused_payments_and_refunds_is_none(self, merchant: Client) -> None:
        pay(merchant, "4000000000000002")
        pay(merchant, "4000000000000341")
        assert_owed("0.00")
        refund(merchant, pay(merchant, "4000000000005126"))
        assert_owed("10.50")

    def test_is_posted_after_however_many_captures_that_were_refused(
        self, merchant: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of before there was a limit of them."""
        monkeypatch.setattr(authorisations, "CAPTURES_MAX", 1000)
        payment_id = ask(merchant, "/payments", amount="10.50", card=CARD, capture=False)
        pump_messages()
        values = {"payment_id": payment_id, "kind": "capture", "status": "REJECTED", "amount": Decimal("10.50")}
        now = timezone.now()
        times = {"requested_at": now, "asked_at": now, "answered_at": now}
        PaymentOperation.objects.bulk_create(PaymentOperation(step_key=f"k{n}", **values, **times) for n in range(120))
        ask(merchant, f"/payments/{payment_id}/capture")
        pump_messages()
        assert Payment.objects.get().captured_amount == Decimal("10.50")
        assert_owed("10.50")
        assert "0 entries were missing" in command()

    def test_of_an_order_is_the_orders_own(self, merchant: Client) -> None:
        order_id = shop.post_order(Client(), shop.body()).json()["id"]
        assert finish(shop.run_of(order_id).pk).status == "COMPLETED"
        shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")
        merchants = money.merchants_account()
        assert merchants is not None
        assert ledger.balance(merchants).posted == 0

    def test_is_posted_once_when_a_fact_comes_again(self, merchant: Client) -> None:
        refund(merchant, pay(merchant), amount=4)
        facts = list(Message.objects.filter(schema="payments.payment_changed.v1").order_by("seq"))
        assert facts
        self.publish_again(facts[::-1])
        assert_owed("6.50")
        lines = [model.objects.filter(event_code__in=money.MERCHANT_EVENTS).count() for model in (Transaction, Deferred)]
        assert sum(lines) == 4

    def publish_again(self, facts: list[Message]) -> None:
        with transaction.atomic():
            for fact in facts:
                meta = {**fact.meta, "message-id": str(uuid7())}
                publish_raw(topic=fact.topic, key=fact.key, meta=meta, body=fact.body)
        pump_messages()

    def test_of_before_the_account_was_set_is_made_up_for_by_the_command(
        self, merchant: Client, settings: Settings
    ) -> None:
        settings.LEDGER_MERCHANTS_ACCOUNT = ""
        payment_id = pay(merchant)
        refund(merchant, payment_id, amount=4)
        with pytest.raises(CommandError, match="is empty"):
            command()
        settings.LEDGER_MERCHANTS_ACCOUNT = "merchants"
        assert_owed("0.00")
        said = command()
        assert "1 payments: captured 10.50, refunded 4.00" in said
        assert "2 entries were missing" in said
        assert_owed("6.50")
        assert "0 entries were missing" in command()
        assert_owed("6.50")

    def test_of_a_payment_of_before_is_posted_with_its_refund(self, merchant: Client, settings: Settings) -> None:
        settings.LEDGER_MERCHANTS_ACCOUNT = ""
        payment_id = pay(merchant)
        settings.LEDGER_MERCHANTS_ACCOUNT = "merchants"
        refund(merchant, payment_id, amount=4)
        assert_owed("6.50")

    def test_without_its_account_is_a_dead_letter_and_can_be_made_up_for(
        self, merchant: Client, settings: Settings
    ) -> None:
        settings.LEDGER_MERCHANTS_ACCOUNT = "elsewhere"
        payment_id = pay(merchant)
        assert Payment.objects.get(pk=payment_id).state == "CAPTURED", "the payment itself does not wait for the ledger"
        (dead,) = Message.objects.filter(topic="payments.card.payment.error")
        assert dead.meta["error"]["code"] == "R101"
        with pytest.raises(CommandError, match="At the first payments: R101"):
            command()
        settings.LEDGER_MERCHANTS_ACCOUNT = "merchants"
        assert "1 entries were missing" in command()
        assert_owed("10.50")

    def test_waits_while_posting_is_suspended(self, merchant: Client) -> None:
        with transaction.atomic():
            held = ledger.suspend(mode="REFUSE", reason="a test", by="somebody", now=timezone.now())
        ask(merchant, "/payments", amount="10.50", card=CARD)
        pump_messages(held=1)  # the fact that it was captured
        assert_owed("0.00")
        with transaction.atomic():
            ledger.resume(suspension_id=held.id, by="somebody", now=timezone.now())
        pump_messages()
        shop.assert_nothing_left_over()
        assert_owed("10.50")

    def test_goes_through_all_payments_in_batches(self, merchant: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.orders.merchant_money.BATCH_PAYMENTS_MAX", 2)
        for _ in range(5):
            pay(merchant)
        assert "5 payments: captured 52.50, refunded 0.00" in command()
        assert PaymentOperation.objects.filter(kind="capture").count() == 5
