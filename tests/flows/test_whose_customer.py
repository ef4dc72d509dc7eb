"""Customers, with their saved cards and balances, are charged by the merchant whom they belong to, and by no other."""

import base64
from uuid import UUID

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.customers import public as customers
from apps.identity import public as identity
from apps.orders.models import Order
from config import demo
from tests import shop

OTHER, THIRD = "acc_other", "acc_third"
METHODS = pytest.mark.parametrize("body", [shop.body(), shop.by_balance()], ids=["saved card", "balance"])


def headers_of(account_id: str) -> dict[str, str]:
    """A new account's credentials."""
    now = timezone.now()
    with transaction.atomic():
        identity.create_account(name="A shop", scopes=["orders:write", "orders:read"], code=account_id, now=now)
        secret = identity.issue_secret(account_id=account_id, now=now).secret
    return {"Authorization": "Basic " + base64.b64encode(f"{account_id}:{secret}".encode()).decode()}


def give(to: str) -> None:
    with transaction.atomic():
        customers.give_customer(demo.CUSTOMER_ID, to=to, now=timezone.now())


@pytest.fixture
def other(opened: demo.Demo) -> dict[str, str]:
    return headers_of(OTHER)


@pytest.fixture
def strict(settings: Settings) -> None:
    """As on a server: nobody orders without credentials."""
    settings.ORDERS_ALLOW_ANONYMOUS = False


class TestCustomerOfAMerchant:
    @METHODS
    def test_is_not_charged_by_another_one(self, other: dict[str, str], client: Client, body: dict[str, object]) -> None:
        give(demo.ACCOUNT_ID)
        with shop.counted_orders(0):
            answer = shop.post_order(client, body, **other)
        assert (answer.status_code, answer.json()["code"]) == (422, "R801")
        shop.assert_clean_slate()

    def test_is_answered_like_one_that_there_is_not(self, other: dict[str, str], client: Client) -> None:
        give(demo.ACCOUNT_ID)
        theirs = shop.post_order(client, **{"X-Request-ID": "r"}, **other)
        nobody = shop.body(customerId=str(UUID(int=1)))
        assert theirs.content == shop.post_order(client, nobody, **{"X-Request-ID": "r"}, **other).content

    def test_is_not_charged_without_credentials(self, opened: demo.Demo, client: Client) -> None:
        give(demo.ACCOUNT_ID)
        assert shop.post_order(client).json()["code"] == "R801"

    def test_is_charged_by_the_merchant(self, opened: demo.Demo, client: Client, strict: None) -> None:
        give(OTHER)
        assert shop.post_order(client, **headers_of(OTHER)).status_code == 202


class TestCustomerOfNobody:
    """As all were before customers belonged to merchants."""

    def test_is_charged_by_nobody_new_where_orders_need_credentials(
        self, other: dict[str, str], client: Client, strict: None
    ) -> None:
        with shop.counted_orders(0):
            assert shop.post_order(client, **other).json()["code"] == "R801"

    def test_goes_on_with_those_who_had_orders_of_theirs(
        self, other: dict[str, str], client: Client, strict: None, settings: Settings
    ) -> None:
        settings.ORDERS_ALLOW_ANONYMOUS = True
        assert shop.post_order(client, **other).status_code == 202
        settings.ORDERS_ALLOW_ANONYMOUS = False
        assert shop.post_order(client, **other).status_code == 202
        assert shop.post_order(client, **headers_of(THIRD)).json()["code"] == "R801"
        assert set(Order.objects.values_list("account_id", flat=True)) == {OTHER}

    def test_may_be_anybodys_where_orders_need_no_credentials(self, other: dict[str, str], client: Client) -> None:
        assert shop.post_order(client).status_code == 202
        assert shop.post_order(client, **other).status_code == 202
