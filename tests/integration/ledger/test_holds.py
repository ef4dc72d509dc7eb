from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import transaction

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.models import Hold
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    CREDIT_ONLY,
    LIMITED,
    NOW,
    TODAY,
    fund,
    line,
    money,
    post,
    posted,
)

pytestmark = pytest.mark.usefixtures("bank")


def hold(key: str = "k", account: AccountRef = ANA, amount: str | int = 40, **options: object) -> ledger.HoldResult:
    values = {"now": NOW, **options}
    with transaction.atomic():
        return ledger.hold(key=key, branch=account.branch, account=account.account, amount=money(amount), **values)


def post_hold(key: str = "k", tracekey: UUID | None = None, **options: object) -> ledger.PostResult:
    values = {"credit": BOB, "eventcode": ANY, "description": "sale", "now": NOW, **options}
    with transaction.atomic():
        return ledger.post_hold(key=key, tracekey=tracekey or uuid7(), **values)


def void_hold(key: str = "k") -> ledger.HoldResult:
    with transaction.atomic():
        return ledger.void_hold(key=key, now=NOW)


def available(account: AccountRef = ANA) -> Decimal:
    return ledger.balance(account).available


class TestHold:
    def test_reduces_what_is_available_and_not_what_is_posted(self) -> None:
        fund(ANA, 100)
        result = hold()
        assert result.balances == ledger.Balances(money(100), money(40), money(60))
        assert (result.status, result.account, result.amount) == ("OPEN", ANA, 40)
        assert (posted(ANA), available()) == (100, 60)

    def test_a_debit_can_not_take_what_is_held(self) -> None:
        fund(ANA, 100)
        hold()
        with pytest.raises(ledger.InsufficientFunds):
            post(line(ANA, "D", 61))
        post(line(ANA, "D", 60))

    def test_of_tomorrow_can_not_be_taken_either_by_a_clock_that_is_behind(self) -> None:
        fund(ANA, 100)
        hold(now=NOW + timedelta(days=1))
        yesterday = TODAY - timedelta(days=1)
        with transaction.atomic():
            results = ledger.post_batch([line(ANA, "C", 1, dateref=yesterday), line(ANA, "D", 62)], now=NOW)
        assert [result.code for result in results] == [None, "R103"]
        assert [len(post_hold().lines), posted(ANA)] == [2, 61]

    def test_many_holds_together_never_exceed_the_balance(self) -> None:
        fund(ANA, 100)
        hold("a", amount=60)
        with pytest.raises(ledger.InsufficientFunds):
            hold("b", amount=41)
        hold("b", amount=40)
        assert available() == 0

    def test_never_draws_on_a_credit_limit(self) -> None:
        fund(LIMITED, 10)
        with pytest.raises(ledger.InsufficientFunds):
            hold(account=LIMITED, amount="10.01")
        hold(account=LIMITED, amount=10)

    def test_repeats_with_the_same_answer(self) -> None:
        fund(ANA, 100)
        assert hold() == hold(expires_at=NOW + timedelta(days=1))
        assert available() == 60

    @pytest.mark.parametrize("change", [{"amount": 41}, {"account": BOB}])
    def test_a_key_used_for_another_hold_is_refused(self, change: dict[str, object]) -> None:
        fund(ANA, 100)
        fund(BOB, 100)
        hold()
        with pytest.raises(ledger.HoldKeyReused):
            hold(**change)

    def test_of_an_unknown_or_frozen_account_is_refused(self) -> None:
        fund(ANA, 100)
        with pytest.raises(ledger.UnknownAccount):
            hold(account=AccountRef("0001", "nobody"))
        with transaction.atomic():
            ledger.set_frozen(account=ANA, frozen=True, now=NOW)
        with pytest.raises(ledger.AccountFrozen):
            hold()

    @pytest.mark.parametrize("change", [{"amount": 0}, {"amount": -1}, {"key": ""}, {"key": "a\nb"}, {"key": "x" * 201}])
    def test_a_malformed_one_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ledger.MalformedEntry):
            hold(**change)


class TestPostHold:
    def test_pays_the_held_amount_to_the_other_account(self) -> None:
        fund(ANA, 100)
        hold()
        result = post_hold()
        debit, credit = result.lines
        assert debit.balances == ledger.Balances(money(60), money(0), money(60), money(60))
        assert (credit.account, posted(BOB)) == (BOB, 40)
        assert Hold.objects.get().status == "POSTED"

    def test_is_not_refused_for_lack_of_funds(self) -> None:
        fund(ANA, 40)
        hold()
        post_hold()
        assert ledger.balance(ANA).available == 0

    def test_repeats_with_the_same_answer(self) -> None:
        fund(ANA, 100)
        hold()
        key = uuid7()
        assert post_hold(tracekey=key) == post_hold(tracekey=key)
        assert (posted(ANA), posted(BOB)) == (60, 40)

    def test_happens_once_whatever_the_tracekey(self) -> None:
        fund(ANA, 100)
        hold()
        post_hold()
        with pytest.raises(ledger.HoldEnded):
            post_hold()
        assert posted(ANA) == 60

    def test_a_repeat_that_pays_somebody_else_is_refused(self) -> None:
        fund(ANA, 100)
        hold()
        key = uuid7()
        post_hold(tracekey=key)
        with pytest.raises(ledger.TracekeyReused):
            post_hold(tracekey=key, credit=CLEARING)

    def test_under_a_tracekey_of_another_entry_is_refused_and_the_hold_stays_open(self) -> None:
        fund(ANA, 100)
        hold()
        other = line(ANA, "C", 1)
        post(other)
        with pytest.raises(ledger.TracekeyReused):
            post_hold(tracekey=other.tracekey)
        assert ledger.balance(ANA).pending == 40

    def test_can_not_be_claimed_by_a_transfer_that_looks_the_same(self) -> None:
        fund(ANA, 100)
        hold()
        key = uuid7()
        post(
            ledger.Entry.transfer(tracekey=key, debit=ANA, credit=BOB, amount=money(40), eventcode=ANY, description="sale")
        )
        with pytest.raises(ledger.TracekeyReused):
            post_hold(tracekey=key)
        assert ledger.balance(ANA).pending == 40

    def test_of_an_unknown_hold_is_refused(self) -> None:
        with pytest.raises(ledger.UnknownHold):
            post_hold()

    def test_of_a_hold_whose_time_is_over_is_refused_before_anyone_expired_it(self) -> None:
        fund(ANA, 100)
        hold(expires_at=NOW + timedelta(hours=1))
        with pytest.raises(ledger.HoldEnded):
            post_hold(now=NOW + timedelta(hours=1))

    def test_a_refused_event_leaves_the_hold_open(self) -> None:
        fund(ANA, 100)
        hold()
        with pytest.raises(ledger.EventSideRefused):
            post_hold(eventcode=CREDIT_ONLY)
        assert ledger.balance(ANA).pending == 40

    def test_may_be_reversed_like_any_entry(self) -> None:
        fund(ANA, 100)
        hold()
        key = uuid7()
        post_hold(tracekey=key)
        with transaction.atomic():
            ledger.reverse(tracekey=key, reversal_tracekey=uuid7(), now=NOW)
        assert (posted(ANA), posted(BOB), ledger.balance(ANA).pending) == (100, 0, 0)


class TestVoidHold:
    def test_makes_the_amount_available_again(self) -> None:
        fund(ANA, 100)
        hold()
        result = void_hold()
        assert (result.status, available()) == ("VOIDED", 100)

    def test_may_be_repeated(self) -> None:
        fund(ANA, 100)
        hold()
        assert void_hold() == void_hold()
        assert available() == 100

    def test_before_the_hold_refuses_the_late_hold_for_good(self) -> None:
        fund(ANA, 100)
        assert void_hold() == void_hold()
        with pytest.raises(ledger.HoldEnded):
            hold()
        with pytest.raises(ledger.HoldEnded):
            post_hold()
        assert available() == 100

    def test_a_voided_hold_is_neither_placed_again_nor_posted(self) -> None:
        fund(ANA, 100)
        hold()
        void_hold()
        for late in (hold, post_hold):
            with pytest.raises(ledger.HoldEnded):
                late()
        assert available() == 100

    def test_of_a_posted_hold_is_refused(self) -> None:
        fund(ANA, 100)
        hold()
        post_hold()
        with pytest.raises(ledger.HoldEnded):
            void_hold()

    def test_is_possible_on_a_frozen_account(self) -> None:
        fund(ANA, 100)
        hold()
        with transaction.atomic():
            ledger.set_frozen(account=ANA, frozen=True, now=NOW)
        assert void_hold().status == "VOIDED"


class TestExpireHolds:
    def expire(self, **options: object) -> int:
        values = {"now": NOW + timedelta(hours=1), **options}
        with transaction.atomic():
            return ledger.expire_holds(**values)

    def test_ends_those_whose_time_is_over_and_no_others(self) -> None:
        fund(ANA, 100)
        fund(BOB, 100)
        hold("due", expires_at=NOW + timedelta(hours=1))
        hold("due too", expires_at=NOW + timedelta(minutes=5), amount=10)
        hold("due elsewhere", account=BOB, expires_at=NOW + timedelta(minutes=5))
        hold("later", expires_at=NOW + timedelta(hours=2), amount=1)
        hold("never", amount=2)
        assert (self.expire(), self.expire()) == (3, 0)
        assert (available(ANA), available(BOB)) == (97, 100)
        assert set(Hold.objects.filter(status="EXPIRED").values_list("key", flat=True)) == {
            "due",
            "due too",
            "due elsewhere",
        }

    def test_ends_no_more_than_its_limit_at_once_and_the_oldest_first(self) -> None:
        fund(ANA, 100)
        hold("second", expires_at=NOW + timedelta(minutes=2), amount=2)
        hold("first", expires_at=NOW + timedelta(minutes=1), amount=1)
        assert self.expire(limit=1) == 1
        assert ledger.balance(ANA).pending == 2

    def test_an_expired_hold_stays_expired_when_it_is_voided(self) -> None:
        fund(ANA, 100)
        hold(expires_at=NOW)
        self.expire()
        assert void_hold().status == "EXPIRED"
        assert available() == 100
