"""Suspending over HTTP."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.ledger.models import Suspension
from tests.integration.ledger.api.test_views import body, client_with
from tests.integration.ledger.conftest import ANA, open_todays_bank

pytestmark = pytest.mark.django_db
ADDRESS = "/ledger/suspensions"


@pytest.fixture
def client() -> APIClient:
    open_todays_bank()
    return client_with("ledger:admin", "ledger:post")


def suspend(client: APIClient, **values: Any) -> Any:
    return client.post(ADDRESS, {"mode": "REFUSE", "reason": "a look", **values}, format="json")


class TestSuspensions:
    @pytest.mark.parametrize("scope", [{}, {"branch": "0001"}, {"branch": "0001", "account": ANA.account}])
    def test_are_made_listed_obeyed_and_lifted(self, client: APIClient, scope: dict[str, str]) -> None:
        made = suspend(client, **scope)
        assert made.status_code == 201
        told = {name: made.json()[name] for name in ("branch", "account", "mode", "reason", "suspendedby", "liftedat")}
        assert told == {
            "branch": None,
            "account": None,
            **scope,
            "mode": "REFUSE",
            "reason": "a look",
            "suspendedby": "acc_1",
            "liftedat": None,
        }
        assert client.get(ADDRESS).json() == {"suspensions": [made.json()]}
        refused = client.post("/ledger/transactions", body(), format="json")
        assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (409, "R130", True)
        assert refused.headers["Retry-After"]
        for _ in range(2):
            lifted = client.delete(f"{ADDRESS}/{made.json()['id']}")
            assert (lifted.status_code, lifted.json()["liftedby"]) == (200, "acc_1")
        assert client.get(ADDRESS).json() == {"suspensions": []}
        assert client.post("/ledger/transactions", body(), format="json").status_code == 201

    @pytest.mark.parametrize(
        ("wrong", "status"),
        [
            ({"mode": "STOP"}, 422),
            ({"reason": ""}, 422),
            ({"account": ANA.account}, 422),
            ({"until": "tomorrow"}, 422),
            ({"until": "2020-01-01T00:00:00Z"}, 422),
            ({"branch": "9999"}, 404),
            ({"branch": "0001", "account": "nobody"}, 404),
        ],
    )
    def test_refuse_what_is_wrong(self, client: APIClient, wrong: dict[str, str], status: int) -> None:
        assert suspend(client, **wrong).status_code == status
        assert Suspension.objects.count() == 0

    def test_last_as_long_as_is_said(self, client: APIClient) -> None:
        until = timezone.now() + timedelta(minutes=5)
        suspend(client, until=until.isoformat())
        assert Suspension.objects.get().until == until

    def test_need_their_own_scope(self) -> None:
        other = client_with("ledger:read", "ledger:post")
        assert suspend(other).status_code == 403
        assert other.get(ADDRESS).status_code == 403
        assert other.delete(f"{ADDRESS}/{uuid4()}").status_code == 403

    def test_that_are_not_there_are_not_lifted(self, client: APIClient) -> None:
        assert client.delete(f"{ADDRESS}/{uuid4()}").status_code == 404
