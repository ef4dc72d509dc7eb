"""What a person does to the run of an order or of a return, and what the order and the steps after it make of that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps as django_apps
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.common.errors import DomainError
from apps.orders.models import Order, OrderReturn, Reservation
from apps.payments.models import Payment
from apps.saga import engine, pauses, triage
from apps.saga import public as saga
from apps.saga.models import Audit, Run
from config import demo
from tests import shop
from tests.flows.test_every_step import DO, ERRORS, UNDO, changed, method_of, raising
from tests.saga_driver import finish, pump_messages, work

WHY = "the customer was called"
CHIEF = "user:chief"


@contextmanager
def broken(use_case: str, name: str, *, undo: bool = False, kind: str = "business") -> Iterator[None]:
    """A step, or its undo, is refused while the block runs."""
    (definition,) = [each for each in saga.registered() if each.use_case == use_case]
    step = definition.by_name[name]
    with changed(step, method_of(step, UNDO if undo else DO), raising(ERRORS[kind])):
        yield


@contextmanager
def each_step_commits() -> Iterator[None]:
    """So that there is something to undo: the engine ends a segment before a step that may be paused."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pauses, "is_known", lambda *_: True)
        yield


def stuck_order(body: dict[str, Any], step: str) -> Run:
    """The run of an order that is stuck at this step, or at its undo."""
    use_case = "orders.purchase.balance" if body.get("payment") else "orders.purchase.card"
    with broken(use_case, step):
        run = finish(shop.run_of(shop.post_order(Client(), body).json()["id"]).pk)
    assert (run.status, run.failed_step) == ("STUCK", step)
    return run


def do(run_id: UUID, action: triage.Action, **given: Any) -> str:
    with transaction.atomic():
        return triage.apply(run_id, triage.wanted(action, **given), reason=WHY, by=CHIEF, now=timezone.now())


def order_of(run: Run) -> Order:
    return Order.objects.get(pk=run.subject_id)


def token_of(run: Run) -> str:
    state = saga.run_state(run.pk)
    assert state is not None
    return saga.token_of_state(state)


def reserved() -> set[str]:
    return set(Reservation.objects.values_list("status", flat=True))


class TestClosed:
    def test_an_order_says_so_and_why(self, opened: demo.Demo) -> None:
        run = stuck_order(shop.body(), "post_sale")
        do(run.pk, triage.Action.HANDLE)
        order = order_of(run)
        assert (order.status, order.error_code) == ("HANDLED", "R581")
        assert order.error_detail.startswith(WHY)
        assert order.finished_at is not None
        told = Client().get(f"/orders/{order.pk}").json()
        assert (told["status"], told["error"]["code"], told["run"]["status"]) == ("HANDLED", "R581", "HANDLED")

    def test_a_return_says_so_and_its_order_stays_what_it_is(self, opened: demo.Demo) -> None:
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        finish(shop.run_of(order_id).pk)
        with broken("orders.return", "close_return"):
            run = finish(UUID(shop.post_return(Client(), order_id).json()["runId"]))
        assert (run.status, OrderReturn.objects.get().status) == ("STUCK", "STUCK")
        do(run.pk, triage.Action.HANDLE)
        asked = OrderReturn.objects.get()
        assert (asked.status, asked.error_code, asked.finished_at is None) == ("HANDLED", "R581", False)
        assert Client().get(f"/orders/{order_id}/returns").json()["returns"][0]["status"] == "HANDLED"

    def test_a_return_that_was_accepted_is_not_followed_by_another_one(self, opened: demo.Demo) -> None:
        """A person has settled it: the money may have been given back where we do not see it."""
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        finish(shop.run_of(order_id).pk)
        with broken("orders.return", "give_back"):
            run = finish(UUID(shop.post_return(Client(), order_id).json()["runId"]))
        assert OrderReturn.objects.get().accepted_at is not None
        do(run.pk, triage.Action.HANDLE)
        answer = shop.post_return(Client(), order_id)
        assert (answer.status_code, answer.json()["code"]) == (409, "R306")
        assert "closed by hand" in answer.json()["detail"]

    def test_what_was_closed_before_there_was_a_state_for_it_ends_too(self, opened: demo.Demo) -> None:
        closed, stuck = (stuck_order(shop.body(), "post_sale") for _ in range(2))
        Run.objects.filter(pk=closed.pk).update(status="HANDLED", finished_at=timezone.now())
        migration = import_module("apps.orders.migrations.0005_end_what_was_closed")
        for _ in range(2):
            migration.end_what_was_closed(django_apps, None)
        assert (order_of(closed).status, order_of(stuck).status) == ("HANDLED", "STUCK")
        assert order_of(closed).finished_at is not None

    def test_what_stays_is_told_before_and_kept_in_the_audit(self, opened: demo.Demo) -> None:
        run = stuck_order(shop.body(), "post_sale")
        (outcome,) = saga.preview(
            saga.Selection(run_ids=(run.pk,)), triage.wanted(triage.Action.HANDLE), now=timezone.now()
        ).outcomes
        assert outcome.detail == (
            "closes the run as it is: reserve tickets, authorise payment, issue fiscal doc and capture payment stay done"
        )
        tickets, card, document = outcome.left
        assert tickets == "Out of stock for this order, and not sold: 1 × day-one."
        assert card.startswith("Taken from the card: 10.50 BRL (payment ")
        assert document.endswith(" is authorised.")
        do(run.pk, triage.Action.HANDLE)
        row = Audit.objects.get(run_id=run.pk, action="handle")
        assert tuple(row.detail["left"]) == outcome.left

    def test_what_a_caller_wrote_is_told_without_card_numbers(self, opened: demo.Demo) -> None:
        items = [{**shop.SEED_BODY["items"][0], "name": "paid by 4242424242424242"}]
        run = stuck_order(shop.by_balance(items=items), "sign_fiscal_doc")
        do(run.pk, triage.Action.HANDLE)
        tickets = Audit.objects.get(run_id=run.pk, action="handle").detail["left"][0]
        assert "Out of stock for this order" in tickets
        assert "4242424242424242" not in tickets

    def test_the_command_tells_it_too(self, opened: demo.Demo, capsys: pytest.CaptureFixture[str]) -> None:
        run = stuck_order(shop.body(), "post_sale")
        call_command("saga_triage", "handle", "--run", str(run.pk), "--dry-run")
        assert "    Out of stock for this order, and not sold: 1 × day-one." in capsys.readouterr().out.splitlines()

    def test_a_payment_in_doubt_is_told_as_that(self, opened: demo.Demo) -> None:
        """The void was refused: the card's limit may be held for days."""
        with (
            broken("orders.purchase.card", "authorise_payment", undo=True),
            broken("orders.purchase.card", "capture_payment"),
        ):
            run = finish(shop.run_of(shop.post_order(Client(), shop.body()).json()["id"]).pk)
        assert run.status == "STUCK"
        (outcome,) = saga.preview(
            saga.Selection(run_ids=(run.pk,)), triage.wanted(triage.Action.HANDLE), now=timezone.now()
        ).outcomes
        assert any(
            line.startswith("Not taken from the card, and not given free: 10.50 BRL, authorised") for line in outcome.left
        )
        do(run.pk, triage.Action.HANDLE)
        assert order_of(run).status == "HANDLED"


class TestRetried:
    def test_an_order_that_completes_after_all_has_no_error(self, opened: demo.Demo) -> None:
        run = stuck_order(shop.body(), "post_sale")
        do(run.pk, triage.Action.RETRY)
        assert finish(run.pk).status == "COMPLETED"
        order = order_of(run)
        assert (order.status, order.error_code, order.error_detail) == ("COMPLETED", "", "")


class TestSkipped:
    def test_the_pivot_makes_the_order_paid(self, opened: demo.Demo) -> None:
        """It waits for the processor's answer, and somebody has seen the money."""
        with broken("orders.purchase.card", "capture_payment", kind="technical"):
            run = work(shop.run_of(shop.post_order(Client(), shop.body()).json()["id"]).pk)
        assert run.at_step == "capture_payment"
        assert order_of(run).status == "AWAITING_PAYMENT"
        do(run.pk, triage.Action.SKIP)
        assert order_of(run).status == "PAID"
        assert finish(run.pk).status == "COMPLETED"
        assert (order_of(run).status, reserved()) == ("COMPLETED", {"SOLD"})

    def test_the_last_step_completes_the_order(self, opened: demo.Demo) -> None:
        run = stuck_order(shop.body(), "confirm_order")
        do(run.pk, triage.Action.SKIP)
        assert Run.objects.get(pk=run.pk).status == "COMPLETED"
        assert (order_of(run).status, reserved()) == ("COMPLETED", {"SOLD"})

    def test_the_last_step_of_a_return_returns_the_order(self, opened: demo.Demo) -> None:
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        finish(shop.run_of(order_id).pk)
        with broken("orders.return", "close_return"):
            run = finish(UUID(shop.post_return(Client(), order_id).json()["runId"]))
        do(run.pk, triage.Action.SKIP)
        assert Run.objects.get(pk=run.pk).status == "COMPLETED"
        assert (OrderReturn.objects.get().status, Order.objects.get().status) == ("COMPLETED", "RETURNED")

    def test_a_step_whose_output_is_read_is_not_skipped_without_it(self, opened: demo.Demo) -> None:
        run = stuck_order(shop.by_balance(), "sign_fiscal_doc")
        with pytest.raises(DomainError) as refused:
            do(run.pk, triage.Action.SKIP)
        assert refused.value.code == "R582"
        assert (
            refused.value.detail
            == "transmit fiscal doc reads document_key (text) of sign fiscal doc: give it as the output."
        )
        assert Run.objects.get(pk=run.pk).status == "STUCK"

    def test_the_page_asks_for_it_again(self, opened: demo.Demo, admin_client: Client) -> None:
        run = stuck_order(shop.by_balance(), "sign_fiscal_doc")
        url = f"{reverse('admin:backoffice_triage_act')}?action=skip&run={run.pk}"
        for given in ("", '{"other": 1}', '{"document_key": 7}'):
            answer = admin_client.post(url, {"reason": WHY, "given": given, "expected": token_of(run)})
            assert answer.status_code == 422
            assert "reads document_key (text) of sign fiscal doc" in answer.content.decode()
        assert Run.objects.get(pk=run.pk).status == "STUCK"

    def test_many_are_not_skipped_with_one_output(self, opened: demo.Demo) -> None:
        """Else all of them would be told of the document of one."""
        runs = [stuck_order(shop.by_balance(), "sign_fiscal_doc").pk for _ in range(2)]
        which, what = saga.Selection(run_ids=tuple(runs)), triage.wanted(triage.Action.SKIP, output={"document_key": "a"})
        with pytest.raises(saga.OutputNeeded):
            saga.preview(which, what, now=timezone.now())
        with pytest.raises(saga.OutputNeeded):
            saga.request_action(which, what, reason=WHY, by=CHIEF, now=timezone.now())

    @pytest.mark.parametrize(
        ("body", "step", "field", "code"),
        [(shop.body, "authorise_payment", "payment_id", "R214"), (shop.by_balance, "hold_amount", "hold_key", "R113")],
    )
    def test_what_belongs_to_another_order_is_not_taken(
        self, opened: demo.Demo, body: Callable[[], dict[str, Any]], step: str, field: str, code: str
    ) -> None:
        """Else one payment, or one customer's hold, would pay for two orders."""
        use_case = "orders.purchase.balance" if body().get("payment") else "orders.purchase.card"
        first = shop.run_of(shop.post_order(Client(), body()).json()["id"])
        second = shop.run_of(shop.post_order(Client(), body()).json()["id"])
        with each_step_commits(), broken(use_case, step, kind="technical"):
            assert work(second.pk).at_step == step
        with each_step_commits():
            while field not in (output := first.steps.get(name=step).output):
                engine.advance(first.pk)
                pump_messages()
        for given in (output[field], str(uuid4())):
            with pytest.raises(DomainError) as refused:
                do(second.pk, triage.Action.SKIP, output={field: given})
            assert refused.value.code == code
        assert (finish(first.pk).status, finish(second.pk).status) == ("COMPLETED", "COMPLETED")
        shop.assert_books_agree()

    @pytest.mark.parametrize(
        ("body", "step", "field", "code"),
        [
            (shop.body, "post_sale", "tracekey", "R312"),
            (shop.by_balance, "post_hold", "tracekey", "R312"),
            (shop.by_balance, "sign_fiscal_doc", "document_key", "R309"),
        ],
    )
    def test_neither_is_the_sale_or_the_document_of_another_order(
        self, opened: demo.Demo, body: Callable[[], dict[str, Any]], step: str, field: str, code: str
    ) -> None:
        """Else a return of this order takes the other one's sale back, or one document stands for two orders."""
        first = finish(shop.run_of(shop.post_order(Client(), body()).json()["id"]).pk)
        use_case = "orders.purchase.balance" if body().get("payment") else "orders.purchase.card"
        with each_step_commits(), broken(use_case, step, kind="technical"):
            second = work(shop.run_of(shop.post_order(Client(), body()).json()["id"]).pk)
        assert second.at_step == step
        for given in (first.steps.get(name=step).output[field], str(uuid4()), "see the ticket"):
            with pytest.raises(DomainError) as refused:
                do(second.pk, triage.Action.SKIP, output={field: given})
            assert refused.value.code == code
        assert finish(second.pk).status == "COMPLETED"
        shop.assert_books_agree()

    def test_a_return_is_of_its_own_orders_sale_and_payment(self, opened: demo.Demo) -> None:
        """The check was passed over, because the order was too old for it."""
        orders = [shop.post_order(Client(), shop.body()).json()["id"] for _ in range(2)]
        first, second = (finish(shop.run_of(order_id).pk) for order_id in orders)
        with broken("orders.return", "check_return", kind="technical"):
            run = work(UUID(shop.post_return(Client(), orders[1]).json()["runId"]))
        own, others = (
            {
                "payment_method": "card",
                "payment_id": one.steps.get(name="authorise_payment").output["payment_id"],
                "tracekey": one.steps.get(name="post_sale").output["tracekey"],
            }
            for one in (second, first)
        )
        for wrong in (
            {"payment_id": others["payment_id"]},
            {"tracekey": others["tracekey"]},
            {"payment_method": "balance"},
        ):
            with pytest.raises(DomainError) as refused:
                do(run.pk, triage.Action.SKIP, output={**own, **wrong})
            assert refused.value.code == "R308"
        do(run.pk, triage.Action.SKIP, output=own)
        assert Run.objects.get(pk=run.pk).status == "RUNNING"


class TestFound:
    def test_is_the_run_of_an_order_by_its_payment(self, opened: demo.Demo, capsys: pytest.CaptureFixture[str]) -> None:
        run = finish(shop.run_of(shop.post_order(Client(), shop.body()).json()["id"]).pk)
        payment = Payment.objects.get()
        for key in (payment.pk, payment.operations.get(kind="capture").pk):
            capsys.readouterr()
            call_command("saga_state", str(key))
            assert f"run {run.pk}" in capsys.readouterr().out.splitlines()[0]
