"""Questions over HTTP beside those of ``test_views``: as of a moment, totals, exports."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import transaction
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.clock import business_date
from apps.identity.public import create_account, issue_secret
from config.threads import ThreadedHandler
from tests.asynchronous import run_apart
from tests.integration.ledger.api.test_views import body, client, client_with, send
from tests.integration.ledger.conftest import ANA, ANY, line, open_bank, post

__all__ = ["client"]

pytestmark = pytest.mark.django_db

ACCOUNT = f"/ledger/accounts/0001/{ANA.account}"


class TestBalanceAsOf:
    PATH = f"{ACCOUNT}/balance"

    def test_tells_what_was_known_then(self, client: APIClient) -> None:
        send(client, body(amount=7))
        then = timezone.now()
        send(client, body(amount=5, dateref=str(business_date(then) - timedelta(days=3))))
        answer = client.get(self.PATH, {"as_of": then.isoformat()}).json()
        assert (answer["posted"], answer["available"], answer["accumulatedcredit"]) == ("7.00", "7.00", "7.00")
        now = timezone.now()
        assert client.get(self.PATH, {"as_of": now.isoformat()}).json()["posted"] == "12.00"
        day = str(business_date(now) - timedelta(days=1))
        answer = client.get(self.PATH, {"as_of": now.isoformat(), "date": day}).json()
        assert (answer["posted"], answer["dateref"]) == ("5.00", day)

    def test_takes_any_zone(self, client: APIClient) -> None:
        then = timezone.now() - timedelta(hours=1)
        answer = client.get(self.PATH, {"as_of": (then - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%S-03:00")})
        assert answer.status_code == 404  # the account was opened later
        assert answer.json()["detail"] == "There was no such ledger account at that moment."

    @pytest.mark.parametrize("text", ["", "x", "2026-03-18", "2026-03-18T10:00:00", "0001-01-01T00:00:00+23:00", "1e9"])
    def test_of_what_is_no_moment_is_malformed(self, client: APIClient, text: str) -> None:
        answer = client.get(self.PATH, {"as_of": text})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "R001", "as_of")

    @pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0001-01-05T00:00:00Z", "1969-12-31T23:59:59Z"])
    def test_of_a_moment_before_all_accounts_is_not_found(self, client: APIClient, text: str) -> None:
        answer = client.get(self.PATH, {"as_of": text, "date": "0001-01-01"})
        assert (answer.status_code, answer.json()["code"]) == (404, "R004")

    def test_of_the_future_is_refused(self, client: APIClient) -> None:
        answer = client.get(self.PATH, {"as_of": "2999-01-01T00:00:00Z"})
        assert (answer.status_code, answer.json()["code"]) == (409, "R140")


class TestTotals:
    PATH = "/ledger/totals"

    def test_are_by_event_and_side(self, client: APIClient) -> None:
        send(client, body(amount=7))
        send(client, body(amount=2, debitcredit="D"))
        today = str(business_date(timezone.now()))
        answer = client.get(self.PATH, {"branch": "0001", "account": ANA.account, "from": today}).json()
        assert answer == {
            "branch": "0001",
            "account": ANA.account,
            "currency": "BRL",
            "date_from": today,
            "date_to": today,
            "debits": "2.00",
            "credits": "7.00",
            "events": [
                {"eventcode": ANY, "description": "anything", "debitcredit": "D", "count": 1, "amount": "2.00"},
                {"eventcode": ANY, "description": "anything", "debitcredit": "C", "count": 1, "amount": "7.00"},
            ],
        }

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ({"from": "2020-01-01", "to": "2021-01-02"}, 422),
            ({"account": "1"}, 422),
            ({"from": "x"}, 422),
            ({"branch": "nope"}, 404),
            ({"branch": "0001", "account": "nope"}, 404),
            ({"branch": "a\x00"}, 404),
        ],
    )
    def test_refuse_what_is_malformed_or_unknown(self, client: APIClient, query: dict[str, Any], status: int) -> None:
        assert client.get(self.PATH, query).status_code == status


def text_of(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode()


class TestExports:
    PATH = f"{ACCOUNT}/statement"

    @pytest.mark.parametrize(
        ("query", "accept", "kind", "extension"),
        [
            ({"format": "csv"}, "*/*", "text/csv; charset=utf-8", "csv"),
            ({}, "text/csv", "text/csv; charset=utf-8", "csv"),
            ({"format": "ofx"}, "*/*", "application/x-ofx; charset=utf-8", "ofx"),
            ({}, "application/x-ofx, */*;q=0.5", "application/x-ofx; charset=utf-8", "ofx"),
        ],
    )
    def test_are_asked_for_by_address_or_header(
        self, client: APIClient, query: dict[str, str], accept: str, kind: str, extension: str
    ) -> None:
        send(client, body(amount=7))
        today = business_date(timezone.now())
        answer = client.get(self.PATH, {"from": str(today), **query}, headers={"Accept": accept})
        assert (answer.status_code, answer["Content-Type"]) == (200, kind)
        name = f"statement-0001-{ANA.account}-BRL-{today}-{today}.{extension}"
        assert answer["Content-Disposition"] == f'attachment; filename="{name}"'
        assert "7.00" in text_of(answer)

    def test_json_is_what_everybody_else_gets(self, client: APIClient) -> None:
        for headers in ({}, {"Accept": "text/html,*/*;q=0.8"}, {"Accept": "application/json"}):
            assert client.get(self.PATH, headers=headers).json()["lines"] == []

    @pytest.mark.parametrize("query", [{"format": "csv"}, {"format": "ofx"}])
    def test_are_refused_by_a_problem_like_everything(self, client: APIClient, query: dict[str, str]) -> None:
        answer = client.get("/ledger/accounts/0001/nobody/statement", query)
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
        assert answer.json()["code"] == "R004"
        assert client.get(self.PATH, {**query, "from": "x"}).json()["code"] == "R001"

    def test_of_a_kind_that_nobody_makes_are_not_acceptable(self, client: APIClient) -> None:
        for query, accept in (({"format": "pdf"}, "*/*"), ({}, "application/pdf")):
            answer = client.get(self.PATH, query, headers={"Accept": accept})
            assert (answer.status_code, answer.json()["code"]) == (406, "R007")


@pytest.mark.django_db(transaction=True)
class TestUnderAsgi:
    """As the web server calls the project: each request in a thread of its own, with its own connection."""

    def test_parts_are_sent_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.ledger.exports.PAGE_LINES", 2)
        now = timezone.now()
        open_bank(now)
        for _ in range(3):
            post(line(ANA, "C", 1), now)
        with transaction.atomic():
            create_account(name="Reader", scopes=["ledger:read"], code="acc_reader", now=now)
            issued = issue_secret(account_id="acc_reader", now=now)
        login = base64.b64encode(f"{issued.account_id}:{issued.secret}".encode())
        status, headers, parts = run_apart(self.get(f"{ACCOUNT}/statement", b"format=csv", login))
        assert (status, headers[b"content-type"]) == (200, b"text/csv; charset=utf-8")
        assert [part.count(b"\r\n") for part in parts] == [1, 2, 1]

    async def get(self, path: str, query: bytes, login: bytes) -> tuple[int, dict[bytes, bytes], list[bytes]]:
        headers = [(b"host", b"localhost"), (b"authorization", b"Basic " + login)]
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
        running = ApplicationCommunicator(ThreadedHandler(2), {**scope, "scheme": "https"})
        await running.send_input({"type": "http.request", "body": b"", "more_body": False})
        start = await running.receive_output(30)
        parts = []
        while (message := await running.receive_output(30)).get("more_body"):
            parts.append(message["body"])
        await running.wait(90)
        return start["status"], {name.lower(): value for name, value in start["headers"]}, [part for part in parts if part]


class TestScopes:
    PATHS = (
        f"{ACCOUNT}/balance?as_of=2026-01-01T00:00:00Z",
        "/ledger/totals",
        f"{ACCOUNT}/statement?format=csv",
        f"{ACCOUNT}/statement?format=ofx",
    )

    def test_of_reading_are_needed(self, client: APIClient) -> None:
        poster = client_with("ledger:post")
        for path in self.PATHS:
            assert (poster.get(path).status_code, APIClient().get(path).status_code) == (403, 401)
            assert client_with("ledger:read").get(path).status_code in (200, 404)
