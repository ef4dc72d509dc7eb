"""What a saga is: named steps in order, each compensable, pivot or retriable; checked when Django starts.

``compensable* pivot? retriable*``: until the pivot everything can be undone, after it the run only goes forward.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID

from django.core import checks

from apps.saga import reading
from apps.saga.attributes import Attribute
from apps.saga.terms import Breaker, ErrorClass, Sla


class Kind(StrEnum):
    """What may happen to a step that was done, or that fails."""

    COMPENSABLE = "COMPENSABLE"
    PIVOT = "PIVOT"
    RETRIABLE = "RETRIABLE"


COMPENSABLE, PIVOT, RETRIABLE = Kind.COMPENSABLE, Kind.PIVOT, Kind.RETRIABLE
ELSEWHERE = "pipe"  # the shape of a step in another service; see apps/saga/pipes.py
_ORDER = {COMPENSABLE: 0, PIVOT: 1, RETRIABLE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a step is handed: values, no rows."""

    id: UUID
    global_id: UUID
    use_case: str
    subject_id: UUID
    business_key: str
    step: str
    step_key: str  # the same in every repetition of this step, do or undo: pass it on as the idempotency key
    reply_key: str  # what an answer must carry back: step_key for a do, step_key + ":undo" for an undo
    data: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]  # of the steps that this one ``reads``, and its own, by step name
    attempt: int
    now: datetime
    renamed: Mapping[str, str] = field(default_factory=dict)  # of steps that a newer version renamed: what they began as
    redone: Mapping[str, int] = field(default_factory=dict)  # of steps that begin anew after their undo: how often
    # What the steps of this transaction have read already, by names of their own: never older than the transaction is, so
    # only for what no step changes. A call is handed what its preparation has left here.
    known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tracekey(self) -> UUID:
        """A UUID made from the step's key, for those who ask for one (the ledger)."""
        return self.tracekey_of(self.step)

    def tracekey_of(self, step: str) -> UUID:
        """The trace key of another step of this run. It stays the same when the run moves to a newer version."""
        again = self.redone.get(step)
        return uuid.uuid5(self.id, self.renamed.get(step, step) + (f"~{again}" if again else ""))


@dataclass(frozen=True, slots=True)
class Revise:
    """What a step may return instead of its output: the output, and the names of all steps that follow it from now on.

    Each name is one of the definition's steps or ``optional_steps``, and comes once in a run. The list of the whole run is
    still compensable*, at most one pivot, retriable*; another one is a bug, and its step fails.
    """

    output: Mapping[str, Any] | None
    then: tuple[str, ...]


Output = dict[str, Any] | Revise | None


class Step:
    """Common to all shapes. ``handle`` and ``compensate`` may be repeated, and an undo may come before its do."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    shape: ClassVar[str]
    does: ClassVar[tuple[str, ...]] = ()  # the methods that a step of this shape must have
    undoes: ClassVar[tuple[str, ...]] = ()  # and those that it needs when it is compensable

    attempts_max: ClassVar[int] = 8
    undo_attempts_max: ClassVar[int] = 16  # an undo that gives up needs a person, so it tries for longer
    retry_delay: ClassVar[timedelta] = timedelta(seconds=1)  # doubled with every attempt, plus up to a quarter
    retry_delay_max: ClassVar[timedelta] = timedelta(minutes=5)
    # The budget of time beside that of attempts: from the first attempt on, time in a pause not counted. None: no limit.
    retry_within: ClassVar[timedelta | None] = None
    undo_retry_within: ClassVar[timedelta | None] = None
    # What errors of these types ask for, where it is not what apps/saga/failing.py says; the nearest type decides.
    errors: ClassVar[Mapping[type[Exception], ErrorClass]] = {}

    # By step before this one: the fields of its output that this one needs, with their types; see apps/saga/reading.py.
    reads: ClassVar[Mapping[str, Mapping[str, type]]] = {}

    partner: ClassVar[str] = ""  # whom an ask or a call waits for, in words that people know
    breaker: ClassVar[Breaker | None] = None  # pauses the step for all runs when the partner is away

    def skipped(self, run: Run, output: Mapping[str, Any]) -> None:
        """A person says that it is done, with this output: note it in rows of your own, and do nothing else.

        In the commit that takes the step as done. A DomainError refuses that.
        """

    def registered(self) -> None:
        """A definition with this step has become known."""

    def problems(self) -> Iterator[str]:
        """What else is wrong with this step, for its shape."""
        yield from ()

    def written(self) -> dict[str, Any]:
        """What a snapshot of its definition holds of it, beside name, kind and shape."""
        return {}

    def parts(self, _whole: "Definition") -> "Iterator[Definition]":
        """Definitions that it is made of, and that are registered with its own."""
        yield from ()


class LocalStep(Step):
    """Its effect is rows of our database: business rows, attempt, run and messages are one commit."""

    shape = "local"
    does, undoes = ("handle",), ("compensate",)

    def handle(self, run: Run) -> Output:
        """Do it. A DomainError refuses; anything else is technical and is tried again."""
        raise NotImplementedError(type(self).__name__)

    def compensate(self, run: Run) -> None:
        """Undo it, also when it was never done."""
        raise NotImplementedError(type(self).__name__)


class AskStep(Step):
    """It publishes a request, and the run is parked until the answer comes or the deadline passes."""

    shape = "ask"
    does, undoes = ("ask", "on_answer"), ("ask_undo",)
    answer_within: ClassVar[timedelta] = timedelta(seconds=30)  # then it asks again, up to attempts_max times

    def ask(self, run: Run) -> None:
        """Publish the request with ``reply_to=run.reply_key``. Repeated asks carry the same step_key."""
        raise NotImplementedError(type(self).__name__)

    def on_answer(self, run: Run, answer: dict[str, Any]) -> Output:
        """Take the answer. A DomainError says: they refused."""
        raise NotImplementedError(type(self).__name__)

    def ask_undo(self, run: Run) -> bool:
        """Publish the request to undo. True: wait for its answer; False: nothing to wait for."""
        raise NotImplementedError(type(self).__name__)

    def on_undo_answer(self, run: Run, answer: dict[str, Any]) -> None:
        """Take the answer to the undo."""


class CallStep(Step):
    """It talks to the network with no transaction open, and asks "did it happen?" before it repeats."""

    shape = "call"
    does, undoes = ("call", "did_it_happen", "record"), ("undo_prepare", "undo_call")
    lease: ClassVar[timedelta] = timedelta(seconds=60)  # longer than the longest call; then another owner may take over

    def prepare(self, run: Run) -> None:
        """Before the call, in a transaction: write down what is about to be sent."""

    def call(self, run: Run) -> dict[str, Any]:
        """Talk. UnknownOutcome says that it may have happened."""
        raise NotImplementedError(type(self).__name__)

    def did_it_happen(self, run: Run) -> dict[str, Any] | None:
        """Ask the other side. The outcome as ``call`` would have given it, or None: it did not happen."""
        raise NotImplementedError(type(self).__name__)

    def record(self, run: Run, outcome: dict[str, Any]) -> Output:
        """After the call, in a transaction: write down what came. A DomainError says: they refused."""
        raise NotImplementedError(type(self).__name__)

    def undo_prepare(self, run: Run) -> bool:
        """Before the undo's call, in a transaction. False: there is nothing to call, it is undone."""
        raise NotImplementedError(type(self).__name__)

    def undo_call(self, run: Run) -> dict[str, Any]:
        """Talk, to undo. Called again after a doubt, so it asks first whether it happened already."""
        raise NotImplementedError(type(self).__name__)

    def undo_record(self, run: Run, outcome: dict[str, Any]) -> None:
        """After the undo's call, in a transaction."""
        raise NotImplementedError(type(self).__name__)


def shape_class(step: Step) -> type[Step]:
    """LocalStep, AskStep, CallStep, or one of apps/saga/shapes.py."""
    return next(shape for shape in type(step).__mro__ if issubclass(shape, Step) and "shape" in vars(shape))


def _lacks(step: Step, methods: Iterable[str]) -> list[str]:
    shape = shape_class(step)
    return [method for method in methods if getattr(type(step), method) is getattr(shape, method)]


def kinds_in_order(kinds: list[Kind]) -> bool:
    """Are they compensable*, at most one pivot, retriable*?"""
    return kinds == sorted(kinds, key=lambda kind: _ORDER[kind]) and kinds.count(PIVOT) <= 1


WAIT, REFUSE = "wait", "refuse"


class Hooks:
    """What the journey's owner does when a run ends badly; called in the commit that ends it."""

    def on_compensated(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        """Everything that was done is undone."""

    def on_stuck(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        """The run can go neither forward nor back without a person."""

    def on_handled(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        """A person has closed the stuck run as it is: nothing more happens to it. ``code``, ``detail``: that, and why."""

    def left(self, run: Run) -> tuple[str, ...]:
        """What stays half done when a person closes the run now, a sentence each: he is told before. It looks only."""
        return ()

    def reopens(self, run: Run, *, step: str) -> bool:
        """May a run that was undone go forward again from this step? Called in that commit: take back what was told."""
        return False


@dataclass(frozen=True)
class Definition:
    """A use case: name, version, steps in order."""

    use_case: str
    version: int
    steps: tuple[Step, ...]
    hooks: Hooks = field(default_factory=Hooks)
    description: str = ""
    owner: str = ""  # the team that answers for it
    sla: Sla | None = None
    attributes: tuple[Attribute, ...] = ()
    # {older version: {its step: the step of this version that takes its place}}; see apps/saga/versions.py
    migrates_from: Mapping[int, Mapping[str, str]] = field(default_factory=dict, compare=False)
    # Days for which a run is kept after its end; then it is exported and deleted. None: SAGA_KEEP_DAYS; 0: for ever.
    keep_days: int | None = None
    # For the whole run. When it passes before the pivot the run is undone (R530); after it the run is only told to be late.
    deadline: timedelta | None = None
    optional_steps: tuple[Step, ...] = ()  # those that a step may choose for the rest of a run; see Revise
    # Of the input: the keys that no other run may hold meanwhile, of this use case or of another; see apps/saga/locks.py.
    locks: Callable[[Mapping[str, Any]], Iterable[str]] | None = None
    on_conflict: str = WAIT  # of a run whose key is held: WAIT in order, or REFUSE (R538)

    @cached_property
    def is_choreographed(self) -> bool:
        """Do its steps live in other services, which hand a run on by themselves?"""
        return any(step.shape == ELSEWHERE for step in self.steps)

    @cached_property
    def first_problem(self) -> str:
        """What is wrong with it, looked for once: every start asks. Empty when nothing is."""
        return next(iter(self.problems()), "")

    def problems(self) -> list[str]:
        """What is wrong with it; empty when nothing is."""
        found = []
        names = [step.name for step in self.all_steps]
        if not self.steps:
            found.append("it has no steps")
        found += [f"step {name} appears twice" for name in sorted({n for n in names if names.count(n) > 1})]
        if not kinds_in_order([step.kind for step in self.steps]):
            found.append("its kinds are not compensable*, then at most one pivot, then retriable*")
        if self.is_choreographed and any(step.shape != ELSEWHERE for step in self.all_steps):
            found.append("some of its steps are pipes and some are not: a saga is handed on by services, or by us")
        if self.is_choreographed and self.optional_steps:
            found.append("its services hand it on along one list: it can have no optional steps")
        for step in self.all_steps:
            found += [f"step {step.name} has no {missing}" for missing in _lacks(step, step.does)]
            if step.kind is COMPENSABLE:
                found += [f"compensable step {step.name} has no {missing}" for missing in _lacks(step, step.undoes)]
            found += [f"step {step.name}: {problem}" for problem in step.problems()]
        found += reading.problems(self.steps, self.optional_steps)
        if self.deadline is not None and self.deadline <= timedelta(0):
            found.append("its deadline is not positive")
        if self.on_conflict not in (WAIT, REFUSE):
            found.append(f"on_conflict is neither {WAIT} nor {REFUSE}")
        return found

    @cached_property
    def all_steps(self) -> tuple[Step, ...]:
        """Its steps, and those that a run may have besides."""
        return (*self.steps, *self.optional_steps)

    @cached_property
    def by_name(self) -> Mapping[str, Step]:
        """A run's rows name its steps: a step may have revised which ones they are."""
        return {step.name: step for step in self.all_steps}

    def revision_problem(self, names: list[str]) -> str:
        """What is wrong with these steps as those of a run; empty when nothing is."""
        unknown = [name for name in names if name not in self.by_name]
        if unknown:
            return f"{unknown[0]} is neither a step nor an optional step of {self.use_case} v{self.version}"
        if len(set(names)) != len(names):
            return f"a step would come twice: {', '.join(names)}"
        if not kinds_in_order([self.by_name[name].kind for name in names]):
            return f"the kinds are not compensable*, then at most one pivot, then retriable*: {', '.join(names)}"
        return ""

    def position_of(self, name: str) -> int:
        """The position of a step."""
        return next(position for position, step in enumerate(self.steps) if step.name == name)


class UnknownDefinition(LookupError):
    """No definition of this use case and version is registered in this process."""


_registry: dict[tuple[str, int], Definition] = {}


def register(definition: Definition) -> Definition:
    """Make a use case known. Called when Django starts; ``manage.py check`` reports what is wrong with it.

    Raises ValueError for another definition of the same name and version: runs would finish on steps they never began.
    """
    known = _registry.setdefault((definition.use_case, definition.version), definition)
    if known is not definition:
        raise ValueError(f"{definition.use_case} version {definition.version} is registered twice")
    for step in definition.all_steps:
        step.registered()
        for part in step.parts(definition):
            register(part)
    return definition


def registered() -> list[Definition]:
    """Every definition, by name and version."""
    return [_registry[key] for key in sorted(_registry)]


def versions_of(use_case: str) -> list[Definition]:
    """Every registered version of a use case, the oldest first; empty when there is none."""
    return [definition for definition in registered() if definition.use_case == use_case]


def lookup(use_case: str, version: int) -> Definition:
    """The definition that a run began with. Raises UnknownDefinition."""
    try:
        return _registry[use_case, version]
    except KeyError:
        raise UnknownDefinition(f"{use_case} version {version} is not registered") from None


@checks.register("saga")
def check_definitions(**_options: Any) -> list[checks.CheckMessage]:
    """``manage.py check``: every definition is sound."""
    return [
        checks.Error(f"{definition.use_case} v{definition.version}: {problem}.", id="saga.E001")
        for definition in registered()
        for problem in definition.problems()
    ]
