"""Groups, "up to what is there", ceilings, closed days and accounts, batches with a key, and trying without posting."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections, transaction

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.models import Account, PostingKey, Transaction
from apps.ledger.public import AccountRef, Entry
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    LIMITED,
    NOW,
    TODAY,
    fund,
    line,
    money,
    move,
    post,
    post_batch,
    posted,
)

YESTERDAY = TODAY - timedelta(days=1)


def linked(*entries: Entry, group: str = "g") -> list[Entry]:
    return [dataclasses.replace(entry, group=group) for entry in entries]


def up_to(entry: Entry) -> Entry:
    return dataclasses.replace(entry, up_to=True)


@pytest.mark.usefixtures("bank")
class TestGroup:
    def test_is_posted_as_a_whole(self) -> None:
        fund(ANA, 10)
        results = post_batch(linked(move(ANA, BOB, 10), move(BOB, CLEARING, 10)))
        assert [result.code for result in results] == [None, None]
        assert (posted(ANA), posted(BOB), posted(CLEARING)) == (0, 0, 10)

    def test_is_refused_as_a_whole_and_the_others_go_on(self) -> None:
        fund(ANA, 10)
        before, after = line(ANA, "C", 1), line(ANA, "C", 2)
        group = linked(move(ANA, BOB, 11), move(BOB, CLEARING, 5), line(BOB, "D", 7), line(ANA, "C", 9))
        results = post_batch([before, *group, after])
        assert [result.code for result in results] == [None, "R123", "R123", "R103", "R123", None]
        assert (posted(ANA), posted(BOB), posted(CLEARING)) == (13, 0, 0)
        assert PostingKey.objects.count() == 3
        assert ledger.balance_on(BOB, TODAY).total_credit == 0

    def test_two_groups_side_by_side_are_two(self) -> None:
        one, two = linked(line(ANA, "D", 1), line(ANA, "C", 5)), linked(line(BOB, "C", 1), group="h")
        assert [result.code for result in post_batch([*one, *two])] == ["R103", "R123", None]

    def test_a_malformed_member_refuses_all(self) -> None:
        results = post_batch(linked(line(ANA, "C", 1), line(ANA, "C", 0), line(BOB, "C", 1)))
        assert [result.code for result in results] == ["R123", "R110", "R123"]
        assert Transaction.objects.count() == 0

    @pytest.mark.parametrize("place", [0, 1])
    def test_that_is_refused_leaves_what_the_batch_posted_before_it(self, place: int) -> None:
        first = line(ANA, "C", 5)
        group = linked(first, line(ANA, "C", 1), line(BOB, "D", 1_000))
        results = post_batch([first, *(group if place == 0 else [*group[1:], group[0]])])
        again = results[1 if place == 0 else 3]
        assert again.posting is not None
        assert again.posting.replayed
        assert [result.code for result in results if result is not again] == [None, "R123", "R103"]
        other = post_batch([first, *linked(line(ANA, "C", 6, tracekey=first.tracekey), line(ANA, "C", 1))])
        assert [result.code for result in other] == [None, "R107", "R123"]
        assert posted(ANA) == 5

    def test_may_be_repeated(self) -> None:
        group = linked(line(ANA, "C", 1), line(BOB, "C", 1))
        post_batch(group)
        results = post_batch(group)
        assert [result.posting is not None and result.posting.replayed for result in results] == [True, True]


@pytest.mark.usefixtures("bank")
class TestUpTo:
    def test_posts_what_is_there(self) -> None:
        fund(ANA, 30)
        result = post(up_to(move(ANA, BOB, 50)))
        assert [found.amount for found in result.lines] == [30, 30]
        assert (posted(ANA), posted(BOB)) == (0, 30)

    def test_posts_no_more_than_was_asked_for(self) -> None:
        fund(ANA, 30)
        assert post(up_to(move(ANA, BOB, 20))).lines[0].amount == 20

    def test_leaves_the_credit_limit_and_what_is_held_alone(self) -> None:
        fund(LIMITED, 30)
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=LIMITED.account, amount=money(10), now=NOW)
        assert post(up_to(move(LIMITED, BOB, 50))).lines[0].amount == 20

    def test_looks_at_every_day_from_the_back_date_on(self) -> None:
        fund(ANA, 30, dateref=YESTERDAY - timedelta(days=1))
        post(move(ANA, BOB, 25, dateref=YESTERDAY))
        fund(ANA, 100)
        assert post(up_to(move(ANA, BOB, 50, dateref=YESTERDAY - timedelta(days=1)))).lines[0].amount == 5

    def test_what_is_held_later_is_there_before_also_where_no_floor_is(self) -> None:
        for ref in (ANA, CLEARING):
            fund(ref, 30, dateref=YESTERDAY)
            fund(ref, 10)
            with transaction.atomic():
                ledger.hold(key=ref.account, branch="0001", account=ref.account, amount=money(10), now=NOW)
            # Yesterday ends with 30, of which nothing was held; today with 40 less 10.
            assert post(up_to(move(ref, BOB, 50, dateref=YESTERDAY))).lines[0].amount == 30

    def test_is_refused_when_nothing_is_there(self) -> None:
        with pytest.raises(ledger.InsufficientFunds):
            post(up_to(move(ANA, BOB, 50)))

    def test_is_for_a_transfer_and_no_repeat_of_a_plain_one(self) -> None:
        with pytest.raises(ledger.MalformedEntry):
            post(up_to(line(ANA, "D", 1)))
        fund(ANA, 30)
        entry = move(ANA, BOB, 20)
        post(up_to(entry))
        with pytest.raises(ledger.TracekeyReused):
            post(entry)


@pytest.mark.usefixtures("bank")
class TestCeiling:
    CAPPED = AccountRef("0001", "CAPPED")

    @pytest.fixture(autouse=True)
    def _capped(self, bank: None) -> None:
        with transaction.atomic():
            ledger.open_account(branch="0001", account="CAPPED", max_balance=money(100), now=NOW)

    def test_refuses_more(self) -> None:
        fund(self.CAPPED, 100)
        with pytest.raises(ledger.AboveCeiling):
            fund(self.CAPPED, "0.01")
        assert posted(self.CAPPED) == 100

    def test_looks_at_every_day_from_the_back_date_on(self) -> None:
        fund(self.CAPPED, 100, dateref=YESTERDAY)
        post(move(self.CAPPED, BOB, 50))
        with pytest.raises(ledger.AboveCeiling, match=str(YESTERDAY)):
            fund(self.CAPPED, 10, dateref=YESTERDAY - timedelta(days=1))
        fund(self.CAPPED, 50)

    def test_limits_may_be_changed_while_they_fit(self) -> None:
        fund(self.CAPPED, 80)
        with transaction.atomic():
            ledger.set_limits(account=self.CAPPED, min_balance=money(-10), max_balance=money(90), now=NOW)
        with pytest.raises(ledger.AboveCeiling), transaction.atomic():
            ledger.set_limits(account=self.CAPPED, min_balance=None, max_balance=money(70), now=NOW)
        post(move(self.CAPPED, BOB, 90))
        with pytest.raises(ledger.InsufficientFunds), transaction.atomic():
            ledger.set_limits(account=self.CAPPED, min_balance=money(0), now=NOW)


@pytest.mark.usefixtures("bank")
class TestCloseDay:
    def close(self, day: object = YESTERDAY) -> bool:
        with transaction.atomic():
            return ledger.close_day(branch="0001", day=day, now=NOW)

    def test_refuses_what_comes_later(self) -> None:
        assert (self.close(), self.close()) == (True, False)
        results = post_batch([line(ANA, "C", 1, dateref=YESTERDAY), line(ANA, "C", 2)])
        assert [result.code for result in results] == ["R122", None]
        with pytest.raises(ledger.DayClosed):
            post(line(ANA, "C", 1, dateref=YESTERDAY - timedelta(days=1)))

    def test_a_day_that_is_not_over_stays_open(self) -> None:
        with pytest.raises(ledger.DateRefused):
            self.close(TODAY)

    def test_of_an_unknown_branch_is_refused(self) -> None:
        with pytest.raises(ledger.UnknownBranch), transaction.atomic():
            ledger.close_day(branch="9999", day=YESTERDAY, now=NOW)


@pytest.mark.usefixtures("committed_bank")
class TestCloseDayAtOnce:
    def test_waits_for_who_is_posting_into_it_and_keeps_the_next_one_out(self) -> None:
        started = threading.Event()

        def close() -> bool:
            try:
                started.set()
                with transaction.atomic():
                    return ledger.close_day(branch="0001", day=YESTERDAY, now=NOW)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                ledger.post(line(ANA, "C", 1, dateref=YESTERDAY), now=NOW)
                closing = pool.submit(close)
                assert started.wait(90)
                assert not closing.done()
            assert closing.result(30)
        with pytest.raises(ledger.DayClosed):
            post(line(ANA, "C", 1, dateref=YESTERDAY))
        assert ledger.balance_on(ANA, YESTERDAY).balance == 1


@pytest.mark.usefixtures("bank")
class TestCloseAccount:
    def close(self, account: AccountRef = ANA) -> None:
        with transaction.atomic():
            ledger.close_account(account=account, now=NOW)

    def test_closes_for_good(self) -> None:
        self.close()
        self.close()
        with pytest.raises(ledger.AccountClosed):
            fund(ANA, 1)
        with pytest.raises(ledger.AccountClosed), transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(1), now=NOW)
        with pytest.raises(ledger.AccountClosed), transaction.atomic():
            ledger.set_frozen(account=ANA, frozen=False, now=NOW)

    def test_refuses_while_there_is_money(self) -> None:
        fund(ANA, 1)
        with pytest.raises(ledger.AccountNotEmpty):
            self.close()


@pytest.mark.usefixtures("bank")
class TestPartOfAHold:
    def test_posts_a_part_and_gives_the_rest_back(self) -> None:
        fund(ANA, 100)
        key, tracekey = "k", uuid7()
        values = {"tracekey": tracekey, "credit": BOB, "eventcode": ANY, "description": "", "now": NOW}
        with transaction.atomic():
            ledger.hold(key=key, branch="0001", account=ANA.account, amount=money(60), now=NOW)
            first = ledger.post_hold(key=key, amount=money(40), **values)
            assert ledger.post_hold(key=key, amount=money(40), **values) == first
        assert (posted(ANA), posted(BOB), ledger.balance(ANA).pending) == (60, 40, 0)
        with pytest.raises(ledger.TracekeyReused), transaction.atomic():
            ledger.post_hold(key=key, amount=money(41), **values)
        from apps.ledger.reconciliation import prove

        assert prove() == []

    def test_refuses_more_than_was_held(self) -> None:
        fund(ANA, 100)
        values = {"tracekey": uuid7(), "credit": BOB, "eventcode": ANY, "description": "", "now": NOW}
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(60), now=NOW)
        with pytest.raises(ledger.MalformedEntry), transaction.atomic():
            ledger.post_hold(key="k", amount=money(61), **values)


@pytest.mark.usefixtures("bank")
class TestDryRun:
    def test_answers_and_posts_nothing(self) -> None:
        fund(ANA, 10)
        entries = [line(ANA, "D", 8), line(ANA, "D", 8)]
        with transaction.atomic():
            results = ledger.post_batch(entries, now=NOW, dry_run=True)
        assert [result.code for result in results] == [None, "R103"]
        assert results[0].posting is not None
        assert (posted(ANA), Transaction.objects.count(), PostingKey.objects.count()) == (10, 1, 1)
        assert [result.code for result in post_batch(entries)] == [None, "R103"]


@pytest.mark.usefixtures("bank")
class TestBatchKey:
    def run(self, entries: list[Entry], key: str = "batch") -> list[ledger.EntryResult]:
        with transaction.atomic():
            return ledger.post_batch(entries, now=NOW, key=key)

    def test_the_same_batch_gets_the_same_answer_even_where_it_was_refused(self) -> None:
        entries = [line(ANA, "D", 5), line(ANA, "C", 5)]
        first = self.run(entries)
        assert [result.code for result in first] == ["R103", None]
        again = self.run(entries)  # the debit would be possible by now
        assert [(r.code, r.posting, r.refusal and r.refusal.detail) for r in again] == [
            (r.code, r.posting, r.refusal and r.refusal.detail) for r in first
        ]
        assert posted(ANA) == 5

    def test_another_batch_under_the_key_is_refused(self) -> None:
        self.run([line(ANA, "C", 5)])
        with pytest.raises(ledger.BatchKeyReused):
            self.run([line(ANA, "C", 5)])
        assert posted(ANA) == 5


@pytest.mark.usefixtures("bank")
class TestFirstUse:
    def test_opens_an_account_in_a_known_branch_when_the_setting_says_so(self, settings: object) -> None:
        new, nowhere = AccountRef("0001", "new"), AccountRef("9999", "new")
        with pytest.raises(ledger.UnknownAccount):
            fund(new, 1)
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        results = post_batch([line(new, "C", 5), line(new, "D", 6), line(nowhere, "C", 5), line(ANA, "C", 1)])
        assert [result.code for result in results] == [None, "R103", "R101", None]
        assert (posted(new), Account.objects.get(account="new").min_balance) == (5, 0)


@pytest.mark.usefixtures("bank")
class TestCurrency:
    def test_must_be_known(self) -> None:
        with pytest.raises(ledger.UnknownCurrency), transaction.atomic():
            ledger.open_account(branch="0001", account="1", currency="ZZZ", now=NOW)


@pytest.mark.django_db(transaction=True)
class TestPostAlone:
    def test_is_a_commit_of_its_own(self, committed_bank: None) -> None:
        entry = line(ANA, "C", 5)
        first = ledger.post_alone(entry, now=NOW)
        again = ledger.post_alone(entry, now=NOW)
        assert again == first
        assert again.replayed
        with pytest.raises(ledger.InsufficientFunds):
            ledger.post_alone(line(ANA, "D", 6), now=NOW)
        ledger.post_alone(move(ANA, BOB, 5), now=NOW)
        assert (posted(ANA), posted(BOB), PostingKey.objects.count()) == (0, 5, 2)
        assert ledger.check_balances() == []
