"""What callers send and get is what the OpenAPI document says, to the last field and media type."""

import base64
import json
import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from jsonschema import Draft202012Validator, FormatChecker

from config import demo
from tests import shop
from tests.contracts import snapshots
from tests.saga_driver import finish, pump_messages, server_world

ACCOUNT = "/ledger/accounts/0001/000000001"


class Caller:
    """A merchant who believes the document: each request and each answer is held against it."""

    def __init__(self, opened: demo.Demo) -> None:
        self.document = snapshots.document()
        secret = base64.b64encode(f"{opened.account}:{opened.secret}".encode()).decode()
        self.client = Client(headers={"Authorization": f"Basic {secret}"})

    def get(self, path: str, expected: int = 200) -> Any:
        return self._checked("get", path, self.client.get(path), expected)

    def post(self, path: str, content: Any, expected: int, *, media: str = "application/json", **headers: str) -> Any:
        if expected < 400:
            [body] = self._operation("post", path)["requestBody"]["content"].values()
            self._check(f"what POST {path} is sent", body["schema"], content)
        data = content if isinstance(content, str) else json.dumps(content)
        return self._checked("post", path, self.client.post(path, data, content_type=media, headers=headers), expected)

    def _operation(self, method: str, path: str) -> dict[str, Any]:
        plain = path.partition("?")[0]
        found = [name for name in self.document["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", name), plain)]
        operation: dict[str, Any] = self.document["paths"][min(found, key=lambda name: name.count("{"))][method]
        return operation

    def _checked(self, method: str, path: str, answer: Any, expected: int) -> Any:
        at = f"{method.upper()} {path}: {answer.status_code}"
        assert answer.status_code == expected, f"{at} {answer.content!r}"
        responses = self._operation(method, path)["responses"]
        assert str(expected) in responses, f"{at} is not in the document"
        media = answer["Content-Type"].partition(";")[0]
        contents = responses[str(expected)]["content"]
        assert media in contents, f"{at} is {media}, not {list(contents)}"
        if expected >= 400:
            assert list(contents) == ["application/problem+json"], at
        body = answer.json()
        self._check(at, contents[media]["schema"], body)
        return body

    def _check(self, at: str, schema: dict[str, Any], value: Any) -> None:
        whole = _closed({"components": self.document["components"], **schema})
        wrong = Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(value)
        assert [f"{at}: {'/'.join(map(str, one.absolute_path))}: {one.message}" for one in wrong] == []


def _closed(schema: Any) -> Any:
    """The same, but what is not named may not be there."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(closed.get("properties"), dict) else closed


@pytest.fixture
def caller(transactional_db: None, running_sandbox: Any) -> Any:
    with server_world():
        yield Caller(shop.open_shop())


class TestAnswers:
    def test_of_orders_and_returns(self, caller: Caller) -> None:
        order = caller.post("/orders", shop.by_balance(), 202, Prefer="respond-async")
        caller.post("/orders", shop.body(), 202, Prefer="respond-async")
        sold_out = [{**shop.SEED_BODY["items"][0], "id": str(demo.SOLD_OUT_TICKET_ID)}]
        caller.post("/orders", shop.body(items=sold_out), 201)
        finish(shop.run_of(order["id"]).pk)
        caller.get(f"/orders/{order['id']}")
        found = caller.post(f"/orders/{order['id']}/returns", {"reason": "It does not fit."}, 202)
        caller.get(f"/orders/{order['id']}/returns")
        caller.get(found["links"]["self"])
        caller.get("/orders?limit=1")
        caller.get(f"/orders?status=RETURNED&customerId={demo.CUSTOMER_ID}&createdFrom=2026-01-01T00:00:00Z")
        caller.get("/orders?status=odd", 422)

    def test_of_orders_that_are_refused(self, caller: Caller) -> None:
        caller.post("/orders", "{", 400)
        caller.post("/orders", {}, 422)
        caller.post("/orders", shop.by_card("tok_nobody"), 404)
        caller.post("/orders", shop.body(padding="x" * 70_000), 413)
        caller.post("/orders", "x", 415, media="text/plain")
        caller.get(f"/orders/{uuid4()}", 404)

    def test_of_payments(self, caller: Caller) -> None:
        card = {"number": demo.SANDBOX_CARDS["approved"], "exp_month": 12, "exp_year": 2035, "cvv": "123"}
        token = caller.post("/payments/cards", card, 201)["token"]
        for amount in (19.99, "10.50", 7):
            caller.post("/payments", {"amount": amount, "card_token": token, "reference": ""}, 202)
        paid = caller.post("/payments", {"amount": 0.5, "card_token": token, "reference": "mine"}, 201)
        caller.get("/payments?limit=2")
        caller.get(f"/payments/{paid['id']}")
        caller.post(f"/payments/{paid['id']}/refunds", {"amount": 0.1}, 409)
        taken = caller.post("/payments", {"amount": 10, "card_token": token}, 202)
        pump_messages()
        refund = caller.post(f"/payments/{taken['id']}/refunds", {"amount": 0.1, "reason": "too small"}, 202)
        caller.post(f"/payments/{taken['id']}/refunds", {}, 202)
        pump_messages()
        caller.get(f"/payments/{taken['id']}/refunds/{refund['id']}")
        caller.get(f"/payments/{taken['id']}/refunds")
        caller.post(f"/payments/{taken['id']}/refunds", {"amount": "none"}, 422)
        caller.get(f"/payments/{uuid4()}/refunds", 404)
        for kind in ("capture", "void"):
            held = caller.post("/payments", {"amount": 10, "card_token": token, "capture": False}, 202)
            pump_messages()
            caller.post(f"/payments/{held['id']}/{kind}", {}, 202)
            caller.post(f"/payments/{taken['id']}/{kind}", {}, 409)
            caller.post(f"/payments/{uuid4()}/{kind}", {}, 404)
        caller.post("/payments", {}, 422)
        caller.post("/payments", "x", 415, media="text/plain")
        caller.get("/payments?limit=0", 422)
        caller.get(
            "/payments?state=CAPTURED&reference=mine&created_from=2026-01-01T00:00:00Z&created_until=2199-01-01T00:00:00Z"
        )
        caller.get("/payments?state=odd", 422)

    def test_of_webhooks(self, caller: Caller) -> None:
        types = [one["type"] for one in caller.get("/webhooks/event-types")["event_types"]]
        where = "/webhooks/endpoints"
        body = {"url": "http://localhost:9/hooks", "event_types": types, "description": ""}
        here = f"{where}/{caller.post(where, body, 201)['id']}"
        caller.post(where, body, 409)
        caller.post(where, {**body, "url": "ftp://localhost/"}, 422)
        caller.get(where)
        caller.get(here)
        caller.post(f"{here}/secret", {"overlap_hours": 1}, 200)
        caller.post(f"{here}/secret", {}, 200)
        ping = f"{here}/ping"  # without a body
        delivery = caller._checked("post", ping, caller.client.post(ping), 202)["delivery_id"]
        caller.get(f"{here}/deliveries?state=PENDING")
        caller.get(f"{here}/deliveries?state=LOST", 422)
        caller.post(f"{here}/redeliveries", {"delivery_id": delivery}, 202)
        caller.post(f"{here}/redeliveries", {"failed_since": "2026-11-22T08:00:00Z"}, 202)
        caller.post(f"{here}/redeliveries", {"delivery_id": str(uuid4())}, 404)
        caller.post(f"{here}/redeliveries", {}, 422)
        caller.get(f"{where}/{uuid4()}", 404)
        caller.post(where, "x", 415, media="text/plain")

    def test_of_the_ledger(self, caller: Caller) -> None:
        leg = {"branch": "0001", "account": "cash", "amount": 1.5, "debitcredit": "D", "eventcode": 1}
        entry = {"tracekey": str(uuid4()), "legs": [leg, {**leg, "account": "000000001", "debitcredit": "C"}]}
        caller.post("/ledger/transactions", entry, 201)
        caller.post("/ledger/transactions", entry, 200)
        line = {**leg, "tracekey": str(uuid4()), "account": "000000001", "amount": "99999.00", "details": None}
        caller.post("/ledger/transactions", line, 409)
        caller.post("/ledger/transactions/batch", {"transactions": [line, {**line, "tracekey": str(uuid4())}]}, 200)
        for path in (f"{ACCOUNT}/balance", f"{ACCOUNT}/statement", f"/ledger/transactions/{entry['tracekey']}"):
            caller.get(path)
        caller.get("/ledger/accounts/0001/nobody/balance", 404)

    def test_of_sagas(self, caller: Caller) -> None:
        order = caller.post("/orders", shop.by_balance(), 202, Prefer="respond-async")
        run = shop.run_of(order["id"])
        for path in ("/sagas", f"/sagas/{run.pk}", "/sagas/use-cases", "/sagas/incidents", "/sagas/approvals"):
            caller.get(path)
        caller.get(f"/sagas/{uuid4()}", 404)
        caller.post(f"/sagas/{run.pk}/reset", {}, 422)
