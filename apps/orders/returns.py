"""Verbs on the return of an order: asked for, accepted, closed; and the tickets that come back into stock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.messaging.contracts.orders import ReturnChanged
from apps.messaging.public import publish
from apps.orders import operations
from apps.orders.models import Order, OrderReturn, OrderStatus, Reservation, ReservationStatus, ReturnStatus, Ticket
from apps.webhooks.public import listens

RETURNS_OF_ORDER_MAX = 20  # an order has one, and a few more when they were refused


class NotReturnable(DomainError):
    """Only a completed order can be returned."""

    code = "R306"


class ReturnTooLate(DomainError):
    """The time in which this order could be returned is over."""

    code = "R307"


class NothingToGiveBack(DomainError):
    """The money of this order was given back already, at least in part, or nobody knows where it is."""

    code = "R308"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnView:
    """A return as it is now. ``document``: what became of the order's fiscal document; empty: nothing yet."""

    id: UUID
    order_id: UUID
    account_id: str
    reason: str
    amount: Decimal
    status: str
    error_code: str
    error_detail: str
    document: str
    run_id: UUID
    created_at: datetime
    accepted_at: datetime | None
    finished_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """What callers are shown."""
        here = f"/orders/{self.order_id}"
        return {
            "id": str(self.id),
            "orderId": str(self.order_id),
            "status": self.status,
            "amount": str(self.amount),
            "reason": self.reason,
            "error": {"code": self.error_code, "detail": self.error_detail} if self.error_code else None,
            "fiscalDocument": self.document or None,
            "createdAt": self.created_at.isoformat(),
            "acceptedAt": self.accepted_at and self.accepted_at.isoformat(),
            "finishedAt": self.finished_at and self.finished_at.isoformat(),
            "runId": str(self.run_id),
            "links": {"self": f"{here}/returns/{self.id}", "order": here},
        }


# --- Questions --------------------------------------------------------------------------------------------------------
def returns_of(order_id: UUID) -> tuple[ReturnView, ...]:
    """The returns of an order, the latest first."""
    rows = OrderReturn.objects.filter(order_id=order_id).order_by("-id")
    return tuple(_view(row) for row in rows[:RETURNS_OF_ORDER_MAX])


def return_of(return_id: UUID) -> ReturnView | None:
    """The return with this id, or None."""
    row = OrderReturn.objects.filter(pk=return_id).first()
    return _view(row) if row is not None else None


def _view(row: OrderReturn) -> ReturnView:
    return ReturnView(
        id=row.id,
        order_id=row.order_id,
        account_id=row.account_id,
        reason=row.reason,
        amount=row.amount,
        status=row.status,
        error_code=row.error_code,
        error_detail=row.error_detail,
        document=row.document,
        run_id=row.run_id,
        created_at=row.created_at,
        accepted_at=row.accepted_at,
        finished_at=row.finished_at,
    )


# --- The return's own state ---------------------------------------------------------------------------------------------
def check_returnable(order_id: UUID, *, asked_at: datetime) -> None:
    """Is the order complete, and is it asked for in time? Raises NotReturnable, ReturnTooLate."""
    order = Order.objects.get(pk=order_id)
    if order.status != OrderStatus.COMPLETED:
        raise NotReturnable(f"Only a completed order can be returned; this one is {order.status}.")
    since = order.finished_at or order.created_at
    if asked_at > since + timedelta(days=settings.ORDERS_RETURN_DAYS):
        raise ReturnTooLate(
            f"It was completed on {since:%Y-%m-%d}: it could be returned for {settings.ORDERS_RETURN_DAYS} days."
        )


@transaction_required
def ask(*, return_id: UUID, order_id: UUID, account_id: str, reason: str, run_id: UUID, now: datetime) -> None:
    """Write down that a return was asked for, which this run will carry out.

    The run holds the order's key, so no other one goes on. Raises NotReturnable when a person has closed one that was
    accepted: what was given back then is not known here.
    """
    if OrderReturn.objects.filter(order_id=order_id, status=ReturnStatus.HANDLED).exists():
        raise NotReturnable(
            "A return of it was accepted, and closed by hand: what is given back is agreed upon with a person."
        )
    amount = Order.objects.values_list("amount", flat=True).get(pk=order_id)
    OrderReturn.objects.create(
        id=return_id,
        order_id=order_id,
        account_id=account_id,
        reason=reason,
        amount=amount,
        run_id=run_id,
        created_at=now,
    )


@transaction_required
def accept(*, return_id: UUID, now: datetime) -> None:
    """From here on the money goes back. Safe to repeat. Raises NotReturnable for an order that changed meanwhile."""
    row = _locked(return_id)
    if row.status != ReturnStatus.REQUESTED:
        return
    status = Order.objects.select_for_update(no_key=True).values_list("status", flat=True).get(pk=row.order_id)
    if status != OrderStatus.COMPLETED:
        raise NotReturnable(f"The order is {status} by now.")
    row.status, row.accepted_at = ReturnStatus.ACCEPTED, now
    row.save(update_fields=["status", "accepted_at"])
    _tell(row, now)


@transaction_required
def note_document(*, return_id: UUID, became: str) -> None:
    """Write down what became of the order's fiscal document."""
    OrderReturn.objects.filter(pk=return_id).update(document=became)


@transaction_required
def close(*, return_id: UUID, now: datetime) -> None:
    """All is given back: the return is complete, and the order is returned. Safe to repeat."""
    row = _locked(return_id)
    if row.status not in (ReturnStatus.ACCEPTED, ReturnStatus.STUCK):
        return
    row.status, row.finished_at, row.error_code, row.error_detail = ReturnStatus.COMPLETED, now, "", ""
    row.save(update_fields=["status", "finished_at", "error_code", "error_detail"])
    _tell(row, now)
    if Order.objects.filter(pk=row.order_id, status=OrderStatus.COMPLETED).update(status=OrderStatus.RETURNED):
        operations.tell(order_id=row.order_id, now=now)


@transaction_required
def refuse(*, return_id: UUID, code: str, detail: str, now: datetime) -> None:
    """The return was refused, and why. The order stays as it is, and may be asked for again."""
    open_ones = OrderReturn.objects.filter(pk=return_id, status__in=[ReturnStatus.REQUESTED, ReturnStatus.STUCK])
    if open_ones.update(status=ReturnStatus.REFUSED, error_code=code, error_detail=detail, finished_at=now):
        _tell(OrderReturn.objects.get(pk=return_id), now)


@transaction_required
def reopen(*, return_id: UUID) -> bool:
    """A return that was refused begins again, unless another one has begun. Safe to repeat."""
    row = _locked(return_id)
    others = OrderReturn.objects.filter(order_id=row.order_id).exclude(pk=row.pk).exclude(status=ReturnStatus.REFUSED)
    if row.status != ReturnStatus.REFUSED or others.exists():
        return False
    row.status, row.error_code, row.error_detail, row.finished_at = ReturnStatus.REQUESTED, "", "", None
    row.save(update_fields=["status", "error_code", "error_detail", "finished_at"])
    return True


@transaction_required
def mark_stuck(*, return_id: UUID, code: str, detail: str) -> None:
    """The return's run needs a person."""
    OrderReturn.objects.filter(pk=return_id).update(status=ReturnStatus.STUCK, error_code=code, error_detail=detail)


@transaction_required
def close_by_hand(*, return_id: UUID, code: str, detail: str, now: datetime) -> None:
    """A person has closed the return's run as it was. One that was not accepted is refused: it may be asked for again."""
    row = _locked(return_id)
    if row.status in (ReturnStatus.COMPLETED, ReturnStatus.REFUSED):
        return
    row.status = ReturnStatus.HANDLED if row.accepted_at is not None else ReturnStatus.REFUSED
    row.error_code, row.error_detail, row.finished_at = code, detail, now
    row.save(update_fields=["status", "error_code", "error_detail", "finished_at"])
    _tell(row, now)


def _tell(row: OrderReturn, now: datetime) -> None:
    """Publish what a return has become, if its account has anybody who listens."""
    if not listens(row.account_id):
        return
    fact = ReturnChanged(
        return_id=row.pk,
        order_id=row.order_id,
        account_id=row.account_id,
        status=str(row.status),
        amount=row.amount,
        changed_at=now,
        error_code=row.error_code,
    )
    publish(fact, key=str(row.pk))


def _locked(return_id: UUID) -> OrderReturn:
    return OrderReturn.objects.select_for_update(no_key=True).get(pk=return_id)


# --- Stock ------------------------------------------------------------------------------------------------------------
@transaction_required
def restock(*, order_id: UUID, now: datetime) -> int:
    """Put the tickets that an order sold back into stock. How many kinds; safe to repeat."""
    sold = Reservation.objects.select_for_update(no_key=True).filter(order_id=order_id, status=ReservationStatus.SOLD)
    kinds = 0
    for reservation in sold:  # one, whatever how often its run was tried: the others are released
        reservation.status, reservation.changed_at = ReservationStatus.RETURNED, now
        reservation.save(update_fields=["status", "changed_at"])
        for ticket_id, quantity in operations.quantities(order_id):
            kinds += operations.add_available(Ticket.objects.filter(pk=ticket_id), quantity)
    return kinds
