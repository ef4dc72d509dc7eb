"""What holds whatever the schedule was: read from the database, and from what the outside world remembers."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from django.db import connection

from apps.saga.definition import COMPENSABLE, PIVOT, Definition, LocalStep, lookup
from apps.saga.models import Attempt, Audit, Run, Step
from tests.simulation.steps import AMOUNT, BY_US
from tests.simulation.world import Violation, World

UNOWNED = """
SELECT r.id, r.status, r.due_at FROM saga_run r LEFT JOIN saga_pause p ON p.id = r.held_by
WHERE r.business_key = %s AND r.status IN ('RUNNING', 'WAITING', 'COMPENSATING') AND r.due_at IS NULL
  AND (p.id IS NULL OR p.released_at IS NOT NULL)
"""
POSTED = "SELECT tracekey, sum(amount) FROM ledger_transaction WHERE tracekey = ANY(%s) AND debitcredit = 'D' GROUP BY 1"
UNEVEN = """
SELECT tracekey FROM ledger_transaction WHERE tracekey = ANY(%s)
GROUP BY 1 HAVING sum(CASE debitcredit WHEN 'D' THEN -amount ELSE amount END) <> 0
"""


TELLING = ("local", "ask", "call")  # the shapes whose steps have effects, and publish each of them


def _demand(true: object, what: str) -> None:
    if not true:
        raise Violation(what)


def _rows(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def always(world: World) -> None:
    """At every moment: no live run without a due wake-up, unless a pause holds it that will let it go."""
    lost = _rows(UNOWNED, world.business_key)
    _demand(not lost, f"a live run that nobody will wake: {lost}")


@dataclass
class Facts:
    """One run, as the database and the world outside know it."""

    run: Run
    definition: Definition
    world: World
    steps: list[Step]
    tries: dict[tuple[int, bool], list[Attempt]]
    effects: Counter[tuple[str, str]]  # postings of a local step, by place and direction
    told: list[tuple[str, str, int]] = field(default_factory=list)  # place, direction, attempt: as committed
    skipped: frozenset[tuple[str, bool]] = frozenset()  # steps that somebody took as done, or as undone (True)

    @property
    def again(self) -> bool:
        """Did a step of it begin anew after its undo, or was another one put into its place then?"""
        return any(step.redone for step in self.steps) or any(at >= len(self.steps) for at, _ in self.tries)

    @property
    def chose_again(self) -> bool:
        """May other steps have stood where its steps stand now?"""
        return self.again and any(getattr(step, "revises", False) for step in self.definition.steps)

    def took(self, step: Step) -> list[tuple[int, int]]:
        """How often a step took effect and how often its undo, for each time that it began anew."""
        places = [f"{step.position}{f'~{again}' if again else ''}" for again in range(step.redone + 1)]
        if step.shape == LocalStep.shape:
            return [(self.effects[place, "do"], self.effects[place, "undo"]) for place in places]
        log = Counter(self.world.partner.log)
        return [tuple(log[what, f"{self.run.pk}:{place}"] for what in ("do", "undo")) for place in places]  # type: ignore[misc]


def at_the_end(world: World) -> None:
    """When every run is over."""
    always(world)
    runs = list(Run.objects.filter(business_key=world.business_key).order_by("pk"))
    for run in runs:
        world.know(run.pk)
    steps, tries = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for step in Step.objects.filter(run_id__in=world.runs).order_by("position"):
        steps[step.run_id].append(step)
    for attempt in Attempt.objects.filter(run_id__in=world.runs).order_by("number"):
        tries[attempt.run_id][attempt.position, attempt.undo].append(attempt)
    effects = _effects(world)
    told: dict[UUID, list[tuple[str, str, int]]] = defaultdict(list)
    for _, body in sorted(world.published, key=lambda each: each[0]):
        told[UUID(body["run_id"])].append((body["place"], body["what"], body["number"]))
    skipped = _skipped(world)
    _demand(not world.seen, "; ".join(world.seen))
    for call, count in Counter(world.calls).items():
        _demand(count == 1, f"two owners of one attempt: {call}")
    _one_after_the_other(runs, tries)
    _nothing_is_left(world)
    for run in runs:
        mine = (steps[run.pk], tries[run.pk], effects[run.pk], told[run.pk], skipped[run.pk])
        facts = Facts(run, lookup(run.use_case, run.version), world, *mine)
        for check in CHECKS if run.status != "HANDLED" else CHECKS_OF_ANY:
            try:
                check(facts)
            except Violation as violation:
                raise Violation(f"{world.name(run.pk)}: {violation}") from None


def _skipped(world: World) -> dict[UUID, frozenset[tuple[str, bool]]]:
    found: dict[UUID, frozenset[tuple[str, bool]]] = defaultdict(frozenset)
    if world.has_skipped:
        for row in Audit.objects.filter(run_id__in=world.runs, action="skip"):
            assert row.run_id is not None  # asked for
            found[row.run_id] |= {(row.step, row.detail["did"].endswith("as undone"))}
    return found


def _one_after_the_other(runs: list[Run], tries: dict[UUID, dict[tuple[int, bool], list[Attempt]]]) -> None:
    """Runs with a key in common: none begins before the one that has it is over."""
    holders = [run for run in runs if run.awaits_key is not None and any(tries[run.pk].values())]
    spans = sorted(
        (min(attempt.started_at for each in tries[run.pk].values() for attempt in each), run.finished_at, run)
        for run in holders
    )
    for (_, ended, first), (began, _, second) in pairwise(spans):
        if set(first.data["keys"]) & set(second.data["keys"]):
            _demand(ended is not None and ended <= began, "two runs with one key were under way at the same time")


def _nothing_is_left(world: World) -> None:
    """No key of a run that is over, and no question."""
    left = _rows("SELECT key, state FROM saga_lock WHERE run_id = ANY(%s)", world.runs)
    _demand(not left, f"all runs are over, and these keys are not: {left}")
    asked = _rows("SELECT step FROM saga_approval WHERE business_key = %s AND status = 'OPEN'", world.business_key)
    _demand(not asked, f"all runs are over, and somebody is still asked for {asked}")


def _effects(world: World) -> dict[UUID, Counter[tuple[str, str]]]:
    found: dict[UUID, Counter[tuple[str, str]]] = defaultdict(Counter)
    keys = list(world.posted)
    _demand(not _rows(UNEVEN, keys), "an entry of the ledger does not sum to zero")
    for tracekey, amount in _rows(POSTED, keys):
        run_id, place, what = world.posted[tracekey]
        _demand(amount == AMOUNT, f"step {place} posted {amount}")
        found[run_id][place, what] += 1
    return found


# --- One run ------------------------------------------------------------------------------------------------------------
def _is_over(facts: Facts) -> None:
    run = facts.run
    _demand(run.status in ("COMPLETED", "COMPENSATED"), f"it ended {run.status}")
    _demand(run.due_at is None and run.token is None and run.held_by is None, "it is over, and still due, owned or held")
    statuses = {step.status for step in facts.steps}
    if run.status == "COMPLETED":
        _demand(statuses == {"DONE"}, f"it completed with steps {statuses}")
    else:
        _demand(statuses <= {"UNDONE", "FAILED", "ROLLED_BACK", "PENDING"}, f"it is undone, with steps {statuses}")


def _every_effect_once(facts: Facts) -> None:
    """Each effect 0 or 1 times, in the ledger and at the partner."""
    for step in facts.steps:
        if step.shape in TELLING:  # a timer has none, and branches are looked at as runs
            for done, undone in facts.took(step):
                _demand(done <= 1 and undone <= 1, f"{step.name} took effect {done} times, its undo {undone} times")


def _effects_are_what_the_steps_say(facts: Facts) -> None:
    """An effect is there exactly for the steps that are done, unless a person has said that they are, or are undone."""
    for step in facts.steps:
        if step.shape not in TELLING or {(step.name, False), (step.name, True)} & facts.skipped:
            continue
        took = facts.took(step)
        left = sum(done - undone for done, undone in took)
        _demand(left == (step.status == "DONE"), f"{step.name} is {step.status}: done and undone {took}")


def _undone_is_what_was_done(facts: Facts) -> None:
    """Compensated: all compensable steps that were done, in reverse."""
    told = [int(place) for place, what, _ in facts.told if what == "undo" and not facts.again]
    order = list(dict.fromkeys(at for at in told if _succeeded(facts, at, undo=True)))
    _demand(order == sorted(order, reverse=True), f"undone in the order {order}")
    for step in facts.steps:
        done = any(attempt.outcome in ("DONE", "ANSWERED") for attempt in facts.tries[step.position, False])
        if facts.run.status == "COMPENSATED" and done and step.kind == COMPENSABLE and not step.redone:
            _demand(step.status == "UNDONE", f"{step.name} was done and is {step.status}")
        if step.status == "UNDONE":
            _demand(step.kind == COMPENSABLE, f"{step.name} is {step.kind} and was undone")


def _succeeded(facts: Facts, position: int, *, undo: bool) -> bool:
    return any(attempt.outcome in ("DONE", "ANSWERED") for attempt in facts.tries[position, undo])


def _nothing_after_its_undo(facts: Facts) -> None:
    """No step is done, or asked for, once its undo was."""
    undoing: set[str] = set()
    for place, what, number in facts.told:
        if what == "undo":
            undoing.add(place)
        _demand(what == "undo" or place not in undoing, f"step {place} was done ({number}) after its undo")


def _nothing_back_after_the_pivot(facts: Facts) -> None:
    for step in facts.steps:
        done = step.status == "DONE" if facts.chose_again else _succeeded(facts, step.position, undo=False)
        if step.kind == PIVOT and done:
            _demand(facts.run.status == "COMPLETED", f"its pivot was done, and it ended {facts.run.status}")
            undone = any(undo for _, undo in facts.tries) and not facts.again  # before it began anew
            _demand(not undone, "its pivot was done, and something was undone")


def _attempts_are_numbered(facts: Facts) -> None:
    for step in facts.steps:
        for undo, count in ((False, step.attempts), (True, step.undo_attempts)):
            numbers = [attempt.number for attempt in facts.tries[step.position, undo]]
            _demand(numbers == list(range(1, count + 1)), f"{step.name} counts {count} attempts, and has {numbers}")


def _outbox_is_what_was_committed(facts: Facts) -> None:
    """Each commit that says of a step that it was done, or asked for, has its message in the outbox, and no other has."""
    if facts.chose_again:
        return  # an attempt does not say which step it was of
    committed = Counter[tuple[int, str, int]]()
    for (position, undo), attempts in facts.tries.items():
        if facts.steps[position].shape not in TELLING:
            continue
        asked = facts.steps[position].shape == "ask"
        for attempt in attempts:
            if _was_told(attempt, asked=asked):
                committed[position, "undo" if undo else "do", attempt.number] += 1
    told = Counter((int(place.partition("~")[0]), what, number) for place, what, number in facts.told)
    _demand(
        told == committed, f"published, not committed: {told - committed}; committed, not published: {committed - told}"
    )


def _was_told(attempt: Attempt, *, asked: bool) -> bool:
    if attempt.outcome in ("DONE", "ANSWERED", "ASKED", "NO_ANSWER"):
        return True
    # Of an ask, the attempt that ends refused was asked, unless asking itself was refused: then nothing was published.
    return asked and attempt.outcome == "REFUSED" and attempt.error_detail != BY_US


def _ledger_is_even(facts: Facts) -> None:
    """At the end the ledger knows the run by what it is: all of it, or nothing."""
    net = sum((AMOUNT * (count if what == "do" else -count) for (_, what), count in facts.effects.items()), Decimal(0))
    if facts.skipped:
        return  # somebody has seen to it outside
    local = sum(step.shape == "local" for step in facts.steps)
    expected = AMOUNT * local if facts.run.status == "COMPLETED" else Decimal(0)
    _demand(net == expected, f"the ledger holds {net} of it instead of {expected}")


def _branches_are_as_their_step(facts: Facts) -> None:
    """A step with branches is done when the newest run of each is, and nothing of them is left when it is undone."""
    for step in facts.steps:
        if step.shape not in ("parallel", "child") or (step.name, False) in facts.skipped:
            continue
        newest: dict[str, str] = {}
        children = Run.objects.filter(parent_id=facts.run.pk, parent_position=step.position).order_by("pk")
        for branch, status in children.values_list("branch", "status"):
            newest[branch] = status
        wanted = {"COMPLETED"} if step.status == "DONE" else {"COMPENSATED"}
        _demand(set(newest.values()) <= wanted, f"{step.name} is {step.status}, and its branches are {newest}")
        branches = 2 if step.shape == "parallel" else 1
        _demand(step.status != "DONE" or len(newest) >= branches, f"{step.name} is done without its branches: {newest}")


AIR = timedelta(seconds=1)  # work that has begun before the deadline ends


def _deadline_is_kept(facts: Facts) -> None:
    """When its deadline has passed, no run goes beyond the point from which it cannot go back."""
    beyond = next((step for step in facts.steps if step.kind != COMPENSABLE), None)
    tries = facts.tries[beyond.position, False] if beyond is not None else []
    if facts.run.deadline_at is not None and tries and not facts.again:
        _demand(tries[0].started_at <= facts.run.deadline_at + AIR, f"{beyond} was begun after the deadline")


CHECKS = (
    _deadline_is_kept,
    _branches_are_as_their_step,
    _is_over,
    _every_effect_once,
    _effects_are_what_the_steps_say,
    _undone_is_what_was_done,
    _nothing_after_its_undo,
    _nothing_back_after_the_pivot,
    _attempts_are_numbered,
    _ledger_is_even,
    _outbox_is_what_was_committed,
)
# Of a run that somebody has closed as it was, halfway.
CHECKS_OF_ANY = (_every_effect_once, _nothing_after_its_undo, _attempts_are_numbered, _outbox_is_what_was_committed)
