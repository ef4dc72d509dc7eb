from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.common.clock import uuid7
from apps.common.transactions import TransactionMisuse
from apps.ledger import public as ledger
from apps.ledger.models import Account, Balance, PostingKey, Transaction
from apps.ledger.public import AccountRef, Entry
from tests.integration.ledger.conftest import (
    ANA,
    BOB,
    CLEARING,
    CREDIT_ONLY,
    INACTIVE,
    LIMITED,
    NOW,
    TODAY,
    fund,
    leg,
    line,
    money,
    move,
    post,
    post_batch,
    posted,
)

pytestmark = pytest.mark.usefixtures("bank")

YESTERDAY = TODAY - timedelta(days=1)


class TestPost:
    def test_answers_with_the_resulting_balances(self) -> None:
        fund(ANA, 100, dateref=YESTERDAY)
        result = post(line(ANA, "D", "30.5"))
        (written,) = result.lines
        assert written.balances == ledger.Balances(money("69.5"), money(0), money("69.5"), money("69.5"))
        assert (written.dateref, written.account, str(written.amount)) == (TODAY, ANA, "30.50")

    def test_writes_the_seeds_columns(self) -> None:
        entry = line(
            ANA, "C", 10, eventcode=CREDIT_ONLY, description="pão", details={"canal": "app", "taxa": Decimal("1.5")}
        )
        (written,) = post(entry).lines
        row = Transaction.objects.get(id=written.id)
        assert (row.branch, row.account, row.amount, row.debit_credit, row.event_code) == ("0001", ANA.account, 10, "C", 2)
        assert (row.description, row.tracekey, row.dateref, row.created_at) == ("pão", entry.tracekey, TODAY, NOW)
        assert row.details == {"canal": "app", "taxa": "1.5"}

    def test_remembers_who_created_and_who_changed_a_day(self) -> None:
        first, second = line(ANA, "C", 10), line(ANA, "C", 5)
        post(first)
        post(second, now=NOW + timedelta(minutes=1))
        day = Balance.objects.get(account=ANA.account)
        assert (day.created_tracekey, day.updated_tracekey) == (first.tracekey, second.tracekey)
        assert (day.created_at, day.updated_at) == (NOW, NOW + timedelta(minutes=1))

    def test_the_default_day_is_the_business_day_in_sao_paulo(self) -> None:
        just_after_midnight_utc = NOW.replace(hour=1)
        (written,) = post(line(ANA, "C", 1), now=just_after_midnight_utc).lines
        assert written.dateref == YESTERDAY

    def test_outside_a_transaction_is_a_bug(self) -> None:
        with pytest.raises(TransactionMisuse):
            ledger.post(line(ANA, "C", 1), now=NOW)

    def test_moves_between_accounts_in_one_entry(self) -> None:
        fund(ANA, 100)
        result = post(move(ANA, BOB, 40))
        assert (posted(ANA), posted(BOB)) == (60, 40)
        assert [written.debitcredit for written in result.lines] == ["D", "C"]

    def test_legs_of_one_account_are_judged_by_their_sum(self) -> None:
        entry = Entry(tracekey=uuid7(), legs=(leg(ANA, "D", 50), leg(ANA, "C", 50)))
        post(entry)
        assert posted(ANA) == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("entry", "refusal"),
        [
            (line(AccountRef("0001", "nobody"), "C", 1), ledger.UnknownAccount),
            (line(AccountRef("9999", ANA.account), "C", 1), ledger.UnknownAccount),
            (line(AccountRef("0001", ANA.account, "USD"), "C", 1), ledger.UnknownAccount),
            (line(ANA, "C", 1, eventcode=99), ledger.UnknownEvent),
            (line(ANA, "C", 1, eventcode=INACTIVE), ledger.EventInactive),
            (line(LIMITED, "D", 1, eventcode=CREDIT_ONLY), ledger.EventSideRefused),
            (line(ANA, "D", "0.01"), ledger.InsufficientFunds),
            (line(LIMITED, "D", "100.01"), ledger.InsufficientFunds),
            (line(ANA, "C", 1, dateref=TODAY + timedelta(days=1)), ledger.DateRefused),
            (line(ANA, "C", 1, dateref=TODAY - timedelta(days=8)), ledger.DateRefused),
            (line(ANA, "C", 0), ledger.MalformedEntry),
            (Entry(tracekey=uuid7(), legs=(leg(ANA, "C", 2), leg(CLEARING, "D", 1))), ledger.UnbalancedEntry),
        ],
    )
    def test_changes_nothing_and_says_why(self, entry: Entry, refusal: type[Exception]) -> None:
        with pytest.raises(refusal):
            post(entry)
        assert not Transaction.objects.exists()
        assert not Balance.objects.exists()
        assert not PostingKey.objects.exists()

    def test_one_who_catches_it_and_commits_has_committed_nothing(self) -> None:
        with transaction.atomic():
            with pytest.raises(ledger.InsufficientFunds):
                ledger.post(line(ANA, "D", 1), now=NOW)
            ledger.post(line(BOB, "C", 1), now=NOW)
        assert PostingKey.objects.count() == Transaction.objects.count() == 1

    def test_the_same_entry_may_pass_later_once_there_is_money(self) -> None:
        entry = line(ANA, "D", 10)
        with pytest.raises(ledger.InsufficientFunds):
            post(entry)
        fund(ANA, 10)
        assert post(entry).replayed is False

    def test_a_frozen_account_takes_neither_side(self) -> None:
        fund(ANA, 10)
        with transaction.atomic():
            ledger.set_frozen(account=ANA, frozen=True, now=NOW)
        for side in ("D", "C"):
            with pytest.raises(ledger.AccountFrozen):
                post(line(ANA, side, 1))
        with transaction.atomic():
            ledger.set_frozen(account=ANA, frozen=False, now=NOW)
        post(line(ANA, "D", 1))

    def test_a_credit_limit_may_be_used_to_its_last_cent(self) -> None:
        post(line(LIMITED, "D", 100))
        assert posted(LIMITED) == -100


class TestBackDated:
    def test_shifts_the_later_days(self) -> None:
        fund(ANA, 100, dateref=TODAY - timedelta(days=2))
        fund(ANA, 10)
        fund(ANA, 1, dateref=YESTERDAY)
        balances = [ledger.balance_on(ANA, TODAY - timedelta(days=n)).balance for n in (3, 2, 1, 0)]
        assert balances == [0, 100, 101, 111]

    def test_todays_shifts_what_others_posted_after_their_midnight(self) -> None:
        post(line(ANA, "C", 100), now=NOW + timedelta(days=1))
        fund(ANA, 10)  # the day has no row yet
        fund(ANA, 1)
        balances = [ledger.balance_on(ANA, TODAY + timedelta(days=n)).balance for n in (-1, 0, 1)]
        assert balances == [0, 11, 111]

    def test_is_refused_when_a_day_in_between_would_fall_below_the_floor(self) -> None:
        fund(ANA, 10, dateref=TODAY - timedelta(days=3))
        fund(ANA, 100)
        with pytest.raises(ledger.InsufficientFunds, match=str(TODAY - timedelta(days=2))):
            post(line(ANA, "D", 11, dateref=TODAY - timedelta(days=2)))
        post(line(ANA, "D", 10, dateref=TODAY - timedelta(days=2)))

    def test_counts_a_hold_only_from_its_own_day(self) -> None:
        fund(ANA, 50, dateref=TODAY - timedelta(days=3))
        fund(ANA, 100, dateref=YESTERDAY)
        with transaction.atomic():
            ledger.hold(key="k", branch=ANA.branch, account=ANA.account, amount=money(120), now=NOW)
        with pytest.raises(ledger.InsufficientFunds, match=str(TODAY)):
            post(line(ANA, "D", 31, dateref=TODAY - timedelta(days=2)))
        post(line(ANA, "D", 30, dateref=TODAY - timedelta(days=2)))
        assert ledger.balance(ANA).available == 0

    def test_may_improve_a_day_that_is_below_a_floor_raised_later(self) -> None:
        post(line(LIMITED, "D", 100, dateref=YESTERDAY))
        fund(LIMITED, 200)
        Account.objects.filter(account=LIMITED.account).update(min_balance=0)
        fund(LIMITED, 10, dateref=YESTERDAY)
        with pytest.raises(ledger.InsufficientFunds):
            post(line(LIMITED, "D", 1, dateref=YESTERDAY))

    def test_a_debit_back_dated_before_the_accounts_first_day_is_refused(self) -> None:
        fund(ANA, 50)
        with pytest.raises(ledger.InsufficientFunds):
            post(line(ANA, "D", 1, dateref=YESTERDAY))


class TestRepeat:
    def test_answers_as_the_first_time_and_posts_nothing(self) -> None:
        fund(ANA, 100)
        entry = move(ANA, BOB, 40, dateref=YESTERDAY + timedelta(days=1))
        first = post(entry)
        fund(ANA, 7)
        again = post(entry)
        assert again == first
        assert (again.replayed, posted(ANA)) == (True, 67)

    def test_is_recognised_after_the_window_has_passed(self) -> None:
        entry = line(ANA, "C", 1, dateref=TODAY)
        first = post(entry)
        assert post(entry, now=NOW + timedelta(days=30)) == first

    def test_is_recognised_on_another_day_when_the_date_was_left_out(self) -> None:
        entry = line(ANA, "C", 1)
        assert post(entry, now=NOW + timedelta(days=1)) == post(entry)

    def test_with_another_body_is_refused(self) -> None:
        entry = line(ANA, "C", 1)
        post(entry)
        with pytest.raises(ledger.TracekeyReused):
            post(line(ANA, "C", 2, tracekey=entry.tracekey))
        assert posted(ANA) == 1

    def test_within_one_transaction_counts_as_a_repeat(self) -> None:
        entry = line(ANA, "C", 1)
        with transaction.atomic():
            assert ledger.post(entry, now=NOW) == ledger.post(entry, now=NOW)
        assert posted(ANA) == 1


class TestReverse:
    def reverse(self, entry: Entry, key: object = None) -> ledger.ReverseResult:
        with transaction.atomic():
            return ledger.reverse(tracekey=entry.tracekey, reversal_tracekey=key or uuid7(), now=NOW)

    def test_takes_every_leg_back(self) -> None:
        fund(ANA, 100)
        entry = move(ANA, BOB, 40)
        post(entry)
        result = self.reverse(entry)
        assert (posted(ANA), posted(BOB), result.status) == (100, 0, "REVERSED")
        assert [written.debitcredit for written in result.posting.lines] == ["C", "D"]

    def test_does_not_mind_that_the_event_allows_one_side_only(self) -> None:
        entry = line(ANA, "C", 10, eventcode=CREDIT_ONLY)
        post(entry)
        self.reverse(entry)
        assert posted(ANA) == 0

    def test_may_be_repeated(self) -> None:
        entry, key = line(ANA, "C", 10), uuid7()
        post(entry)
        assert self.reverse(entry, key) == self.reverse(entry, key)
        assert posted(ANA) == 0

    def test_happens_once_whatever_the_key(self) -> None:
        entry = line(CLEARING, "C", 10)
        post(entry)
        self.reverse(entry)
        with pytest.raises(ledger.AlreadyReversed):
            self.reverse(entry)
        assert posted(CLEARING) == 0

    def test_before_the_posting_refuses_the_late_posting_for_good(self) -> None:
        entry = line(ANA, "C", 10)
        assert self.reverse(entry).status == self.reverse(entry).status == "NEVER_POSTED"
        with pytest.raises(ledger.PostingVoided):
            post(entry)
        assert posted(ANA) == 0

    def test_is_refused_when_the_receiver_has_spent_the_money(self) -> None:
        entry = line(ANA, "C", 10)
        post(entry)
        post(line(ANA, "D", 5))
        with pytest.raises(ledger.InsufficientFunds):
            self.reverse(entry)
        assert PostingKey.objects.count() == 2

    def test_under_a_key_that_means_something_else_is_refused(self) -> None:
        entry, other = line(ANA, "C", 10), line(ANA, "C", 3)
        post(entry)
        post(other)
        with pytest.raises(ledger.TracekeyReused):
            self.reverse(entry, other.tracekey)


class TestBatch:
    def test_refused_entries_change_nothing_and_the_others_go_on(self) -> None:
        entries = [
            line(ANA, "C", 10),
            line(ANA, "D", 11),
            line(ANA, "C", 0),
            line(AccountRef("0001", "nobody"), "C", 1),
            line(ANA, "D", 10),
        ]
        results = post_batch(entries)
        assert [result.code for result in results] == [None, "R103", "R110", "R101", None]
        assert [result.status for result in results] == ["POSTED", "REFUSED", "REFUSED", "REFUSED", "POSTED"]
        assert [result.tracekey for result in results] == [entry.tracekey for entry in entries]
        assert set(PostingKey.objects.values_list("tracekey", flat=True)) == {entries[0].tracekey, entries[4].tracekey}

    def test_a_refused_entry_leaves_no_mark_on_the_days(self) -> None:
        funding = line(ANA, "C", 10)
        post(funding)
        post_batch([line(ANA, "D", 11), move(ANA, BOB, 11), line(CLEARING, "C", 1)])
        assert Balance.objects.get(account=ANA.account).updated_tracekey == funding.tracekey
        assert not Balance.objects.filter(account=BOB.account).exists()

    def test_a_key_twice_in_a_batch_is_posted_once(self) -> None:
        entry = line(ANA, "C", 10)
        other = line(ANA, "C", 11, tracekey=entry.tracekey)
        first, second, third = post_batch([entry, entry, other])
        assert first.posting == second.posting
        assert (second.posting.replayed, third.code, posted(ANA)) == (True, "R107", 10)

    def test_a_key_whose_first_entry_was_refused_belongs_to_the_next(self) -> None:
        refused = line(ANA, "D", 10)
        taken = line(ANA, "C", 11, tracekey=refused.tracekey)
        assert [result.code for result in post_batch([refused, taken])] == ["R103", None]
        assert post(taken).replayed
        with pytest.raises(ledger.TracekeyReused):
            post(refused)

    def test_above_the_limit_is_refused_as_a_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.ledger.postings.BATCH_LINES_MAX", 3)
        with pytest.raises(ledger.BatchTooLarge):
            post_batch([move(CLEARING, ANA, 1), move(CLEARING, ANA, 1)])

    def test_an_empty_batch_has_an_empty_answer(self) -> None:
        assert post_batch([]) == []

    def test_the_number_of_statements_does_not_grow_with_the_batch(self) -> None:
        def statements(size: int) -> int:
            days = [TODAY - timedelta(days=n) for n in range(8)]
            accounts = [ANA, BOB, LIMITED, CLEARING]
            entries = [line(accounts[n % 4], "C", 1, dateref=days[n % 8]) for n in range(size)]
            with transaction.atomic(), CaptureQueriesContext(connection) as captured:
                results = ledger.post_batch(entries, now=NOW)
            assert {result.status for result in results} == {"POSTED"}
            return len(captured)

        counts = [statements(size) for size in (1, 2, 10, 300, 1000)]
        # Claim, lines, sums; or a savepoint and the sums, when claims and lines are COPYs, which nobody counts. What is
        # read goes in one message, and a single line is one call of a function.
        assert counts == [1, 3, 3, 2, 2]
