"""What people do in a schedule: operators who pause and intervene, bosses who decide, at moments of the seed's choice."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.common.errors import DomainError
from apps.saga import deciding, pauses, resets, triage
from apps.saga.deciding import Decider
from apps.saga.definition import RETRIABLE, Definition
from apps.saga.models import Approval, ApprovalStatus, Pause, RunStatus, Step
from apps.saga.models import Run as RunRow
from tests.simulation.journeys import BOSSES, DEPUTIES
from tests.simulation.world import World

REASON, OPERATOR = "the simulation says so", "simulation"
DECIDERS = (
    Decider("boss", frozenset({BOSSES})),
    Decider("deputy", frozenset({DEPUTIES})),
    Decider("passer-by", frozenset({"group:others"})),
)
JUMPS = tuple(timedelta(seconds=s) for s in (0.6, 2, 8, 35, 70))


class People:
    """Part of a schedule; the rest is in scheduler.py."""

    world: World
    definition: Definition
    _paused: set[str]

    def _process(self, what: str, work: Callable[[], Any]) -> None:
        with self.world.process(what):
            work()

    def _intervene(self, what: str, deed: Callable[[], Any]) -> None:
        try:
            self._process(what, deed)
        except DomainError as refusal:
            self.world.tell(f"    {refusal.code}")

    def pass_time(self) -> None:
        jump = self.world.chance.choice(JUMPS)
        self.world.clock.time += jump
        self.world.tell(f"{jump.total_seconds():g} s pass")

    # --- Pauses -------------------------------------------------------------------------------------------------------
    def pause(self) -> None:
        step = self.world.chance.choice(["", *(step.name for step in self.definition.steps)])
        holds_undo = self.world.happens(0.5)
        self._paused.add(step)
        self._intervene(
            f"pause {step or 'all'}",
            lambda: pauses.pause(
                self.definition.use_case, step, reason=REASON, by=OPERATOR, now=self.world.clock(), holds_undo=holds_undo
            ),
        )

    def lift(self) -> None:
        self._lift(self.world.chance.choice(sorted(self._paused) or ["", *(step.name for step in self.definition.steps)]))

    def _lift(self, step: str) -> None:
        now = self.world.clock()
        self._paused.discard(step)
        self._intervene(
            f"lift {step or 'all'}",
            lambda: pauses.lift(self.definition.use_case, step, reason=REASON, by=OPERATOR, now=now),
        )

    def _lift_all(self) -> None:
        in_force = Pause.objects.filter(use_case=self.definition.use_case, lifted_at__isnull=True)
        for step in sorted(set(in_force.values_list("step", flat=True))):
            self._lift(step)

    # --- Operators --------------------------------------------------------------------------------------------------------
    def retry(self) -> None:
        self._act(triage.Action.RETRY)

    def retry_with_another_input(self) -> None:
        self._act(triage.Action.RETRY, patch={"note": str(self.world.chance.randrange(100))})

    def compensate(self) -> None:
        """Somebody wants a run undone that may well be fine."""
        self._act(triage.Action.COMPENSATE)

    def skip(self) -> None:
        """Somebody says that a step, or its undo, was done by hand."""
        self.world.has_skipped = True
        self._act(triage.Action.SKIP)

    def handle(self) -> None:
        """Somebody closes a stuck run as it is."""
        self._act(triage.Action.HANDLE)

    def _act(self, action: triage.Action, **given: Any) -> None:
        """Mostly on a run that needs somebody, if there is one."""
        if not self.world.runs:
            return
        stuck = RunRow.objects.filter(business_key=self.world.business_key, status=RunStatus.STUCK).order_by("pk")
        of = list(stuck.values_list("pk", flat=True)) if self.world.happens(0.7) else []
        run_id = self.world.chance.choice(of or self.world.runs)
        what = f"{action} {self.world.name(run_id)}{' with another input' if given else ''}"
        self._intervene(what, lambda: self._apply(run_id, triage.wanted(action, **given)))

    def _apply(self, run_id: UUID, what: triage.Wanted) -> None:
        with transaction.atomic():
            triage.apply(run_id, what, reason=REASON, by=OPERATOR, now=self.world.clock())

    def reset(self) -> None:
        """Somebody lets a failed run begin again, from a step that he takes for the right one."""
        run = self._failed_run()
        if run is None:
            return
        names = list(Step.objects.filter(run_id=run.pk).order_by("position").values_list("name", flat=True))
        to_step, now = self.world.chance.choice(names), self.world.clock()
        self._intervene(
            f"reset {self.world.name(run.pk)} to {to_step}",
            lambda: resets.reset(run.pk, to_step=to_step, reason=REASON, by=OPERATOR, now=now),
        )

    def _failed_run(self) -> RunRow | None:
        failed = RunRow.objects.filter(
            business_key=self.world.business_key, status__in=[RunStatus.STUCK, RunStatus.COMPENSATED]
        )
        found = list(failed.order_by("pk"))
        return self.world.chance.choice(found) if found else None

    # --- Bosses -----------------------------------------------------------------------------------------------------------
    def decide(self) -> None:
        """Somebody answers a question, whether it is his to answer or not."""
        asked = self._questions()
        if asked:
            by = self.world.chance.choices(DECIDERS, (5, 3, 2))[0]
            self._decide(self.world.chance.choice(asked), by, approve=self.world.happens(0.7))

    def _decide_all(self) -> None:
        for approval in self._questions():
            self._decide(approval, DECIDERS[approval.delegated_at is not None], approve=True)

    def _decide(self, approval: Approval, by: Decider, *, approve: bool) -> None:
        now = self.world.clock()
        self._intervene(
            f"the {by.name} {'approves' if approve else 'refuses'} {approval.step} of {self.world.name(approval.run_id)}",
            lambda: deciding.decide(approval.pk, approve=approve, by=by, reason=REASON, now=now),
        )

    def _questions(self) -> list[Approval]:
        mine = Approval.objects.filter(business_key=self.world.business_key, status=ApprovalStatus.OPEN)
        return list(mine.order_by("pk"))

    # --- At the end -------------------------------------------------------------------------------------------------------
    def _help(self, run_id: UUID) -> None:
        """An operator has talked to the partner, and lets a stuck run go on."""
        for position in Step.objects.filter(run_id=run_id, kind=RETRIABLE).values_list("position", flat=True):
            self.world.partner.forgive(f"{run_id}:{position}")
        self.world.know(run_id)
        what = triage.wanted(triage.Action.RETRY)
        self._intervene(f"retry {self.world.name(run_id)}", lambda: self._apply(run_id, what))
