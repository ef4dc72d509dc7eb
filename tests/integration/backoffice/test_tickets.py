"""The list of tickets: what is held of each, however many there are."""

from decimal import Decimal
from uuid import uuid4

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.common.clock import uuid7
from apps.orders.models import Item, Order, Reservation, Ticket

LIST = "/admin/orders/ticket/"


def sell(name: str, *, status: str, quantity: int = 3) -> None:
    """An order of this ticket, whose reservation is in this status."""
    now = timezone.now()
    ticket, _ = Ticket.objects.get_or_create(name=name, defaults={"price": 10, "available": 9, "created_at": now})
    order = Order.objects.create(
        pk=uuid7(), customer_id=uuid4(), amount=Decimal(10), payment_method="card", created_at=now, status="PENDING"
    )
    Item.objects.create(order=order, ticket=ticket, name=name, amount=10, quantity=quantity)
    Reservation.objects.create(step_key=f"{order.pk}:0", order_id=order.pk, status=status, created_at=now)


class TestHeld:
    def test_is_what_orders_on_the_way_have_reserved(self, chief: Client) -> None:
        sell("Balcão", status="RESERVED", quantity=41)
        sell("Balcão", status="RESERVED", quantity=2)
        sell("Balcão", status="SOLD", quantity=100)
        sell("Plateia", status="RELEASED", quantity=100)
        page = chief.get(LIST)
        assert {row.name: page.context["cl"].model_admin.held(row) for row in page.context["cl"].result_list} == {
            "Balcão": 43,
            "Plateia": 0,
        }

    def test_costs_the_same_for_one_ticket_and_for_ten(self, chief: Client) -> None:
        def asked() -> int:
            with CaptureQueriesContext(connection) as queries:
                assert chief.get(LIST).status_code == 200
            return len(queries)

        sell("0", status="RESERVED")
        asked()  # the first page of a process looks some things up
        one = asked()
        for number in range(1, 10):
            sell(str(number), status="RESERVED")
        assert asked() == one
