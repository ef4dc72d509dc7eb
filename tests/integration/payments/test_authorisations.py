"""A merchant's own payment that is authorised first, and captured or voided later."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone
from rest_framework.test import APIClient

from apps.messaging.contracts.payments import CardResult
from apps.payments import authorisations, operations, results
from apps.payments.models import Payment, PaymentOperation, ProcessorTransaction
from apps.payments.tasks import void_stale
from tests.integration.payments import world
from tests.integration.payments.test_races import race
from tests.integration.payments.test_refunds import code_of
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db


def authorised(*, card: str = world.GOOD, pump: bool = True) -> tuple[APIClient, str]:
    client, _ = world.merchant()
    typed = {"number": card, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}
    answer = client.post("/payments", {"amount": "10.50", "card": typed, "capture": False}, format="json")
    assert answer.status_code == 202
    if pump:
        pump_messages()
    return client, answer.json()["id"]


def decide(client: APIClient, payment_id: str, kind: str, key: str | None = None, **body: Any) -> Any:
    headers = {"HTTP_IDEMPOTENCY_KEY": key} if key is not None else {}
    return client.post(f"/payments/{payment_id}/{kind}", body, format="json", **headers)  # type: ignore[arg-type]


def told(client: APIClient, payment_id: str) -> tuple[str, str, str]:
    found = client.get(f"/payments/{payment_id}").json()
    return found["status"], found["state"], found["captured_amount"]


class TestAuthorise:
    def test_takes_nothing_until_it_is_captured(self) -> None:
        client, payment_id = authorised()
        assert told(client, payment_id) == ("approved", "AUTHORISED", "0.00")
        answer = decide(client, payment_id, "capture")
        assert (answer.status_code, answer["Location"], answer["Cache-Control"]) == (
            202,
            f"/payments/{payment_id}",
            "no-store",
        )
        pump_messages()
        assert told(client, payment_id) == ("approved", "CAPTURED", "10.50")
        assert ProcessorTransaction.objects.get().captured_amount == Decimal("10.50")

    def test_is_voided_and_takes_nothing(self) -> None:
        client, payment_id = authorised()
        assert decide(client, payment_id, "void").status_code == 202
        pump_messages()
        assert told(client, payment_id) == ("rejected", "VOIDED", "0.00")
        assert ProcessorTransaction.objects.get().voided_at is not None
        assert code_of(decide(client, payment_id, "capture")) == (409, "R208")
        assert decide(client, payment_id, "void").status_code == 202, "a void is safe to repeat"

    def test_is_voided_before_its_outcome_is_known(self) -> None:
        client, payment_id = authorised(card=world.ANSWERED_LATE)
        assert decide(client, payment_id, "void").status_code == 202
        pump_messages()
        assert told(client, payment_id)[1] == "VOIDED"

    def test_captures_by_itself_when_nothing_else_is_said(self) -> None:
        client, payment_id = world.captured()
        assert told(client, payment_id)[1] == "CAPTURED"
        assert code_of(decide(client, payment_id, "capture")) == (409, "R210")
        assert code_of(decide(client, payment_id, "void")) == (409, "R210")

    @pytest.mark.parametrize("value", ["false", 0, None, "no"])
    def test_is_asked_for_with_a_boolean_alone(self, value: object) -> None:
        client, _ = world.merchant()
        answer = client.post("/payments", {"amount": 5, "card_token": "tok_x", "capture": value}, format="json")
        assert (answer.status_code, answer.json()["field"]) == (422, "capture")

    def test_under_one_key_with_and_without_capture_is_two_requests(self) -> None:
        client, _ = world.merchant()
        body = {"amount": 5, "card": {"number": world.GOOD, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}}
        client.post("/payments", body, format="json", HTTP_IDEMPOTENCY_KEY="k")  # type: ignore[arg-type]
        again = client.post("/payments", {**body, "capture": False}, format="json", HTTP_IDEMPOTENCY_KEY="k")  # type: ignore[arg-type]
        assert code_of(again) == (422, "R013")


class TestCapture:
    def test_that_the_bank_refuses_leaves_it_authorised_to_be_voided(self) -> None:
        client, payment_id = authorised(card=world.CAPTURE_REFUSED)
        decide(client, payment_id, "capture")
        pump_messages()
        found = client.get(f"/payments/{payment_id}").json()
        assert (found["state"], found["error"]["code"]) == ("AUTHORISED", "capture_refused")
        assert decide(client, payment_id, "capture").status_code == 202
        pump_messages()
        decide(client, payment_id, "void")
        pump_messages()
        assert told(client, payment_id)[1] == "VOIDED"

    def test_ends_after_so_many_refusals_and_the_payment_can_be_voided(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(authorisations, "CAPTURES_MAX", 2)
        client, payment_id = authorised(card=world.CAPTURE_REFUSED)
        for _ in range(2):
            decide(client, payment_id, "capture")
            pump_messages()
        assert code_of(decide(client, payment_id, "capture")) == (409, "R220")
        decide(client, payment_id, "void")
        pump_messages()
        assert told(client, payment_id)[1] == "VOIDED"

    def test_before_the_authorisation_is_refused(self) -> None:
        client, payment_id = authorised(pump=False)
        assert code_of(decide(client, payment_id, "capture")) == (409, "R209")

    def test_of_a_declined_card_is_refused_and_its_void_changes_nothing(self) -> None:
        client, payment_id = authorised(card=world.DECLINED)
        assert code_of(decide(client, payment_id, "capture")) == (409, "R209")
        assert decide(client, payment_id, "void").json()["state"] == "REJECTED"

    def test_excludes_a_void_at_the_same_time(self) -> None:
        client, payment_id = authorised()
        decide(client, payment_id, "capture")
        assert code_of(decide(client, payment_id, "void")) == (409, "R210")
        client, payment_id = authorised()
        decide(client, payment_id, "void")
        assert code_of(decide(client, payment_id, "capture")) == (409, "R208")

    def test_repeated_under_its_key_captures_once(self) -> None:
        client, payment_id = authorised()
        first, second = (decide(client, payment_id, "capture", "k") for _ in range(2))
        assert (first.status_code, second.status_code, second["Idempotent-Replayed"]) == (202, 202, "true")
        assert code_of(decide(client, payment_id, "void", "k")) == (422, "R013")
        pump_messages()
        assert PaymentOperation.objects.filter(kind="capture").count() == 1

    def test_is_given_back_as_any_other(self) -> None:
        client, payment_id = authorised()
        assert code_of(decide(client, payment_id, "refunds")) == (409, "R211")
        decide(client, payment_id, "capture")
        pump_messages()
        decide(client, payment_id, "refunds", amount=4)
        pump_messages()
        assert Payment.objects.get().refunded_amount == 4
        decide(client, payment_id, "refunds")
        pump_messages()
        assert code_of(decide(client, payment_id, "void")) == (409, "R210")

    @pytest.mark.parametrize("kind", ["capture", "void"])
    def test_takes_no_amount(self, kind: str) -> None:
        client, payment_id = authorised()
        answer = decide(client, payment_id, kind, amount=4)
        assert (answer.status_code, answer.json()["field"]) == (422, "amount")


class TestWhose:
    @pytest.mark.parametrize("kind", ["capture", "void"])
    def test_another_merchants_is_not_there_and_an_orders_is_the_orders(self, kind: str) -> None:
        _, payment_id = authorised()
        stranger, account = world.merchant()
        for which in (payment_id, str(uuid4())):
            assert code_of(decide(stranger, which, kind)) == (404, "R214")
        view = world.authorise(account_id=account, order_ref="an-order")
        pump_messages()
        answer = decide(stranger, str(view.id), kind)
        assert code_of(answer) == (409, "R218")
        assert "an-order" in answer.json()["detail"]
        assert Payment.objects.get(pk=view.id).operations.count() == 1
        reader, _ = world.merchant("payments:read")
        assert decide(reader, payment_id, kind).json()["code"] == "R702"

    def test_one_that_an_order_voided_before_it_was_asked_for_is_the_orders(self) -> None:
        client, account = world.merchant()
        whose = {"reply_to": f"{world.STEP}:undo", "account_id": account, "order_ref": "an-order"}
        with transaction.atomic():
            view = operations.void(step_key=world.STEP, now=world.NOW, **whose)
        assert not view.waits_for_answer
        assert code_of(decide(client, str(view.id), "void")) == (409, "R218")


class TestAnswers:
    def test_to_a_void_that_is_lost_is_asked_for_again(self) -> None:
        client, payment_id = authorised()
        decide(client, payment_id, "void")
        assert decide(client, payment_id, "void").status_code == 202
        assert PaymentOperation.objects.get(kind="void").times_asked == 1, "its answer may still come"
        PaymentOperation.objects.filter(kind="void").update(asked_at=timezone.now() - operations.ANSWER_OVERDUE)
        decide(client, payment_id, "void")
        assert PaymentOperation.objects.get(kind="void").times_asked == 2


class TestAVoidThatIsRefused:
    """As by a bank that took the amount after all: asked again, the processor says the same again."""

    @pytest.fixture
    def refused(self) -> tuple[APIClient, str]:
        client, payment_id = authorised()
        decide(client, payment_id, "void")
        asked = PaymentOperation.objects.get(kind="void")
        result = CardResult(
            operation_key=asked.operation_key,
            payment_id=asked.payment_id,
            kind="void",
            status="rejected",
            processor_reference="psr_1",
            answered_at=timezone.now(),
            amount=None,
            error_code="too_late",
            error_message="It is too late.",
        )
        with transaction.atomic():
            results.record_result(result, now=timezone.now())
        return client, payment_id

    def test_is_told_and_not_asked_for_again(self, refused: tuple[APIClient, str]) -> None:
        answer = decide(*refused, "void")
        assert (answer.status_code, answer.json()["state"]) == (202, "AUTHORISED")
        assert answer.json()["error"]["code"] == "too_late"
        assert PaymentOperation.objects.get(kind="void").times_asked == 1

    def test_does_not_keep_the_others_from_being_voided_in_time(
        self, refused: tuple[APIClient, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(authorisations, "STALE_ROWS_MAX", 1)
        client, payment_id = authorised()
        assert authorisations.void_stale(now=timezone.now() + authorisations.AUTHORISED_FOR * 2) == 1
        pump_messages()
        assert told(client, payment_id)[1] == "VOIDED"

    def test_leaves_the_capture(self, refused: tuple[APIClient, str]) -> None:
        assert decide(*refused, "capture").status_code == 202


class TestStale:
    def later(self, **more: Any) -> Any:
        return timezone.now() + authorisations.AUTHORISED_FOR + timedelta(**more)

    def test_is_voided_when_nobody_captured_it_in_time(self) -> None:
        client, payment_id = authorised()
        assert authorisations.void_stale(now=self.later(minutes=-1)) == 0
        assert authorisations.void_stale(now=self.later(minutes=1)) == 1
        assert authorisations.void_stale(now=self.later(minutes=1)) == 0, "the void is on its way"
        pump_messages()
        assert told(client, payment_id)[1] == "VOIDED"

    def test_leaves_alone_what_is_captured_an_orders_or_on_its_way(self) -> None:
        world.captured()
        world.authorise()
        client, payment_id = authorised()
        decide(client, payment_id, "capture")
        assert authorisations.void_stale(now=self.later(days=1)) == 0
        pump_messages()
        assert authorisations.void_stale(now=self.later(days=1)) == 0

    def test_by_its_task(self) -> None:
        authorised()
        Payment.objects.update(created_at=timezone.now() - authorisations.AUTHORISED_FOR * 2)
        void_stale()
        pump_messages()
        assert Payment.objects.get().state == "VOIDED"


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_a_capture_and_a_void_end_in_one_of_them_on_both_sides(self) -> None:
        for _ in range(5):
            self.race_once()

    def race_once(self) -> None:
        client, payment_id = authorised()
        race(
            lambda: decide(world.again(client), payment_id, "capture"),
            lambda: decide(world.again(client), payment_id, "void"),
        )
        pump_messages()
        theirs = ProcessorTransaction.objects.get(payment_id=payment_id)
        assert told(client, payment_id)[1] == ("CAPTURED" if theirs.captured_amount else "VOIDED")
        assert bool(theirs.captured_amount) is (theirs.voided_at is None)

    def test_four_captures_are_one(self) -> None:
        client, payment_id = authorised()
        answers = race(*[lambda: decide(world.again(client), payment_id, "capture")] * 4)
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]  # type: ignore[attr-defined]
