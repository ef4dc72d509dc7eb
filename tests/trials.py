"""How each use case is tried: how a run of it begins on the demo's data, and what is left when it is over.

Tests are generated for every registered definition (tests/flows/test_every_step.py). Whoever adds a use case adds its trial
here; until then those tests fail, and say so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.db import transaction
from django.test import Client, override_settings
from django.utils import timezone

from apps.common.clock import uuid7
from apps.fiscal_docs import public as fiscal
from apps.orders import public as orders
from apps.orders import returns
from apps.orders.models import Order, OrderReturn
from apps.payments import public as payments
from apps.saga import public as saga
from apps.saga import triage
from apps.saga.models import Run
from config import demo
from tests import shop
from tests.saga_driver import finish, work


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``begin``: start a run, nothing done yet, and tell its id. The others assert that nothing, or everything, is left.

    ``people``: what somebody does while a run waits for him.
    """

    begin: Callable[[], UUID]
    assert_undone: Callable[[], None]
    assert_done: Callable[[], None]
    people: Callable[[], object] = lambda: None


def _buy(body: dict[str, object]) -> UUID:
    """By default nothing is done in the request."""
    return shop.run_of(shop.post_order(Client(), body).json()["id"]).pk


def _assert_sold_by_card() -> None:
    _assert_sold()
    shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")


def _assert_sold_by_balance() -> None:
    _assert_sold()
    shop.assert_money(customer="989.50", sales="10.50", clearing="0.00")


def _assert_sold() -> None:
    shop.assert_books_agree()
    assert shop.stock() == demo.STOCK - 1
    assert shop.SandboxDocument.objects.count() == 1


# --- Returns: of an order that was bought before, above the amount that needs an approval ------------------------------
LARGE = 250


def _bought(body: dict[str, object]) -> UUID:
    order_id = UUID(shop.post_order(Client(), body).json()["id"])
    assert finish(shop.run_of(order_id).pk).status == "COMPLETED"
    return order_id


def _return() -> UUID:
    order_id = _bought(shop.by_balance(amount=LARGE))
    return UUID(shop.post_return(Client(), order_id).json()["runId"])


def _branch(use_case: str, body: dict[str, object]) -> UUID:
    """A branch of a return by itself, as the step of its parent begins it."""
    order_id, return_id, now = _bought(body), uuid7(), timezone.now()
    purchase = saga.run_progress(shop.run_of(order_id).pk)
    assert purchase is not None
    paid = payments.payments_of(order_ref=str(order_id))
    data = {
        "return_id": str(return_id),
        "order_id": str(order_id),
        "amount": str(body["amount"]),
        "payment_id": str(paid[0].id) if paid else "",
        "tracekey": next(step.output["tracekey"] for step in purchase.steps if "tracekey" in step.output),
        "document_key": fiscal.authorised_of_order(order_id),
    }
    definition = next(each for each in saga.registered() if each.use_case == use_case)
    with transaction.atomic():
        run_id = saga.start(definition, subject_id=order_id, business_key=str(order_id), data=data, now=now)
        returns.ask(return_id=return_id, order_id=order_id, account_id="", reason="a trial", run_id=run_id, now=now)
    return run_id


def _approve() -> None:
    """Somebody who may says yes to everything that waits."""
    somebody = saga.Decider("somebody", frozenset({"permission:orders.approve_return"}))
    for approval in saga.find_approvals(limit=10).rows:
        saga.decide(approval.id, approve=True, by=somebody, reason="it is a trial", now=timezone.now())


def _assert_kept() -> None:
    """The order is as it was bought."""
    assert set(Order.objects.values_list("status", flat=True)) == {"COMPLETED"}
    assert set(OrderReturn.objects.values_list("status", flat=True)) == {"REFUSED"}
    assert shop.stock() == demo.STOCK - 1
    assert shop.Document.objects.get().state == "AUTHORISED"
    shop.assert_money(customer="750.00", sales="250.00", clearing="0.00")


def _assert_paid_back() -> None:
    shop.assert_money(customer="1000.00", sales="0.00", clearing="0.00")


def _assert_refunded() -> None:
    _assert_paid_back()
    assert shop.Payment.objects.get().state == "REFUNDED"


def _assert_restocked() -> None:
    assert shop.stock() == demo.STOCK


def _assert_no_document() -> None:
    assert shop.Document.objects.get().state == "CANCELLED"


def _assert_returned() -> None:
    shop.assert_returned()
    _assert_paid_back()


# --- A document that its run has left behind: the authority was away, and an operator passed the step over --------------
NOWHERE = "https://127.0.0.1:1"


def leave_behind() -> UUID:
    """An order that is complete, and whose document was never sent."""
    order_id = UUID(shop.post_order(Client(), shop.by_balance()).json()["id"])
    with override_settings(FISCAL_AUTHORITY_URL=NOWHERE):
        run = work(shop.run_of(order_id).pk)
    with transaction.atomic():
        skip = triage.wanted(triage.Action.SKIP)
        triage.apply(run.pk, skip, reason="they wait", by="user:ana", now=timezone.now(), seen="")
    assert finish(run.pk).status == "COMPLETED"
    return order_id


def _deliver() -> UUID:
    """An order of a contingency that is over; its delivery has not begun."""
    orders.enter_contingency(reason="Sem comunicacao com a SEFAZ.", by="user:ana", now=timezone.now())
    order_id = _bought(shop.by_balance())
    orders.leave_contingency(reason="It is back.", by="user:ana", now=timezone.now())
    return Run.objects.get(use_case="orders.document.delivery", subject_id=order_id).pk


def _settle() -> UUID:
    return orders.settle_document(
        order_id=leave_behind(), settle=orders.Settle.SEND, reason="a trial", by="user:ana", now=timezone.now()
    )


def _assert_settled() -> None:
    assert shop.Document.objects.get().state == "AUTHORISED"
    assert shop.SandboxDocument.objects.count() == 1
    shop.assert_money(customer="989.50", sales="10.50", clearing="0.00")


TRIALS = {
    "orders.purchase.card": Trial(
        begin=lambda: _buy(shop.body()), assert_undone=shop.assert_clean_slate, assert_done=_assert_sold_by_card
    ),
    "orders.purchase.balance": Trial(
        begin=lambda: _buy(shop.by_balance()), assert_undone=shop.assert_clean_slate, assert_done=_assert_sold_by_balance
    ),
    "orders.document": Trial(begin=_settle, assert_undone=_assert_settled, assert_done=_assert_settled),  # never undone
    "orders.document.delivery": Trial(begin=_deliver, assert_undone=_assert_settled, assert_done=_assert_settled),
    "orders.return": Trial(begin=_return, assert_undone=_assert_kept, assert_done=_assert_returned, people=_approve),
    **{
        # Nothing of these is ever undone: they begin after the pivot.
        use_case: Trial(begin=partial(_branch, use_case, body), assert_undone=_assert_kept, assert_done=assert_done)
        for use_case, body, assert_done in (
            ("orders.return.card", shop.body(), _assert_refunded),
            ("orders.return.balance", shop.by_balance(), _assert_paid_back),
            ("orders.return.goods", shop.by_balance(), _assert_restocked),
            ("orders.return.document", shop.by_balance(), _assert_no_document),
        )
    },
}


def trial_of(use_case: str) -> Trial:
    """The trial of a use case. Fails with a sentence for one that has none."""
    found = TRIALS.get(use_case)
    assert found is not None, (
        f"{use_case} is registered and nobody tries it: add its Trial to tests/trials.py (how a run begins on the demo's "
        "data, what is left when all is undone, what when it is complete)."
    )
    return found
