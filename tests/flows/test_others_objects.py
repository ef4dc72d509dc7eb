"""An attacker with a merchant's key, or with none, at every address of the API: what is another's is not there."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.customers import public as customers
from apps.fiscal_docs.models import Document
from apps.identity import public as identity
from apps.orders.models import OrderReturn
from apps.payments.models import CardToken, Payment
from config import demo
from tests import shop
from tests.contracts import snapshots
from tests.saga_driver import finish, pump_messages

# What merchants are given. The others see and move everything: they are for programs of our own.
MERCHANTS = [
    *("fiscal:read", "orders:read", "orders:write", "payments:read", "payments:write"),
    *("webhooks:read", "webhooks:write"),
]
OURS = ("/ledger/", "/sagas")
PATHS: dict[str, dict[str, Any]] = snapshots.written()["paths"]
OPERATIONS = [(method, path) for path, methods in PATHS.items() for method in methods]


def key(account_id: str, scopes: list[str]) -> dict[str, str]:
    """A new account's credentials."""
    with transaction.atomic():
        identity.create_account(name="A shop", scopes=scopes, code=account_id, now=timezone.now())
        secret = identity.issue_secret(account_id=account_id, now=timezone.now()).secret
    return {"Authorization": "Basic " + base64.b64encode(f"{account_id}:{secret}".encode()).decode()}


@dataclass
class World:
    """A merchant's order with all that came of it, and somebody else who asks for it."""

    client: Client
    order: dict[str, Any]
    ids: dict[str, str]  # by the name that the parameters of addresses have
    secrets: list[str]  # what no answer may hold
    tokens: list[str]

    def ask(self, method: str, path: str, headers: dict[str, str], *, content: Any = None, known: bool = True) -> Any:
        """Ask for an object of the merchant, or for one that there is not."""
        address = re.sub(r"{(\w+)}", lambda found: self._id(found[1], path, known=known), path)
        body = json.dumps(BODIES.get((method, path), {}) if content is None else content)
        kept = {**headers, "X-Request-ID": "r"}
        if method == "get":
            address += QUERIES.get(path, "").format(**self.ids)
        return self.client.generic(method.upper(), address, body, content_type="application/json", headers=kept)

    def _id(self, name: str, path: str, *, known: bool) -> str:
        if name in ("branch", "account", "name", "step"):
            return {"branch": "0001", "account": "000000001", "name": "orders.purchase.card", "step": "post_sale"}[name]
        mine = self.ids.get("run_id" if path == "/sagas/{key}" else name)
        return mine if known and mine else str(uuid4())


QUERIES = {"/fiscal-documents": "?order_id={order_id}", "/ledger/transactions": "?tracekey={key}"}
BODIES: dict[tuple[str, str], Any] = {
    ("post", "/orders/{order_id}/returns"): {"reason": "I want the money."},
    ("post", "/webhooks/endpoints/{endpoint_id}/redeliveries"): {"failed_since": "2026-01-01T00:00:00Z"},
}


@pytest.fixture
def world(opened: demo.Demo, settings: Settings) -> World:
    """As on a server."""
    settings.ORDERS_ALLOW_ANONYMOUS = False
    with transaction.atomic():
        customers.give_customer(demo.CUSTOMER_ID, to=opened.account, now=timezone.now())
    client = Client()
    merchant = {"Authorization": "Basic " + base64.b64encode(f"{opened.account}:{opened.secret}".encode()).decode()}
    order = shop.post_order(client, shop.body(payment={"method": "card"}), **merchant).json()
    run = finish(shop.run_of(order["id"]).pk)
    card = {"number": "5555555555554444", "exp_month": 12, "exp_year": timezone.now().year + 1, "cvv": "123"}
    saved = client.post("/payments/cards", json.dumps(card), content_type="application/json", headers=merchant).json()
    hook = json.dumps({"url": "https://shop.example.com/hooks", "event_types": ["order.returned"]})
    told_at = client.post("/webhooks/endpoints", hook, content_type="application/json", headers=merchant).json()
    assert shop.post_return(client, order["id"], **merchant).status_code == 202
    own = World(client, order, {}, [], [])
    paid = own.ask("post", "/payments", merchant, content={"amount": "10.50", "card_token": saved["token"]}).json()["id"]
    pump_messages()
    refund = own.ask("post", f"/payments/{paid}/refunds", merchant, content={"amount": "1.00"})
    assert refund.status_code == 202, refund.content
    ids = {
        "order_id": order["id"],
        "return_id": str(OrderReturn.objects.get().pk),
        "payment_id": paid,
        "refund_id": refund.json()["id"],
        "order_payment_id": str(Payment.objects.exclude(pk=paid).get().pk),
        "document_id": str(Document.objects.get().pk),
        "run_id": str(run.pk),
        "endpoint_id": told_at["id"],
        "key": next(step.output["tracekey"] for step in run.steps.all() if "tracekey" in step.output),
    }
    for method, path in OPERATIONS:  # they are there, for whom they belong to
        if method == "get" and "{" in path and not path.startswith(OURS):
            world = World(client, order, ids, [], [])
            assert world.ask(method, path, merchant).status_code == 200, path
    secrets = [*ids.values(), str(demo.CUSTOMER_ID), "Maria", "52998224725", "4242", told_at["secret"]]
    tokens = [saved["token"], *CardToken.objects.filter(owner_id=str(demo.CUSTOMER_ID)).values_list("token", flat=True)]
    return World(client, order, ids, secrets, tokens)


def told(answer: Any) -> tuple[int, str]:
    problem = answer["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"] if problem else ""


class TestWhoeverHasAMerchantsKey:
    def test_finds_nothing_of_another_merchant_at_any_address(self, world: World) -> None:
        attacker, found = key("acc_attacker", MERCHANTS), {}
        for method, path in OPERATIONS:
            answer, nothing = (world.ask(method, path, attacker, known=known) for known in (True, False))
            ours = path.startswith(OURS)
            if ours and told(answer) != (403, "R702"):
                found[method, path] = "it is for our own programs"
            if not ours and "{" in path and (answer.status_code != 404 or answer.content != nothing.content):
                found[method, path] = f"{told(answer)}, and {told(nothing)} for one that there is not"
            if leaked := [secret for secret in world.secrets if secret in answer.content.decode(errors="replace")]:
                found[method, path] = f"it tells {leaked}"
        assert found == {}

    def test_pays_with_no_card_and_for_no_customer_of_another(self, world: World) -> None:
        attacker = key("acc_attacker", MERCHANTS)
        before = Payment.objects.count()
        with shop.counted_orders(0):
            for token in world.tokens:
                answer = world.ask("post", "/payments", attacker, content={"amount": "10.50", "card_token": token})
                assert told(answer) == (404, "R207")
                assert told(world.ask("post", "/orders", attacker, content=shop.by_card(token))) == (422, "R801")
            assert told(world.ask("post", "/orders", attacker, content=shop.by_balance())) == (422, "R801")
        assert Payment.objects.count() == before

    def test_pays_for_an_own_customer_with_no_card_of_another(self, world: World) -> None:
        attacker = key("acc_attacker", MERCHANTS)
        with transaction.atomic():
            mine = customers.create_customer(
                account_id="acc_attacker",
                name="Eve",
                cpf="39053344705",
                email="eve@example.com",
                default_method="balance",
                ledger_branch="0001",
                ledger_account="eve",
                now=timezone.now(),
            )
        for token in world.tokens:
            body = {**shop.by_card(token), "customerId": str(mine.id)}
            assert told(world.ask("post", "/orders", attacker, content=body)) == (404, "R207")

    def test_does_not_get_the_answer_to_anothers_key(self, world: World, opened: demo.Demo) -> None:
        merchant = {"Authorization": "Basic " + base64.b64encode(f"{opened.account}:{opened.secret}".encode()).decode()}
        attacker = key("acc_attacker", MERCHANTS)
        body = {"amount": "0.50", "card_token": world.tokens[0], "reference": "order-7"}
        first = world.ask("post", "/payments", {**merchant, "Idempotency-Key": "1"}, content=body)
        assert first.status_code == 201
        again = world.ask("post", "/payments", {**attacker, "Idempotency-Key": "1"}, content=body)
        assert told(again) == (404, "R207")


class TestWhoeverHasNoScope:
    def test_may_do_nothing_at_any_address(self, world: World) -> None:
        attacker = key("acc_attacker", [])
        found = {(method, path): told(world.ask(method, path, attacker)) for method, path in OPERATIONS}
        assert {at: said for at, said in found.items() if said != (403, "R702")} == {}


class TestWhoeverHasNoKey:
    def test_is_asked_for_one_at_every_address(self, world: World) -> None:
        found = {(method, path): told(world.ask(method, path, {})) for method, path in OPERATIONS}
        assert {at: said for at, said in found.items() if said[0] != 401} == {}

    def test_is_asked_for_one_whoever_they_say_they_are(self, world: World, settings: Settings) -> None:
        settings.LOGIN_FAILURES_OF_ADDRESS_MAX = len(OPERATIONS)
        wrong = {"Authorization": "Basic " + base64.b64encode(f"{demo.ACCOUNT_ID}:test_x".encode()).decode()}
        found = {(method, path): told(world.ask(method, path, wrong)) for method, path in OPERATIONS}
        assert {at: said for at, said in found.items() if said != (401, "R701")} == {}


class TestDocumentsOfNobody:
    """Of orders without an account: of the embedded mode, or from before."""

    def test_are_read_only_where_anybody_may_order(self, world: World, settings: Settings) -> None:
        Document.objects.update(account_id="")
        reader = key("acc_attacker", MERCHANTS)
        for what in ("", "/xml", "/danfe"):
            assert world.ask("get", f"/fiscal-documents/{{document_id}}{what}", reader).status_code == 404
        assert world.ask("get", "/fiscal-documents", reader).json()["documents"] == []
        settings.ORDERS_ALLOW_ANONYMOUS = True
        assert world.ask("get", "/fiscal-documents/{document_id}", reader).status_code == 200
