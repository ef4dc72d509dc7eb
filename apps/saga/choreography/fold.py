"""A saga's state, folded from facts. Pure; facts are sets, so their order and their copies do not matter.

The rules are those of pipes/PROTOCOL.md, section 9, and a test holds this against the package's own fold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from apps.saga.choreography.facts import BY_HAND, NO_WAY_BACK, NOT_PUBLISHED, Fact, What
from apps.saga.models import AttemptOutcome
from apps.saga.rows import AttemptRow


class State(StrEnum):
    """Where a step is."""

    WAITING = "WAITING"
    ASKED = "ASKED"
    RETRYING = "RETRYING"
    DONE = "DONE"
    REFUSED = "REFUSED"
    DEAD = "DEAD"
    UNDO_ASKED = "UNDO_ASKED"
    UNDO_RETRYING = "UNDO_RETRYING"
    UNDONE = "UNDONE"
    UNDO_DEAD = "UNDO_DEAD"


BACKWARD = frozenset({State.UNDO_ASKED, State.UNDO_RETRYING, State.UNDONE, State.UNDO_DEAD, State.REFUSED})
UNDER_WAY = frozenset({State.UNDO_ASKED, State.UNDO_RETRYING, State.UNDO_DEAD})
TURNED = frozenset({State.UNDONE, State.REFUSED})
_ENDS = {
    What.DONE: AttemptOutcome.DONE,
    What.UNDONE: AttemptOutcome.DONE,
    What.REFUSED: AttemptOutcome.REFUSED,
    What.DEAD: AttemptOutcome.FAILED,
    What.IGNORED: AttemptOutcome.REFUSED,
    What.RETRYING: AttemptOutcome.FAILED,
    What.LETTER: AttemptOutcome.FAILED,
}


@dataclass(slots=True)
class OneWay:
    """What is known of a step and a way."""

    facts: list[Fact] = field(default_factory=list)  # in the order in which they were heard

    def of(self, *kinds: What) -> list[Fact]:
        """The facts of these kinds."""
        return [fact for fact in self.facts if fact.what in kinds]

    def has(self, what: What) -> bool:
        """Was this heard?"""
        return any(fact.what is what for fact in self.facts)

    @property
    def open(self) -> set[UUID]:
        """Messages that nobody has answered yet. One that seeks the end is not one: it is passed on without an answer."""
        said = {fact.message_id for fact in self.of(What.ASKED, What.RETRYING)}
        return said - {fact.message_id for fact in self.of(*_ANSWERS)}

    @property
    def is_retrying(self) -> bool:
        """Is one of the open messages being tried again?"""
        return bool(self.open & {fact.message_id for fact in self.of(What.RETRYING)})

    @property
    def letters(self) -> list[Fact]:
        """Dead letters."""
        return self.of(What.LETTER)

    @property
    def is_dead(self) -> bool:
        """Did a message die, and is no other under way that may do better?"""
        return bool(self.of(What.LETTER, What.DEAD)) and not self.open

    @property
    def is_refused_undo(self) -> bool:
        """Could the step not be undone any more? Then the saga goes on as if nobody had asked."""
        return any(fact.code == NO_WAY_BACK for fact in self.letters) and not (self.open or self.has(What.UNDONE))

    def latest(self, *kinds: What) -> Fact | None:
        """The last of these that was heard."""
        return max(self.of(*kinds), key=lambda fact: fact.at, default=None)


_ANSWERS = (What.DONE, What.REFUSED, What.UNDONE, What.DEAD, What.IGNORED, What.LETTER)


class View:
    """A saga of so many steps, as its facts have it."""

    def __init__(self, facts: Iterable[Fact], *, steps: int) -> None:
        self._ways = {(position, undo): OneWay() for position in range(steps) for undo in (False, True)}
        for fact in facts:
            if (way := self._ways.get((fact.position, fact.undo))) is not None:
                way.facts.append(fact)
        self.states = tuple(self._state(position, steps) for position in range(steps))

    def way(self, position: int, *, undo: bool) -> OneWay:
        """What is known of a step and a way."""
        return self._ways[position, undo]

    def _state(self, position: int, steps: int) -> State:
        undo = self.way(position, undo=True)
        if undo.has(What.UNDONE):
            return State.UNDONE
        if undo.is_retrying:
            return State.UNDO_RETRYING
        if undo.facts and not undo.is_refused_undo and self._is_undo_handed_on(position):
            return State.UNDONE  # A service that reports nothing, or a person who passed it over.
        if undo.is_dead and not undo.is_refused_undo:
            return State.UNDO_DEAD
        return State.UNDO_ASKED if undo.open else self._forward(position, steps)

    def _is_undo_handed_on(self, position: int) -> bool:
        earlier = (self.way(before, undo=True) for before in range(position))
        return any(way.of(What.ASKED, What.UNDONE) for way in earlier)

    def _forward(self, position: int, steps: int) -> State:
        do = self.way(position, undo=False)
        if do.has(What.REFUSED):
            return State.REFUSED
        later_asked = any(self.way(later, undo=False).facts for later in range(position + 1, steps))
        if do.has(What.DONE):
            unsaid = any(fact.code == NOT_PUBLISHED for fact in do.letters) and position + 1 < steps
            by_hand = any(fact.code == BY_HAND for fact in do.of(What.DONE))
            next_asked = unsaid and bool(self.way(position + 1, undo=False).facts)
            return State.DEAD if unsaid and not next_asked and not by_hand else State.DONE
        if later_asked:
            return State.DONE  # A service that reports nothing.
        if do.is_dead:
            return State.DEAD
        if do.open:
            return State.RETRYING if do.is_retrying else State.ASKED
        return State.WAITING

    # --- The saga ---------------------------------------------------------------------------------------------------
    @property
    def seeks(self) -> list[Fact]:
        """Undos that look for the end and were neither answered by a step that undid itself, nor refused."""
        refused = max((fact.at for way in self._undos() for fact in way.letters if fact.code == NO_WAY_BACK), default=None)
        if any(way.of(What.ASKED, What.UNDONE) for way in self._undos()):
            return []
        found = [fact for way in self._undos() for fact in way.of(What.SEEK)]
        return [fact for fact in found if refused is None or fact.at > refused]

    def _undos(self) -> list[OneWay]:
        return [way for (_, undo), way in self._ways.items() if undo]

    @property
    def is_backward(self) -> bool:
        """Is it being undone, or is it undone?"""
        return bool(BACKWARD & set(self.states)) or bool(self.seeks)

    @property
    def is_compensated(self) -> bool:
        """Is everything undone?"""
        return self.states[0] in TURNED and State.UNDO_DEAD not in self.states

    @property
    def is_completed(self) -> bool:
        """Is the last step done, and nothing being undone?"""
        return self.states[-1] is State.DONE and not self.is_backward

    @property
    def was_refused_undo(self) -> bool:
        """Did a step say that it cannot be undone any more?"""
        return any(way.is_refused_undo for way in self._undos())

    @property
    def furthest(self) -> int:
        """The last step that was asked, as far as we know; the first when none was."""
        return max((position for position, state in enumerate(self.states) if state is not State.WAITING), default=0)

    @property
    def forward_position(self) -> int:
        """The step that is to be done; one past the last when all are."""
        done = (position for position, state in enumerate(self.states) if state is not State.DONE)
        return next(done, len(self.states))

    @property
    def undo_position(self) -> int:
        """The step that is to be undone."""
        under_way = [position for position, state in enumerate(self.states) if state in UNDER_WAY]
        if under_way:
            return max(under_way)
        turned = [position for position, state in enumerate(self.states) if state in TURNED]
        if turned:
            return max(min(turned) - 1, 0)
        return max((fact.position for fact in self.seeks), default=self.furthest)

    @property
    def cause(self) -> Fact | None:
        """Why it was turned round: the refusal, or what the first undo said."""
        refusals = [fact for way in self._ways.values() for fact in way.of(What.REFUSED)]
        said = [fact for way in self._undos() for fact in way.of(What.ASKED, What.SEEK) if fact.code]
        return min(refusals or said, key=lambda fact: fact.at, default=None)

    # --- Its attempts -----------------------------------------------------------------------------------------------
    def attempts(self, position: int, *, undo: bool) -> "list[tuple[AttemptRow, UUID]]":
        """Every try of a step, numbered from 1, with the message that it is of."""
        way = self.way(position, undo=undo)
        first_heard: dict[UUID, datetime] = {}
        for fact in way.facts:
            heard = fact.asked_at or fact.at
            first_heard[fact.message_id] = min(first_heard.get(fact.message_id, heard), heard)
        found: list[tuple[AttemptRow, UUID]] = []
        order = sorted(first_heard, key=lambda message_id: (first_heard[message_id], message_id))
        for message_id in order:
            mine = [fact for fact in way.facts if fact.message_id == message_id]
            for row in _tries(mine, self._stands_for(position, undo, is_last=message_id == order[-1])):
                row.number = len(found) + 1
                found.append((row, message_id))
        return found

    def _stands_for(self, position: int, undo: bool, *, is_last: bool) -> AttemptOutcome:
        """What a message is that nobody reported on."""
        if not undo and self.states[position] is State.DONE and is_last:
            return AttemptOutcome.DONE
        if not is_last:
            return AttemptOutcome.NO_ANSWER
        return AttemptOutcome.ASKED


def _tries(facts: Sequence[Fact], otherwise: AttemptOutcome) -> list[AttemptRow]:
    """The tries of one message. Its dead letter and its report of death are one and the same try."""
    by_attempt: dict[int, Fact] = {}
    for fact in facts:
        if fact.what in _ENDS:
            known = by_attempt.get(fact.attempt)
            if known is None or known.what in (What.LETTER, What.RETRYING):
                by_attempt[fact.attempt] = fact
    if by_attempt:
        return [_try(by_attempt[attempt]) for attempt in sorted(by_attempt)]
    asked = facts[0]
    is_over = otherwise in (AttemptOutcome.DONE, AttemptOutcome.NO_ANSWER)
    return [
        AttemptRow(
            position=asked.position,
            undo=asked.undo,
            number=0,
            outcome=AttemptOutcome.ANSWERED if asked.what is What.SEEK and is_over else otherwise,
            started_at=asked.asked_at or asked.at,
            finished_at=asked.at if is_over else None,
        )
    ]


def _try(fact: Fact) -> AttemptRow:
    code, detail = fact.code, fact.reason
    if fact.what is What.IGNORED:
        code, detail = code or "IGNORED", detail or "It came after the step was undone, and was not worked on."
    return AttemptRow(
        position=fact.position,
        undo=fact.undo,
        number=0,
        outcome=_ENDS[fact.what],
        error_code=code,
        error_detail=detail,
        started_at=fact.started_at or fact.asked_at or fact.at,
        finished_at=fact.finished_at or fact.at,
    )
