"""Where a return enters: one commit holds the return, its run and the key on its order."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common.clock import uuid7
from apps.common.errors import NotFound
from apps.common.transactions import transaction
from apps.idempotency import public as idempotency
from apps.orders import queries, returns
from apps.orders.sagas.giving_back import RETURN
from apps.saga import public as saga


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReturn:
    """What a caller asks for, checked for shape only."""

    account_id: str
    order_id: UUID
    reason: str
    idempotency_key: str | None
    body: Any  # as it came, for the fingerprint of the key


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The return that was written, or the answer that the same request got before."""

    found: returns.ReturnView | None = None
    replay: idempotency.Replay | None = None


@transaction
def ask_return(command: AskReturn, *, now: datetime) -> Asked:
    """Accept the request to return an order; workers carry it out.

    Raises NotFound for another's order, NotReturnable, ReturnTooLate, KeyHeld while another return of it goes on,
    UseCasePaused, and the refusals of an Idempotency-Key; then nothing was written.
    """
    order = queries.order(command.order_id)
    if order is None or order.account_id != command.account_id:
        raise NotFound("There is no such order, or it is not yours.")
    if command.idempotency_key is None:
        return Asked(found=_ask(command, order, now=now))
    begun = idempotency.begin(
        account_id=command.account_id or "anonymous",
        key=command.idempotency_key,
        route=f"POST /orders/{order.id}/returns",
        body=command.body,
        now=now,
    )
    if isinstance(begun, idempotency.Replay):
        return Asked(replay=begun)
    found = _ask(command, order, now=now)
    body = found.to_json()
    idempotency.settle(begun, status=202, body=body, headers={"Location": body["links"]["self"]}, now=now)
    return Asked(found=found)


def _ask(command: AskReturn, order: queries.OrderView, *, now: datetime) -> returns.ReturnView:
    returns.check_returnable(order.id, asked_at=now)
    return_id = uuid7()
    run_id = saga.start(
        RETURN,
        subject_id=order.id,
        business_key=str(order.id),
        data={
            "return_id": str(return_id),
            "order_id": str(order.id),
            "customer_id": str(order.customer_id),
            "account_id": order.account_id or None,
            "amount": str(order.amount),
        },
        now=now,
        idempotency_key=command.idempotency_key or "",
    )
    returns.ask(
        return_id=return_id,
        order_id=order.id,
        account_id=command.account_id,
        reason=command.reason,
        run_id=run_id,
        now=now,
    )
    found = returns.return_of(return_id)
    assert found is not None  # noqa: S101  # just written
    return found
