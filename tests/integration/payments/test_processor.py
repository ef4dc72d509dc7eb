"""The other side of the bus by itself: what it stores, what it answers, and that it answers the same again."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from apps.common.clock import uuid7
from apps.messaging.contracts.payments import (
    AuthoriseRequested,
    CaptureRequested,
    CardResult,
    RefundRequested,
    VoidRequested,
)
from apps.messaging.models import Message
from apps.payments.processor import operations
from apps.payments.processor.models import ProcessorOperation, ProcessorTransaction
from tests.integration.payments.world import NOW

pytestmark = pytest.mark.django_db

PAYMENT = uuid7()


def authorise(
    *, key: str = "a", payment_id: UUID = PAYMENT, bin6: str = "424242", last4: str = "4242", amount: str = "10.50"
) -> None:
    request = AuthoriseRequested(
        operation_key=key,
        payment_id=payment_id,
        amount=Decimal(amount),
        currency="BRL",
        card_bin=bin6,
        card_last4=last4,
        card_brand="visa",
        card_exp_month=12,
        card_exp_year=2030,
        order_ref="order-1",
    )
    with transaction.atomic():
        operations.authorise(request, reply_to="step", now=NOW)


def capture(*, key: str = "c", amount: str = "10.50") -> None:
    request = CaptureRequested(operation_key=key, payment_id=PAYMENT, amount=Decimal(amount))
    with transaction.atomic():
        operations.capture(request, reply_to="step", now=NOW)


def void(*, key: str = "v") -> None:
    with transaction.atomic():
        operations.void(VoidRequested(operation_key=key, payment_id=PAYMENT), reply_to="step:undo", now=NOW)


def refund(*, key: str = "r", amount: str = "10.50") -> None:
    request = RefundRequested(operation_key=key, payment_id=PAYMENT, amount=Decimal(amount))
    with transaction.atomic():
        operations.refund(request, reply_to="", now=NOW)


def answers() -> list[dict[str, Any]]:
    return [row.body for row in Message.objects.filter(schema=CardResult.schema).order_by("seq")]


def said() -> list[tuple[str, str, str]]:
    return [(answer["kind"], answer["status"], answer["error_code"]) for answer in answers()]


class TestAuthorise:
    def test_stores_the_transaction_and_publishes_the_answer_under_the_payments_key(self) -> None:
        authorise()
        row, message = ProcessorTransaction.objects.get(), Message.objects.get()
        assert (row.status, row.amount, row.card_last4) == ("approved", Decimal("10.50"), "4242")
        assert (message.topic, message.key) == ("payments.card.result.event", str(PAYMENT))
        assert message.meta["reply-to"] == "step"

    def test_stores_a_rejected_transaction_with_its_message(self) -> None:
        authorise(amount="1000.01")
        row = ProcessorTransaction.objects.get()
        assert (row.status, row.error_code) == ("rejected", "amount_too_large")
        assert row.error_message == answers()[0]["error_message"] != ""

    def test_the_same_request_again_gets_the_same_answer_again(self) -> None:
        authorise()
        authorise()
        first, second = answers()
        assert first == second
        assert ProcessorOperation.objects.get().times_asked == 2

    def test_a_second_key_for_one_payment_is_rejected(self) -> None:
        authorise()
        authorise(key="other")
        assert said()[1] == ("authorise", "rejected", "duplicate_payment")
        assert ProcessorTransaction.objects.get().status == "approved"

    def test_after_its_void_is_rejected_and_stored_as_such(self) -> None:
        void()
        authorise()
        assert said() == [("void", "approved", ""), ("authorise", "rejected", "voided")]
        assert ProcessorTransaction.objects.get().status == "rejected"


class TestFaults:
    def test_a_lost_answer_comes_with_the_second_request(self) -> None:
        authorise(bin6="400000", last4="1000")
        assert answers() == []
        authorise(bin6="400000", last4="1000")
        assert said() == [("authorise", "approved", "")]

    def test_a_doubled_answer_is_two_messages(self) -> None:
        authorise(bin6="400000", last4="2008")
        assert said() == [("authorise", "approved", "")] * 2
        assert Message.objects.values("message_id").distinct().count() == 2

    def test_a_late_answer_comes_behind_the_answer_to_the_void(self) -> None:
        authorise(bin6="400000", last4="3006")
        authorise(bin6="400000", last4="3006")
        assert answers() == []
        void()
        assert said() == [("void", "approved", ""), ("authorise", "approved", "")]


class TestCaptureVoidRefund:
    def test_a_capture_is_taken_once(self) -> None:
        authorise()
        capture()
        capture()
        capture(key="other")
        assert said()[1:] == [("capture", "approved", "")] * 2 + [("capture", "rejected", "already_captured")]
        assert ProcessorTransaction.objects.get().captured_amount == Decimal("10.50")

    def test_a_capture_can_be_refused_after_its_authorisation(self) -> None:
        authorise(bin6="400000", last4="0341")
        capture()
        void()
        assert said() == [
            ("authorise", "approved", ""),
            ("capture", "rejected", "capture_refused"),
            ("void", "approved", ""),
        ]

    def test_a_capture_of_something_unknown_is_rejected_and_closes_the_door(self) -> None:
        capture()
        authorise()
        assert said() == [("capture", "rejected", "voided"), ("authorise", "rejected", "voided")]

    def test_a_capture_after_the_void_is_rejected(self) -> None:
        authorise()
        void()
        void()
        capture()
        assert said()[1:] == [("void", "approved", "")] * 2 + [("capture", "rejected", "voided")]

    def test_a_void_after_the_capture_is_rejected(self) -> None:
        authorise()
        capture()
        void()
        assert said()[2] == ("void", "rejected", "already_captured")

    def test_refunds_stop_at_the_captured_amount(self) -> None:
        authorise()
        capture()
        refund(amount="10")
        refund(amount="10")
        refund(key="other", amount="0.51")
        assert said()[2:] == [("refund", "approved", "")] * 2 + [("refund", "rejected", "refund_too_large")]
        assert ProcessorTransaction.objects.get().refunded_amount == Decimal(10)


class TestTheDatabaseSaysItAgain:
    @pytest.mark.parametrize(
        "change",
        [
            {"captured_amount": Decimal("10.51")},
            {"refunded_amount": Decimal(1)},
            {"voided_at": NOW, "captured_amount": Decimal(1)},
            {"status": ""},
            {"status": "rejected", "error_code": ""},
        ],
    )
    def test_no_impossible_transaction(self, change: dict[str, Any]) -> None:
        authorise()
        with pytest.raises(IntegrityError), transaction.atomic():
            ProcessorTransaction.objects.update(**change)
