"""What POST /orders refuses, repeats and prefers. Nothing is half-written after any of it."""

import base64
import json
from threading import Barrier, Thread
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client, override_settings

from apps.idempotency.models import IdempotencyKey
from apps.orders.api import views
from apps.orders.models import Order
from config import demo
from tests import shop

ITEM = shop.SEED_BODY["items"][0]


def basic(account: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{account}:{secret}".encode()).decode()}


def item(**changes: Any) -> dict[str, Any]:
    return shop.body(items=[{**ITEM, **changes}])


BAD = [
    ("malformed JSON", '{"customerId": ', 400, "R002", None),
    ("not an object", "[]", 422, "R001", None),
    ("a key twice", '{"amount": 1, "amount": 2}', 400, "R002", None),
    ("NaN", '{"amount": NaN}', 400, "R002", None),
    ("nothing", "{}", 422, "R001", "customerId"),
    ("unknown item", item(id="00000000-0000-4000-8000-000000000000"), 422, "R301", "items[0].id"),
    ("quantity 0", item(quantity=0), 422, "R001", "items[0].quantity"),
    ("quantity negative", item(quantity=-1), 422, "R001", "items[0].quantity"),
    ("quantity fraction", item(quantity=1.5), 422, "R001", "items[0].quantity"),
    ("the same item twice", shop.body(items=[ITEM, ITEM]), 422, "R304", "items[1].id"),
    ("no items", shop.body(items=[]), 422, "R001", "items"),
    ("amount zero", shop.body(amount=0), 422, "R001", "amount"),
    ("amount negative", shop.body(amount=-10.5), 422, "R001", "amount"),
    ("amount with three decimals", shop.body(amount=10.505), 422, "R001", "amount"),
    ("amount too large", shop.body(amount=10**20), 422, "R001", "amount"),
    *(
        (f"amount {text!r}", shop.body(amount=text), 422, "R001", "amount")
        for text in ("1_0", "1e1", " 10 ", "१०", "+10", "NaN")
    ),
    ("item for nothing", item(amount=0), 422, "R001", "items[0].amount"),
    ("item amount with three decimals", item(amount=0.001), 422, "R001", "items[0].amount"),
    ("unknown customer", shop.body(customerId="00000000-0000-4000-8000-000000000000"), 422, "R801", "customerId"),
    ("customer not a UUID", shop.body(customerId="maria"), 422, "R001", "customerId"),
    ("a field that is not there", shop.body(payments={"method": "balance"}), 422, "R001", "payments"),
    ("a field of an item that is not there", item(discount=1), 422, "R001", "items[0].discount"),
    ("a field of the payment that is not there", shop.body(payment={"method": "card", "token": "x"}), 422, "R001", None),
    ("unknown method", shop.body(payment={"method": "cash"}), 422, "R001", "payment.method"),
    ("unknown card", shop.by_card("tok_nobody"), 404, "R207", "payment.card_token"),
    ("a NUL in a name", item(name="a\x00b"), 400, "R002", None),
    ("card token with a balance", shop.body(payment={"method": "balance", "card_token": "x"}), 422, "R001", None),
    ("over 64 KiB", json.dumps(shop.body(padding="x" * 70_000)), 413, "R003", None),
]


class TestRefusals:
    @pytest.mark.parametrize(("content", "status", "code", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
    def test_are_coded_and_write_nothing(
        self, opened: demo.Demo, client: Client, content: Any, status: int, code: str, field: str | None
    ) -> None:
        with shop.counted_orders(0):
            answer = shop.post_order(client, content, **{"Idempotency-Key": "k1", "X-Request-ID": "req-1"})
        assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
        problem = answer.json()
        assert (problem["code"], problem["status"], problem["request_id"]) == (code, status, "req-1")
        assert problem["title"].startswith(code)
        if field is not None:
            assert problem["field"] == field
        assert not IdempotencyKey.objects.exists()
        shop.assert_clean_slate()

    def test_ends_with_401_for_a_wrong_secret(self, opened: demo.Demo, client: Client) -> None:
        for account in (demo.ACCOUNT_ID, "acc_nobody"):
            answer = shop.post_order(client, **basic(account, "test_wrong_secret"))
            assert answer.status_code == 401
            assert answer["WWW-Authenticate"].startswith("Basic")
            assert answer["Content-Type"] == "application/problem+json"

    def test_needs_credentials_where_anonymous_orders_are_off(self, opened: demo.Demo, client: Client) -> None:
        with override_settings(ORDERS_ALLOW_ANONYMOUS=False), shop.counted_orders(0):
            assert shop.post_order(client).status_code == 401

    def test_hides_the_orders_of_others(self, opened: demo.Demo, client: Client) -> None:
        mine = shop.post_order(client, **basic(opened.account, opened.secret)).json()["id"]
        anonymous = shop.post_order(client).json()["id"]
        credentials = basic(opened.account, opened.secret)
        assert client.get(f"/orders/{mine}", headers=credentials).status_code == 200
        assert client.get(f"/orders/{mine}").status_code == 404
        assert client.get(f"/orders/{anonymous}", headers=credentials).status_code == 404
        assert client.get("/orders/00000000-0000-4000-8000-000000000000").json()["code"] == "R004"

    def test_speaks_problem_json_at_addresses_that_do_not_exist(self, opened: demo.Demo, client: Client) -> None:
        answer = client.get("/nowhere")
        assert (answer.status_code, answer["Content-Type"], answer.json()["code"]) == (
            404,
            "application/problem+json",
            "R004",
        )
        assert client.delete("/orders").json()["code"] == "R005"
        assert client.post("/orders", "x=1", content_type="text/plain").json()["code"] == "R006"


class TestPreferences:
    def test_answers_202_at_once_when_asked_to(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client, shop.by_balance(), Prefer="respond-async")
        assert (answer.status_code, answer["Preference-Applied"]) == (202, "respond-async")
        assert answer.json()["status"] == "PENDING"

    def test_ignores_preferences_that_it_does_not_know(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client, shop.by_balance(), Prefer="handling=lenient, wait=5")
        assert (answer.status_code, answer["Preference-Applied"]) == (201, "wait=5")

    def test_answers_202_when_the_outcome_is_not_known_in_time(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client, Prefer="wait=0.05")
        assert (answer.status_code, answer.json()["status"]) == (202, "AWAITING_PAYMENT")

    def test_waits_no_longer_than_usual_while_half_of_the_threads_wait(self, opened: demo.Demo, client: Client) -> None:
        """Else so many callers as there are threads would keep everybody else out, probes too."""
        for _ in range(views.LONG_WAITS_MAX):
            assert views.LONG_WAITS.acquire(blocking=False)
        try:
            answer = shop.post_order(client, Prefer="wait=0.3")
        finally:
            views.LONG_WAITS.release(views.LONG_WAITS_MAX)
        assert (answer.status_code, "Preference-Applied" in answer) == (202, False)
        assert shop.post_order(client, Prefer="wait=0.3")["Preference-Applied"] == "wait=0.3"
        assert 1 <= views.LONG_WAITS_MAX < settings.WEB_THREADS


class TestIdempotency:
    def test_replays_the_first_answer(self, opened: demo.Demo, client: Client) -> None:
        key = {"Idempotency-Key": "order-1", "Prefer": "wait=5"}
        with shop.counted_orders(1):
            first = shop.post_order(client, shop.by_balance(), **key)
            again = shop.post_order(client, shop.by_balance(), **key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert again["Idempotent-Replayed"] == "true"
        assert again["Location"] == first["Location"]

    def test_refuses_another_body(self, opened: demo.Demo, client: Client) -> None:
        shop.post_order(client, shop.by_balance(), **{"Idempotency-Key": "order-1"})
        with shop.counted_orders(0):
            answer = shop.post_order(client, shop.by_balance(amount=11), **{"Idempotency-Key": "order-1"})
        assert (answer.status_code, answer.json()["code"]) == (422, "R013")

    def test_places_one_order_for_many_requests_at_once(self, opened: demo.Demo) -> None:
        requests = 6
        ready, answers = Barrier(requests), []

        def place() -> None:
            try:
                ready.wait(90)
                answer = shop.post_order(Client(), shop.by_balance(), **{"Idempotency-Key": "same", "Prefer": "wait=5"})
                answers.append((answer.status_code, answer.json().get("id"), answer.json().get("code")))
            finally:
                connections.close_all()

        threads = [Thread(target=place) for _ in range(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Order.objects.count() == 1
        placed = {order_id for status, order_id, _ in answers if status == 201}
        assert placed == {str(Order.objects.get().pk)}
        assert {code for status, _, code in answers if status != 201} <= {"R012"}
