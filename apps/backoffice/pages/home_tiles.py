"""The numbers on Home, in fixed places."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from apps.backoffice.components.formats import duration, money
from apps.backoffice.components.links import list_link as rows
from apps.backoffice.components.waiting import UseCaseLine
from apps.messaging import public as messaging
from apps.orders import public as orders
from apps.saga import public as saga

RELAY_LAG_MAX = timedelta(seconds=10)  # the relay is woken at once and looks every second by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number in a fixed place. ``tone``: empty, warn or bad; a tile turns only when past its limit."""

    name: str
    value: int
    context: str
    href: str
    limit: str = ""
    tone: str = ""


def relay_is_late(messages: messaging.MessagesNow, *, now: datetime) -> bool:
    """Has a message waited for longer than the relay ever takes?"""
    return messages.oldest_to_relay_at is not None and now - messages.oldest_to_relay_at > RELAY_LAG_MAX


def order_tiles(*, now: datetime) -> list[Tile]:
    """Orders since midnight."""
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    today = orders.orders_since(midnight)
    declined = f"{today.rejected} sold out"
    return [
        Tile(name="Orders today", value=today.placed, context="since midnight", href=rows("orders_order", created="today")),
        Tile(
            name="Completed",
            value=today.completed,
            context=money(today.amount_completed),
            href=rows("orders_order", created="today", status__exact="COMPLETED"),
        ),
        Tile(
            name="Payment not completed",
            value=today.payment_not_completed,
            context=declined,
            href=rows("orders_order", created="today", status__exact="PAYMENT_NOT_COMPLETED"),
        ),
    ]


def run_tiles(runs: saga.RunsNow, found: tuple[saga.RunsInNeed, ...], waits: tuple[UseCaseLine, ...]) -> list[Tile]:
    """Runs in flight, stuck and late."""
    stuck = sum(group.runs for group in found if group.kind == "stuck")
    slow, late = sum(line.slow for line in waits), sum(line.late for line in waits)
    return [
        Tile(
            name="Runs in flight",
            value=runs.in_flight,
            context=f"{runs.waiting} waiting, {runs.undoing} undoing",
            href=rows("saga_run", needs="live"),
        ),
        Tile(
            name="Stuck",
            value=stuck,
            context="need a person" if stuck else "none",
            href=rows("saga_run", needs="stuck"),
            limit="limit 0",
            tone="bad" if stuck else "",
        ),
        Tile(
            name="Past the deadline",
            value=late,
            context=f"{slow} past the target",
            href=rows("saga_run", needs="late"),
            limit="limit 0",
            tone="bad" if late else "warn" if slow else "",
        ),
    ]


def message_tile(messages: messaging.MessagesNow, *, now: datetime) -> Tile:
    """What waits for the relay."""
    oldest = messages.oldest_to_relay_at
    late = relay_is_late(messages, now=now)
    return Tile(
        name="Messages to relay",
        value=messages.to_relay,
        context=f"oldest {duration(now - oldest)}" if oldest else "none waits",
        href=rows("messaging_pending"),
        limit=f"limit {duration(RELAY_LAG_MAX)}",
        tone="bad" if late else "",
    )
