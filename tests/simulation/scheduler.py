"""The scheduler: draws what happens next, lets it happen to the real engine, and at the end lets all runs come home."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from celery.exceptions import Ignore
from django.db import transaction

from apps.ledger import public as ledger
from apps.saga import definition as definitions
from apps.saga import engine, tasks
from apps.saga.definition import Definition
from apps.saga.models import LIVE, Run, RunStatus
from apps.saga.shapes import ApprovalStep
from apps.saga.sweeper import sweep
from tests.simulation import invariants
from tests.simulation.journeys import KEYS, journey
from tests.simulation.people import JUMPS, People
from tests.simulation.steps import ACCOUNTS, EVENT
from tests.simulation.world import Violation, World

RUNS_MAX = 2
# Of a schedule, before it is healed: fewer in those seeds that every `make test` runs.
ACTIONS = (12, 36)
QUICK_SEEDS, QUICK_ACTIONS = 1000, (8, 18)
HOME_ROUNDS_MAX = 120  # of the end, each with everything that waits: a run that needs more goes in circles


def prepare(now: datetime) -> None:
    """The accounts of all schedules. Safe to repeat."""
    with transaction.atomic():
        ledger.open_branch(branch="SIM", now=now)
        for ref in ACCOUNTS:
            ledger.open_account(branch=ref.branch, account=ref.account, min_balance=None, now=now)
        ledger.ensure_event(code=EVENT, description="Simulated", now=now)


class Schedule(People):
    """One seed: a journey, its runs, and what happens to them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.definition: Definition = journey(world)
        self._paused: set[str] = set()  # more or less: whoever paused may have died of it
        self.has_questions = any(isinstance(step, ApprovalStep) for step in self.definition.steps)

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        """What may happen now, and how likely each is. What would change nothing is rare, and not left out."""
        world = self.world
        wakes, asks, answers = bool(world.wake_ups), bool(world.requests), bool(world.answers)
        return [
            (self.deliver_wake_up, 30 * wakes),
            (self.double_wake_up, 4 * wakes),
            (self.lose_wake_up, 4 * wakes),
            (self.deliver_request, 16 * asks),
            (self.double_request, 4 * asks),
            (self.lose_request, 4 * asks),
            (self.deliver_answer, 16 * answers),
            (self.double_answer, 4 * answers),
            (self.lose_answer, 4 * answers),
            (self.wake_sleeper, 6 * bool(world.sleepers)),
            (self.stray_wake_up, 4),
            (self.pass_time, 10 if wakes or asks or answers else 16),
            (self.sweep, 8 if wakes or asks or answers else 16),
            (self.pause, 3),
            (self.lift, 8 if self._paused else 1),
            (self.retry, 3),
            (self.retry_with_another_input, 1),
            (self.compensate, 2),
            (self.skip, 1),
            (self.handle, 0.5),
            (self.reset, 2),
            (self.decide, 10 * self.has_questions),
        ]

    # --- The schedule -----------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Let it happen. Raises Violation."""
        world, chance = self.world, self.world.chance
        with ExitStack() as stack:
            stack.enter_context(world.in_charge())
            definitions.register(self.definition)
            stack.callback(self._forget_definitions)
            world.tell(" ".join(f"{step.name}:{step.kind}" for step in self.definition.steps))
            for _ in range(chance.randint(1, RUNS_MAX)):
                self.begin()
            for _ in range(chance.randint(*(QUICK_ACTIONS if world.seed < QUICK_SEEDS else ACTIONS))):
                self.act()
            invariants.always(world)
            self.come_home()
            invariants.at_the_end(world)

    def _forget_definitions(self) -> None:
        """The journey's, and those of its branches."""
        for key in [key for key in definitions._registry if key[0].startswith(self.definition.use_case)]:
            del definitions._registry[key]

    def act(self) -> None:
        """One thing happens."""
        actions, weights = zip(*self._actions(), strict=True)
        self.world.chance.choices(actions, weights)[0]()

    def come_home(self) -> None:
        """From now on nothing fails and nothing is lost: every run has to end."""
        world = self.world
        world.healed = True
        world.tell("healed")
        for _ in range(HOME_ROUNDS_MAX):
            self._deliver_all()
            still = self._still_open()
            if not still and not world.sleepers:
                return
            if not still or world.happens(0.3):
                self.wake_sleeper()
            if self.has_questions:
                self._decide_all()
            for run_id in (run_id for run_id, status, _ in still if status == RunStatus.STUCK):
                self._help(run_id)
            self._lift_all()
            due = [due_at for _, _, due_at in still if due_at is not None]
            world.clock.time = max(world.clock.time, *due) + JUMPS[0] if due else world.clock.time + JUMPS[0]
            self.sweep()
        raise Violation(f"these runs never end: {[(world.name(run_id), status) for run_id, status, _ in still]}")

    def _still_open(self) -> list[tuple[UUID, str, datetime | None]]:
        found = Run.objects.filter(business_key=self.world.business_key, status__in=[*LIVE, RunStatus.STUCK])
        return list(found.order_by("pk").values_list("pk", "status", "due_at"))

    def _deliver_all(self) -> None:
        world = self.world
        for _ in range(HOME_ROUNDS_MAX):
            if not (world.wake_ups or world.requests or world.answers):
                break
            self.deliver_wake_up()
            self.deliver_request()
            self.deliver_answer()

    # --- Beginning ----------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Somebody starts a run; whether he dies of it, only the database knows."""
        world, subject = self.world, uuid4()
        inline_ms = world.chance.choice([0, 60_000])
        keys = [f"{world.id} {key}" for key in world.chance.sample(KEYS, world.chance.randint(1, 2))]

        def start() -> None:
            with transaction.atomic():
                started.append(
                    engine.start(
                        self.definition,
                        subject_id=subject,
                        business_key=world.business_key,
                        data={"keys": keys},
                        now=world.clock(),
                        run_inline_for_ms=inline_ms,
                    )
                )
            begun.append(started[0])

        begun: list[UUID] = []
        started: list[UUID] = []
        self._intervene(f"start, {'its head inline' if inline_ms else 'all by workers'}", start)
        for run_id in begun or Run.objects.filter(subject_id=subject).values_list("pk", flat=True):
            world.know(run_id)

    # --- Wake-ups -------------------------------------------------------------------------------------------------------
    def deliver_wake_up(self) -> None:
        waiting = self.world.wake_ups
        if waiting:
            self._wake(waiting.pop(self.world.chance.randrange(len(waiting)) if self.world.happens(0.3) else 0))

    def double_wake_up(self) -> None:
        if self.world.wake_ups:
            self._wake(self.world.chance.choice(self.world.wake_ups))

    def lose_wake_up(self) -> None:
        self._lose(self.world.wake_ups, "a wake-up is lost")

    def stray_wake_up(self) -> None:
        """A message from long ago, of any kind."""
        world = self.world
        if world.runs:
            kind = world.chance.choice(["chain", "soon", "undo", "look"])
            steps = len(self.definition.steps)
            self._wake((kind, world.chance.randrange(len(world.runs)), world.chance.randrange(steps), steps))

    def _wake(self, item: tuple[str, int, int, int]) -> None:
        kind, index, position, steps = item
        run_id = self.world.runs[index]

        def work() -> None:
            if kind == "soon":
                tasks._advance(run_id)
            elif kind == "look":
                tasks.look(run_id=str(run_id))
            elif kind == "undo":
                tasks.undo(run_id=str(run_id))
            else:
                self._chain(index, position, steps)

        self._process(f"{kind} wakes run {index}{f' at {position}' if kind == 'chain' else ''}", work)

    def _chain(self, index: int, position: int, steps: int) -> None:
        """As Celery would: the next task of the chain, or its errback, or its end."""
        try:
            tasks.do_step(run_id=str(self.world.runs[index]), position=position)
        except tasks.TurnedAround:
            self.world.wake_ups.append(("undo", index, 0, 0))
        except Ignore:
            pass
        else:
            if position + 1 < steps:
                self.world.wake_ups.append(("chain", index, position + 1, steps))

    def wake_sleeper(self) -> None:
        """An owner that stalled while it talked goes on, whoever owns the step by now."""
        if self.world.sleepers:
            index = self.world.chance.randrange(len(self.world.sleepers))
            claim = self.world.sleepers[index][0]
            what = f"the owner of {claim.run.step} of {self.world.name(claim.run.id)} ({claim.run.attempt}) wakes up"
            self._process(what, lambda: self.world.wake_sleeper(index))

    def sweep(self) -> None:
        self._process("the sweeper sweeps", sweep)

    # --- Messages ---------------------------------------------------------------------------------------------------------
    def deliver_request(self) -> None:
        waiting = self.world.requests
        if waiting:
            self._ask(waiting.pop(self.world.chance.randrange(len(waiting)) if self.world.happens(0.3) else 0))

    def double_request(self) -> None:
        if self.world.requests:
            self._ask(self.world.chance.choice(self.world.requests))

    def lose_request(self) -> None:
        """Not one that nobody would repeat: a broker keeps it until it is taken."""
        found = [each for each in self.world.requests if each["repeated"]]
        if found:
            self.world.requests.remove(self.world.chance.choice(found))
            self.world.tell("a request is lost")

    def _ask(self, request: dict[str, Any]) -> None:
        world, key = self.world, request["step_key"]
        world.tell(f"the partner reads: {request['what']} {request['position']} ({request['number']})")
        if request["what"] == "do":
            answer = world.partner.do(key, refuses=bool(world.fault("the partner", {"refuses": 0.1})))
        else:
            answer = world.partner.undo(key)
        world.answers.append((request["reply_key"], answer))

    def deliver_answer(self) -> None:
        waiting = self.world.answers
        if waiting:
            at = self.world.chance.randrange(len(waiting)) if self.world.happens(0.3) else 0
            if self._answer(*waiting[at]):
                del waiting[at]

    def double_answer(self) -> None:
        if self.world.answers:
            self._answer(*self.world.chance.choice(self.world.answers))

    def lose_answer(self) -> None:
        self._lose(self.world.answers, "an answer is lost")

    def _answer(self, key: str, answer: dict[str, Any]) -> bool:
        """Was it taken? A handler that breaks gets it again."""
        found: list[engine.Resumed] = []

        def take() -> None:
            with transaction.atomic():
                resumed = engine.resume(step_key=key, answer=answer, now=self.world.clock())
                transaction.on_commit(lambda: found.append(resumed))

        try:
            self._process(f"an answer comes for {key.partition(':')[2]}: {answer['status']}", take)
        except RuntimeError:
            self.world.tell("    (comes again)")
        return bool(found)

    def _lose(self, waiting: list[Any], what: str) -> None:
        if waiting:
            waiting.pop(self.world.chance.randrange(len(waiting)))
            self.world.tell(what)
