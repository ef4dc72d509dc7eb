"""Reversals by hand: above an amount one person asks and another one agrees, and it is posted once."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import NotFound
from apps.ledger import public as ledger
from apps.ledger.by_hand import AGREE_WITHIN
from apps.ledger.by_hand_models import ReversalRequest
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, line, money, move, open_bank, post
from tests.integration.messaging.world import together

WHY = "posted to the wrong customer"


@pytest.fixture(name="moved")
def some_money(db: None, settings: Any) -> ledger.PostResult:
    """30 went from Ana to Bob, and from 20 on a second person is needed."""
    settings.LEDGER_FOUR_EYES = Decimal("20.00")
    now = timezone.now()
    open_bank(now=now - timedelta(days=9))
    post(line(ANA, "C", 100), now=now)
    return post(move(ANA, BOB, 30), now=now)


def ask(posting: ledger.PostResult, *, by: str = "user:ana", now: datetime | None = None) -> UUID:
    values: dict[str, Any] = {"tracekey": posting.tracekey, "reversal_tracekey": uuid4(), "reason": WHY, "by": by}
    with transaction.atomic():
        return ledger.ask_reversal(**values, now=now or timezone.now()).id


def agree(
    request_id: UUID, posting: ledger.PostResult, *, by: str = "user:bob", now: datetime | None = None
) -> ledger.ReverseResult:
    with transaction.atomic():
        return ledger.agree_to_reversal(request_id, tracekey=posting.tracekey, by=by, now=now or timezone.now())


def withdraw(request_id: UUID, posting: ledger.PostResult, *, by: str = "user:bob") -> None:
    with transaction.atomic():
        ledger.withdraw_reversal(request_id, tracekey=posting.tracekey, reason=WHY, by=by, now=timezone.now())


def alone(posting: ledger.PostResult) -> ledger.ReverseResult:
    with transaction.atomic():
        return ledger.reverse_by_hand(tracekey=posting.tracekey, reversal_tracekey=uuid4(), now=timezone.now())


def needs(posting: ledger.PostResult) -> bool:
    found = ledger.entry(posting.tracekey)
    assert found is not None
    return ledger.needs_second_person(found)


@pytest.mark.django_db
class TestAlone:
    def test_is_refused_above_the_amount(self, moved: ledger.PostResult) -> None:
        assert needs(moved)
        with pytest.raises(ledger.SecondPersonNeeded):
            alone(moved)
        assert ledger.balance(BOB).posted == money(30)

    @pytest.mark.parametrize("limit", [None, Decimal("30.00")])
    def test_is_done_up_to_the_amount_and_where_nobody_asks_for_two(
        self, moved: ledger.PostResult, settings: Any, limit: Decimal | None
    ) -> None:
        settings.LEDGER_FOUR_EYES = limit
        assert not needs(moved)
        assert alone(moved).status == "REVERSED"
        assert ledger.balance(BOB).posted == money(0)

    def test_zero_means_every_reversal(self, moved: ledger.PostResult, settings: Any) -> None:
        settings.LEDGER_FOUR_EYES = Decimal("0.00")
        assert needs(post(line(ANA, "C", "0.01"), now=timezone.now()))

    def test_counts_all_lines_of_a_side(self, moved: ledger.PostResult) -> None:
        legs = (*move(ANA, BOB, 15).legs, *move(ANA, CLEARING, 15).legs)
        assert needs(post(ledger.Entry(tracekey=uuid4(), legs=legs), now=timezone.now())), "30 leave the one account"

    def test_of_nothing_is_refused(self, moved: ledger.PostResult) -> None:
        with pytest.raises(NotFound), transaction.atomic():
            ledger.reverse_by_hand(tracekey=uuid4(), reversal_tracekey=uuid4(), now=timezone.now())


@pytest.mark.django_db
class TestAsked:
    def test_posts_nothing_before_the_second_person_agrees(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        waiting = ledger.waiting_reversal(moved.tracekey, now=timezone.now())
        assert waiting is not None
        assert (waiting.id, waiting.amount, waiting.currency, waiting.asked_by) == (
            request_id,
            money(30),
            "BRL",
            "user:ana",
        )
        assert ledger.waiting_reversals(now=timezone.now()) == [waiting]
        assert ledger.balance(BOB).posted == money(30)
        assert agree(request_id, moved).status == "REVERSED"
        assert ledger.balance(BOB).posted == money(0)
        assert ledger.waiting_reversals(now=timezone.now()) == []

    def test_is_agreed_to_by_somebody_else_only(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        with pytest.raises(ledger.SameHands):
            agree(request_id, moved, by="user:ana")
        assert ledger.balance(BOB).posted == money(30)

    def test_twice_is_refused_while_one_waits(self, moved: ledger.PostResult) -> None:
        ask(moved)
        with pytest.raises(ledger.ReversalAsked):
            ask(moved, by="user:bob")

    def test_the_same_by_the_same_person_is_one_request(self, moved: ledger.PostResult) -> None:
        values: dict[str, Any] = {"tracekey": moved.tracekey, "reversal_tracekey": uuid4(), "reason": WHY, "by": "user:ana"}

        def once(**changes: Any) -> Any:
            with transaction.atomic():
                return ledger.ask_reversal(**{**values, **changes}, now=timezone.now())

        first = once()
        assert once() == (first.id, True)
        for change in ({"by": "user:bob"}, {"reason": "other words"}):
            with pytest.raises(ledger.ReversalAsked):
                once(**change)

    def test_is_agreed_to_once(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        agree(request_id, moved)
        with pytest.raises(ledger.ReversalNotWaiting):
            agree(request_id, moved, by="user:cid")
        with pytest.raises(ledger.ReversalNotWaiting):
            withdraw(request_id, moved)

    def test_of_another_entry_is_not_found(self, moved: ledger.PostResult) -> None:
        request_id, other = ask(moved), post(line(ANA, "C", 50), now=timezone.now())
        with pytest.raises(NotFound):
            agree(request_id, other)

    def test_and_withdrawn_may_be_asked_for_again(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        withdraw(request_id, moved, by="user:ana")
        with pytest.raises(ledger.ReversalNotWaiting):
            agree(request_id, moved)
        assert ask(moved, by="user:bob") != request_id

    def test_too_long_ago_waits_no_more_and_may_be_asked_for_again(self, moved: ledger.PostResult) -> None:
        now = timezone.now()
        request_id = ask(moved, now=now - AGREE_WITHIN - timedelta(seconds=1))
        assert ledger.waiting_reversal(moved.tracekey, now=now) is None
        with pytest.raises(ledger.ReversalNotWaiting):
            agree(request_id, moved)
        agree(ask(moved, now=now), moved, now=now)
        assert list(ReversalRequest.objects.order_by("asked_at").values_list("state", flat=True)) == ["EXPIRED", "POSTED"]

    def test_still_waits_when_the_ledger_refuses(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        spent = post(move(BOB, CLEARING, 20), now=timezone.now())
        with pytest.raises(ledger.InsufficientFunds):
            agree(request_id, moved)
        with transaction.atomic():
            ledger.reverse(tracekey=spent.tracekey, reversal_tracekey=uuid4(), now=timezone.now())
        assert agree(request_id, moved).status == "REVERSED"

    def test_and_taken_back_otherwise_is_nobodys_question_any_more(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        with transaction.atomic():
            ledger.reverse(tracekey=moved.tracekey, reversal_tracekey=uuid4(), now=timezone.now())
        assert ledger.waiting_reversals(now=timezone.now()) == []
        with pytest.raises(ledger.AlreadyReversed):
            agree(request_id, moved)
        with pytest.raises(ledger.AlreadyReversed):
            ask(post_again(moved))


def post_again(posting: ledger.PostResult) -> ledger.PostResult:
    """The same entry, without the request that waits for it."""
    ReversalRequest.objects.all().delete()
    return posting


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def test_of_eight_who_ask_one_is_heard(self, moved: ledger.PostResult) -> None:
        outcomes = []

        def asks() -> None:
            try:
                ask(moved, by=f"user:{uuid4()}")
            except ledger.ReversalAsked:
                outcomes.append("refused")
            else:
                outcomes.append("asked")

        together(*[asks] * 8)
        assert sorted(outcomes) == ["asked"] + ["refused"] * 7

    def test_of_eight_who_decide_one_does(self, moved: ledger.PostResult) -> None:
        request_id = ask(moved)
        outcomes = []

        def agrees() -> None:
            outcomes.append(decided("posted", lambda: agree(request_id, moved)))

        def withdraws() -> None:
            outcomes.append(decided("withdrawn", lambda: withdraw(request_id, moved)))

        together(*[agrees, withdraws] * 4)
        assert len(outcomes) == 8
        assert outcomes.count("too late") == 7
        assert ledger.balance(BOB).posted == money(0 if "posted" in outcomes else 30)


def decided(word: str, work: Callable[[], object]) -> str:
    try:
        work()
    except ledger.ReversalNotWaiting:
        return "too late"
    return word
