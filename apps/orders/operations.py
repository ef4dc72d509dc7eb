"""Verbs on an order and on the tickets in stock: create, reserve, release, confirm, reject."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, models
from django.db.models import Q

from apps.common import prepared
from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.common.transactions import transaction_required
from apps.messaging.contracts.orders import OrderChanged
from apps.messaging.public import publish
from apps.orders.models import Order, OrderStatus, Reservation, ReservationStatus, Ticket
from apps.webhooks.public import listens

# A line counts once in the stock's locks; more than this is a wholesale import, not a purchase.
ITEMS_MAX = 50
QUANTITY_MAX = 1000
ENDED = (OrderStatus.REJECTED, OrderStatus.PAYMENT_NOT_COMPLETED, OrderStatus.CANCELLED)  # without a sale


class UnknownItem(DomainError):
    """There is no such ticket."""

    code, status = "R301", 422


class SoldOut(DomainError):
    """There are not enough tickets in stock."""

    code = "R302"


class ReservationReleased(DomainError):
    """This reservation was released before it was made: the purchase is being undone."""

    code = "R303"


class DuplicateItem(DomainError):
    """The same ticket stands twice in the order: add the quantities up."""

    code, status = "R304", 422


class NoSavedMethod(DomainError):
    """The customer has no saved payment method of this kind."""

    code, status = "R305", 422


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line: the ticket's id, the name and unit amount that the caller gave, and how many."""

    ticket_id: UUID
    name: str
    amount: Decimal
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """A checked order, ready to be written. ``amount`` is what the customer pays."""

    order_id: UUID
    account_id: str
    customer_id: UUID
    amount: Decimal
    payment_method: str
    card_token: str
    run_id: UUID  # of the run that will carry it
    lines: tuple[OrderLine, ...]


# One statement: the lines whose ticket is there are written, and counted.
_CREATE = """
WITH line AS (
    SELECT k.* FROM unnest(%(tickets)s::uuid[], %(names)s::text[], %(amounts)s::numeric[], %(quantities)s::int[])
        WITH ORDINALITY AS k (ticket_id, name, amount, quantity, place)
    JOIN orders_ticket t ON t.id = k.ticket_id
), made AS (
    INSERT INTO orders_order (id, account_id, customer_id, amount, currency, payment_method, card_token, status, error_code,
        error_detail, run_id, created_at)
    VALUES (%(id)s, %(account_id)s, %(customer_id)s, %(amount)s, %(currency)s, %(payment_method)s, %(card_token)s,
        %(status)s, '', '', %(run_id)s, %(now)s)
), item AS (
    INSERT INTO orders_item (order_id, ticket_id, name, amount, quantity)
    SELECT %(id)s, ticket_id, name, amount, quantity FROM line ORDER BY place
)
SELECT place FROM line
"""


@transaction_required
def create_order(command: CreateOrder, *, now: datetime) -> UUID:
    """Write the order. Raises UnknownItem or DuplicateItem, which name the line: the caller's commit is off then."""
    lines = command.lines
    ids = [line.ticket_id for line in lines]
    for index, ticket_id in enumerate(ids):
        if ticket_id in ids[:index]:
            raise DuplicateItem(field=f"items[{index}].id")
    values = {
        "id": command.order_id,
        "account_id": command.account_id,
        "customer_id": command.customer_id,
        "amount": command.amount,
        "currency": CURRENCY,
        "payment_method": command.payment_method,
        "card_token": command.card_token,
        "status": OrderStatus.PENDING.value,
        "run_id": command.run_id,
        "now": now,
        "tickets": ids,
        "names": [line.name for line in lines],
        "amounts": [line.amount for line in lines],
        "quantities": [line.quantity for line in lines],
    }
    known = {place - 1 for (place,) in prepared.execute(_CREATE, values).fetchall()}
    for index, ticket_id in enumerate(ids):
        if index not in known:
            raise UnknownItem(f"There is no ticket {ticket_id}.", field=f"items[{index}].id")
    return command.order_id


@transaction_required
def stock_tickets(*, ticket_id: UUID, name: str, price: Decimal, available: int, now: datetime) -> None:
    """Put a kind of ticket on sale, unless it is."""
    values = {"name": name, "price": price, "available": available, "created_at": now}
    Ticket.objects.get_or_create(pk=ticket_id, defaults=values)


# --- Stock ----------------------------------------------------------------------------------------------------------
# Note [Taking tickets]
#     The tickets are locked in the order of their ids, so two buyers never wait for each other in a circle. The condition
#     is in the update that takes them: two buyers of the last ticket meet at its row, and the second one's update sees what
#     the first one left (READ COMMITTED looks at a row again when it had to wait for it).
_RESERVE = """
WITH made AS (
    INSERT INTO orders_reservation (step_key, order_id, status, created_at, changed_at)
    VALUES (%(key)s, %(id)s, 'RESERVED', %(now)s, NULL) ON CONFLICT DO NOTHING RETURNING order_id
), wanted AS MATERIALIZED (
    SELECT t.id, i.quantity FROM made
    JOIN orders_item i ON i.order_id = made.order_id JOIN orders_ticket t ON t.id = i.ticket_id
    ORDER BY t.id FOR NO KEY UPDATE OF t
), taken AS (
    UPDATE orders_ticket t SET available = t.available - wanted.quantity FROM wanted
    WHERE t.id = wanted.id AND t.available >= wanted.quantity
    RETURNING t.id
), marked AS (
    UPDATE orders_order o SET status = 'RESERVED' FROM made WHERE o.id = made.order_id AND o.status = 'PENDING'
)
SELECT (SELECT count(*) FROM made),
    (SELECT id FROM wanted WHERE NOT EXISTS (SELECT FROM taken WHERE taken.id = wanted.id) ORDER BY id LIMIT 1)
"""


@transaction_required
def reserve(*, order_id: UUID, step_key: str, now: datetime) -> None:
    """Take the order's tickets out of stock. Safe to repeat by step_key.

    Raises SoldOut when there are too few of any of them (what was taken is the caller's to roll back, as every refusal's),
    ReservationReleased after its release.
    """
    made, missing = prepared.execute(_RESERVE, {"key": step_key, "id": order_id, "now": now}).fetchone()
    if not made and _locked(step_key).status == ReservationStatus.RELEASED:
        raise ReservationReleased
    if missing is not None:
        name = Ticket.objects.values_list("name", flat=True).get(pk=missing)
        quantity = dict(quantities(order_id))[missing]
        raise SoldOut(f"There are not {quantity} tickets left for {name}.")


@transaction_required
def release(*, order_id: UUID, step_key: str, now: datetime) -> None:
    """Put the tickets back. Safe to repeat, and before the reservation: then it can no longer be made."""
    if _insert_reservation(step_key, order_id, ReservationStatus.RELEASED, now):
        return
    reservation = _locked(step_key)
    if reservation.status != ReservationStatus.RESERVED:
        return
    for ticket_id, quantity in quantities(order_id):
        add_available(Ticket.objects.filter(pk=ticket_id), quantity)
    _set_reservation(reservation, ReservationStatus.RELEASED, now)


def _insert_reservation(step_key: str, order_id: UUID, status: ReservationStatus, now: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO orders_reservation (step_key, order_id, status, created_at, changed_at)
               VALUES (%s, %s, %s, %s, NULL) ON CONFLICT DO NOTHING""",
            [step_key, order_id, status, now],
        )
        inserted: bool = cursor.rowcount == 1
        return inserted


def _locked(step_key: str) -> Reservation:
    return Reservation.objects.select_for_update(no_key=True).get(pk=step_key)


def _set_reservation(reservation: Reservation, status: ReservationStatus, now: datetime) -> None:
    reservation.status, reservation.changed_at = status, now
    reservation.save(update_fields=["status", "changed_at"])


_QUANTITIES = "SELECT ticket_id, quantity FROM orders_item WHERE order_id = %(id)s ORDER BY ticket_id"


def quantities(order_id: UUID) -> list[tuple[UUID, int]]:
    """The tickets of an order, and how many of each."""
    # Sorted: every buyer locks the tickets in the same order, so two of them never wait for each other in a circle.
    return prepared.execute(_QUANTITIES, {"id": order_id}).fetchall()  # type: ignore[no-any-return]


def add_available(tickets: "models.QuerySet[Ticket]", quantity: int) -> bool:
    """Put so many into the stock of one kind of ticket, or take them out of it. Was there such a kind?"""
    changed: int = tickets.update(available=models.F("available") + quantity)
    return changed == 1


# --- The order's own state ------------------------------------------------------------------------------------------
@transaction_required
def await_payment(*, order_id: UUID) -> None:
    """The payment was asked for."""
    _mark(order_id, OrderStatus.AWAITING_PAYMENT, frm=(OrderStatus.PENDING, OrderStatus.RESERVED))


@transaction_required
def mark_paid(*, order_id: UUID, now: datetime) -> None:
    """The pivot is passed: the money is taken, and the order only goes forward."""
    before = (OrderStatus.PENDING, OrderStatus.RESERVED, OrderStatus.AWAITING_PAYMENT, OrderStatus.STUCK)
    _tell(order_id, _mark(order_id, OrderStatus.PAID, frm=before, paid_at=now), now)


_CONFIRM = """
WITH sold AS (
    UPDATE orders_reservation SET status = 'SOLD', changed_at = %(now)s WHERE order_id = %(id)s AND status = 'RESERVED'
)
UPDATE orders_order SET status = 'COMPLETED', finished_at = %(now)s, error_code = '', error_detail = ''
WHERE id = %(id)s AND status IN ('PAID', 'STUCK')
RETURNING account_id, status, amount, currency, payment_method, error_code
"""


@transaction_required
def confirm(*, order_id: UUID, now: datetime) -> None:
    """The order is complete, and its tickets are sold. What it was stuck with is no longer its error. Safe to repeat."""
    _tell(order_id, prepared.execute(_CONFIRM, {"id": order_id, "now": now}).fetchone(), now)


@transaction_required
def end_unsold(*, order_id: UUID, status: OrderStatus, code: str, detail: str, now: datetime) -> None:
    """The order ended without a sale: REJECTED, PAYMENT_NOT_COMPLETED or CANCELLED, and why."""
    before = Q(status__in=[OrderStatus.COMPLETED, OrderStatus.PAID])
    ended = (
        Order.objects.filter(pk=order_id)
        .exclude(before)
        .update(status=status, error_code=code, error_detail=detail, finished_at=now)
    )
    if ended:
        tell(order_id=order_id, now=now)


@transaction_required
def reopen(*, order_id: UUID) -> bool:
    """An order that ended without a sale begins again. Did it end so? Safe to repeat."""
    again = Order.objects.filter(pk=order_id, status__in=ENDED).update(
        status=OrderStatus.PENDING, error_code="", error_detail="", finished_at=None
    )
    return again == 1


@transaction_required
def mark_stuck(*, order_id: UUID, code: str, detail: str) -> None:
    """The order's run needs a person."""
    Order.objects.filter(pk=order_id).update(status=OrderStatus.STUCK, error_code=code, error_detail=detail)


@transaction_required
def close_by_hand(*, order_id: UUID, code: str, detail: str, now: datetime) -> None:
    """A person has closed the order's run as it was, and says why. What had ended before stays as it ended."""
    before = Order.objects.exclude(status__in=[*ENDED, OrderStatus.COMPLETED, OrderStatus.RETURNED])
    closed = {"status": OrderStatus.HANDLED, "error_code": code, "error_detail": detail, "finished_at": now}
    if before.filter(pk=order_id).update(**closed):
        tell(order_id=order_id, now=now)


_MARK = """
UPDATE orders_order SET status = %(status)s, error_code = '', error_detail = '', paid_at = coalesce(%(paid_at)s, paid_at),
    finished_at = coalesce(%(finished_at)s, finished_at)
WHERE id = %(id)s AND status = ANY(%(frm)s)
RETURNING account_id, status, amount, currency, payment_method, error_code
"""


def _mark(
    order_id: UUID,
    status: OrderStatus,
    *,
    frm: tuple[OrderStatus, ...],
    paid_at: datetime | None = None,
    finished_at: datetime | None = None,
) -> Any:
    """Move forward only: a repeated or late step finds the order further on, and changes nothing. Gives what it is now."""
    before = [one.value for one in frm]
    values = {"id": order_id, "status": status.value, "frm": before, "paid_at": paid_at, "finished_at": finished_at}
    return prepared.execute(_MARK, values).fetchone()


# --- What others are told -------------------------------------------------------------------------------------------
@transaction_required
def tell(*, order_id: UUID, now: datetime) -> None:
    """Publish what an order has become, if its account has anybody who listens."""
    columns = ("account_id", "status", "amount", "currency", "payment_method", "error_code")
    _tell(order_id, Order.objects.values_list(*columns).get(pk=order_id), now)


def _tell(order_id: UUID, changed: Any, now: datetime) -> None:
    if changed is None or not listens(changed[0]):
        return
    account_id, status, amount, currency, payment_method, error_code = changed
    fact = OrderChanged(
        order_id=order_id,
        account_id=account_id,
        status=status,
        amount=amount,
        currency=currency,
        payment_method=payment_method,
        changed_at=now,
        error_code=error_code,
    )
    publish(fact, key=str(order_id))
