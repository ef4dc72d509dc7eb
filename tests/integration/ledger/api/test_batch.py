"""A batch of ten thousand lines through the API, at once and queued, and what is too much."""

import json
from typing import Any
from uuid import UUID

import pytest
from django.test import RequestFactory
from django.urls import resolve
from rest_framework.test import APIClient

from apps.common.clock import uuid7_run
from apps.ledger.models import Transaction
from apps.messaging.models import Message
from apps.observability.middleware import BodyLimitMiddleware
from tests.integration.ledger.api.test_views import body, client
from tests.integration.ledger.conftest import ANA, ANY, posted

__all__ = ["client"]

pytestmark = pytest.mark.django_db
PATH = "/ledger/transactions/batch"
DETAILS = {"origem": "lote", "documento": "12345678901", "observacao": "x" * 300}


def lines(count: int, **changes: Any) -> list[dict[str, Any]]:
    one = {"branch": "0001", "account": ANA.account, "amount": 0.01, "debitcredit": "C", "eventcode": ANY, **changes}
    return [{**one, "tracekey": str(key)} for key in uuid7_run(count)]


def entry_of(legs: int) -> dict[str, Any]:
    leg = {"branch": "0001", "account": ANA.account, "amount": 1, "eventcode": ANY}
    made = [{**leg, "debitcredit": "DC"[n % 2]} for n in range(legs)]
    return {"tracekey": body()["tracekey"], "legs": made}


class TestTenThousandLines:
    def test_are_posted_at_once(self, client: APIClient) -> None:
        sent = lines(10_000, details=DETAILS)
        text = json.dumps({"transactions": sent})
        assert len(text) > 5_000_000
        answer = client.post(PATH, text, content_type="application/json")
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["tracekey"] for result in results] == [line["tracekey"] for line in sent]
        assert {result["result"] for result in results} == {"POSTED"}
        assert posted(ANA) == 100

    def test_are_queued_and_answered_with_every_tracekey(self, client: APIClient) -> None:
        sent = lines(10_000)
        answer = client.post(PATH, {"transactions": sent}, format="json", headers={"Prefer": "respond-async"})
        assert answer.status_code == 202
        assert answer.json()["tracekeys"] == [line["tracekey"] for line in sent]
        assert Message.objects.count() == 10_000
        assert not Transaction.objects.exists()

    @pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
    def test_and_one_more_are_too_many_however_they_are_packed(self, client: APIClient, headers: dict[str, str]) -> None:
        for sent in (lines(10_001), [entry_of(100) for _ in range(100)] + lines(1)):
            answer = client.post(PATH, {"transactions": sent}, format="json", headers=headers)
            assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "R112", "transactions")
        assert not Transaction.objects.exists()
        assert not Message.objects.exists()


class TestBodyLimit:
    def test_is_set_for_the_address_that_there_is(self) -> None:
        from django.conf import settings

        (path,) = settings.REQUEST_BODY_BYTES_MAX_AT
        assert resolve(path).url_name == "ledger-post-batch"

    def test_answers_a_problem_that_names_it(self) -> None:
        request = RequestFactory().post(PATH, data=b" " * (8 * 1024 * 1024 + 1), content_type="application/json")
        response = BodyLimitMiddleware(lambda _request: pytest.fail("it went in"))(request)
        problem = json.loads(response.content)
        assert (response.status_code, response["Content-Type"]) == (413, "application/problem+json")
        assert (problem["code"], problem["detail"]) == ("R003", "The limit is 8388608 bytes.")


class TestOptions:
    def test_a_group_and_a_key_go_together(self, client: APIClient) -> None:
        group = lines(2, group="g") + lines(1, group="g", debitcredit="D", amount=99) + lines(1)
        first, again = (
            client.post(PATH, {"transactions": group, "key": "k"}, format="json").json()["results"] for _ in range(2)
        )
        assert [result.get("code") for result in first] == ["R123", "R123", "R103", None]
        assert [result.get("code") for result in again] == ["R123", "R123", "R103", None]
        assert Transaction.objects.get().tracekey == UUID(group[3]["tracekey"])
