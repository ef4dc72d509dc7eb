"""Pages of a list, put together, are the list: whatever stands at one moment, is filtered, or comes in between."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.common.pagination import Page, Slice
from apps.orders.models import Order
from apps.orders.queries import ListedOrder, orders_page

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MINE = "acc_mine"
# Few values of each, so that rows meet at one moment and most filters find some.
rows = st.lists(
    st.tuples(
        st.sampled_from([MINE, MINE, "acc_other"]),
        st.sampled_from(["COMPLETED", "STUCK"]),
        st.integers(1, 2).map(lambda number: UUID(int=number)),
        st.integers(0, 4).map(lambda second: NOW + timedelta(seconds=second)),
    ),
    max_size=25,
)
statuses = st.sampled_from([None, "COMPLETED", "STUCK"])
customers = st.sampled_from([None, UUID(int=1), UUID(int=2)])
moments = st.none() | st.integers(-1, 5).map(lambda second: NOW + timedelta(seconds=second))


def place(account: str, status: str, customer: UUID, at: datetime) -> Order:
    return Order.objects.create(
        account_id=account, status=status, customer_id=customer, created_at=at, amount=Decimal(1), payment_method="card"
    )


@pytest.mark.django_db
class TestPages:
    @given(
        rows=rows,
        status=statuses,
        customer=customers,
        since=moments,
        until=moments,
        rows_max=st.integers(1, 6),
        newer=st.booleans(),
    )
    @hypothesis_settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True
    )
    def test_put_together_are_the_list(
        self,
        rows: list[tuple[str, str, UUID, datetime]],
        status: str | None,
        customer: UUID | None,
        since: datetime | None,
        until: datetime | None,
        rows_max: int,
        newer: bool,
    ) -> None:
        with transaction.atomic():
            made = [place(*row) for row in rows]
            expected = [
                order.pk
                for order in sorted(made, key=lambda order: (order.created_at, order.pk), reverse=True)
                if order.account_id == MINE
                and status in (None, order.status)
                and customer in (None, order.customer_id)
                and (since is None or order.created_at >= since)
                and (until is None or order.created_at < until)
            ]
            seen: list[UUID] = []
            cursor = None
            for _ in range(len(made) + 1):
                part = Slice(rows_max=rows_max, cursor=cursor, since=since, until=until)
                page: Page[ListedOrder] = orders_page(MINE, part, status=status, customer_id=customer)
                assert 0 < len(page.rows) <= rows_max or not expected
                seen += [order.id for order in page.rows]
                cursor = page.next_cursor
                if cursor is None:
                    break
                if newer:  # what is placed meanwhile is on no later page
                    place(MINE, "STUCK", UUID(int=1), NOW + timedelta(days=1))
            transaction.set_rollback(True)
        assert (seen, cursor) == (expected, None)
