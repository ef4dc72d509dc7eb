"""Seeded schedules: orders and returns whose steps fail, workers that die, and people who act at any moment.

Whatever happens, every business transaction ends, or is listed as one that needs somebody; an order says what its run says;
and where nobody has skipped a step, the stock, the ledger, the processor and the authority say what the order says.
SEEDS=…, FIRST_SEED=… and DEEDS=… search on; a failure tells what was done.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from apps.common.errors import DomainError, UnknownOutcome
from apps.ledger import public as ledger
from apps.ledger.reconciliation import check_balances
from apps.messaging.models import LocalMember, Pending, Redelivery
from apps.orders.models import Order, OrderReturn, Reservation
from apps.orders.sagas.left import left_of_order
from apps.saga import definition as definitions
from apps.saga import engine, pauses, triage, versions
from apps.saga import public as saga
from apps.saga.models import LIVE, Lock, Run, RunStatus, Step
from config import demo
from tests import shop
from tests.flows.test_every_step import changed
from tests.saga_driver import let_time_pass, pump_messages

# A worker that dies here leaves its membership behind, which a real broker would have to miss first.
pytestmark = pytest.mark.skipif(settings.MESSAGING_TRANSPORT != "local", reason="nothing here is about the broker")
FIRST, SEEDS = int(os.environ.get("FIRST_SEED", "0")), int(os.environ.get("SEEDS", "12"))
ORDERS, DEEDS = 3, int(os.environ.get("DEEDS", "60"))
# Not of an answer: a DomainError says there that the other side has refused, which it has not.
FAULTS = ("business", "technical", "unknown", "killed before", "killed behind")
METHODS = {
    "local": ("handle", "compensate"),
    "ask": ("ask", "on_answer", "ask_undo", "on_undo_answer"),
    "call": ("prepare", "call", "did_it_happen", "record", "undo_prepare", "undo_call", "undo_record"),
    "approval": ("ask",),
    "timer": ("until",),
}
USE_CASES = ("orders.purchase.card", "orders.purchase.balance", "orders.return")
NEWER = 77  # of each use case: the same steps
WHY = "because of the schedule"
PEOPLE = ("user:anna", "user:bruno")
BOSS = saga.Decider("user:boss", frozenset({"permission:orders.approve_return", "permission:saga.change_approval"}))


class Killed(BaseException):
    """The worker ends here, as by a power cut: what was not committed is gone."""


class Refused(DomainError):
    """Refused by the schedule."""

    code = "R998"


class Schedule:
    """What happens, by one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.told: list[str] = []
        self.faults = 0.15
        self.placed: list[UUID] = []
        self.skipped: set[UUID] = set()  # runs of which somebody said that a step was done, or undone
        self.taken_back: set[UUID] = set()

    def tell(self, text: str) -> None:
        self.told.append(text)

    # --- The world ------------------------------------------------------------------------------------------------------
    @contextmanager
    def world(self) -> Iterator[None]:
        """Each method of each step may fail, or its worker die before or behind it."""
        with ExitStack() as stack:
            for definition in saga.registered():
                if not definition.use_case.startswith("orders.") or definition.version == NEWER:  # of the same steps
                    continue
                for step in definition.steps:
                    for method in METHODS.get(step.shape, ()):
                        stack.enter_context(changed(step, method, self.shaky(step.name, method)))
            yield

    def shaky(self, step: str, method: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def change(original: Callable[..., Any]) -> Callable[..., Any]:
            def shaken(*values: Any) -> Any:
                if self.chance.random() >= self.faults:
                    return original(*values)
                fault = self.chance.choice(FAULTS[method == "on_answer" :])
                self.tell(f"    {step}.{method}: {fault}")
                if fault == "business":
                    raise Refused
                if fault == "technical":
                    raise RuntimeError("broken")
                if fault == "killed before":
                    raise Killed
                if method in ("call", "undo_call", "did_it_happen"):
                    self.meanwhile()
                found = original(*values)
                if method in ("call", "undo_call", "did_it_happen"):
                    self.meanwhile()
                if fault == "unknown" and method in ("call", "undo_call"):
                    raise UnknownOutcome("nobody knows")
                if fault == "killed behind":
                    raise Killed
                return found

            return shaken

        return change

    def meanwhile(self) -> None:
        """While somebody waits for the network others act, and perhaps his time is over before he comes back."""
        if self.chance.random() < 0.5:
            self.tell("    meanwhile")
            self.chance.choice((self.act, self.act, self.pass_time, self.advance, self.reset, self.move))()

    def process(self, what: str, deed: Callable[[], Any]) -> Any:
        try:
            return deed()
        except Killed:
            self.tell(f"    killed in {what}")
            LocalMember.objects.all().delete()  # its lease is over
        except DomainError as refusal:
            self.tell(f"    {refusal.code} {refusal.detail}")
        return None

    # --- What happens ---------------------------------------------------------------------------------------------------
    def place(self) -> None:
        body = self.chance.choice((shop.body, shop.by_balance))(amount=self.chance.choice((10.5, 250)))
        order = shop.post_order(Client(), body).json()
        self.placed.append(UUID(order["id"]))
        self.tell(f"order {len(self.placed) - 1} {body.get('payment', {}).get('method', 'card')} {body['amount']}")

    def name(self, run: Run) -> str:
        return f"{run.use_case.removeprefix('orders.')} of order {self.placed.index(run.subject_id)} ({run.status})"

    def any_run(self, *statuses: str) -> Run | None:
        rows = list(Run.objects.filter(**({"status__in": statuses} if statuses else {})).order_by("pk"))
        return self.chance.choice(rows) if rows else None

    def advance(self) -> None:
        if run := self.any_run(*LIVE):
            self.tell(f"work on {self.name(run)}")
            undo = run.status == RunStatus.COMPENSATING
            self.process("a worker", lambda: engine.advance(run.pk, undo=undo, on=self.chance.random() < 0.5))

    def pass_time(self) -> None:
        if run := self.any_run(*LIVE):
            self.tell(f"time passes for {self.name(run)}")
            let_time_pass(run.pk)

    def messages(self) -> None:
        self.tell("messages")
        self.process("a consumer", pump_messages)

    def act(self) -> None:
        action = self.chance.choice(list(triage.Action))
        run = self.any_run(RunStatus.STUCK) if self.chance.random() < 0.6 else self.any_run()
        if run is None:
            return
        output = None
        if action is triage.Action.SKIP and self.chance.random() < 0.7:
            output = self.output_of(run)
        patch = {"note": "edited"} if action is triage.Action.RETRY and self.chance.random() < 0.3 else None
        self.tell(f"{action} {self.name(run)} at {run.at_step} {output or ''}")
        try:
            what = triage.wanted(action, output=output, patch=patch)
            action_id = saga.request_action(
                saga.Selection(run_ids=(run.pk,)), what, reason=WHY, by=self.chance.choice(PEOPLE), now=timezone.now()
            )
            self.process("an action", lambda: saga.work_on_action(action_id, now=timezone.now()))
            self.process("an action", lambda: saga.work_on_action(action_id, now=timezone.now() + timedelta(minutes=5)))
        except DomainError as refusal:
            self.tell(f"    {refusal.code} {refusal.detail}")
            return
        (item,) = saga.action_items(action_id, limit=1)[0]
        self.tell(f"    {item.status} {item.code} {item.detail}")
        if item.status == "DONE" and action is triage.Action.SKIP:
            self.skipped.add(run.parent_id or run.pk)

    def output_of(self, run: Run) -> dict[str, Any]:
        names = [step.name for step in Step.objects.filter(run=run).order_by("position")]
        made = {"UUID": str(uuid4()), "text": f"{run.pk}:{run.cursor}"}
        return {field.name: made[field.kind] for field in saga.output_fields(run.use_case, run.version, names, run.cursor)}

    def reset(self) -> None:
        if run := self.any_run(RunStatus.STUCK, RunStatus.COMPENSATED):
            names = [step.name for step in Step.objects.filter(run=run).order_by("position")]
            to_step = self.chance.choice(names)
            self.tell(f"reset {self.name(run)} to {to_step}")
            self.process(
                "a reset", lambda: saga.reset(run.pk, to_step=to_step, reason=WHY, by=PEOPLE[0], now=timezone.now())
            )

    def pause(self) -> None:
        use_case = self.chance.choice(USE_CASES)
        self.tell(f"pause {use_case}")
        self.process("a pause", lambda: saga.pause(use_case, "", reason=WHY, by=PEOPLE[0], now=timezone.now()))

    def lift(self) -> None:
        for use_case in USE_CASES:
            self.process(
                "a lift",
                lambda use_case=use_case: saga.lift_pause(use_case, "", reason=WHY, by=PEOPLE[0], now=timezone.now()),
            )

    def move(self) -> None:
        """Every run that may goes to the version that differs in nothing but its number."""
        use_case = self.chance.choice(USE_CASES)
        outcomes = list(
            versions.move(use_case, older=1, newer=NEWER, reason=WHY, by=PEOPLE[0], now=timezone.now(), dry_run=False)
        )
        self.tell(f"move {use_case}: {[each.refusal or 'moved' for each in outcomes]}")

    def give_back(self) -> None:
        order = self.chance.choice(self.placed)
        answer = shop.post_return(Client(), order)
        self.tell(f"return of order {self.placed.index(order)}: {answer.status_code}")

    def decide(self) -> None:
        for approval in saga.find_approvals(limit=10).rows:
            yes = self.chance.random() < 0.7
            self.tell(f"decide {approval.step}: {yes}")
            self.process(
                "a decision",
                lambda a=approval, y=yes: saga.decide(a.id, approve=y, by=BOSS, reason=WHY, now=timezone.now()),
            )

    def take_back(self) -> None:
        """Somebody takes a sale back in the ledger, past its run."""
        rows = Step.objects.filter(output__has_key="tracekey", status="DONE").order_by("run_id")
        if step := (self.chance.choice(list(rows)) if rows else None):
            key = UUID(step.output["tracekey"])
            from apps.common.transactions import transaction

            self.tell(f"take back the entry of {self.name(Run.objects.get(pk=step.run_id))}")
            post = transaction(lambda: ledger.reverse(tracekey=key, reversal_tracekey=uuid4(), now=timezone.now()))
            self.process("the ledger", post)
            self.taken_back.add(Run.objects.get(pk=step.run_id).subject_id)

    # --- The end --------------------------------------------------------------------------------------------------------
    def come_to_rest(self) -> None:
        self.faults = 0.0
        self.lift()
        for _ in range(80):
            pump_messages()
            self.decide()
            live = [run for run in Run.objects.filter(status__in=LIVE).order_by("pk") if not waits_for_a_person(run)]
            if not live and not Pending.objects.exists() and not Redelivery.objects.exists():
                return
            for run in live:
                let_time_pass(run.pk)
                engine.advance(run.pk, undo=run.status == RunStatus.COMPENSATING)
        left = Run.objects.filter(pk__in=[run.pk for run in live]).values_list(
            "use_case", "status", "at_step", "held_by", "awaits_key"
        )
        raise AssertionError(f"these never end: {list(left)}")

    def help(self) -> None:
        """Somebody lets every stuck run go on, now that nothing fails any more."""
        for run in Run.objects.filter(status=RunStatus.STUCK).order_by("pk"):
            self.tell(f"help {self.name(run)} at {run.at_step}: {run.error_code} {run.error_detail}")
            self.process("a retry", lambda run=run: triage.retry(run.pk, now=timezone.now()))
        self.come_to_rest()


def waits_for_a_person(run: Run) -> bool:
    """Does it wait for a branch that is stuck?"""
    return run.status == RunStatus.WAITING and Run.objects.filter(parent_id=run.pk, status=RunStatus.STUCK).exists()


SAYS = {
    "COMPLETED": {"COMPLETED", "RETURNED"},
    "COMPENSATED": {"REJECTED", "PAYMENT_NOT_COMPLETED", "CANCELLED"},
    "HANDLED": {"HANDLED"},
    "STUCK": {"STUCK"},
}
RETURN_SAYS = {
    "COMPLETED": {"COMPLETED"},
    "COMPENSATED": {"REFUSED"},
    "HANDLED": {"HANDLED", "REFUSED"},
    "STUCK": {"STUCK"},
    "WAITING": {"ACCEPTED", "STUCK"},  # for a branch that is stuck
}


def assert_true(schedule: Schedule) -> None:
    assert check_balances() == []
    for order_id in schedule.placed:
        order = Order.objects.get(pk=order_id)
        run = Run.objects.get(pk=order.run_id)
        where = f"order {schedule.placed.index(order_id)}: {order.status}, run {run.status} at {run.failed_step}"
        assert order.status in SAYS[run.status] or (run.status == "STUCK" and run.hook_failures), where
        if order.status in ("COMPLETED", "RETURNED"):
            assert not order.error_code, where
        if run.pk not in schedule.skipped:
            assert_effects(run, order, where, taken_back=order_id in schedule.taken_back)
    stuck = set(Run.objects.filter(status="STUCK").values_list("pk", flat=True))
    listed = (
        {each.run_id for each in saga.find_runs(saga.Filter(statuses=("STUCK",)), limit=200, now=timezone.now()).rows}
        if stuck
        else set()
    )
    assert stuck <= listed
    for asked in OrderReturn.objects.all():
        run = Run.objects.get(pk=asked.run_id)
        where = f"return of order {schedule.placed.index(asked.order_id)}: {asked.status}, run {run.status}"
        assert asked.status in RETURN_SAYS[run.status], where
        assert (Order.objects.get(pk=asked.order_id).status == "RETURNED") == OrderReturn.objects.filter(
            order_id=asked.order_id, status="COMPLETED"
        ).exists(), where
    over = Run.objects.filter(finished_at__isnull=False).values_list("pk", flat=True)
    assert not Lock.objects.filter(run_id__in=list(over)).exists()


def assert_nobody_needs_help(schedule: Schedule) -> None:
    """Nothing fails any more, so whoever was let go on has ended; but for what people have done behind the runs' backs."""
    for run in Run.objects.filter(status=RunStatus.STUCK):
        told = f"{schedule.name(run)} at {run.at_step}: {run.error_code} {run.error_detail}"
        assert run.pk in schedule.skipped or run.parent_id in schedule.skipped or run.subject_id in schedule.taken_back, (
            told
        )


def assert_effects(run: Run, order: Order, where: str, *, taken_back: bool) -> None:
    left = left_of_order(view_of(run))
    if run.status == "COMPENSATED":
        assert left == (), where
    reservations = list(Reservation.objects.filter(order_id=order.pk).values_list("status", flat=True))
    if run.status == "COMPLETED" and order.status == "COMPLETED" and not OrderReturn.objects.filter(order=order).exists():
        assert set(reservations) - {"RELEASED"} == {"SOLD"}, where
        assert any("is authorised" in line for line in left), where
        assert taken_back or any("Posted in the ledger as a sale" in line for line in left), where
        assert order.payment_method != "card" or any("Taken from the card" in line for line in left), where


def view_of(run: Run) -> Any:
    steps = list(Step.objects.filter(run=run).order_by("position"))
    session = triage.peek(run, steps, now=timezone.now())
    session.run.cursor = min(session.run.cursor, len(steps) - 1)
    return session.view(whole=True)


@pytest.fixture(autouse=True)
def _each_step_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "is_known", lambda *_: True)


@pytest.fixture(autouse=True)
def _newer_versions() -> Iterator[None]:
    made = []
    for use_case in USE_CASES:
        older = definitions.lookup(use_case, 1)
        same = {1: {step.name: step.name for step in older.steps}}
        made.append(saga.register(replace(older, version=NEWER, migrates_from=same)))
    yield
    for each in made:
        definitions._registry.pop((each.use_case, each.version))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_ends_as_it_must(opened: demo.Demo, seed: int) -> None:
    schedule = Schedule(seed)
    deeds = {
        schedule.advance: 40, schedule.pass_time: 12, schedule.messages: 20, schedule.act: 14, schedule.reset: 3,
        schedule.pause: 1, schedule.lift: 2, schedule.give_back: 4, schedule.decide: 4, schedule.take_back: 1,
        schedule.move: 1,
    }  # fmt: skip
    try:
        with schedule.world():
            for _ in range(ORDERS):
                schedule.place()
            for _ in range(DEEDS):
                (deed,) = schedule.chance.choices(list(deeds), list(deeds.values()))
                deed()
            schedule.come_to_rest()
            assert_true(schedule)
            schedule.help()
            assert_true(schedule)
            assert_nobody_needs_help(schedule)
    except Exception as error:
        error.add_note("\n".join(schedule.told))
        raise
