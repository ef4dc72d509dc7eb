"""Steps that wait without asking anybody over the bus: for a moment, for a person, for other runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from apps.saga.definition import COMPENSABLE, PIVOT, Definition, Run, Step

REFUSE, STUCK = "refuse", "stuck"  # what becomes of a run whose approval nobody decides


class WaitingStep(Step):
    """Common to these shapes: how they begin, end and are undone is in apps/saga/parking.py."""


# --- A moment -----------------------------------------------------------------------------------------------------------
class TimerStep(WaitingStep):
    """The run waits until a moment, and goes on within a second of it. There is nothing to undo."""

    shape = "timer"
    does = ("until",)
    longest: ClassVar[timedelta] = timedelta(days=366)  # a moment beyond it is more likely a bug than a plan

    def until(self, run: Run) -> datetime:
        """The moment. One that has passed is not waited for."""
        raise NotImplementedError(type(self).__name__)


# --- A person -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked, and the facts (name: text) that the decision needs. No secrets: who may decide reads it.

    ``asked_by``: who wants it, by the name under which people decide (a user's name, ``account:…``): he does not decide it.
    """

    text: str
    facts: Mapping[str, str] = field(default_factory=dict)
    asked_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided."""

    approved: bool
    by: str
    reason: str
    at: datetime


class ApprovalStep(WaitingStep):
    """The run waits until a person approves or refuses. A refusal turns the run around.

    Who may decide is said as ``group:<name of a group>``, ``permission:<app.codename>`` or, for programs,
    ``scope:<scope of an account>``. Undoing the step closes a question that is still open; there is nothing else to undo.
    """

    shape = "approval"
    does = ("ask",)
    deciders: ClassVar[tuple[str, ...]] = ("permission:saga.change_approval", "scope:sagas:operate")
    decide_within: ClassVar[timedelta] = timedelta(days=3)
    delegates: ClassVar[tuple[str, ...]] = ()  # who decides, instead of the deciders, when the deadline has passed
    delegate_within: ClassVar[timedelta] = timedelta(days=1)
    on_timeout: ClassVar[str] = REFUSE  # or STUCK

    def ask(self, run: Run) -> Question:
        """The question."""
        raise NotImplementedError(type(self).__name__)

    def on_decision(self, _run: Run, decision: Decision) -> dict[str, Any] | None:
        """In the commit of an approval: what the step's output is. A DomainError refuses after all."""
        return {"approved_by": decision.by, "reason": decision.reason}

    def problems(self) -> Iterator[str]:
        """Who decides, and until when?"""
        if not self.deciders:
            yield "nobody may decide"
        for who in (*self.deciders, *self.delegates):
            kind, _, name = who.partition(":")
            if kind not in ("group", "permission", "scope") or not name:
                yield f"{who!r} is neither group:…, permission:… nor scope:…"
        if self.decide_within <= timedelta(0) or self.delegate_within <= timedelta(0):
            yield "it has a time to decide that is not positive"
        if self.on_timeout not in (REFUSE, STUCK):
            yield f"on_timeout is neither {REFUSE} nor {STUCK}"


# --- Other runs -----------------------------------------------------------------------------------------------------------
LOOK_AGAIN = timedelta(minutes=10)  # the end of a branch makes its parent due; this is for what nobody thought of
BRANCHES_MAX = 100  # of a step: each is a run that is written in the commit of its parent's step


@dataclass(frozen=True, slots=True)
class Child:
    """A run that a step begins."""

    definition: Definition
    subject_id: UUID
    business_key: str
    data: Mapping[str, Any]


class ChildrenStep(WaitingStep):
    """The run waits until other runs, its branches, have ended. When one of them fails all are undone, then the run."""

    definitions: ClassVar[tuple[Definition, ...]] = ()  # all that a branch may be
    answer_within: ClassVar[timedelta] = LOOK_AGAIN

    def children(self, run: Run) -> Mapping[str, Child]:
        """The branches by name."""
        raise NotImplementedError(type(self).__name__)

    def output(self, outputs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
        """The step's output, from those of its branches: branch, step of the branch, output."""
        raise NotImplementedError(type(self).__name__)

    def known(self) -> tuple[Definition, ...]:
        """All that a branch may be."""
        return self.definitions

    def problems(self) -> Iterator[str]:
        """Can its branches be taken back whenever this step may have to be?"""
        if not self.known():
            yield "it does not say which definitions its branches may have"
        if self.kind is not COMPENSABLE:
            return
        for definition in self.known():
            final = [step.name for step in definition.all_steps if step.kind is not COMPENSABLE]
            if final:
                yield f"it is compensable, and {definition.use_case} v{definition.version} cannot undo {final[0]}"

    def written(self) -> dict[str, Any]:
        """The names of its definitions: a run that waits depends on them."""
        return {"runs": [f"{each.use_case}.v{each.version}" for each in self.known()]}


class SubSagaStep(ChildrenStep):
    """Another saga as a step. Its output is that of the other one's steps, by their names."""

    shape = "child"
    does = ("child",)

    def child(self, run: Run) -> Child:
        """The run to begin; its definition is one of ``definitions``."""
        raise NotImplementedError(type(self).__name__)

    def children(self, run: Run) -> Mapping[str, Child]:
        """One branch, without a name."""
        return {"": self.child(run)}

    def output(self, outputs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
        """Of the one."""
        return {step: dict(found) for step, found in outputs.get("", {}).items()}


class ParallelStep(ChildrenStep):
    """Several branches at once. Its output is that of the branches by name, each by the names of its steps.

    Either ``branches`` gives the runs to begin, each of one of ``definitions``; or ``steps`` are the branches: each becomes
    a saga of one step, with the run's subject, business key and ``data_of`` it, and its output is the branch's.
    """

    shape = "parallel"
    steps: ClassVar[tuple[Step, ...]] = ()

    def branches(self, run: Run) -> Mapping[str, Child]:
        """The runs to begin, by name."""
        wrapped = self._wrapped
        return {
            step.name: Child(wrapped[step.name], run.subject_id, run.business_key, self.data_of(run, step.name))
            for step in self.steps
        }

    def data_of(self, run: Run, _branch: str) -> dict[str, Any]:
        """What a branch of ``steps`` is handed as its data: those of the run. The outputs so far are not among them."""
        return dict(run.data)

    def children(self, run: Run) -> Mapping[str, Child]:
        """The branches."""
        return self.branches(run)

    def output(self, outputs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
        """By branch; of a branch that is one step, this step's."""
        names = {step.name for step in self.steps}
        return {
            branch: dict(found.get(branch, {})) if branch in names else {step: dict(each) for step, each in found.items()}
            for branch, found in outputs.items()
        }

    def parts(self, whole: Definition) -> Iterator[Definition]:
        """A definition for each of ``steps``. The first definition that has this step gives them its name and its terms."""
        if not hasattr(self, "_parts"):
            self._parts = tuple(self._part(whole, step) for step in self.steps)
        yield from self._parts

    def _part(self, whole: Definition, step: Step) -> Definition:
        return Definition(
            f"{whole.use_case}.{self.name}.{step.name}",
            whole.version,
            (step,),
            description=f"{step.name}, a branch of {self.name} in {whole.use_case}.",
            owner=whole.owner,
            sla=whole.sla,
            keep_days=whole.keep_days,
        )

    @property
    def _wrapped(self) -> Mapping[str, Definition]:
        return {part.steps[0].name: part for part in getattr(self, "_parts", ())}

    def known(self) -> tuple[Definition, ...]:
        """All that a branch may be."""
        return (*self.definitions, *getattr(self, "_parts", ()))

    def problems(self) -> Iterator[str]:
        """As of every step with branches; and it is no pivot: one branch might pass it, and another not."""
        if self.steps and not hasattr(self, "_parts"):
            # Before it is registered the branches are no definitions yet.
            found = [step.name for step in self.steps if step.kind is not COMPENSABLE]
            if self.kind is COMPENSABLE and found:
                yield f"it is compensable, and its branch {found[0]} is not"
        else:
            yield from super().problems()
        if self.kind is PIVOT:
            yield "branches cannot be the pivot: one might pass it, and another not"
