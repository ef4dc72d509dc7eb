"""A merchant's lists read what they tell and little more, however much there is: each filter has its index."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from pytest_django import Settings

from apps.common.pagination import Page, Slice, encode_cursor
from apps.fiscal_docs import queries as documents
from apps.orders import queries as orders
from apps.payments import queries as payments

pytestmark = pytest.mark.django_db

ROWS = 20_000  # enough that PostgreSQL prefers an index because it is cheaper; with a million the plans are the same
PAGE = 50
ROWS_READ_MAX = 500  # a few hundred rows of a narrow time may also be read and sorted; the tables have thousands
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MINE, CUSTOMER = "acc_mine", UUID(int=1)
LONG_AGO = {"since": NOW - timedelta(minutes=ROWS - 500), "until": NOW - timedelta(minutes=ROWS - 900)}
MIDDLE = encode_cursor((NOW - timedelta(minutes=ROWS // 2 + 500)).isoformat(), str(UUID(int=0)))

# One row a minute back from NOW, of ten merchants in turn; I have none in the newer half, where an index on the time alone
# would look for mine in vain. Few are in an odd state, few of my orders are of one customer, and another merchant uses one
# reference of mine for all of his.
_ORDERS = """
INSERT INTO orders_order (id, account_id, customer_id, amount, currency, payment_method, card_token, status, error_code,
    error_detail, created_at)
SELECT gen_random_uuid(), CASE WHEN n > %(rows)s / 2 AND n %% 10 = 1 THEN %(mine)s ELSE 'acc_' || n %% 10 END,
    CASE WHEN n %% 199 = 1 THEN %(customer)s ELSE gen_random_uuid() END, 10, 'BRL', 'card', '',
    CASE WHEN n %% 501 = 1 THEN 'STUCK' ELSE 'COMPLETED' END, '', '', %(now)s - n * interval '1 minute'
FROM generate_series(1, %(rows)s) AS n
"""
_PAYMENTS = """
INSERT INTO payments_payment (id, step_key, reply_to, account_id, order_ref, method, amount, currency, card_bin, card_last4,
    card_brand, captures_itself, state, captured_amount, refunded_amount, error_code, error_message, created_at, updated_at)
SELECT gen_random_uuid(), 'k' || n, '', CASE WHEN n > %(rows)s / 2 AND n %% 10 = 1 THEN %(mine)s ELSE 'acc_' || n %% 10 END,
    CASE WHEN n %% 10 = 0 OR n %% 199 = 1 THEN 'order-1' ELSE 'order-' || n END, 'card', 10, 'BRL', '424242', '4242',
    'visa', true, CASE WHEN n %% 501 = 1 THEN 'UNKNOWN' ELSE 'AUTHORISED' END, 0, 0, '', '',
    %(now)s - n * interval '1 minute', %(now)s
FROM generate_series(1, %(rows)s) AS n
"""
# Every fiftieth of somebody's is one of nobody's, which is read where anybody may order.
_DOCUMENTS = """
INSERT INTO fiscal_docs_document (id, step_key, kind, environment, issuer_cnpj, recipient, emission_type, total, order_id,
    account_id, state, protocol, refusal_code, refusal_reason, schema_version, created_at, updated_at)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(%(rows)s - n), 12, '0'))::uuid, 'k' || n, '65', '2', '', '', '1', 10,
    CASE WHEN n %% 199 = 1 THEN %(customer)s ELSE gen_random_uuid() END,
    CASE WHEN n > %(rows)s / 2 AND n %% 10 = 1 THEN %(mine)s WHEN n > %(rows)s / 2 AND n %% 50 = 0 THEN ''
        ELSE 'acc_' || n %% 10 END,
    CASE WHEN n %% 501 = 1 THEN 'REJECTED' ELSE 'AUTHORISED' END, '', '', '', '', %(now)s - n * interval '1 minute', %(now)s
FROM generate_series(1, %(rows)s) AS n
"""


@pytest.fixture(autouse=True)
def _many() -> None:
    with connection.cursor() as cursor:
        for statement in (_ORDERS, _PAYMENTS, _DOCUMENTS):
            cursor.execute(statement, {"mine": MINE, "customer": CUSTOMER, "now": NOW, "rows": ROWS})
        cursor.execute("ANALYZE orders_order, payments_payment, fiscal_docs_document")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every part of a plan."""
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def plans_of(ask: Callable[[], Page[Any]]) -> tuple[Page[Any], list[dict[str, Any]]]:
    """The page, and how PostgreSQL found it."""
    found: list[dict[str, Any]] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", params, many, context)
        (told,) = context["cursor"].fetchone()
        found.extend(nodes((json.loads(told) if isinstance(told, str) else told)[0]["Plan"]))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        return ask(), found


ORDERS: dict[str, Callable[[Slice], Page[Any]]] = {
    "orders": lambda part: orders.orders_page(MINE, part),
    "stuck": lambda part: orders.orders_page(MINE, part, status="STUCK"),
    "completed": lambda part: orders.orders_page(MINE, part, status="COMPLETED"),
    "of a customer": lambda part: orders.orders_page(MINE, part, customer_id=CUSTOMER),
    "completed of a customer": lambda part: orders.orders_page(MINE, part, customer_id=CUSTOMER, status="COMPLETED"),
}
PAYMENTS: dict[str, Callable[[Slice], Page[Any]]] = {
    "payments": lambda part: payments.payments_page(MINE, part),
    "unknown": lambda part: payments.payments_page(MINE, part, state="UNKNOWN"),
    "authorised": lambda part: payments.payments_page(MINE, part, state="AUTHORISED"),
    "of a reference": lambda part: payments.payments_page(MINE, part, reference="order-1"),
    "authorised of a reference": lambda part: payments.payments_page(MINE, part, reference="order-1", state="AUTHORISED"),
}
DOCUMENTS: dict[str, documents.Search] = {
    "documents": documents.Search(),
    "rejected": documents.Search(state="REJECTED"),
    "authorised": documents.Search(state="AUTHORISED"),
    "of an order": documents.Search(order_id=CUSTOMER),
    "authorised of an order": documents.Search(order_id=CUSTOMER, state="AUTHORISED"),
}


def check(what: str, plan: list[dict[str, Any]]) -> None:
    assert not [node for node in plan if node["Node Type"] == "Seq Scan"], f"{what} scans the whole table"
    indexed = [node for node in plan if "Index Name" in node]
    read = sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in plan if "Relation Name" in node)
    names = [node["Index Name"] for node in indexed]
    assert read <= ROWS_READ_MAX, f"{what} reads {read} rows by {names}"


@pytest.mark.parametrize("lists", [ORDERS, PAYMENTS], ids=["orders", "payments"])
class TestEveryList:
    def test_reads_its_pages_from_an_index_whatever_is_asked_for(
        self, lists: dict[str, Callable[[Slice], Page[Any]]]
    ) -> None:
        for name, ask in lists.items():
            for period in ({}, LONG_AGO):
                page, plan = plans_of(lambda ask=ask, period=period: ask(Slice(rows_max=PAGE, **period)))  # type: ignore[misc]
                check(f"{name} {period}", plan)
                if not period:
                    assert page.rows, f"{name} finds nothing"
                    middle = Slice(rows_max=PAGE, cursor=MIDDLE)
                    page, plan = plans_of(lambda ask=ask, middle=middle: ask(middle))  # type: ignore[misc]
                    check(f"{name} behind the middle", plan)


@pytest.mark.parametrize("anybody", [True, False], ids=["where anybody may order", "of accounts alone"])
class TestTheListOfDocuments:
    def test_reads_its_pages_from_an_index_whatever_is_asked_for(self, anybody: bool, settings: Settings) -> None:
        settings.ORDERS_ALLOW_ANONYMOUS = anybody
        for name, wanted in DOCUMENTS.items():
            for cursor in (None, encode_cursor(str(UUID(int=0x7000 << 64 | 0x8 << 60 | ROWS // 4)))):
                page, plan = plans_of(
                    lambda wanted=wanted, cursor=cursor: documents.search(  # type: ignore[misc]
                        account_id=MINE, wanted=wanted, cursor=cursor, rows=PAGE
                    )
                )
                check(f"{name} behind {cursor}", plan)
                assert page.rows, f"{name} finds nothing"
