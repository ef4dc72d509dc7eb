"""Refunds of a merchant's own payment, over HTTP and the real bus."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone
from rest_framework.test import APIClient

from apps.messaging.contracts.payments import CardResult
from apps.messaging.models import Message
from apps.payments import operations, refunds, results
from apps.payments.models import Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction
from tests.integration.payments import world
from tests.integration.payments.test_races import race
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db


def refund(client: APIClient, payment_id: str, key: str | None = None, **body: Any) -> Any:
    headers = {"HTTP_IDEMPOTENCY_KEY": key} if key is not None else {}
    return client.post(f"/payments/{payment_id}/refunds", body, format="json", **headers)  # type: ignore[arg-type]


def told(client: APIClient, payment_id: str) -> tuple[str, str]:
    found = client.get(f"/payments/{payment_id}").json()
    return found["state"], found["refunded_amount"]


def code_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def books() -> tuple[Decimal, Decimal]:
    """What was given back, in our books and in the processor's."""
    return Payment.objects.get().refunded_amount, ProcessorTransaction.objects.get().refunded_amount


class TestRefund:
    def test_is_accepted_then_approved_and_gives_all_back(self) -> None:
        client, payment_id = world.captured()
        asked = refund(client, payment_id, reason="It did not fit.")
        assert (asked.status_code, asked["Cache-Control"]) == (202, "no-store")
        assert {name: asked.json()[name] for name in ("status", "amount", "currency", "reason", "error", "payment_id")} == {
            "status": "pending",
            "amount": "10.50",
            "currency": "BRL",
            "reason": "It did not fit.",
            "error": None,
            "payment_id": payment_id,
        }
        assert told(client, payment_id) == ("CAPTURED", "0.00")
        pump_messages()
        found = client.get(asked["Location"]).json()
        assert (found["id"], found["status"]) == (asked.json()["id"], "approved")
        assert found["answered_at"] is not None
        assert told(client, payment_id) == ("REFUNDED", "10.50")

    def test_in_parts_until_the_whole_is_given_back(self) -> None:
        client, payment_id = world.captured()
        for amount, state in ((4, "CAPTURED"), ("0.01", "CAPTURED")):
            refund(client, payment_id, amount=amount)
            pump_messages()
            assert told(client, payment_id)[0] == state
        rest = refund(client, payment_id)
        assert rest.json()["amount"] == "6.49"
        pump_messages()
        assert told(client, payment_id) == ("REFUNDED", "10.50")
        assert books() == (Decimal("10.50"), Decimal("10.50"))
        listed = client.get(f"/payments/{payment_id}/refunds").json()["refunds"]
        assert [one["amount"] for one in listed] == ["6.49", "0.01", "4.00"]

    def test_of_what_is_left_counts_what_is_on_its_way(self) -> None:
        client, payment_id = world.captured()
        refund(client, payment_id, amount=10)
        assert code_of(refund(client, payment_id, amount="0.51")) == (409, "R212")
        assert refund(client, payment_id).json()["amount"] == "0.50"
        assert code_of(refund(client, payment_id)) == (409, "R212")

    def test_without_a_body_gives_all_back(self) -> None:
        client, payment_id = world.captured()
        assert client.post(f"/payments/{payment_id}/refunds").json()["amount"] == "10.50"

    def test_that_the_bank_refuses_leaves_the_payment_as_it_was_and_can_be_asked_again(self) -> None:
        client, payment_id = world.captured(card=world.REFUND_REFUSED)
        asked = refund(client, payment_id, amount=4)
        pump_messages()
        found = client.get(asked["Location"]).json()
        assert (found["status"], found["error"]["code"]) == ("rejected", "refund_refused")
        assert told(client, payment_id) == ("CAPTURED", "0.00")
        assert refund(client, payment_id).json()["amount"] == "10.50"

    def test_publishes_what_the_payment_is_after_it(self) -> None:
        client, payment_id = world.captured()
        refund(client, payment_id, amount=4)
        pump_messages()
        fact = Message.objects.filter(schema="payments.payment_changed.v1").order_by("seq").last()
        assert fact is not None
        assert (fact.body["state"], fact.body["refunded_amount"]) == ("CAPTURED", "4.00")

    def test_ends_after_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(refunds, "REFUNDS_MAX", 2)
        client, payment_id = world.captured(card=world.REFUND_REFUSED)
        for _ in range(2):
            refund(client, payment_id)
            pump_messages()
        assert code_of(refund(client, payment_id)) == (409, "R219")


class TestRefused:
    @pytest.mark.parametrize("card", [world.DECLINED, world.CAPTURE_REFUSED, world.ANSWERED_LATE])
    @pytest.mark.parametrize("body", [{}, {"amount": "1.00"}])
    def test_of_money_that_was_never_taken(self, card: str, body: dict[str, Any]) -> None:
        client, payment_id = world.captured(card=card)
        assert code_of(refund(client, payment_id, **body)) == (409, "R211")
        assert not PaymentOperation.objects.filter(kind="refund").exists()

    def test_of_a_payment_whose_number_was_invalid(self) -> None:
        client, payment_id = world.captured(card="4242424242424241")
        assert code_of(refund(client, payment_id)) == (409, "R211")

    def test_of_an_orders_payment_and_says_how_it_is_given_back(self) -> None:
        client, account = world.merchant()
        order_id = uuid4()
        view = world.authorise(account_id=account, order_ref=str(order_id))
        pump_messages()
        world.capture(view.id)
        pump_messages()
        answer = refund(client, str(view.id))
        assert code_of(answer) == (409, "R218")
        assert f"/orders/{order_id}/returns" in answer.json()["detail"]
        world.refund(view.id, "10.50")
        assert [one["status"] for one in client.get(f"/payments/{view.id}/refunds").json()["refunds"]] == ["pending"]

    def test_of_another_merchants_payment_as_of_nobodys(self) -> None:
        client, payment_id = world.captured()
        made = refund(client, payment_id).json()["id"]
        stranger, _ = world.merchant()
        for which in (payment_id, str(uuid4())):
            assert code_of(refund(stranger, which)) == (404, "R214")
            assert code_of(stranger.get(f"/payments/{which}/refunds")) == (404, "R214")
            assert code_of(stranger.get(f"/payments/{which}/refunds/{made}")) == (404, "R214")
        assert code_of(client.get(f"/payments/{payment_id}/refunds/{uuid4()}")) == (404, "R004")

    def test_of_a_capture_looked_for_as_a_refund(self) -> None:
        client, payment_id = world.captured()
        capture = PaymentOperation.objects.get(kind="capture")
        assert code_of(client.get(f"/payments/{payment_id}/refunds/{capture.pk}")) == (404, "R004")

    def test_to_whoever_may_not(self) -> None:
        reader, _ = world.merchant("payments:read")
        writer, _ = world.merchant("payments:write")
        assert refund(reader, str(uuid4())).json()["code"] == "R702"
        assert writer.get(f"/payments/{uuid4()}/refunds").json()["code"] == "R702"
        assert APIClient().post(f"/payments/{uuid4()}/refunds").status_code == 401

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"amount": "10.505"}, "amount"),
            ({"amount": -1}, "amount"),
            ({"amount": 0}, "amount"),
            ({"amount": "0"}, "amount"),
            ({"amount": "1e1"}, "amount"),
            ({"amount": True}, "amount"),
            ({"amount": None}, "amount"),
            ({"amuont": "4.00"}, "amuont"),
            ({"reason": "x" * 201}, "reason"),
            ({"reason": 7}, "reason"),
            ({"reason": "a\u0007b"}, "reason"),
            ({"reason": "card 4242 4242 4242 4242"}, "reason"),
        ],
    )
    def test_when_malformed(self, body: dict[str, Any], field: str) -> None:
        client, payment_id = world.captured()
        answer = refund(client, payment_id, **body)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
        assert "4242" not in answer.content.decode()
        assert not PaymentOperation.objects.filter(kind="refund").exists()

    def test_of_a_body_that_is_no_object(self) -> None:
        client, payment_id = world.captured()
        assert client.post(f"/payments/{payment_id}/refunds", [1], format="json").status_code == 422


class TestIdempotencyKey:
    def test_repeated_it_refunds_once_and_answers_the_same(self) -> None:
        client, payment_id = world.captured()
        first = refund(client, payment_id, "k", amount=4)
        pump_messages()
        second = refund(client, payment_id, "k", amount=4)
        assert (second.status_code, second.json(), second["Location"]) == (202, first.json(), first["Location"])
        assert (second["Idempotent-Replayed"], "Idempotent-Replayed" in first) == ("true", False)
        pump_messages()
        assert books() == (Decimal(4), Decimal(4))

    def test_with_another_amount_or_of_another_payment_it_is_refused(self) -> None:
        client, payment_id = world.captured()
        refund(client, payment_id, "k", amount=4)
        assert code_of(refund(client, payment_id, "k", amount=5)) == (422, "R013")
        token = {"number": world.GOOD, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}
        other = client.post("/payments", {"amount": 5, "card": token}, format="json").json()["id"]
        pump_messages()
        assert code_of(refund(client, other, "k", amount=4)) == (422, "R013")

    def test_of_a_refusal_is_not_used_up(self) -> None:
        client, payment_id = world.captured()
        assert code_of(refund(client, payment_id, "k", amount=11)) == (409, "R212")
        assert refund(client, payment_id, "k", amount=10).status_code == 202

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_malformed_it_is_refused(self, key: str) -> None:
        client, payment_id = world.captured()
        assert code_of(refund(client, payment_id, key)) == (400, "R014")


class TestAnswers:
    def test_that_is_lost_is_asked_for_again_and_counts_once(self) -> None:
        client, payment_id = world.captured(card=world.REFUND_ANSWER_LOST)
        asked = refund(client, payment_id, amount=4)
        pump_messages()
        assert client.get(asked["Location"]).json()["status"] == "pending"
        operations.ask_overdue(now=timezone.now() + operations.ANSWER_OVERDUE + timedelta(seconds=1))
        pump_messages()
        assert client.get(asked["Location"]).json()["status"] == "approved"
        assert books() == (Decimal(4), Decimal(4))

    def test_that_comes_twice_counts_once(self) -> None:
        client, payment_id = world.captured(card=world.REFUND_ANSWERED_TWICE)
        refund(client, payment_id, amount=4)
        pump_messages()
        assert books() == (Decimal(4), Decimal(4))
        assert PaymentOperation.objects.get(kind="refund").late_answers == 1

    def test_that_contradicts_the_first_changes_nothing(self) -> None:
        client, payment_id = world.captured()
        refund(client, payment_id, amount=4)
        pump_messages()
        row = PaymentOperation.objects.get(kind="refund")
        late = CardResult(
            operation_key=row.operation_key,
            payment_id=UUID(payment_id),
            kind="refund",
            status="rejected",
            processor_reference="psr_late",
            answered_at=world.NOW,
            error_code="refund_refused",
        )
        with transaction.atomic():
            results.record_result(late, now=world.NOW)
        assert books() == (Decimal(4), Decimal(4))
        assert client.get(f"/payments/{payment_id}/refunds/{row.pk}").json()["status"] == "approved"

    def test_a_request_that_is_delivered_twice_gives_back_once(self) -> None:
        client, payment_id = world.captured()
        refund(client, payment_id, amount=4)
        operations.ask_overdue(now=timezone.now() + operations.ANSWER_OVERDUE + timedelta(seconds=1))
        pump_messages()
        assert books() == (Decimal(4), Decimal(4))
        assert ProcessorOperation.objects.get(kind="refund").times_asked == 2


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_two_that_exceed_the_amount_are_one_and_a_refusal(self) -> None:
        client, payment_id = world.captured()
        answers = race(*[lambda: refund(world.again(client), payment_id, amount=6)] * 2)
        assert sorted(answer.status_code for answer in answers) == [202, 409]  # type: ignore[attr-defined]
        pump_messages()
        assert books() == (Decimal(6), Decimal(6))

    def test_four_of_the_rest_are_one(self) -> None:
        client, payment_id = world.captured()
        answers = race(*[lambda: refund(world.again(client), payment_id)] * 4)
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]  # type: ignore[attr-defined]

    def test_four_under_one_key_are_one_with_one_answer(self) -> None:
        client, payment_id = world.captured()
        answers = race(*[lambda: refund(world.again(client), payment_id, "k", amount=2)] * 4)
        assert [answer.status_code for answer in answers] == [202] * 4  # type: ignore[attr-defined]
        assert len({answer.json()["id"] for answer in answers}) == 1  # type: ignore[attr-defined]
        pump_messages()
        assert books() == (Decimal(2), Decimal(2))


class TestWhoLooksForIt:
    """It has no run: a merchant asked the processor, and nothing else was done."""

    def said(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        capsys.readouterr()
        call_command("saga_state", *words)
        return capsys.readouterr().out

    def test_finds_it_by_its_payment_its_reference_and_its_own_id(self, capsys: pytest.CaptureFixture[str]) -> None:
        client, payment_id = world.captured()
        refund_id = refund(client, payment_id, amount=4, reason="It did not fit.").json()["id"]
        for key in (payment_id, refund_id, "order-7"):
            lines = self.said(capsys, key).splitlines()
            assert lines[0].startswith(f"payment {payment_id}  order-7: CAPTURED, a merchant's own (")
            assert lines[1] == "  10.50 BRL, captured 10.50, refunded 0.00"
            assert [line.split()[:2] for line in lines[2:]] == [
                ["APPROVED", "authorise"],
                ["APPROVED", "capture"],
                ["REQUESTED", "refund"],
            ]
            assert refund_id in lines[-1]
            assert lines[-1].endswith("“It did not fit.”")
        told = json.loads(self.said(capsys, refund_id, "--json"))
        assert (told["run_id"], told["known"][0]["payment"]["id"]) == (None, payment_id)
        assert told["known"][0]["asked"][-1]["id"] == refund_id

    def test_and_knows_nothing_by_another_id(self) -> None:
        world.captured()
        with pytest.raises(CommandError, match="No run is known"):
            call_command("saga_state", str(uuid4()))

    def test_finds_the_payment_of_a_refund_in_the_back_office(self) -> None:
        client, payment_id = world.captured()
        world.captured()
        refund_id = refund(client, payment_id, amount=4).json()["id"]
        page = world.staff().get("/admin/payments/payment/", {"q": refund_id}).content.decode()
        assert payment_id in page
        assert page.count('title="01') == page.count(f'title="{payment_id}"')
