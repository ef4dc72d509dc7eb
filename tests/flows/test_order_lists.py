"""GET /orders: a merchant's own orders, page by page."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client, override_settings

from apps.common.pagination import encode_cursor
from config import demo
from tests import shop
from tests.flows.test_order_requests import basic

OTHER = "acc_other"


@pytest.fixture
def mine(opened: demo.Demo) -> Client:
    return Client(headers=basic(opened.account, opened.secret))


def buy(client: Client, **changes: Any) -> str:
    found: str = shop.post_order(client, shop.body(**changes), Prefer="respond-async").json()["id"]
    return found


def ids(client: Client, **query: str) -> list[str]:
    answer = client.get("/orders", query)
    assert answer.status_code == 200, answer.json()
    return [order["id"] for order in answer.json()["orders"]]


class TestOrders:
    def test_are_told_newest_first_as_their_own_address_tells_them(self, mine: Client) -> None:
        first, second = buy(mine), buy(mine)
        page = mine.get("/orders").json()
        assert [order["id"] for order in page["orders"]] == [second, first]
        whole = mine.get(f"/orders/{second}").json()
        told = page["orders"][0]
        assert {name: whole[name] for name in told if name != "links"} == {
            name: told[name] for name in told if name != "links"
        }
        assert told["links"]["self"] == f"/orders/{second}"
        assert page["nextCursor"] is None

    def test_say_nothing_of_a_card(self, mine: Client) -> None:
        buy(mine)
        said = mine.get("/orders").content.decode()
        assert "tok_" not in said
        assert "4242" not in said

    def test_page_through_everything_once(self, mine: Client) -> None:
        made = [buy(mine) for _ in range(5)]
        seen: list[str] = []
        cursor = None
        while True:
            page = mine.get("/orders", {"limit": "2", **({"cursor": cursor} if cursor else {})}).json()
            seen += [order["id"] for order in page["orders"]]
            buy(mine)  # what comes meanwhile is on no later page
            cursor = page["nextCursor"]
            if cursor is None:
                break
        assert seen == made[::-1]

    def test_of_a_status_a_customer_and_a_time(self, mine: Client) -> None:
        first, second = buy(mine), buy(mine)
        shop.Order.objects.filter(pk=first).update(status="STUCK")
        shop.Order.objects.filter(pk=second).update(customer_id=(customer := uuid4()))
        at = mine.get(f"/orders/{second}").json()["createdAt"]
        assert ids(mine, status="STUCK") == [first]
        assert ids(mine, customerId=str(customer)) == [second]
        assert ids(mine, customerId=str(customer), status="STUCK") == []
        assert ids(mine, createdFrom=at) == [second]
        assert ids(mine, createdUntil=at) == [first]

    def test_of_others_and_of_nobody_are_in_no_list(self, opened: demo.Demo, mine: Client, client: Client) -> None:
        buy(client)
        theirs = buy(mine)
        shop.Order.objects.filter(pk=theirs).update(account_id=OTHER)
        assert ids(mine) == ids(mine, customerId=str(demo.CUSTOMER_ID)) == []
        for anonymous in (True, False):
            with override_settings(ORDERS_ALLOW_ANONYMOUS=anonymous):
                assert (client.get("/orders").status_code, client.get("/orders").json()["code"]) == (401, "R010")

    @pytest.mark.parametrize(
        "query",
        [
            {"limit": "0"},
            {"limit": "501"},
            {"cursor": "x"},
            {"cursor": encode_cursor(str(UUID(int=7)))},
            {"status": "DONE"},
            {"customerId": "maria"},
            {"createdFrom": "2026-01-01"},
            {"createdFrom": "2026-01-02T00:00:00Z", "createdUntil": "2026-01-01T00:00:00Z"},
        ],
    )
    def test_malformed_are_refused(self, mine: Client, query: dict[str, str]) -> None:
        answer = mine.get("/orders", query)
        assert (answer.status_code, answer.json()["code"]) == (422, "R001")
        assert answer.json()["field"] in query
