"""Balances as of a moment of insertion: what was remembered then is what is told later, whatever was posted since."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from apps.common.clock import business_date
from apps.common.errors import NotFound
from apps.ledger import public as ledger
from apps.ledger import reading
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, BOB, NOW, fund, line, money, post
from tests.integration.ledger.test_model import ACCOUNTS, LedgerMachine

LATER = NOW + timedelta(days=60)


def as_of(account: AccountRef, moment: datetime, day: date | None = None, *, now: datetime = LATER) -> ledger.MomentBalance:
    return ledger.balance_as_of(account, moment, day=day, now=now)


@pytest.mark.usefixtures("bank")
class TestBalanceAsOf:
    def test_leaves_out_what_was_inserted_later_though_it_is_dated_earlier(self) -> None:
        fund(ANA, 100)
        post(line(ANA, "C", 7, dateref=NOW.date() - timedelta(days=7)), NOW + timedelta(seconds=1))
        assert as_of(ANA, NOW).posted == 100
        assert as_of(ANA, NOW + timedelta(seconds=1)).posted == 107

    def test_of_a_day_counts_only_its_lines_and_those_before(self) -> None:
        fund(ANA, 1, dateref=NOW.date() - timedelta(days=7))
        fund(ANA, 10, dateref=NOW.date() - timedelta(days=2))
        fund(ANA, 100)
        days = [NOW.date() - timedelta(days=back) for back in (9, 7, 3, 2, 0, -5)]
        assert [as_of(ANA, NOW, day).posted for day in days] == [0, 1, 1, 11, 111, 111]

    def test_knows_the_days_before_the_window_by_their_last_row(self) -> None:
        for n in range(30):
            post(line(ANA, "C", 1), NOW + timedelta(days=n))
        assert [as_of(ANA, NOW + timedelta(days=n)).posted for n in (0, 7, 8, 20, 29)] == [1, 8, 9, 21, 30]
        assert as_of(ANA, NOW + timedelta(days=29), NOW.date() + timedelta(days=3)).posted == 4

    def test_follows_the_day_of_sao_paulo(self) -> None:
        before_midnight = datetime(2026, 3, 19, 2, 59, tzinfo=UTC)  # still the 18th
        post(line(ANA, "C", 5), before_midnight)
        post(
            line(ANA, "C", 3, dateref=date(2026, 3, 12)), before_midnight + timedelta(minutes=2)
        )  # seven days before the 19th
        assert as_of(ANA, before_midnight).posted == 5
        assert as_of(ANA, before_midnight).dateref == date(2026, 3, 18)
        assert as_of(ANA, before_midnight + timedelta(minutes=2)).posted == 8

    def test_tells_what_was_held(self) -> None:
        fund(ANA, 100)
        with transaction.atomic():
            ledger.hold(key="k", branch=ANA.branch, account=ANA.account, amount=money(30), now=NOW + timedelta(minutes=1))
        with transaction.atomic():
            ledger.void_hold(key="k", now=NOW + timedelta(minutes=3))
        with transaction.atomic():
            ledger.hold(key="l", branch=ANA.branch, account=ANA.account, amount=money(5), now=NOW + timedelta(minutes=4))
        assert [as_of(ANA, NOW + timedelta(minutes=n)).pending for n in range(6)] == [0, 30, 30, 0, 5, 5]
        assert as_of(ANA, NOW + timedelta(minutes=2)).available == 70

    def test_does_not_change_when_a_deferred_line_is_rolled_up(self) -> None:
        fees = AccountRef("0001", "FEES")
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        post(line(fees, "C", 9, dateref=NOW.date() - timedelta(days=7)))
        post(line(fees, "C", 1), NOW + timedelta(minutes=5))
        waiting = [as_of(fees, NOW + timedelta(minutes=n)).posted for n in (0, 5)]
        with transaction.atomic():
            ledger.roll_up(now=NOW + timedelta(days=12))
        assert waiting == [as_of(fees, NOW + timedelta(minutes=n)).posted for n in (0, 5)] == [9, 10]

    def test_does_not_change_when_it_is_rolled_up_by_a_clock_that_is_behind(self) -> None:
        fees, second = AccountRef("0001", "FEES"), timedelta(seconds=1)
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        post(line(fees, "C", 1), NOW + 2 * second)
        with transaction.atomic():
            ledger.roll_up(now=NOW)
        assert [as_of(fees, NOW + n * second).posted for n in range(4)] == [0, 0, 1, 1]

    def test_is_not_misled_when_the_later_posting_took_the_lock_first(self) -> None:
        week_ago = NOW.date() - timedelta(days=7)
        post(line(ANA, "C", 5, dateref=week_ago), NOW + timedelta(seconds=2))
        post(line(ANA, "C", 1, dateref=week_ago), NOW)
        assert as_of(ANA, NOW + timedelta(seconds=1)).posted == 1

    def test_passes_over_day_rows_that_a_larger_window_has_changed_since(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fund(ANA, 1)
        monkeypatch.setattr("apps.ledger.rules.BACKDATE_DAYS_MAX", 30)
        post(line(ANA, "C", 50, dateref=NOW.date()), NOW + timedelta(days=20))
        monkeypatch.undo()
        assert as_of(ANA, NOW + timedelta(days=10)).posted == 1

    def test_of_the_future_is_refused(self) -> None:
        with pytest.raises(ledger.MomentRefused):
            as_of(ANA, NOW + timedelta(seconds=1), now=NOW)

    def test_before_the_account_is_not_found(self) -> None:
        for account, moment in ((ANA, NOW - timedelta(seconds=1)), (AccountRef("0001", "nobody"), NOW)):
            with pytest.raises(NotFound):
                as_of(account, moment)

    def test_is_refused_when_lines_of_that_time_are_gone(self) -> None:
        fund(ANA, 1)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica; DELETE FROM ledger_transaction")
        with pytest.raises(RuntimeError):
            as_of(ANA, NOW)
        assert as_of(ANA, NOW + timedelta(days=9)).posted == 1  # no line of theirs is asked for
        assert as_of(BOB, NOW).posted == 0

    def test_that_takes_too_long_is_a_coded_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "STATEMENT_TIMEOUT_MS", 1)
        with pytest.raises(ledger.TooMuchToRead):
            reading.fetch_limited("SELECT pg_sleep(5)", [])
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)

    def test_reads_no_more_however_long_the_history_is(self) -> None:
        for n in range(20):
            post(line(ANA, "C", 1), NOW + timedelta(days=n))
        short = rows_read(NOW + timedelta(days=19))
        for n in range(20, 60):
            post(line(ANA, "C", 1), NOW + timedelta(days=n))
        assert rows_read(NOW + timedelta(days=59)) <= short + 2


def rows_read(moment: datetime) -> int:
    """How many lines and day rows one question takes."""
    sql = "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname ~ '^ledger_(trans|bal)'"
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(sql)
        before = cursor.fetchone()[0]
        as_of(ANA, moment)
        cursor.execute(sql)
        return int(cursor.fetchone()[0] - before)


class RememberingMachine(LedgerMachine):
    """Remembers every balance at every step, and asks for them again when much has been posted since."""

    def __init__(self) -> None:
        super().__init__()
        self.remembered: list[tuple[datetime, AccountRef, date | None, Decimal, Decimal]] = []

    balances_agree = rows_agree_once_all_is_rolled_up = proof_finds_nothing = None  # test_model looks at those
    expire_holds = None  # its clock runs far ahead

    @rule(hours=st.integers(1, 11))
    def hours_pass(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        self.model.today = business_date(self.now)

    @invariant()
    def remember(self) -> None:
        for account in ACCOUNTS:
            for day in (None, self.model.today - timedelta(days=3)):
                known = self.model.balance(account, day), self.model.held(account, day)
                self.remembered.append((self.now, account, day, *known))
        # No two steps share a moment.
        self.now += timedelta(seconds=1)

    @rule(place=st.integers(0, 10_000))
    def ask(self, place: int) -> None:
        if self.remembered:
            self.agrees(self.remembered[place % len(self.remembered)])

    def teardown(self) -> None:
        for memory in self.remembered[::2]:
            self.agrees(memory)
        super().teardown()

    def agrees(self, memory: tuple[datetime, AccountRef, date | None, Decimal, Decimal]) -> None:
        moment, account, day, posted, pending = memory
        found = as_of(account, moment, day, now=self.now)
        assert (found.posted, found.pending) == (posted, pending), memory


@pytest.mark.django_db
class TestAgainstModel:
    def test_every_remembered_balance_is_told_again(self) -> None:
        run_state_machine_as_test(
            RememberingMachine,
            settings=settings(
                max_examples=8,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
            ),
        )
