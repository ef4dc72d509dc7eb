"""What is to be done about a saga that is as it is. Pure: a view, the definition and the time in; one decision out.

The services hand a saga on by themselves. Something is to be done only where they did not: a step that does not answer in
time is asked again, one that died is asked again after a while, and when that was in vain what was done is undone, or a
person is called. A step that is asked twice says the same answer twice (pipes/PROTOCOL.md, section 7), so impatience costs
little.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from apps.common.errors import DomainError
from apps.saga.choreography.facts import BY_HAND, NO_WAY_BACK, NOT_PUBLISHED, Fact, What
from apps.saga.choreography.fold import TURNED, State, View
from apps.saga.definition import COMPENSABLE, RETRIABLE
from apps.saga.pipes import PipeStep

_INVALID = re.compile(r"P\d{3}")  # the codes of dead letters, pipes/PROTOCOL.md, section 10


class NoReport(Exception):
    """The service did not say what came of the step, however often it was asked."""


class ServiceFailed(DomainError):
    """The step failed in its service. The run carries the service's own code and reason."""

    code = "R575"

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact.reason)
        vars(self)["code"] = fact.code or type(self).code


class Do(Enum):
    """What is to be done."""

    NOTHING = "nothing"
    ASK = "ask"  # send the step's message for the first time: nobody else does
    AGAIN = "again"  # send the last one again
    UNDO = "undo"  # send an undo: the service behind it did not
    SEEK = "seek"  # turn the saga round, wherever it is
    STICK = "stick"
    COMPLETE = "complete"
    COMPENSATED = "compensated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``position`` and ``undo``: which step. ``until``: when to look again. ``is_retry``: it waits for another try."""

    do: Do
    position: int
    undo: bool = False
    until: datetime | None = None
    is_retry: bool = False
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A saga with what was promised about it. ``forgiven``: attempts that do not count any more, do and undo, per step.

    ``wants_undo``: somebody here decided that it is to be undone.
    """

    view: View
    steps: Sequence[PipeStep]
    forgiven: Sequence[tuple[int, int]]
    now: datetime
    wants_undo: bool = False

    def tries(self, position: int, *, undo: bool) -> int:
        """How many messages of this way count against the step's limit."""
        forgiven = self.forgiven[position][undo]
        return len({said for row, said in self.view.attempts(position, undo=undo) if row.number > forgiven})


def plan(case: Case) -> Plan:
    """The decision. ``Do.NOTHING`` always says until when."""
    view = case.view
    if view.is_compensated:
        return Plan(do=Do.COMPENSATED, position=0)
    if view.is_backward or (case.wants_undo and not view.was_refused_undo):
        return _backward(case)
    if view.is_completed:
        return Plan(do=Do.COMPLETE, position=len(case.steps))
    return _forward(case, view.forward_position)


# --- Forward --------------------------------------------------------------------------------------------------------
def _forward(case: Case, position: int) -> Plan:
    state, step = case.view.states[position], case.steps[position]
    if state is State.WAITING:
        return _not_asked(case, position)
    way = case.view.way(position, undo=False)
    if state is State.DEAD:
        fact = way.latest(What.LETTER) or way.latest(What.DEAD)
        assert fact is not None  # noqa: S101  # it is dead by one of them
        return _dead(case, position, fact, step)
    return _wait_or_again(case, position, way.latest(What.ASKED, What.RETRYING), undo=False)


def _not_asked(case: Case, position: int) -> Plan:
    """Nobody has asked the step yet, as far as we have heard."""
    if position == 0:
        return Plan(do=Do.ASK, position=0)
    before = case.view.way(position - 1, undo=False).latest(What.DONE)
    if before is not None and before.code == BY_HAND:
        return Plan(do=Do.ASK, position=position)
    since = before.at if before is not None else case.now
    deadline = since + case.steps[position].answer_within
    asked_again = case.view.way(position - 1, undo=False).latest(What.ASKED)
    if asked_again is not None and asked_again.at > since:
        deadline = asked_again.at + case.steps[position].answer_within
    if case.now < deadline:
        return Plan(do=Do.NOTHING, position=position, until=deadline)
    # The step before says its answer again when it is asked again, and so asks this one.
    if case.tries(position - 1, undo=False) < case.steps[position - 1].attempts_max:
        return Plan(do=Do.AGAIN, position=position - 1)
    return _give_up(case, position - 1, NoReport(f"nobody asked {case.steps[position].name} in time"))


def _wait_or_again(case: Case, position: int, last: Fact | None, *, undo: bool) -> Plan:
    step = case.steps[position]
    tries = case.tries(position, undo=undo)
    since = last.at if last is not None else case.now
    if last is not None and last.retry_at is not None:
        since = min(max(since, last.retry_at), since + step.retry_delay_max)  # its clock may be wrong
    deadline = since + step.answer_within
    if tries and case.now < deadline:
        return Plan(do=Do.NOTHING, position=position, undo=undo, until=deadline)
    if tries < (step.undo_attempts_max if undo else step.attempts_max):
        return Plan(do=Do.AGAIN, position=position, undo=undo)
    lost = NoReport(f"no answer from {step.service} in time")
    return Plan(do=Do.STICK, position=position, undo=True, error=lost) if undo else _give_up(case, position, lost)


def _dead(case: Case, position: int, fact: Fact, step: PipeStep) -> Plan:
    tries = case.tries(position, undo=False)
    if tries == 0:  # a person says: now
        return Plan(do=Do.AGAIN, position=position)
    if is_hopeless(fact):
        return Plan(do=Do.STICK, position=position, error=ServiceFailed(fact))
    if tries >= step.attempts_max:
        return _give_up(case, position, ServiceFailed(fact))
    return _later(case, position, fact, step, tries, undo=False)


def is_hopeless(letter: Fact) -> bool:
    """Would another try end as this one? Then a person has to correct something."""
    return _INVALID.fullmatch(letter.code) is not None and letter.code not in (NOT_PUBLISHED, NO_WAY_BACK)


def _later(case: Case, position: int, fact: Fact, step: PipeStep, tries: int, *, undo: bool) -> Plan:
    again = case.view.way(position, undo=undo).latest(What.ASKED, What.SEEK)
    if again is not None and again.at > fact.at:  # it was sent again, and looks for the end before anybody answers
        return _wait_or_again(case, position, again, undo=undo)
    retry_at = fact.at + step.delay(tries)
    if case.now < retry_at:
        return Plan(do=Do.NOTHING, position=position, undo=undo, until=retry_at, is_retry=True)
    return Plan(do=Do.AGAIN, position=position, undo=undo)


def _give_up(case: Case, position: int, error: Exception) -> Plan:
    if not case.steps[position].undoes_when_lost or past_the_pivot(case.view, case.steps) is not None:
        return Plan(do=Do.STICK, position=position, error=error)
    return Plan(do=Do.SEEK, position=case.view.furthest, undo=True, error=error)


def past_the_pivot(view: View, steps: Sequence[PipeStep]) -> PipeStep | None:
    """The step that was begun and that nobody can undo; None when everything can be."""
    begun = (step for step, state in zip(steps, view.states, strict=True) if state not in (State.WAITING, *TURNED))
    found = next((step for step in begun if step.kind is not COMPENSABLE), None)
    if found is None and view.was_refused_undo:
        return next((step for step in steps if step.kind is RETRIABLE), steps[-1])
    return found


# --- Backward -------------------------------------------------------------------------------------------------------
def _backward(case: Case) -> Plan:
    view, position = case.view, case.view.undo_position
    state, step = view.states[position], case.steps[position]
    way = view.way(position, undo=True)
    if state is State.UNDO_DEAD:
        return _undo_dead(case, position, step)
    if state in (State.UNDO_ASKED, State.UNDO_RETRYING):
        return _wait_or_again(case, position, way.latest(What.ASKED, What.RETRYING), undo=True)
    if view.seeks:
        return _still_seeking(case, position, step)
    if not TURNED & set(view.states):
        return Plan(do=Do.SEEK, position=view.furthest, undo=True)
    if way.is_refused_undo:  # it says that there is no way back, and what came after it is undone
        return Plan(do=Do.STICK, position=position, undo=True, error=ServiceFailed(way.letters[-1]))
    behind = position + 1
    turned = view.way(behind, undo=True).latest(What.UNDONE) or view.way(behind, undo=False).latest(What.REFUSED)
    deadline = turned.at + step.answer_within if turned is not None and turned.code != BY_HAND else case.now
    if case.now < deadline:
        return Plan(do=Do.NOTHING, position=position, undo=True, until=deadline)
    return Plan(do=Do.UNDO, position=position, undo=True)


def _undo_dead(case: Case, position: int, step: PipeStep) -> Plan:
    way = case.view.way(position, undo=True)
    fact = way.latest(What.LETTER) or way.latest(What.DEAD)
    assert fact is not None  # noqa: S101  # it is dead by one of them
    tries = case.tries(position, undo=True)
    if tries == 0:
        return Plan(do=Do.AGAIN, position=position, undo=True)
    if is_hopeless(fact) or tries >= step.undo_attempts_max:
        return Plan(do=Do.STICK, position=position, undo=True, error=ServiceFailed(fact))
    return _later(case, position, fact, step, tries, undo=True)


def _still_seeking(case: Case, position: int, step: PipeStep) -> Plan:
    last = max(case.view.seeks, key=lambda fact: fact.at)
    deadline = last.at + step.answer_within
    tries = case.tries(position, undo=True)
    if tries and case.now < deadline:
        return Plan(do=Do.NOTHING, position=position, undo=True, until=deadline)
    if tries >= step.undo_attempts_max:
        lost = NoReport(f"nobody undoes {step.name}: no answer from {step.service}")
        return Plan(do=Do.STICK, position=position, undo=True, error=lost)
    return Plan(do=Do.SEEK, position=position, undo=True)
