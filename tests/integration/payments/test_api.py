"""Merchants over HTTP."""

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connections
from rest_framework.test import APIClient

from apps.common.pagination import encode_cursor
from apps.messaging.models import Message
from apps.payments.models import CardToken, Payment, PaymentOperation
from tests.integration.payments import world
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db

CARD = {"number": world.GOOD, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}


def pay(client: APIClient, key: str | None = None, **changes: Any) -> Any:
    body = {"amount": "10.50", "card": CARD, "reference": "order-7", **changes}
    headers = {"HTTP_IDEMPOTENCY_KEY": key} if key is not None else {}
    return client.post(
        "/payments", {name: value for name, value in body.items() if value is not None}, format="json", **headers
    )  # type: ignore[arg-type]


class TestSaveCard:
    def test_gives_a_token_and_never_the_number(self) -> None:
        client, account = world.merchant()
        response = client.post("/payments/cards", CARD, format="json")
        body = response.json()
        assert response.status_code == 201
        assert response["Cache-Control"] == "no-store"
        assert {name: body[name] for name in ("brand", "bin", "last4")} == {
            "brand": "visa",
            "bin": "424242",
            "last4": "4242",
        }
        assert CardToken.objects.get(token=body["token"]).owner_id == account
        assert "number" not in body

    @pytest.mark.parametrize(
        ("change", "code", "field"),
        [
            ({"number": "4242424242424241"}, "R203", "number"),
            ({"number": "9999999999999995"}, "R204", "number"),
            ({"exp_year": 2020}, "R205", "exp_year"),
            ({"exp_month": 13}, "R205", "exp_month"),
            ({"cvv": "12"}, "R206", "cvv"),
            ({"cvv": 973}, "R001", "cvv"),
            ({"number": 4242424242424242}, "R001", "number"),
            ({"exp_month": "12"}, "R001", "exp_month"),
            ({"number": "4" * 41}, "R001", "number"),
            ({"expiry": "12/30"}, "R001", "expiry"),
            ({"4242424242424242": "a card"}, "R001", "(no name)"),
        ],
    )
    def test_names_what_is_wrong_without_quoting_it(self, change: dict[str, Any], code: str, field: str) -> None:
        client, _ = world.merchant()
        response = client.post("/payments/cards", {**CARD, **change}, format="json")
        problem = response.json()
        assert (response.status_code, problem["code"], problem["field"]) == (422, code, field)
        assert "4242424242" not in response.content.decode()
        assert not CardToken.objects.exists()


class TestPay:
    def test_is_accepted_then_approved_and_captured(self) -> None:
        client, _ = world.merchant()
        response = pay(client)
        assert (response.status_code, response.json()["status"]) == (202, "pending")
        pump_messages()
        found = client.get(response["Location"]).json()
        assert (found["status"], found["state"], found["captured_amount"]) == ("approved", "CAPTURED", "10.50")
        assert [(o["kind"], o["status"]) for o in found["operations"]] == [
            ("authorise", "APPROVED"),
            ("capture", "APPROVED"),
        ]
        assert found["card"] == {"brand": "visa", "bin": "424242", "last4": "4242"}

    def test_refuses_a_reference_that_is_a_card_number(self) -> None:
        client, _ = world.merchant()
        answer = pay(client, reference="4242 4242 4242 4242")
        assert (answer.status_code, answer.json()["field"]) == (422, "reference")
        assert "4242 4242" not in answer.content.decode()
        assert not Payment.objects.exists()

    def test_by_a_saved_card(self) -> None:
        client, _ = world.merchant()
        token = client.post("/payments/cards", CARD, format="json").json()["token"]
        assert pay(client, card=None, card_token=token, amount=10.5).status_code == 202

    def test_that_the_processor_declines_is_rejected_with_its_message(self) -> None:
        client, _ = world.merchant()
        response = pay(client, card={**CARD, "number": world.NO_FUNDS})
        pump_messages()
        found = client.get(response["Location"]).json()
        assert (found["status"], found["error"]["code"]) == ("rejected", "insufficient_funds")

    def test_whose_capture_is_refused_gives_the_card_free_and_is_rejected(self) -> None:
        client, _ = world.merchant()
        response = pay(client, card={**CARD, "number": world.CAPTURE_REFUSED})
        pump_messages()
        found = client.get(response["Location"]).json()
        assert (found["status"], found["state"], found["error"]["code"]) == ("rejected", "VOIDED", "capture_refused")

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"card": {**CARD, "number": "4242424242424241"}}, "R203"),
            ({"card": {**CARD, "number": "hello"}}, "R203"),
            ({"card": {**CARD, "exp_year": 2020}}, "R205"),
            ({"card": {**CARD, "cvv": "12"}}, "R206"),
            ({"amount": "0.99"}, "R202"),
            ({"amount": "1000.01"}, "R202"),
        ],
    )
    def test_an_invalid_card_or_amount_is_stored_as_rejected_and_published(self, change: dict[str, Any], code: str) -> None:
        client, _ = world.merchant()
        response = pay(client, **change)
        body = response.json()
        assert (response.status_code, body["status"], body["error"]["code"]) == (201, "rejected", code)
        assert Payment.objects.get().error_message == body["error"]["message"]
        assert Message.objects.get().body["status"] == "rejected"
        assert not PaymentOperation.objects.exists()

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"amount": "10.505"}, "amount"),
            ({"amount": -1}, "amount"),
            ({"amount": 0}, "amount"),
            ({"amount": "1e2"}, "amount"),
            ({"amount": " 10"}, "amount"),
            ({"amount": "१०"}, "amount"),
            ({"amount": True}, "amount"),
            ({"amount": None}, "amount"),
            ({"amount": [10]}, "amount"),
            ({"card": None}, "card"),
            ({"card_token": "tok_x"}, "card"),
            ({"card": "4242424242424242"}, "card"),
            ({"reference": "x" * 101}, "reference"),
            ({"reference": "a\u0007b"}, "reference"),
            ({"currency": "USD"}, "currency"),
        ],
    )
    def test_a_malformed_request_is_refused_and_nothing_is_written(self, change: dict[str, Any], field: str) -> None:
        client, _ = world.merchant()
        response = pay(client, **change)
        assert (response.status_code, response.json()["code"]) == (422, "R001")
        assert response.json()["field"].startswith(field)
        assert not Payment.objects.exists()

    @pytest.mark.parametrize("amount", ["10.505", "1e2", "10.500", "1e-9", "99999999999999999999"])
    def test_a_json_number_that_is_no_amount_is_refused(self, amount: str) -> None:
        client, _ = world.merchant()
        body = f'{{"amount": {amount}, "card_token": "tok_x"}}'
        assert client.post("/payments", body, content_type="application/json").json()["field"] == "amount"

    def test_a_body_that_is_no_object_is_refused(self) -> None:
        client, _ = world.merchant()
        for path in ("/payments", "/payments/cards"):
            assert client.post(path, [1], format="json").status_code == 422

    def test_another_merchants_card_is_unknown(self) -> None:
        client, _ = world.merchant()
        token = world.save_card(owner_id="acc_other").token
        response = pay(client, card=None, card_token=token)
        assert (response.status_code, response.json()["code"]) == (404, "R207")
        assert pay(client, card=None, card_token="tok_nothing").json()["code"] == "R207"


class TestIdempotencyKey:
    def test_repeated_it_replays_the_first_answer_and_pays_once(self) -> None:
        client, _ = world.merchant()
        first, second = pay(client, key="k"), pay(client, key="k")
        assert (second.status_code, second.json(), second["Location"]) == (202, first.json(), first["Location"])
        assert second["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first
        assert Payment.objects.count() == 1

    def test_a_rejection_is_replayed_too(self) -> None:
        client, _ = world.merchant()
        first, second = pay(client, key="k", amount="0.50"), pay(client, key="k", amount="0.5")
        assert second.status_code == 422  # Another text is another body; a number would not be.
        assert pay(client, key="k", amount="0.50").json() == first.json()
        assert Payment.objects.count() == 1

    def test_with_another_body_it_is_refused(self) -> None:
        client, _ = world.merchant()
        pay(client, key="k")
        response = pay(client, key="k", card={**CARD, "number": world.DECLINED})
        assert (response.status_code, response.json()["code"]) == (422, "R013")

    def test_a_security_code_that_was_too_short_and_is_sent_in_full_is_another_request(self) -> None:
        client, _ = world.merchant()
        assert pay(client, key="k", card={**CARD, "cvv": "97"}).json()["error"]["code"] == "R206"
        response = pay(client, key="k")
        assert (response.status_code, response.json()["code"]) == (422, "R013")

    def test_of_another_account_is_another_key(self) -> None:
        for _ in range(2):
            client, _account = world.merchant()
            assert pay(client, key="k").status_code == 202
        assert Payment.objects.count() == 2

    @pytest.mark.parametrize("key", ["", "x" * 256, "ä", "\t"])
    def test_malformed_it_is_refused(self, key: str) -> None:
        client, _ = world.merchant()
        response = pay(client, key=key)
        assert (response.status_code, response.json()["code"]) == (400, "R014")

    def test_a_refusal_that_stored_nothing_does_not_use_the_key_up(self) -> None:
        client, _ = world.merchant()
        assert pay(client, key="k", card=None, card_token="tok_nothing").status_code == 404
        assert pay(client, key="k").status_code == 202

    @pytest.mark.django_db(transaction=True)
    def test_sent_by_four_at_once_pays_once(self) -> None:
        client, _ = world.merchant()
        barrier, responses = threading.Barrier(4), []

        def send() -> None:
            own = APIClient()
            own.credentials(**client._credentials)
            barrier.wait()
            responses.append(pay(own, key="k"))
            connections.close_all()

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [response.status_code for response in responses] == [202] * 4
        assert len({response.json()["id"] for response in responses}) == 1
        assert sum("Idempotent-Replayed" in response for response in responses) == 3
        assert Payment.objects.count() == 1


class TestWhoMayDoWhat:
    def test_nobody_without_an_account(self) -> None:
        response = APIClient().get("/payments")
        assert (response.status_code, response.json()["code"]) == (401, "R010")
        assert response["WWW-Authenticate"].startswith("Basic")

    def test_a_reader_may_not_pay_and_a_writer_may_not_read(self) -> None:
        reader, _ = world.merchant("payments:read")
        writer, _ = world.merchant("payments:write")
        assert pay(reader).json()["code"] == "R702"
        assert reader.post("/payments/cards", CARD, format="json").status_code == 403
        assert writer.get("/payments").status_code == 403
        assert writer.get(f"/payments/{uuid4()}").status_code == 403

    def test_another_accounts_payment_is_not_there(self) -> None:
        owner, _ = world.merchant()
        stranger, _ = world.merchant()
        address = pay(owner)["Location"]
        theirs, nobodys = stranger.get(address), stranger.get(f"/payments/{uuid4()}")
        assert theirs.status_code == nobodys.status_code == 404
        assert {**theirs.json(), "request_id": ""} == {**nobodys.json(), "request_id": ""}
        assert stranger.get("/payments").json()["payments"] == []


class TestList:
    def test_pages_through_everything_once_newest_first(self) -> None:
        client, _ = world.merchant()
        made = [pay(client, reference=str(number)).json()["id"] for number in range(5)]
        seen, cursor = [], None
        while True:
            query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            page = client.get("/payments", query).json()
            seen += [payment["id"] for payment in page["payments"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == made[::-1]

    def test_filters_by_state_reference_and_time(self) -> None:
        client, _ = world.merchant()
        first = pay(client, reference="a").json()
        second = pay(client, reference="b", card={**CARD, "number": world.DECLINED}).json()
        pump_messages()
        assert self.ids(client, state="CAPTURED") == [first["id"]]
        assert self.ids(client, state="REJECTED") == [second["id"]]
        assert self.ids(client, reference="b") == [second["id"]]
        assert self.ids(client, reference="b", state="CAPTURED") == []
        assert self.ids(client, created_from=second["created_at"]) == [second["id"]]
        assert self.ids(client, created_until=second["created_at"]) == [first["id"]]
        assert self.ids(client, created_from=first["created_at"]) == [second["id"], first["id"]]

    def test_filters_no_others_payment_in(self) -> None:
        owner, _ = world.merchant()
        pay(owner, reference="a")
        stranger, _ = world.merchant()
        assert self.ids(stranger, reference="a") == self.ids(stranger, state="PENDING") == []

    def test_pages_in_order_when_many_were_created_at_one_moment(self) -> None:
        client, account = world.merchant()
        token = world.save_card(owner_id=account).token
        for number in range(5):
            world.authorise(account_id=account, card_token=token, step_key=f"k{number}", reply_to="")
        seen, cursor = [], None
        for _ in range(3):
            page = client.get("/payments", {"limit": "2", **({"cursor": cursor} if cursor else {})}).json()
            seen += [payment["id"] for payment in page["payments"]]
            cursor = page["next_cursor"]
        assert (len(set(seen)), seen, cursor) == (5, sorted(seen, reverse=True), None)

    def ids(self, client: APIClient, **query: str) -> list[str]:
        answer = client.get("/payments", query)
        assert answer.status_code == 200, answer.json()
        return [payment["id"] for payment in answer.json()["payments"]]

    @pytest.mark.parametrize(
        "query",
        [
            *({"limit": limit} for limit in ("0", "501", "x")),
            # No cursor; of another list; of this one's form and no place in it.
            *({"cursor": cursor} for cursor in ("x", "WzFd", encode_cursor("2026-01-01", str(UUID(int=7))))),
            {"cursor": encode_cursor("2026-01-01T00:00:00+00:00", "x")},
            {"cursor": encode_cursor("0001-01-01T00:00:00+23:59", str(UUID(int=7)))},
            {"cursor": encode_cursor("9999-12-31T23:59:59-23:59", str(UUID(int=7)))},
            {"state": "captured"},
            {"state": ""},
            {"reference": ""},
            {"reference": "x" * 101},
            {"reference": "a\x00b"},
            {"created_from": "2026-01-01"},
            {"created_from": "yesterday"},
            {"created_until": "2026-01-01T00:00:00"},
            {"created_until": "0001-01-01T00:00:00+23:00"},
            {"created_from": "2026-01-02T00:00:00Z", "created_until": "2026-01-01T00:00:00Z"},
        ],
    )
    def test_a_malformed_page_is_refused(self, query: dict[str, str]) -> None:
        client, _ = world.merchant()
        answer = client.get("/payments", query)
        assert (answer.status_code, answer.json()["code"]) == (422, "R001")
        assert answer.json()["field"] in query

    @pytest.mark.parametrize("at", ["9999-12-31T23:59:59.999999+00:00", "0001-01-01T23:59:00+23:59"])
    def test_a_forged_cursor_of_another_age_finds_what_it_says(self, at: str) -> None:
        client, _ = world.merchant()
        made = pay(client).json()["id"]
        answer = client.get("/payments", {"cursor": encode_cursor(at, str(UUID(int=7)))})
        assert [one["id"] for one in answer.json()["payments"]] == ([made] if at.startswith("9") else [])
