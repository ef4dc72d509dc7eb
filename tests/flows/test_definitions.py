"""For each definition of a purchase, generated: fail at every step; every undo twice; every handle twice; undo before do.

The journeys are the real ones, on the real ledger, payments, processor and authority. What is sabotaged is one method of
one step, and each test asserts that the run failed at that very step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from apps.common.errors import DomainError, UnknownOutcome
from apps.saga import public as saga
from apps.saga import segments, triage
from apps.saga.definition import CallStep
from apps.saga.models import Run as RunRow
from apps.saga.models import Step as StepRow
from apps.saga.session import Session
from config import demo
from tests import shop
from tests.saga_driver import finish

ORDERS = {"orders.purchase.card": shop.body(), "orders.purchase.balance": shop.by_balance()}
CASES = [
    pytest.param(definition, position, id=f"{definition.use_case}-{step.name}")
    for definition in saga.registered()
    if definition.use_case in ORDERS
    for position, step in enumerate(definition.steps)
]
BEFORE_PIVOT = [case for case in CASES if case.values[0].steps[case.values[1]].kind is not saga.RETRIABLE]
AFTER_PIVOT = [case for case in CASES if case.values[0].steps[case.values[1]].kind is saga.RETRIABLE]
COMPENSABLE = [case for case in CASES if case.values[0].steps[case.values[1]].kind is saga.COMPENSABLE]
CALLS = [case for case in CASES if isinstance(case.values[0].steps[case.values[1]], CallStep)]
DO = {"local": "handle", "ask": "ask", "call": "call"}
UNDO = {"local": "compensate", "ask": "ask_undo", "call": "undo_call"}


def test_every_purchase_is_covered() -> None:
    """What the others have in common with them is tested in test_every_step."""
    assert {each.use_case for each in saga.registered() if each.use_case.startswith("orders.purchase.")} == set(ORDERS)


class Sabotage(DomainError):
    """Refused by the test."""

    code = "R998"


@contextmanager
def changed(step: saga.Step, method: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace one method of one step while the block runs."""
    setattr(step, method, change(getattr(step, method)))
    try:
        yield
    finally:
        delattr(step, method)


def raising(
    error: Exception, times: int = 1000, *, after: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    left = [times]

    def change(original: Callable[..., Any]) -> Callable[..., Any]:
        def sabotaged(*values: Any) -> Any:
            if left[0] <= 0:
                return original(*values)
            left[0] -= 1
            if after:
                original(*values)
            raise error

        return sabotaged

    return change


def twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(*values: Any) -> Any:
        original(*values)
        return original(*values)

    return doubled


def buy(definition: saga.Definition) -> RunRow:
    answer = shop.post_order(Client(), ORDERS[definition.use_case])
    run = shop.run_of(answer.json()["id"])
    assert run.use_case == definition.use_case
    return finish(run.pk)


def assert_sold() -> None:
    assert shop.stock() == demo.STOCK - 1
    assert shop.order(shop.Order.objects.get().pk).status == "COMPLETED"
    shop.assert_nothing_left_over()


@pytest.mark.parametrize(("definition", "position"), BEFORE_PIVOT)
class TestRefusedBeforeThePivotIsOver:
    def test_leaves_a_clean_slate(self, opened: demo.Demo, definition: saga.Definition, position: int) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(Sabotage())):
            run = buy(definition)
        assert (run.status, run.failed_step, run.error_code) == ("COMPENSATED", step.name, "R998")
        shop.assert_clean_slate()

    def test_leaves_a_clean_slate_when_a_technical_error_never_ends(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(RuntimeError("broken"))):
            run = buy(definition)
        assert (run.status, run.failed_step) == ("COMPENSATED", step.name)
        assert StepRow.objects.get(run=run, position=position).attempts == step.attempts_max
        shop.assert_clean_slate()

    def test_completes_when_a_technical_error_ends(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(RuntimeError("broken"), times=2)):
            assert buy(definition).status == "COMPLETED"
        assert StepRow.objects.get(position=position).attempts == 3
        assert_sold()


@pytest.mark.parametrize(("definition", "position"), AFTER_PIVOT)
class TestAfterThePivot:
    def test_is_stuck_and_visible_when_refused(self, opened: demo.Demo, definition: saga.Definition, position: int) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(Sabotage())):
            run = buy(definition)
        assert (run.status, run.failed_step) == ("STUCK", step.name)
        assert shop.Order.objects.get().status == "STUCK"
        assert shop.stock() == demo.STOCK - 1, "after the pivot nothing goes back"

    def test_has_no_error_left_once_somebody_retried_it(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(Sabotage())):
            run = buy(definition)
        assert shop.Order.objects.get().error_code == "R998"
        triage.retry(run.pk, now=timezone.now())
        assert finish(run.pk).status == "COMPLETED"
        order = shop.Order.objects.get()
        assert (order.status, order.error_code, order.error_detail) == ("COMPLETED", "", "")

    def test_completes_when_a_technical_error_ends(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], raising(RuntimeError("broken"), times=3)):
            assert buy(definition).status == "COMPLETED"
        assert_sold()


@pytest.mark.parametrize(("definition", "position"), CALLS)
class TestDoubt:
    def test_does_it_once_when_the_answer_is_lost(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, "call", raising(UnknownOutcome("lost"), times=1, after=True)):
            assert buy(definition).status == "COMPLETED"
        assert shop.SandboxDocument.objects.count() == 1
        assert_sold()

    def test_does_it_once_when_the_outcome_cannot_be_recorded(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        with changed(step, "record", raising(RuntimeError("no disk"), times=1)):
            assert buy(definition).status == "COMPLETED"
        assert shop.SandboxDocument.objects.count() == 1
        assert_sold()


@pytest.mark.parametrize(("definition", "position"), COMPENSABLE)
class TestUndo:
    def test_twice_is_like_once(self, opened: demo.Demo, definition: saga.Definition, position: int) -> None:
        step, pivot = definition.steps[position], next(s for s in definition.steps if s.kind is saga.PIVOT)
        with changed(pivot, DO[pivot.shape], raising(Sabotage())), changed(step, UNDO[step.shape], twice):
            run = _buy_without_shared_commit(definition)
        assert run.status == "COMPENSATED"
        assert StepRow.objects.get(run=run, position=position).status == "UNDONE"
        shop.assert_clean_slate()

    def test_is_repeated_when_its_first_attempts_break(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step, pivot = definition.steps[position], next(s for s in definition.steps if s.kind is saga.PIVOT)
        broken = raising(RuntimeError("broken"), times=2, after=step.shape != "ask")
        with changed(pivot, DO[pivot.shape], raising(Sabotage())), changed(step, UNDO[step.shape], broken):
            run = _buy_without_shared_commit(definition)
        assert run.status == "COMPENSATED"
        assert StepRow.objects.get(run=run, position=position).undo_attempts == 3
        shop.assert_clean_slate()

    def test_before_its_do_makes_the_do_impossible(
        self, opened: demo.Demo, definition: saga.Definition, position: int
    ) -> None:
        step = definition.steps[position]
        run_id = shop.run_of(shop.post_order(Client(), ORDERS[definition.use_case]).json()["id"]).pk
        _undo_now(run_id, step, position)
        run = finish(run_id)
        if step.name == "check_fiscal_doc":
            assert run.status == "COMPLETED", "it does nothing, so its undo prevents nothing"
            return
        assert (run.status, run.failed_step) == ("COMPENSATED", step.name)
        shop.assert_clean_slate()


def _buy_without_shared_commit(definition: saga.Definition) -> RunRow:
    """Each step commits by itself, so that there is something to undo: the local head would simply be rolled back."""
    run = shop.run_of(shop.post_order(Client(), ORDERS[definition.use_case]).json()["id"])
    _do_one_by_one(run.pk, len(definition.steps))
    return finish(run.pk)


def _do_one_by_one(run_id: Any, steps: int) -> None:
    for _ in range(steps):
        with transaction.atomic():
            session = Session.lock(run_id, now=timezone.now())
            assert session is not None
            if session.step.shape != "local" or session.step.kind is not saga.COMPENSABLE:
                return
            with session.ids():
                segments.do_local(session, until=None, before=session.position + 1)
            session.flush()


def _undo_now(run_id: Any, step: saga.Step, position: int) -> None:
    """Call the step's undo as the engine would, for a run that has not come to the step."""
    with transaction.atomic():
        session = Session.lock(run_id, now=timezone.now())
        assert session is not None
        seen = session.run.cursor
        session.run.cursor = position
        view = session.view(undo=True)
        session.run.cursor = seen
        method = "undo_prepare" if step.shape == "call" else UNDO[step.shape]
        getattr(step, method)(view)


@pytest.mark.parametrize(("definition", "position"), CASES)
class TestDo:
    def test_twice_is_like_once(self, opened: demo.Demo, definition: saga.Definition, position: int) -> None:
        step = definition.steps[position]
        with changed(step, DO[step.shape], twice):
            assert buy(definition).status == "COMPLETED"
        assert_sold()
        by_card = definition.use_case == "orders.purchase.card"
        shop.assert_money(
            customer="1000.00" if by_card else "989.50", sales="10.50", clearing="-10.50" if by_card else "0.00"
        )
        assert shop.SandboxDocument.objects.count() == 1
