"""Generated for every registered definition, also those added later: it fails at every step, and every undo comes twice.

Each step is a commit of its own here, so that there is something to undo: a segment of local steps would simply be rolled
back. The journeys are the real ones, on the demo's data; each test asserts that the run failed at the step that it was told
to fail at.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import engine, pauses, triage
from apps.saga import public as saga
from apps.saga.models import Run, StepStatus
from apps.saga.models import Step as StepRow
from config import demo
from tests.saga_driver import finish
from tests.trials import TRIALS, trial_of

# What does a step of each shape, and what undoes it: of those that only wait the engine does that itself.
DO = {"local": "handle", "ask": "ask", "call": "call", "timer": "until", "approval": "ask", "parallel": "branches"}
UNDO = {"local": "compensate", "ask": "ask_undo", "call": "undo_call", "timer": "", "approval": "", "parallel": ""}


class Sabotage(DomainError):
    """Refused by the test."""

    code = "R998"


ERRORS: dict[str, Exception] = {"business": Sabotage(), "technical": RuntimeError("broken")}
CASES = [
    pytest.param(definition, position, kind, id=f"{definition.use_case}.v{definition.version}-{step.name}-{kind}")
    for definition in saga.registered()
    if not definition.use_case.startswith("test.")
    for position, step in enumerate(definition.steps)
    for kind in ERRORS
]


def method_of(step: saga.Step, methods: dict[str, str]) -> str:
    """Which method of a step does it, or undoes it."""
    assert step.shape in methods, f"the shape {step.shape} is new: say in {__name__} which of its methods do and undo it"
    return methods[step.shape]


@contextmanager
def changed(step: saga.Step, method: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace one method of one step while the block runs."""
    setattr(step, method, change(getattr(step, method)))
    try:
        yield
    finally:
        delattr(step, method)


def raising(error: Exception) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def change(_: Callable[..., Any]) -> Callable[..., Any]:
        def sabotaged(*_values: Any) -> Any:
            raise error

        return sabotaged

    return change


def twice(original: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(*values: Any) -> Any:
        original(*values)
        return original(*values)

    return doubled


@pytest.fixture(autouse=True)
def _each_step_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine ends a segment before a step that may be paused, to look; here any may be, and none is."""
    monkeypatch.setattr(pauses, "is_known", lambda *_: True)


@pytest.mark.parametrize(("definition", "position", "kind"), CASES)
def test_it_fails_there_and_every_undo_comes_twice(
    opened: demo.Demo, definition: saga.Definition, position: int, kind: str
) -> None:
    trial, step = trial_of(definition.use_case), definition.steps[position]
    with ExitStack() as stack:
        for other in definition.steps:
            if other.kind is saga.COMPENSABLE and (undo := method_of(other, UNDO)):
                stack.enter_context(changed(other, undo, twice))
        stack.enter_context(changed(step, method_of(step, DO), raising(ERRORS[kind])))
        run = finish(trial.begin(), meanwhile=trial.people)
    assert (run.version, run.failed_step) == (definition.version, step.name)
    assert StepRow.objects.get(run=run, position=position).attempts == (1 if kind == "business" else step.attempts_max)
    if step.kind is saga.RETRIABLE:
        assert run.status == "STUCK"
        assert done_steps(run) == [each.name for each in definition.steps[:position]], "after the pivot nothing goes back"
        triage.retry(run.pk, now=timezone.now())
        assert finish(run.pk).status == "COMPLETED"
        trial.assert_done()
        return
    assert run.status == "COMPENSATED"
    assert done_steps(run) == []
    undone = list(StepRow.objects.filter(run=run, status=StepStatus.UNDONE).order_by("undone_at"))
    assert [each.position for each in undone][::-1] == sorted(each.position for each in undone)
    assert {each.position for each in undone} >= set(range(position)), "what was done is undone, not rolled back"
    trial.assert_undone()


def done_steps(run: Run) -> list[str]:
    rows = StepRow.objects.filter(run=run, status=StepStatus.DONE).order_by("position")
    return list(rows.values_list("name", flat=True))


@pytest.mark.parametrize("definition", [pytest.param(each, id=each.use_case) for each in saga.registered()])
def test_it_completes_when_nothing_fails(opened: demo.Demo, definition: saga.Definition) -> None:
    trial = trial_of(definition.use_case)
    assert finish(trial.begin(), meanwhile=trial.people).status == "COMPLETED"
    trial.assert_done()


@pytest.mark.parametrize("definition", [pytest.param(each, id=each.use_case) for each in saga.registered()])
def test_it_completes_when_every_step_is_done_twice(opened: demo.Demo, definition: saga.Definition) -> None:
    trial = trial_of(definition.use_case)
    with ExitStack() as stack:
        for step in definition.steps:
            stack.enter_context(changed(step, method_of(step, DO), twice))
        assert finish(trial.begin(), meanwhile=trial.people).status == "COMPLETED"
    trial.assert_done()


class TestTheGenerator:
    def test_says_what_a_new_use_case_needs(self) -> None:
        with pytest.raises(AssertionError, match=r"orders.lottery is registered and nobody tries it: add its Trial"):
            trial_of("orders.lottery")

    def test_knows_no_use_case_that_is_gone(self) -> None:
        assert set(TRIALS) == {each.use_case for each in saga.registered() if not each.use_case.startswith("test.")}

    def test_finds_a_step_that_cannot_be_undone_twice(self, opened: demo.Demo) -> None:
        """It would be worth nothing if it could not fail."""
        definition = next(each for each in saga.registered() if each.use_case == "orders.purchase.balance")
        reserve, pivot = definition.steps[0], next(each for each in definition.steps if each.kind is saga.PIVOT)

        def adds_one(original: Callable[..., Any]) -> Callable[..., Any]:
            def release(run: saga.Run) -> None:
                original(run)
                demo_ticket = shop_ticket()
                demo_ticket.available += 1
                demo_ticket.save()

            return release

        with changed(reserve, "compensate", adds_one), changed(pivot, "handle", raising(Sabotage())):
            run = finish(trial_of(definition.use_case).begin())
        assert run.status == "COMPENSATED"
        with pytest.raises(AssertionError):
            trial_of(definition.use_case).assert_undone()


def shop_ticket() -> Any:
    from apps.orders.models import Ticket

    return Ticket.objects.get(pk=demo.TICKET_ID)


def test_the_engine_lets_each_step_commit(opened: demo.Demo) -> None:
    """Else the generated tests would prove less than they say."""
    run_id = trial_of("orders.purchase.balance").begin()
    engine.advance(run_id)
    assert Run.objects.get(pk=run_id).cursor == 1
