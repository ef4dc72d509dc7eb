"""What merchants do: orders, returns, payments of their own, webhooks. All of it over the REST API."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.utils import timezone

from config.scenes import plan
from config.scenes.plan import Fate, Order
from config.scenes.progress import Progress
from config.scenes.web import Api, NobodyThere, Refused, until

# A status that nothing changes any more by itself, or for long.
OVER = {"COMPLETED", "REJECTED", "PAYMENT_NOT_COMPLETED", "CANCELLED", "STUCK", "RETURNED", "HANDLED"}
SETTLE_S, SETTLE_S_EACH = 60.0, 1.0  # how long orders are waited for: even a busy machine ends one in a second
PAYMENTS_MIN, PAYMENTS_SHARE = 14, 5  # merchants' own: one for so many orders, and each fate of below once at least
DELIVER_S_MAX = 30
NOBODY = "http://127.0.0.1:9/hooks"  # the discard port: nobody listens there
EVENT_TYPES = [
    "order.completed",
    "order.payment_not_completed",
    "payment.captured",
    "payment.refunded",
    "document.authorised",
]


@dataclass(slots=True)
class Trade:
    """The merchants at work, and what came of it. ``placed``: order ids by the order's key."""

    apis: dict[str, Api]
    seed: int
    progress: Progress
    placed: dict[str, str] = field(default_factory=dict)

    # --- Orders -------------------------------------------------------------------------------------------------------
    def place(self, name: str, orders: list[Order]) -> None:
        """Under an Idempotency-Key each: what was placed before is not placed again."""
        for order in self.progress.each(name, orders, len(orders)):
            found = self.apis[order.customer.merchant].post("/orders", order_body(order), key=order.key, waits=False)
            self.placed[order.key] = found["id"]

    def settle(self, name: str, orders: Iterable[Order], *, wanted: set[str] = OVER) -> bool:
        """Wait until each of these is over, or in another wanted status. False when some still are not."""
        waiting = list(orders)
        total = len(waiting)
        self.progress.begin(name, total)

        def all_are() -> bool:
            found = self._statuses_of(waiting)
            waiting[:] = [order for order in waiting if found.get(order.key) not in wanted]
            self.progress.reach(total - len(waiting))
            return not waiting

        done = until(all_are, timeout_s=SETTLE_S + total * SETTLE_S_EACH)
        self.progress.end("" if done else f"{total - len(waiting)} of {total}; the others go on")
        return done

    def _statuses_of(self, orders: Iterable[Order]) -> dict[str, str]:
        """The status of each by its key: of each merchant the newest orders, as far back as these are."""
        found: dict[str, str] = {}
        unseen: dict[str, dict[str, str]] = {}
        for order in orders:
            unseen.setdefault(order.customer.merchant, {})[self.placed[order.key]] = order.key
        for merchant, keys in unseen.items():
            for row in self.apis[merchant].rows("/orders", "orders", "nextCursor"):
                if row["id"] in keys:
                    found[keys.pop(row["id"])] = row["status"]
                if not keys:
                    break
        return found

    def statuses(self, orders: Iterable[Order]) -> Counter[str]:
        """How many of these orders are in each status."""
        return Counter(self._statuses_of(orders).values())

    def run_of(self, order: Order) -> str:
        """The id of the order's run."""
        found = self.apis[order.customer.merchant].get(f"/orders/{self.placed[order.key]}")
        return str(found["run"]["id"])

    # --- Returns ------------------------------------------------------------------------------------------------------
    def give_back(self, orders: list[Order]) -> dict[str, str]:
        """Ask for the return of each; the run's id by the order's key."""
        runs: dict[str, str] = {}
        words = ("It does not fit.", "Two were bought by mistake.", "The date does not suit us.", "We fell ill.")
        for place, order in enumerate(self.progress.each("returns", orders, len(orders))):
            path, body = f"/orders/{self.placed[order.key]}/returns", {"reason": words[place % len(words)]}
            with suppress(Refused):  # its card was captured too late for us, say
                found = self.apis[order.customer.merchant].post(path, body, key=f"{order.key}-return")
                runs[order.key] = found["runId"]
        return runs

    # --- Payments of their own ----------------------------------------------------------------------------------------
    def pay(self, orders: int) -> None:
        """Payments without an order: captured, refused, kept, captured later, voided, given back."""
        count = max(PAYMENTS_MIN, orders // PAYMENTS_SHARE)
        merchants = list(self.apis)
        made: list[tuple[Api, str, str, str]] = []  # whose, what shall become of it, its id, its key
        for number in self.progress.each("merchants' own payments", range(count), count):
            fate, _ = PAYMENTS[number % len(PAYMENTS)]
            api, key = self.apis[merchants[number % len(merchants)]], f"demo-{self.seed}-payment-{number}"
            body = payment_body(self.seed, number)
            made.append((api, fate, api.post("/payments", body, key=key)["id"], key))
        self._follow([one for one in made if one[1] in FOLLOWED])

    def _follow(self, made: list[tuple[Api, str, str, str]]) -> None:
        """What comes after a payment, when it is known."""
        for api, fate, payment_id, key in self.progress.each("captures and refunds", made, len(made)):
            path, what, body = f"/payments/{payment_id}", *FOLLOWED[fate]
            until(lambda api=api, path=path: api.get(path)["status"] != "pending", timeout_s=SETTLE_S)  # type: ignore[misc]
            wanted = "AUTHORISED" if fate in KEPT else "CAPTURED"
            until(lambda api=api, path=path, wanted=wanted: api.get(path)["state"] == wanted, timeout_s=10)  # type: ignore[misc]
            with suppress(Refused):  # R211, R212: a run before this one was cut off behind it
                api.post(f"{path}/{what}", body, key=f"{key}-{what}")

    # --- Webhooks -----------------------------------------------------------------------------------------------------
    def register(self, url: str) -> dict[str, str]:
        """Each merchant's endpoint, and one at which nobody listens, for all seeds. The good ones' ids by merchant."""
        ids: dict[str, str] = {}
        for code, api in self.apis.items():
            ids[code] = _endpoint(api, description="Order desk", url=url)
        _endpoint(next(iter(self.apis.values())), description="Old warehouse", url=NOBODY)
        return ids

    def hear(self, endpoints: dict[str, str]) -> None:
        """Wait until what was meant for the good ones is delivered."""
        self.progress.begin("webhooks delivered", 1)

        def none_waits() -> bool:
            return not any(self._waiting(code, one) for code, one in endpoints.items())

        done = until(none_waits, timeout_s=DELIVER_S_MAX)
        self.progress.end("all" if done else "not all; the rest waits")

    def hang_up(self, endpoints: dict[str, str]) -> None:
        """Disable the good endpoints: their server ends with us."""
        for code, one in endpoints.items():
            with suppress(NobodyThere, Refused):
                self.apis[code].patch(f"/webhooks/endpoints/{one}", {"enabled": False})

    def _waiting(self, code: str, endpoint: str) -> list[Any]:
        page = self.apis[code].get(f"/webhooks/endpoints/{endpoint}/deliveries", state="PENDING", limit=1)
        found: list[Any] = page["deliveries"]
        return found


# What shall become of a merchant's payment, and the card that it is paid by.
PAYMENTS = (
    *(("captured", "4242424242424242"), ("captured", "5555555555554444"), ("captured later", "4242424242424242")),
    *(("declined", "4000000000009995"), ("refunded in part", "5555555555554444"), ("kept", "378282246310005")),
    *(("voided", "4242424242424242"), ("refunded", "4242424242424242"), ("refund refused", "4000000000005126")),
    *(("too large", "4242424242424242"), ("silent", "4000000000003006"), ("captured", "378282246310005")),
)
KEPT = {"captured later", "kept", "voided"}
FOLLOWED: dict[str, tuple[str, dict[str, str]]] = {
    "captured later": ("capture", {}),
    "voided": ("void", {}),
    "refunded in part": ("refunds", {"amount": "5.00", "reason": "Delivered late."}),
    "refunded": ("refunds", {"reason": "The event was cancelled."}),
    "refund refused": ("refunds", {"reason": "Paid twice."}),
}


def order_body(order: Order) -> dict[str, Any]:
    """POST /orders. The same for the same order, always, as its Idempotency-Key demands: a token would be another one."""
    name, price = plan.SOLD_OUT_TICKET if order.ticket < 0 else plan.TICKETS[order.ticket]
    item = {"id": str(plan.ticket_id(name)), "name": name, "amount": f"{price:.2f}", "quantity": order.quantity}
    return {
        "customerId": str(order.customer.id),
        "amount": f"{order.amount:.2f}",
        "items": [item],
        "payment": {"method": "balance" if order.fate in plan.BY_BALANCE else "card"},  # the one that is saved
    }


def payment_body(seed: int, number: int) -> dict[str, Any]:
    """POST /payments, of a merchant's own payment. The same for the same number until the year is over."""
    fate, card = PAYMENTS[number % len(PAYMENTS)]
    amount = Decimal(2_000 if fate == "too large" else 15 + 7 * (number % 60))
    year = timezone.now().year + plan.CARD_YEARS
    return {
        "amount": f"{amount:.2f}",
        "card": {"number": card, "exp_month": 12, "exp_year": year, "cvv": plan.cvv_of(card)},
        "reference": f"Invoice {seed}-{1000 + number}",
        "capture": fate not in KEPT,
    }


def _endpoint(api: Api, *, description: str, url: str) -> str:
    """Registered, or moved to this address and enabled."""
    for known in api.get("/webhooks/endpoints")["endpoints"]:
        if known["description"] == description:
            api.patch(f"/webhooks/endpoints/{known['id']}", {"url": url, "enabled": True})
            return str(known["id"])
    body = {"url": url, "event_types": EVENT_TYPES, "description": description}
    return str(api.post("/webhooks/endpoints", body)["id"])


def waited_for(orders: Iterable[Order]) -> list[Order]:
    """Those that come to an end, or to a person, within seconds."""
    return [order for order in orders if order.fate not in plan.LINGER]


def of_fate(orders: Iterable[Order], *fates: Fate) -> list[Order]:
    """Those that shall come to this."""
    return [order for order in orders if order.fate in fates]
