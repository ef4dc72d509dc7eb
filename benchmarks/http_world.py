"""The shop of benchmarks/http_orders.py: many customers with money, several kinds of tickets, one merchant."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.transactions import transaction
from apps.customers import public as customers
from apps.ledger import public as ledger
from apps.orders.public import stock_tickets
from config import demo

# Many, so that orders seldom wait for each other's account or ticket; the merchant's sales account is one, as in life.
CUSTOMERS, TICKETS = 500, 20
PRICE = Decimal("10.50")


@dataclass(frozen=True, slots=True)
class Shop:
    """What a client needs."""

    authorization: str
    customers: list[UUID]
    tickets: list[UUID]

    def bodies(self) -> Iterator[bytes]:
        """Orders without end: each by the next customer, for one ticket of the next kind, from the balance."""
        for number in count():
            item = {"id": str(self.tickets[number % TICKETS]), "name": "day-one", "amount": 10.50, "quantity": 1}
            order = {
                "customerId": str(self.customers[number % CUSTOMERS]),
                "amount": 10.50,
                "items": [item],
                "payment": {"method": "balance"},
            }
            yield json.dumps(order).encode()


def prepare(*, orders_max: int) -> Shop:
    """An empty database, migrated, with a shop that can sell so many tickets to each customer."""
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0, interactive=False)
    now = timezone.now()
    demo.create_shop(now=now)
    secret = demo.issue_credentials(now=now).secret
    authorization = "Basic " + base64.b64encode(f"{demo.ACCOUNT_ID}:{secret}".encode()).decode()
    shop = _stock(authorization, orders_max, now=now)
    with connection.cursor() as cursor:
        # Not the empty ones: PostgreSQL would believe that they stay empty, and plan scans of whole tables.
        cursor.execute("ANALYZE customers_customer, orders_ticket, ledger_account, ledger_transaction")
    return shop


@transaction
def _stock(authorization: str, orders_max: int, *, now: datetime) -> Shop:
    tickets = [uuid7() for _ in range(TICKETS)]
    for ticket_id in tickets:
        stock_tickets(ticket_id=ticket_id, name="day-one", price=PRICE, available=orders_max, now=now)
    buyers = [_customer(number, now=now) for number in range(CUSTOMERS)]
    deposits = [_deposit(number, PRICE * orders_max, now=now) for number in range(CUSTOMERS)]
    assert all(result.refusal is None for result in ledger.post_batch(deposits, now=now))
    return Shop(authorization, buyers, tickets)


def _customer(number: int, *, now: datetime) -> UUID:
    account = f"bench-{number:06}"
    ledger.open_account(branch=settings.LEDGER_BRANCH, account=account, description="A customer", now=now)
    view = customers.create_customer(
        account_id=demo.ACCOUNT_ID,
        name=f"Customer {number}",
        cpf=_cpf(number),
        email=f"customer{number}@example.com",
        default_method="balance",
        ledger_branch=settings.LEDGER_BRANCH,
        ledger_account=account,
        now=now,
    )
    return view.id


def _deposit(number: int, amount: Decimal, *, now: datetime) -> ledger.Entry:
    branch = settings.LEDGER_BRANCH
    return ledger.Entry.transfer(
        tracekey=uuid7(),
        debit=ledger.AccountRef(branch, "cash"),
        credit=ledger.AccountRef(branch, f"bench-{number:06}"),
        amount=amount,
        eventcode=demo.EVENT_DEPOSIT,
        description="Opening balance",
    )


def _cpf(number: int) -> str:
    digits = [int(digit) for digit in f"{100_000_000 + number}"]
    for _ in range(2):
        total = sum((len(digits) + 1 - place) * digit for place, digit in enumerate(digits))
        digits.append((11 - total % 11) % 11 % 10)
    return "".join(map(str, digits))


class InProcess:
    """Orders through Django's own handler in this process: for the profile."""

    def __init__(self, shop: Shop) -> None:
        self._bodies = shop.bodies()
        self._client = Client(SERVER_NAME="localhost", headers={"Authorization": shop.authorization})

    def post_one(self) -> Any:
        """Place one order, answered as production answers. Raises AssertionError unless it was decided at once."""
        answer: Any = self._client.post("/orders", next(self._bodies), content_type="application/json")
        assert answer.status_code == 201, answer.content
        return answer
