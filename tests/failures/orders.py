"""Orders for a deployment: of every kind, good and bad, and what must have become of each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count
from django.utils import timezone

from apps.messaging.models import Pending, Redelivery
from apps.orders.models import Order
from apps.orders.operations import OrderLine
from apps.orders.sagas.place import PlaceOrder, place_order
from apps.saga.models import LIVE, Run
from config import demo
from tests import shop
from tests.deployment import Deployment

THREADS = 8
# The customer has 1000.00 for all tests of a deployment together.
BALANCE_AMOUNT = "0.10"
SOLD_OUT = [{"id": str(demo.SOLD_OUT_TICKET_ID), "name": "day-zero", "amount": 200.00, "quantity": 1}]

# What the order says, and how it ends: see docs/sandbox-cards.md.
KINDS: dict[str, tuple[Callable[[dict[str, str]], dict[str, Any]], str]] = {
    "card": (lambda _: shop.body(), "COMPLETED"),
    "balance": (lambda _: shop.by_balance(amount=float(BALANCE_AMOUNT)), "COMPLETED"),
    "answered twice": (lambda tokens: shop.by_card(tokens["answered_twice"]), "COMPLETED"),
    "answer lost": (lambda tokens: shop.by_card(tokens["answer_lost"]), "COMPLETED"),
    "card refused": (lambda tokens: shop.by_card(tokens["refused_card_token"]), "PAYMENT_NOT_COMPLETED"),
    "capture refused": (lambda tokens: shop.by_card(tokens["capture_refused_card_token"]), "PAYMENT_NOT_COMPLETED"),
    "no money": (lambda _: shop.by_balance(amount=5000), "PAYMENT_NOT_COMPLETED"),
    "sold out": (lambda _: shop.body(items=SOLD_OUT), "REJECTED"),
}


class Orders:
    """The orders of one test."""

    def __init__(self, deployed: Deployment) -> None:
        self._deployed = deployed
        self.kinds: dict[UUID, str] = {}

    def post(self, kinds: Sequence[str]) -> None:
        """Place them over HTTP, several at a time, in this order."""
        with ThreadPoolExecutor(THREADS) as threads:
            self.kinds.update(zip(threads.map(self._post, kinds), kinds, strict=True))

    def _post(self, kind: str) -> UUID:
        body = KINDS[kind][0](self._deployed.demo)
        status, order = self._deployed.request("POST", "/orders", body, Prefer="respond-async")
        assert status == 202, order
        return UUID(order["id"])

    def place_unheard(self, count: int) -> None:
        """Place good ones by this process's own verb: its wake-ups go to a broker without a worker."""
        command = PlaceOrder(
            account_id="",
            customer_id=demo.CUSTOMER_ID,
            amount=Decimal("10.50"),
            method=None,
            card_token=None,
            lines=(OrderLine(ticket_id=demo.TICKET_ID, name="day-one", amount=Decimal("200.00"), quantity=1),),
            idempotency_key=None,
            body={},
        )
        for _ in range(count):
            placed = place_order(command, inline_ms=0, now=timezone.now())
            assert placed.order_id is not None
            self.kinds[placed.order_id] = "card"

    def over(self) -> int:
        """How many runs have ended."""
        return self.runs().exclude(status__in=LIVE).count()

    def runs(self) -> Any:
        """Their runs."""
        return Run.objects.filter(subject_id__in=list(self.kinds))

    def all_end(self, *, revive: bool = False, timeout_s: float = 240) -> None:
        """Wait until every run is over and nothing is on its way; then each must have ended as its kind does."""
        self._deployed.until(lambda: self.over() == len(self.kinds), what=self._missing, revive=revive, timeout_s=timeout_s)
        self._deployed.until(
            lambda: not Pending.objects.exists() and not Redelivery.objects.exists(), what="no message waits", revive=revive
        )
        rows = Order.objects.filter(pk__in=list(self.kinds)).values_list("pk", "status", "error_code", "error_detail")
        wrong = [(self.kinds[pk], status, *why) for pk, status, *why in rows if status != KINDS[self.kinds[pk]][1]]
        assert not wrong, wrong

    def _missing(self) -> str:
        live = self.runs().filter(status__in=LIVE).values_list("use_case", "status", "cursor").annotate(Count("pk"))
        return f"every run is over; live are {list(live)}"

    def rescues(self) -> int:
        """How many runs the sweeper had to wake because nobody else had in time."""
        return int(self.runs().filter(rescues__gt=0).count())
