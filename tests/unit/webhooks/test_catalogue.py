"""What merchants are told of our messages."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from apps.messaging.contracts.fiscal import DocumentChanged
from apps.messaging.contracts.orders import OrderChanged, ReturnChanged
from apps.messaging.contracts.payments import PaymentChanged
from apps.webhooks import catalogue

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
ID, ORDER = UUID(int=1), UUID(int=2)


def payment(state: str, **changes: Any) -> PaymentChanged:
    values = {
        "payment_id": ID,
        "account_id": "acc_shop",
        "order_ref": "order-7",
        "status": "approved",
        "state": state,
        "currency": "BRL",
        "captured_amount": Decimal("10.50"),
        "refunded_amount": Decimal(0),
        "changed_at": NOW,
        "amount": Decimal("10.5"),
        "card_bin": "424242",
        "card_last4": "4242",
        "card_brand": "visa",
        "error_message": "Do not honour",
    }
    return PaymentChanged(**{**values, **changes})


class TestPayment:
    @pytest.mark.parametrize(
        ("fact", "told"),
        [
            (payment("PENDING"), ""),
            (payment("UNKNOWN"), ""),
            (payment("AUTHORISED"), "payment.authorised"),
            (payment("CAPTURED"), "payment.captured"),
            (payment("CAPTURED", refunded_amount=Decimal("1.00")), "payment.partially_refunded"),
            (payment("CAPTURED", refunded_amount=Decimal("1.00"), error_code="x"), "payment.operation_refused"),
            (payment("AUTHORISED", error_code="x"), "payment.operation_refused"),
            (payment("REFUNDED"), "payment.refunded"),
            (payment("REJECTED", error_code="x"), "payment.rejected"),
            (payment("VOIDED", error_code="x"), "payment.voided"),
        ],
    )
    def test_is_told_by_what_it_has_become(self, fact: PaymentChanged, told: str) -> None:
        assert catalogue.of_payment(fact).type == told

    def test_tells_ids_states_and_amounts_and_nothing_of_the_card(self) -> None:
        made = catalogue.of_payment(payment("CAPTURED"))
        assert made.data == {
            "payment_id": str(ID),
            "reference": "order-7",
            "status": "approved",
            "state": "CAPTURED",
            "amount": "10.50",
            "captured_amount": "10.50",
            "refunded_amount": "0.00",
            "currency": "BRL",
            "error_code": "",
        }
        assert "4242" not in json.dumps(made.data)

    def test_that_was_voided_first_has_no_amount(self) -> None:
        assert catalogue.of_payment(payment("VOIDED", amount=None)).data["amount"] is None


class TestOthers:
    @pytest.mark.parametrize(
        ("status", "told"),
        [
            ("PAID", "order.paid"),
            ("COMPLETED", "order.completed"),
            ("REJECTED", "order.rejected"),
            ("PAYMENT_NOT_COMPLETED", "order.payment_not_completed"),
            ("CANCELLED", "order.cancelled"),
            ("RETURNED", "order.returned"),
            ("HANDLED", "order.handled"),
            ("A_NEW_ONE", ""),
        ],
    )
    def test_an_order_is_told_by_its_status(self, status: str, told: str) -> None:
        fact = OrderChanged(
            order_id=ORDER,
            account_id="acc_shop",
            status=status,
            amount=Decimal(1),
            currency="BRL",
            payment_method="card",
            changed_at=NOW,
        )
        made = catalogue.of_order(fact)
        assert (made.type, made.object_id, made.data["amount"], made.occurred_at) == (told, ORDER, "1.00", NOW)

    @pytest.mark.parametrize("status", ["ACCEPTED", "COMPLETED", "REFUSED", "HANDLED"])
    def test_a_return_too(self, status: str) -> None:
        fact = ReturnChanged(
            return_id=ID, order_id=ORDER, account_id="acc_shop", status=status, amount=Decimal(1), changed_at=NOW
        )
        assert catalogue.of_return(fact).type == f"return.{status.lower()}"

    @pytest.mark.parametrize("state", ["AUTHORISED", "REJECTED", "CANCELLED", "NUMBER_VOIDED"])
    def test_a_document_too(self, state: str) -> None:
        fact = DocumentChanged(
            document_id=ID,
            account_id="acc_shop",
            kind="65",
            state=state,
            access_key="3" * 44,
            total=Decimal(1),
            changed_at=NOW,
        )
        made = catalogue.of_document(fact)
        assert made.type == f"document.{state.lower()}"
        assert made.data["order_id"] is None

    def test_every_type_has_words_and_a_scope(self) -> None:
        for name, text in catalogue.TYPES.items():
            assert text.endswith(".")
            assert catalogue.scope_of(name) in (catalogue.PAYMENTS, catalogue.ORDERS, catalogue.FISCAL)
