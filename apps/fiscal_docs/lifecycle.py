"""Pure: the state of a document is a fold over what happened to it.

    DRAFT -> NUMBERED -> SIGNED -> SENT -> AUTHORISED -> CANCELLED
                           ^        |-> UNKNOWN (no answer: ask by key, never send another number)
                           |        |-> REJECTED -----------------------> NUMBER_VOIDED
                           |<- NOT_DELIVERED: the authority does not know the key: the same bytes may go again
                           '-- SIGNED_AGAIN: refused, or signed too long ago: other bytes under the same number
    SIGNED -> OFFLINE: handed out in contingency, valid before the authority has it; it is delivered later, by attempts
    nothing numbered, and already undone: ABANDONED (a do that comes later is refused)

Facts arrive twice and out of order (an answer may overtake the note that the document was sent), so the fold looks at
the set of facts and never at their order. Attempts to send are numbered: the latest attempt tells where a document
stands as long as nothing final is known, and within an attempt the better informed fact wins.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Fact(StrEnum):
    """Something that happened to a document."""

    NUMBERED = "NUMBERED"
    SIGNED = "SIGNED"
    SENT = "SENT"
    UNKNOWN = "UNKNOWN"
    NOT_DELIVERED = "NOT_DELIVERED"
    REJECTED = "REJECTED"
    SIGNED_AGAIN = "SIGNED_AGAIN"
    OFFLINE = "OFFLINE"
    AUTHORISED = "AUTHORISED"
    UNDO_ASKED = "UNDO_ASKED"
    CANCEL_SIGNED = "CANCEL_SIGNED"
    CANCEL_SENT = "CANCEL_SENT"
    CANCEL_DENIED = "CANCEL_DENIED"
    CANCELLED = "CANCELLED"
    VOID_SIGNED = "VOID_SIGNED"
    NUMBER_VOIDED = "NUMBER_VOIDED"
    ABANDONED = "ABANDONED"


class State(StrEnum):
    """Where a document stands."""

    DRAFT = "DRAFT"
    NUMBERED = "NUMBERED"
    SIGNED = "SIGNED"
    OFFLINE = "OFFLINE"
    SENT = "SENT"
    UNKNOWN = "UNKNOWN"
    REJECTED = "REJECTED"
    AUTHORISED = "AUTHORISED"
    CANCELLED = "CANCELLED"
    NUMBER_VOIDED = "NUMBER_VOIDED"
    ABANDONED = "ABANDONED"


# What the authority knows stands above what we did. A cancellation implies the authorisation that it cancels, even when
# it is heard of first; a key that is authorised was never voided, whatever else is said.
_FINAL = (
    (Fact.CANCELLED, State.CANCELLED),
    (Fact.AUTHORISED, State.AUTHORISED),
    (Fact.NUMBER_VOIDED, State.NUMBER_VOIDED),
    (Fact.ABANDONED, State.ABANDONED),
)
_OF_AN_ATTEMPT = {
    Fact.SENT: (1, State.SENT),
    Fact.UNKNOWN: (2, State.UNKNOWN),
    Fact.NOT_DELIVERED: (3, State.SIGNED),
    Fact.REJECTED: (4, State.REJECTED),
    Fact.SIGNED_AGAIN: (5, State.SIGNED),  # after whatever came of that attempt; 0: before the first
}
LATE = frozenset({"150", "151", "155"})  # authorised or cancelled out of time, and still valid


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Event:
    """A fact with what the authority said about it. ``seq`` numbers attempts (SENT …) and events (nSeqEvento)."""

    fact: Fact
    seq: int = 1
    status: str = ""
    reason: str = ""
    protocol: str = ""
    actor: str = ""  # the person who wanted it


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What follows from the facts."""

    state: State = State.DRAFT
    protocol: str = ""
    cancel_protocol: str = ""
    refusal_code: str = ""
    refusal_reason: str = ""
    cancel_denied_code: str = ""
    attempts: int = 0
    undo_asked: bool = False
    late: bool = False


def fold(events: Iterable[Event]) -> Life:
    """The life of a document. The order and the repetition of events change nothing."""
    facts = sorted(set(events))
    by_fact = {event.fact: event for event in facts}  # the highest seq of each fact
    state = _state(facts, by_fact)
    refusal = _latest_attempt(facts) if state in (State.REJECTED, State.NUMBER_VOIDED, State.ABANDONED) else None
    refused = refusal is not None and refusal.fact is Fact.REJECTED
    denied = by_fact.get(Fact.CANCEL_DENIED) if state is State.AUTHORISED else None
    return Life(
        state=state,
        protocol=_said(by_fact, Fact.AUTHORISED),
        cancel_protocol=_said(by_fact, Fact.CANCELLED),
        refusal_code=refusal.status if refusal and refused else "",
        refusal_reason=refusal.reason if refusal and refused else "",
        cancel_denied_code=denied.status if denied else "",
        attempts=max((event.seq for event in facts if event.fact in _OF_AN_ATTEMPT), default=0),
        undo_asked=Fact.UNDO_ASKED in by_fact,
        late=any(event.status in LATE for event in facts if event.fact in (Fact.AUTHORISED, Fact.CANCELLED)),
    )


def _said(by_fact: dict[Fact, Event], fact: Fact) -> str:
    return by_fact[fact].protocol if fact in by_fact else ""


def _latest_attempt(facts: list[Event]) -> Event | None:
    attempts = [event for event in facts if event.fact in _OF_AN_ATTEMPT]
    return max(attempts, key=lambda event: (event.seq, _OF_AN_ATTEMPT[event.fact][0], event), default=None)


def _state(facts: list[Event], by_fact: dict[Fact, Event]) -> State:
    for fact, state in _FINAL:
        if fact in by_fact:
            return state
    latest = _latest_attempt(facts)
    signed = State.OFFLINE if Fact.OFFLINE in by_fact else State.SIGNED
    if latest is not None:
        return signed if _OF_AN_ATTEMPT[latest.fact][1] is State.SIGNED else _OF_AN_ATTEMPT[latest.fact][1]
    if Fact.OFFLINE in by_fact or Fact.SIGNED in by_fact:
        return signed
    return State.NUMBERED if Fact.NUMBERED in by_fact else State.DRAFT


# An attempt that was noted as not delivered for another reason than that a question by key said so: no connection was
# made, or the authority said that it decides nothing now.
_NEVER_ARRIVED = frozenset({"", "108", "109"})


def never_sent(events: Iterable[Event]) -> bool:
    """Is it certain, without asking, that the authority has got nothing of a document?"""
    attempts = [event for event in events if event.fact in _OF_AN_ATTEMPT and event.fact is not Fact.SIGNED_AGAIN]
    known = {event.seq for event in attempts if event.fact is Fact.NOT_DELIVERED and event.status in _NEVER_ARRIVED}
    told = {event.seq for event in attempts if event.fact in (Fact.UNKNOWN, Fact.REJECTED)}
    asked = {event.seq for event in attempts if event.fact is Fact.NOT_DELIVERED and event.status not in _NEVER_ARRIVED}
    return {event.seq for event in attempts} == known - told - asked


class Outcome(StrEnum):
    """What a cStat of the authority asks us to do."""

    AUTHORISED = "authorised"
    CANCELLED = "cancelled"
    DUPLICATE = "duplicate"  # the same key: ask by key and adopt the protocol
    CONFLICT = "conflict"  # the same number under another key: a person must look
    UNAVAILABLE = "unavailable"  # nothing was decided: later
    PENDING = "pending"  # accepted, not decided: ask by key
    UNKNOWN_KEY = "unknown key"
    REFUSED = "refused"


_OUTCOMES = {
    **dict.fromkeys(("100", "150"), Outcome.AUTHORISED),
    **dict.fromkeys(("101", "151", "155"), Outcome.CANCELLED),
    "204": Outcome.DUPLICATE,
    "539": Outcome.CONFLICT,
    # stopped, contingency service off, misuse ("consumo indevido"), and the authority's own uncatalogued error
    **dict.fromkeys(("108", "109", "113", "114", "656", "678", "999"), Outcome.UNAVAILABLE),
    **dict.fromkeys(("103", "104", "105"), Outcome.PENDING),
    # not known; the number belongs to a document of another month (561), of another code (562), of another key (613)
    **dict.fromkeys(("217", "561", "562", "613"), Outcome.UNKNOWN_KEY),
}
# Asked by key: its number is used, and what it was used for is no valid document. Sent: a refusal like others.
DENIED = frozenset({"110", "205", "301", "302", "303"})
# Sent, and refused because the number is not free any more: denied for good, voided, cancelled, another document's (539).
# No correction under this number helps. 301 to 303 are rejections like others since NT 2024.001.
NUMBER_TAKEN = frozenset({"110", "205", "206", "218", "539"})
EVENT_REGISTERED = frozenset({"135", "136", "155"})
EVENT_ALREADY_THERE = frozenset({"573", "218"})  # after asking by key these are a success
NUMBER_VOIDED = frozenset({"102", "563", "256"})  # voided now, asked before with the same range, voided before
NUMBER_WAS_USED = "241"
# Late (501, 220), goods in circulation (219), receipt confirmed (221), a transport document refers to it (690), late by
# the rule for events (596).
RETURN_NEEDED = frozenset({"219", "220", "221", "501", "596", "690"})


def outcome_of(status: str) -> Outcome:
    """Class an answer to a document or to a question by key. What is in no table is a refusal."""
    return _OUTCOMES.get(status, Outcome.REFUSED)
