"""State = fold(events), whatever their order and however often they are told."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.fiscal_docs.lifecycle import Event, Fact, Life, Outcome, State, fold, never_sent, outcome_of

EVENTS = st.lists(
    st.builds(
        Event,
        fact=st.sampled_from(Fact),
        seq=st.integers(1, 3),
        status=st.sampled_from(["", "100", "135", "150", "217", "501", "778"]),
        protocol=st.sampled_from(["", "135260000000001"]),
    ),
    max_size=12,
)
FINAL = [Fact.CANCELLED, Fact.AUTHORISED, Fact.NUMBER_VOIDED, Fact.ABANDONED]


def story(*facts: Fact | tuple[Fact, int]) -> Life:
    return fold(Event(fact=f) if isinstance(f, Fact) else Event(fact=f[0], seq=f[1]) for f in facts)


class TestFold:
    @settings(deadline=None)
    @given(events=EVENTS, seed=st.integers(), times=st.integers(1, 3))
    def test_is_the_same_for_any_order_and_repetition(self, events: list[Event], seed: int, times: int) -> None:
        told = events * times
        random.Random(seed).shuffle(told)
        assert fold(told) == fold(events)

    @settings(deadline=None)
    @given(events=EVENTS, more=EVENTS)
    def test_never_goes_back_from_what_is_final(self, events: list[Event], more: list[Event]) -> None:
        """What is final changes only for something that ranks above it."""
        rank = {State.CANCELLED: 0, State.AUTHORISED: 1, State.NUMBER_VOIDED: 2, State.ABANDONED: 3}
        before, after = fold(events).state, fold([*events, *more]).state
        if before in rank:
            assert rank.get(after, 9) <= rank[before]

    @pytest.mark.parametrize(
        ("facts", "state"),
        [
            ((), State.DRAFT),
            ((Fact.NUMBERED,), State.NUMBERED),
            ((Fact.NUMBERED, Fact.SIGNED), State.SIGNED),
            ((Fact.SIGNED, Fact.SENT), State.SENT),
            ((Fact.SIGNED, Fact.SENT, Fact.UNKNOWN), State.UNKNOWN),
            ((Fact.SIGNED, Fact.SENT, Fact.UNKNOWN, Fact.NOT_DELIVERED), State.SIGNED),
            ((Fact.SENT, Fact.REJECTED), State.REJECTED),
            ((Fact.SENT, Fact.REJECTED, (Fact.SENT, 2)), State.SENT),
            ((Fact.SENT, (Fact.SENT, 2), Fact.REJECTED), State.SENT),
            ((Fact.SENT, (Fact.SENT, 2), (Fact.UNKNOWN, 2), Fact.REJECTED), State.UNKNOWN),
            ((Fact.SENT, Fact.REJECTED, Fact.SIGNED_AGAIN), State.SIGNED),
            ((Fact.SIGNED_AGAIN, Fact.REJECTED, Fact.UNKNOWN), State.SIGNED),  # what is told late about that attempt
            ((Fact.SENT, Fact.REJECTED, Fact.SIGNED_AGAIN, (Fact.SENT, 2)), State.SENT),
            ((Fact.REJECTED, Fact.SIGNED_AGAIN, (Fact.REJECTED, 2)), State.REJECTED),
            ((Fact.SIGNED, (Fact.SIGNED_AGAIN, 0)), State.SIGNED),
            ((Fact.SIGNED, Fact.OFFLINE), State.OFFLINE),
            ((Fact.SIGNED, Fact.OFFLINE, Fact.SENT), State.SENT),
            ((Fact.OFFLINE, Fact.SENT, Fact.NOT_DELIVERED), State.OFFLINE),
            ((Fact.OFFLINE, Fact.REJECTED), State.REJECTED),
            ((Fact.OFFLINE, Fact.REJECTED, Fact.SIGNED_AGAIN), State.OFFLINE),
            ((Fact.OFFLINE, Fact.AUTHORISED), State.AUTHORISED),
            ((Fact.AUTHORISED,), State.AUTHORISED),
            ((Fact.AUTHORISED, Fact.CANCEL_SIGNED, Fact.CANCEL_DENIED), State.AUTHORISED),
            ((Fact.CANCELLED,), State.CANCELLED),
            ((Fact.REJECTED, Fact.VOID_SIGNED, Fact.NUMBER_VOIDED), State.NUMBER_VOIDED),
            ((Fact.ABANDONED,), State.ABANDONED),
        ],
    )
    def test_tells_these_stories(self, facts: tuple[Fact, ...], state: State) -> None:
        assert story(*facts).state is state

    @pytest.mark.parametrize("fact", FINAL)
    def test_an_answer_may_overtake_the_note_that_it_was_sent(self, fact: Fact) -> None:
        assert story(fact, Fact.SENT, Fact.UNKNOWN) == fold([*(Event(fact=f) for f in (Fact.UNKNOWN, Fact.SENT, fact))])
        assert story(fact, Fact.SENT, Fact.UNKNOWN).state not in (State.SENT, State.UNKNOWN)

    def test_keeps_why_it_was_rejected_until_another_attempt(self) -> None:
        rejected = Event(fact=Fact.REJECTED, status="778", reason="NCM")
        assert fold([Event(fact=Fact.SENT), rejected]).refusal_code == "778"
        assert fold([Event(fact=Fact.SENT), rejected, Event(fact=Fact.SENT, seq=2)]).refusal_code == ""
        assert fold([rejected, Event(fact=Fact.AUTHORISED)]).refusal_code == ""

    @pytest.mark.parametrize(
        ("events", "certain"),
        [
            ([], True),
            ([Event(fact=Fact.SIGNED)], True),
            ([Event(fact=Fact.SENT)], False),
            ([Event(fact=Fact.SENT), Event(fact=Fact.NOT_DELIVERED)], True),
            ([Event(fact=Fact.SENT), Event(fact=Fact.NOT_DELIVERED, status="108")], True),
            ([Event(fact=Fact.SENT), Event(fact=Fact.NOT_DELIVERED, status="217")], False),
            ([Event(fact=Fact.SENT), Event(fact=Fact.NOT_DELIVERED, status="999")], False),
            ([Event(fact=Fact.SENT), Event(fact=Fact.UNKNOWN), Event(fact=Fact.NOT_DELIVERED)], False),
            ([Event(fact=Fact.SENT), Event(fact=Fact.NOT_DELIVERED), Event(fact=Fact.SENT, seq=2)], False),
            ([Event(fact=Fact.REJECTED)], False),
            ([Event(fact=Fact.SIGNED_AGAIN, seq=0)], True),
        ],
    )
    def test_knows_without_asking_what_was_never_sent(self, events: list[Event], certain: bool) -> None:
        assert never_sent(events) is certain

    def test_tells_late_authorisation_and_denied_cancel(self) -> None:
        late = fold([Event(fact=Fact.AUTHORISED, status="150"), Event(fact=Fact.CANCEL_DENIED, status="501")])
        assert late.late
        assert late.cancel_denied_code == "501"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("100", Outcome.AUTHORISED), ("150", Outcome.AUTHORISED), ("101", Outcome.CANCELLED), ("204", Outcome.DUPLICATE),
        ("539", Outcome.CONFLICT), ("108", Outcome.UNAVAILABLE), ("217", Outcome.UNKNOWN_KEY), ("103", Outcome.PENDING),
        ("225", Outcome.REFUSED), ("302", Outcome.REFUSED), ("", Outcome.REFUSED),
    ],
)  # fmt: skip
def test_a_status_asks_for_one_thing(status: str, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome
