"""Questions over HTTP beside those of ``test_views``: as of a moment, totals, exports."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.clock import business_date
from tests.integration.ledger.api.test_views import body, client, client_with, send
from tests.integration.ledger.conftest import ANA, ANY

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
        then = timezone.now().replace(microsecond=0)
        answer = client.get(self.PATH, {"as_of": (then - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%S-03:00")})
        assert answer.status_code == 404  # the account was opened a moment later
        assert answer.json()["detail"] == "There was no such ledger account at that moment."

    @pytest.mark.parametrize("text", ["", "x", "2026-03-18", "2026-03-18T10:00:00", "0001-01-01T00:00:00+23:00", "1e9"])
    def test_of_what_is_no_moment_is_malformed(self, client: APIClient, text: str) -> None:
        answer = client.get(self.PATH, {"as_of": text})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "R001", "as_of")

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


class TestScopes:
    PATHS = (f"{ACCOUNT}/balance?as_of=2026-01-01T00:00:00Z", "/ledger/totals")

    def test_of_reading_are_needed(self, client: APIClient) -> None:
        poster = client_with("ledger:post")
        for path in self.PATHS:
            assert (poster.get(path).status_code, APIClient().get(path).status_code) == (403, 401)
            assert client_with("ledger:read").get(path).status_code in (200, 404)
