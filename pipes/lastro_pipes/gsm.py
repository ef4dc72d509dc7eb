"""What a state manager knows of a saga by listening: a fold over what stands on its steps' topics. Pure.

Topics have no order among each other and records may come twice, so facts are sets: added in any order and any number of
times they give the same state. It is the reference for PROTOCOL.md, section 9, and the tests' own state manager.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lastro_pipes import addresses, envelope, routing
from lastro_pipes.errors import Code, Invalid
from lastro_pipes.records import COMPENSATED, COMPENSATING, COMPLETED, RUNNING, STUCK
from lastro_pipes.routing import Way

# A step's state, forward and backward.
WAITING, ASKED, RETRYING, DONE, REFUSED, DEAD = "WAITING", "ASKED", "RETRYING", "DONE", "REFUSED", "DEAD"
UNDO_ASKED, UNDO_RETRYING, UNDONE, UNDO_DEAD = "UNDO_ASKED", "UNDO_RETRYING", "UNDONE", "UNDO_DEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One record, read. ``what``: asked, letter, or a report's outcome. ``message_id``: of the message it is about."""

    global_id: str
    branch: str = ""
    way: Way
    what: str
    position: int
    steps: tuple[str, ...]  # addresses, forward
    message_id: str
    seeks_end: bool = False
    attempt: int = 0
    code: str = ""
    reason: str = ""
    use_case: str = ""
    at: datetime | None = None


class Stray(Exception):
    """A record that belongs to no place of a saga: a letter of a message that was sent wrongly, or no message at all."""

    def __init__(self, global_id: str, code: str, reason: str, *, branch: str = "") -> None:
        self.global_id, self.branch, self.code, self.reason = global_id, branch, code, reason
        super().__init__(reason)


def read(topic: str, value: bytes, *, sent_at: datetime | None = None) -> Fact:
    """The fact that a record is. ``topic``: without prefix. Raises Stray."""
    try:
        found = envelope.decode(value)
    except Invalid as invalid:
        raise Stray("", str(invalid.code), str(invalid)) from None
    service, _, kind = topic.rpartition(".")
    if kind == addresses.EVENT or found.meta.get("schema") == envelope.REPORT:
        return _of_report(found, sent_at)
    given = found.meta.get("error")
    error: Mapping[str, Any] = given if isinstance(given, dict) else {}
    origin = str(error.get("topic") or topic) if kind == addresses.ERROR else topic
    way = Way.UNDO if origin.endswith(addresses.COMPENSATE) else Way.DO
    try:
        place = routing.find(found.meta, way=way, service=service)
    except Invalid as invalid:
        code, reason = str(error.get("code") or invalid.code), str(error.get("reason") or invalid)
        raise Stray(found.global_id, code, reason, branch=found.branch) from None
    return Fact(
        global_id=found.global_id,
        branch=found.branch,
        way=way,
        what="letter" if kind == addresses.ERROR else "asked",
        position=place.position,
        steps=place.addresses,
        message_id=str(error.get("message-id") or "") if kind == addresses.ERROR else str(found.message_id),
        seeks_end=routing.is_seeking(found),
        attempt=int(error.get("attempts") or 0),
        code=str(error.get("code") or ""),
        reason=str(error.get("reason") or ""),
        use_case=str(found.meta.get("use-case") or ""),
        at=sent_at,
    )


def _of_report(found: envelope.Envelope, sent_at: datetime | None) -> Fact:
    body = found.body
    try:
        return Fact(
            global_id=found.global_id,
            branch=found.branch,
            way=Way(body["way"]),
            what=str(body["outcome"]),
            position=int(body["position"]),
            steps=tuple(str(step) for step in body["steps"]),
            message_id=str(body["message_id"]),
            attempt=int(body["attempt"]),
            code=str(body["code"]),
            reason=str(body["reason"]),
            use_case=str(body["use_case"]),
            at=sent_at,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Stray(found.global_id, str(Code.BAD_META), f"The report is malformed: {error!r}") from None


@dataclass(slots=True)
class _OneWay:
    """What is known of a step and a way."""

    asked: set[str] = field(default_factory=set)  # message ids
    seeks: set[str] = field(default_factory=set)  # undos that look for the end, and undo nothing yet
    ended: dict[str, set[str]] = field(default_factory=dict)  # message id -> outcomes, one unless a service is odd
    retrying: dict[str, int] = field(default_factory=dict)  # message id -> attempt
    letters: dict[str, set[str]] = field(default_factory=dict)  # message id -> codes

    def add(self, fact: Fact) -> None:
        if fact.what == "asked":
            self.asked.add(fact.message_id)
        elif fact.what == "letter":
            self.letters.setdefault(fact.message_id, set()).add(fact.code)
        elif fact.what == "RETRYING":
            self.retrying[fact.message_id] = max(fact.attempt, self.retrying.get(fact.message_id, 0))
        else:
            self.ended.setdefault(fact.message_id, set()).add(fact.what)

    def has(self, outcome: str) -> bool:
        return any(outcome in outcomes for outcomes in self.ended.values())

    @property
    def is_known(self) -> bool:
        """Was anything heard of it?"""
        return bool(self.asked or self.ended or self.retrying or self.letters)

    def is_buried_as(self, code: str) -> bool:
        """Is there a dead letter with this code?"""
        return any(code in codes for codes in self.letters.values())

    @property
    def open(self) -> set[str]:
        """Messages that nobody has answered yet."""
        return (self.asked | set(self.retrying)) - set(self.ended) - set(self.letters)

    @property
    def is_dead(self) -> bool:
        """Did a message die, and is no other under way that may do better?"""
        return bool(self.letters or self.has("DEAD")) and not self.open


@dataclass(slots=True)
class Saga:
    """One saga, as far as it was heard of."""

    steps: tuple[str, ...] = ()
    use_case: str = ""
    facts: set[Fact] = field(default_factory=set)
    strays: list[Stray] = field(default_factory=list)
    _ways: dict[tuple[int, Way], _OneWay] = field(default_factory=dict)

    def add(self, fact: Fact) -> None:
        """One more fact, in any order, maybe again."""
        self.facts.add(fact)
        if len(fact.steps) > len(self.steps):  # a service that is not ours may leave away what lies behind it
            self.steps = fact.steps
        self.use_case = self.use_case or fact.use_case
        way = self._way(fact.position, fact.way)
        if fact.what == "asked" and fact.seeks_end:
            way.seeks.add(fact.message_id)
        else:
            way.add(fact)

    def _way(self, position: int, way: Way) -> _OneWay:
        return self._ways.setdefault((position, way), _OneWay())

    def step(self, position: int) -> str:
        """A step's state."""
        do, undo = self._way(position, Way.DO), self._way(position, Way.UNDO)
        if undo.has("UNDONE"):
            return UNDONE
        if undo.open & set(undo.retrying):
            return UNDO_RETRYING
        refused = self._is_refused_undo(undo)
        if (undo.is_known or undo.seeks) and not refused and self._is_undo_handed_on(position):
            return UNDONE  # A service that reports nothing, or a person who passed it over.
        if undo.is_dead and not refused:
            return UNDO_DEAD
        return UNDO_ASKED if undo.open else self._forward(position, do)

    def _is_undo_handed_on(self, position: int) -> bool:
        earlier = [self._way(before, Way.UNDO) for before in range(position)]
        return any(way.asked or way.has("UNDONE") for way in earlier)

    def _forward(self, position: int, do: _OneWay) -> str:
        if do.has("REFUSED"):
            return REFUSED
        if do.has("DONE"):
            return DEAD if self._is_unpublished(position, do) else DONE
        # A step that reports nothing is done when the next one was asked.
        if any(self._way(later, Way.DO).is_known for later in range(position + 1, len(self.steps))):
            return DONE
        if do.is_dead:
            return DEAD
        if do.open:
            return RETRYING if do.open & set(do.retrying) else ASKED
        return WAITING

    def _is_unpublished(self, position: int, do: _OneWay) -> bool:
        following = self._way(position + 1, Way.DO)
        return do.is_buried_as(Code.NOT_PUBLISHED) and position + 1 < len(self.steps) and not following.is_known

    @staticmethod
    def _is_refused_undo(undo: _OneWay) -> bool:
        """The compensation came too late, and the saga goes on as if it had not been asked."""
        return undo.is_buried_as(Code.NO_WAY_BACK) and not (undo.open or undo.has("UNDONE"))

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, COMPENSATING, COMPENSATED or STUCK."""
        states = [self.step(position) for position in range(len(self.steps))]
        if not states or self.strays or UNDO_DEAD in states:
            return STUCK if states or self.strays else RUNNING
        if states[0] in (UNDONE, REFUSED):
            return COMPENSATED
        if {UNDO_ASKED, UNDO_RETRYING, UNDONE, REFUSED} & set(states):
            return COMPENSATING
        if states[-1] == DONE:
            return COMPLETED
        return STUCK if DEAD in states else RUNNING


def fold(records: Iterable[tuple[str, bytes]]) -> dict[tuple[str, str], Saga]:
    """The sagas of many records, (topic, value) each, by global id and branch."""
    sagas: dict[tuple[str, str], Saga] = {}
    for topic, value in records:
        try:
            fact = read(topic, value)
        except Stray as stray:
            if stray.global_id:
                sagas.setdefault((stray.global_id, stray.branch), Saga()).strays.append(stray)
            continue
        sagas.setdefault((fact.global_id, fact.branch), Saga()).add(fact)
    return sagas
