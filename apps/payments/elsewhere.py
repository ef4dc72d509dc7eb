"""A payment by an id that no run has, told to whoever looks for it as a run is: a merchant's own has none."""

from typing import Any
from uuid import UUID

from apps.payments import queries
from apps.payments.queries import OperationView, PaymentView
from apps.saga import public as saga


def known(key: str) -> tuple[saga.Known, ...]:
    """The payments that somebody means by the id of a payment or of a refund, or by a merchant's reference."""
    return tuple(_known(view) for view in queries.known_by(key))


def _known(view: PaymentView) -> saga.Known:
    run_id = UUID(view.reply_to.partition(":")[0]) if view.of_saga else None  # a saga's step answers to "<run>:<step>"
    asked = [_json(each) for each in view.operations]
    return saga.Known(
        run_id=run_id,
        lines=(_line(view, run_id), *(_asked(each) for each in view.operations)),
        body={"payment": view.to_json(), "account_id": view.account_id, "run_id": run_id and str(run_id), "asked": asked},
    )


def _json(each: OperationView) -> dict[str, Any]:
    return {
        "id": str(each.id),
        "kind": each.kind,
        "status": each.status,
        "amount": None if each.amount is None else f"{each.amount:.2f}",
        "reason": each.reason,
        "error": {"code": each.error_code, "message": each.error_message} if each.error_code else None,
        "times_asked": each.times_asked,
        "requested_at": each.requested_at.isoformat(),
        "answered_at": each.answered_at and each.answered_at.isoformat(),
    }


def _line(view: PaymentView, run_id: UUID | None) -> str:
    whose = f"asked for by run {run_id}" if run_id else f"a merchant's own ({view.account_id}), which has no run"
    because = f"\n  because it said {view.error_code}: {view.error_message}" if view.error_code else ""
    return (
        f"payment {view.id}  {view.order_ref or '-'}: {view.state}, {whose}\n"
        f"  {view.amount} {view.currency}, captured {view.captured_amount}, refunded {view.refunded_amount}{because}"
    )


def _asked(each: OperationView) -> str:
    when = each.requested_at.isoformat(timespec="milliseconds")
    amount = "-" if each.amount is None else each.amount
    because = f"  {each.error_code}: {each.error_message}" if each.error_code else ""
    why = f"  “{each.reason}”" if each.reason else ""
    times = f"{each.times_asked} time{'s' if each.times_asked > 1 else ''}"
    return f"  {each.status:<12} {each.kind:<10} {amount!s:>8}  {each.id}  {times}  {when}{because}{why}"
