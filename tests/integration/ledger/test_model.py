"""The same commands on the model and on PostgreSQL; after every step both must agree on everything."""

import copy
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid5

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from apps.common.errors import DomainError
from apps.ledger import postings
from apps.ledger import public as ledger
from apps.ledger.keys import posted_lines
from apps.ledger.models import Balance
from apps.ledger.public import AccountRef, Entry, Leg
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, LIMITED, NOW, open_bank
from tests.integration.ledger.model_ledger import ModelLedger

CAPPED, FEES = AccountRef("0001", "CAPPED"), AccountRef("0001", "FEES")  # a ceiling of 150; deferred
SPARE = AccountRef("0001", "SPARE")  # is closed some day
ACCOUNTS = (ANA, BOB, LIMITED, CLEARING, CAPPED, FEES, SPARE)
FLOORS = {ANA: Decimal(0), BOB: Decimal(0), LIMITED: Decimal(-100), CLEARING: None, CAPPED: Decimal(0), FEES: None}
FLOORS[SPARE] = Decimal(0)
CEILINGS = {CAPPED: Decimal(150)}

accounts = st.sampled_from(ACCOUNTS)
amounts = st.sampled_from([Decimal("0.01"), Decimal(1), Decimal("33.33"), Decimal(60), Decimal(100)])
# Few keys, so that repeats, reuse and undo before do happen all the time.
tracekeys = st.integers(0, 25).map(lambda n: uuid5(UUID(int=0), str(n)))
hold_keys = st.sampled_from(["a", "b", "c", "d"])
days_back = st.sampled_from([None, None, 0, 0, 1, 2, 5, 7, 7, 8, -1])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.columns = patch.object(postings, "PLAIN_ENTRIES_MIN", 1)
        self.now: datetime = NOW
        open_bank(self.now)
        with transaction.atomic():
            ledger.open_account(branch="0001", account="CAPPED", max_balance=CEILINGS[CAPPED], now=self.now)
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=self.now)
            ledger.open_account(branch="0001", account="SPARE", now=self.now)
        self.model = ModelLedger(dict(FLOORS), NOW.date(), dict(CEILINGS), frozenset({FEES}))
        self.keyed: dict[str, list[Entry]] = {}
        self.fresh = 0  # tracekeys that are used once
        for n, account in enumerate(ACCOUNTS[:-1]):  # or most of what follows is refused
            self.post(uuid5(UUID(int=1), str(n)), [(account, Decimal(100))], self.day(7))
        for key, account in (("a", ANA), ("b", BOB), ("c", CAPPED), ("d", CLEARING)):
            self.hold_on(key, account, Decimal(15))

    @initialize(in_columns=st.booleans())
    def decide(self, in_columns: bool) -> None:
        """Plain lines as columns, or in the loop: Note [Plain lines]."""
        if in_columns:
            self.columns.start()

    def teardown(self) -> None:
        self.columns.stop()
        transaction.set_rollback(True)
        self.block.__exit__(None, None, None)

    def day(self, back: int | None) -> date | None:
        return None if back is None else self.model.today - timedelta(days=back)

    def agree(self, expected: object, run: Callable[[], object]) -> None:
        try:
            with transaction.atomic():
                outcome = run()
        except DomainError as refusal:
            outcome = refusal.code
        assert outcome == expected

    def entry(self, tracekey: UUID, legs: list[tuple[AccountRef, Decimal]], dateref: date | None, **options: Any) -> Entry:
        return Entry(
            tracekey=tracekey,
            dateref=dateref,
            legs=tuple(
                Leg(account=account, amount=abs(signed), debitcredit="D" if signed < 0 else "C", eventcode=ANY)
                for account, signed in legs
            ),
            **options,
        )

    def post(self, tracekey: UUID, legs: list[tuple[AccountRef, Decimal]], dateref: date | None) -> None:
        entry = self.entry(tracekey, legs, dateref)
        expected = self.model.post(tracekey, legs, dateref)
        self.agree(expected, lambda: "REPLAYED" if ledger.post(entry, now=self.now).replayed else "POSTED")

    @rule(tracekey=tracekeys, account=accounts, amount=amounts, back=days_back)
    def credit(self, tracekey: UUID, account: AccountRef, amount: Decimal, back: int | None) -> None:
        self.post(tracekey, [(account, amount)], self.day(back))

    @rule(tracekey=tracekeys, account=accounts, amount=amounts, back=days_back)
    def debit(self, tracekey: UUID, account: AccountRef, amount: Decimal, back: int | None) -> None:
        self.post(tracekey, [(account, -amount)], self.day(back))

    @rule(
        account=st.sampled_from([ANA, CAPPED]),
        amount=st.sampled_from([Decimal(30), Decimal(40)]),  # so that floor and ceiling are met in the middle alone
        is_up=st.booleans(),
        then=st.sampled_from([Decimal(15), Decimal(30), Decimal(45)]),
    )
    def uneven(self, account: AccountRef, amount: Decimal, is_up: bool, then: Decimal) -> None:
        """A day in the middle is poorer, or richer, than those around it: what is then dated before it must look there."""
        sign = 1 if is_up else -1
        for change, back in ((sign * amount, 3), (-sign * amount, 1), (sign * then, 5)):
            self.fresh += 1
            self.post(uuid5(UUID(int=2), str(self.fresh)), [(account, change)], self.day(back))

    @rule(tracekey=tracekeys, debit=accounts, credit=accounts, amount=amounts, back=days_back)
    def transfer(self, tracekey: UUID, debit: AccountRef, credit: AccountRef, amount: Decimal, back: int | None) -> None:
        self.post(tracekey, [(debit, -amount), (credit, amount)], self.day(back))

    @rule(tracekey=tracekeys, debit=accounts, credit=accounts, amount=amounts, back=days_back)
    def up_to(self, tracekey: UUID, debit: AccountRef, credit: AccountRef, amount: Decimal, back: int | None) -> None:
        entry = self.entry(tracekey, [(debit, -amount), (credit, amount)], self.day(back), up_to=True)
        expected = self.model.post_up_to(tracekey, debit, credit, amount, self.day(back))
        self.agree(expected, lambda: "REPLAYED" if ledger.post(entry, now=self.now).replayed else "POSTED")

    @rule(
        wanted=st.lists(st.tuples(tracekeys, accounts, accounts, amounts, days_back), min_size=2, max_size=4),
        linked=st.sampled_from([(0, 0), (0, 0), (0, 4), (0, 2), (1, 3)]),  # those that are a group: from, until
        is_dry=st.booleans(),
        key=st.sampled_from([None, None, "first", "second"]),
    )
    def batch(
        self,
        wanted: list[tuple[UUID, AccountRef, AccountRef, Decimal, int | None]],
        linked: tuple[int, int],
        is_dry: bool,
        key: str | None,
    ) -> None:
        keys = {}  # each tracekey once: a repeat within a group is a case of its own
        for tracekey, debit, credit, amount, back in wanted:
            keys[tracekey] = (tracekey, [(debit, -amount), (credit, amount)], self.day(back))
        values = list(keys.values())
        first, last = linked
        entries = [self.entry(*one, group="g" if first <= n < last else None) for n, one in enumerate(values)]
        before = copy.deepcopy(self.model)

        def expected() -> list[str]:
            outcomes = [self.model.post(*one) for one in values[:first]]
            outcomes += self.model.post_group(values[first:last])
            return outcomes + [self.model.post(*one) for one in values[last:]]

        outcomes = expected() if key is None or is_dry else self.model.keyed(key, entries, expected)
        if key is not None and not is_dry:
            self.keyed.setdefault(key, entries)
        self.agree(outcomes, lambda: self.post_batch(entries, key=key, dry_run=is_dry))
        if is_dry:
            self.model = before

    @rule(wanted=st.lists(st.tuples(tracekeys, accounts, amounts, st.booleans(), days_back), min_size=2, max_size=8))
    def lines(self, wanted: list[tuple[UUID, AccountRef, Decimal, bool, int | None]]) -> None:
        """A batch of single lines, perhaps several of one account, and of one tracekey."""
        values = [
            (key, [(ref, -amount if is_debit else amount)], self.day(back)) for key, ref, amount, is_debit, back in wanted
        ]
        outcomes = [self.model.post(*one) for one in values]
        self.agree(outcomes, lambda: self.post_batch([self.entry(*one) for one in values]))

    @rule(account=accounts, other=accounts, amount=amounts)
    def broken_group(self, account: AccountRef, other: AccountRef, amount: Decimal) -> None:
        """The last of a group is refused for lack of funds; behind it, its accounts are posted to in the same batch."""
        values = []
        for legs in (
            [(other, -amount), (account, amount)],
            [(ANA, Decimal(-10_000))],
            [(account, amount)],
            [(other, amount)],
        ):
            self.fresh += 1
            values.append((uuid5(UUID(int=2), str(self.fresh)), legs, None))
        entries = [self.entry(*one, group="g" if n < 2 else None) for n, one in enumerate(values)]
        outcomes = self.model.post_group(values[:2]) + [self.model.post(*one) for one in values[2:]]
        self.agree(outcomes, lambda: self.post_batch(entries))

    def post_batch(self, entries: list[Entry], **options: Any) -> list[str]:
        results = ledger.post_batch(entries, now=self.now, **options)
        return [r.code or ("REPLAYED" if r.posting and r.posting.replayed else "POSTED") for r in results]

    @rule(key=st.sampled_from(["first", "second"]), is_same=st.booleans())
    def repeat_batch(self, key: str, is_same: bool) -> None:
        if entries := self.keyed.get(key):
            entries = entries if is_same else entries[:-1]
            expected = self.model.keyed(key, entries, list)
            self.agree(expected, lambda: self.post_batch(entries, key=key))

    @rule(
        deed=st.sampled_from(["freeze", "thaw", "close", "limits"]),
        account=accounts,
        floor=st.sampled_from([None, Decimal(0), Decimal(-100)]),
        ceiling=st.sampled_from([None, Decimal(150)]),
    )
    def administer(self, deed: str, account: AccountRef, floor: Decimal | None, ceiling: Decimal | None) -> None:
        if deed == "limits":
            self.set_limits(account, floor, ceiling)
        elif deed == "close":
            expected = self.model.close_account(SPARE)
            self.agree(expected, lambda: ledger.close_account(account=SPARE, now=self.now) or "DONE")
        else:
            frozen = deed == "freeze" and account in (BOB, FEES, SPARE)  # or too little happens
            values = {"account": account, "frozen": frozen, "now": self.now}
            self.agree(self.model.set_frozen(account, frozen), lambda: ledger.set_frozen(**values) or "DONE")

    def set_limits(self, account: AccountRef, floor: Decimal | None, ceiling: Decimal | None) -> None:
        values = {"account": account, "min_balance": floor, "max_balance": ceiling, "now": self.now}
        if account not in (ANA, *self.model.deferred):
            self.agree(self.model.set_limits(account, floor, ceiling), lambda: ledger.set_limits(**values) or "DONE")

    @rule()
    def roll_up(self) -> None:
        with transaction.atomic():
            ledger.roll_up(now=self.now, limit=2)

    @rule(back=st.sampled_from([1, 3, 6]))
    def close_day(self, back: int) -> None:
        day = self.model.today - timedelta(days=back)
        if self.model.today > NOW.date() + timedelta(days=1):  # the first days stay open, for back dates
            self.agree(self.model.close_day(day), lambda: ledger.close_day(branch="0001", day=day, now=self.now))

    @rule(tracekey=tracekeys)
    def repeat(self, tracekey: UUID) -> None:
        known = self.model.entries.get(tracekey)
        if known and known[0][2] is None and tracekey not in self.model.asked:
            self.post(tracekey, list(known[0][0]), known[0][1])

    @rule(key=hold_keys, account=accounts, amount=amounts)
    def hold(self, key: str, account: AccountRef, amount: Decimal) -> None:
        if account not in self.model.deferred:
            self.hold_on(key, account, amount)

    def hold_on(self, key: str, account: AccountRef, amount: Decimal) -> None:
        values = {"key": key, "branch": account.branch, "account": account.account, "amount": amount, "now": self.now}
        values["expires_at"] = self.now + timedelta(days=300)
        self.agree(self.model.hold(key, account, amount), lambda: ledger.hold(**values).status)

    @rule()
    def expire_holds(self) -> None:
        if self.model.today.day % 3 == 0:  # not all the time
            later = self.now + timedelta(days=301)
            self.agree(self.model.expire_holds(), lambda: ledger.expire_holds(now=later))

    @rule(key=hold_keys, tracekey=tracekeys, credit=accounts, part=st.none() | amounts)
    def post_hold(self, key: str, tracekey: UUID, credit: AccountRef, part: Decimal | None) -> None:
        values = {"key": key, "tracekey": tracekey, "credit": credit, "eventcode": ANY, "description": "", "now": self.now}
        values["amount"] = part
        self.agree(
            self.model.post_hold(key, tracekey, credit, part),
            lambda: "REPLAYED" if ledger.post_hold(**values).replayed else "POSTED",
        )

    @rule(key=hold_keys)
    def void_hold(self, key: str) -> None:
        self.agree(self.model.void_hold(key), lambda: ledger.void_hold(key=key, now=self.now).status)

    @rule(tracekey=tracekeys, reversal=tracekeys, pick=st.integers(0, 30), is_known=st.sampled_from([True, True, False]))
    def reverse(self, tracekey: UUID, reversal: UUID, pick: int, is_known: bool) -> None:
        if is_known:  # most of them: what was never posted is buried for good
            tracekey = list(self.model.entries)[pick % len(self.model.entries)]
        values = {"tracekey": tracekey, "reversal_tracekey": reversal, "now": self.now}
        if tracekey != reversal:
            self.agree(self.model.reverse(tracekey, reversal), lambda: ledger.reverse(**values).status)

    @rule()
    def next_day(self) -> None:
        self.now += timedelta(days=1)
        self.model.today += timedelta(days=1)

    @invariant()
    def balances_agree(self) -> None:
        for account in ACCOUNTS:
            found = ledger.balance(account)
            assert (found.posted, found.pending) == (self.model.balance(account), self.model.held(account))

    @invariant()
    def answers_are_repeated(self) -> None:
        """What was answered of every entry, balances and all, is what a repeat would be answered now."""
        found = {
            tracekey: [
                (
                    line.account,
                    line.amount if line.debitcredit == "C" else -line.amount,
                    line.dateref,
                    line.balances and (line.balances.posted, line.balances.pending, line.balances.day),
                )
                for line in lines
            ]
            for tracekey, lines in posted_lines(list(self.model.entries)).items()
        }
        assert found == self.model.answers

    @rule(account=accounts, back=st.integers(0, 9), days=st.integers(0, 4))
    def ask_for_a_period(self, account: AccountRef, back: int, days: int) -> None:
        """A day, and a part of the statement, page by page. What waits to be rolled up is in neither."""
        day = self.model.today - timedelta(days=back)
        until = day + timedelta(days=days)
        if account in self.model.deferred:
            return
        before, after = self.model.balance(account, day - timedelta(days=1)), self.model.balance(account, until)
        found = ledger.balance_on(account, until)
        assert found.balance == after == found.accumulated_credit - found.accumulated_debit
        lines, cursor = [], None
        while True:
            page = ledger.statement(account, date_from=day, date_to=until, cursor=cursor, limit=2)
            assert (page.opening, page.closing) == (before, after)
            lines += [(line.dateref, line.running) for line in page.lines]
            if (cursor := page.next_cursor) is None:
                break
        assert lines == [(on, run) for on, _, run in self.model.statement(account) if day <= on <= until]

    @invariant()
    def rows_agree_once_all_is_rolled_up(self) -> None:
        with transaction.atomic():
            while ledger.roll_up(now=self.now):
                pass
            self.day_rows_agree()
            self.statements_agree()
            transaction.set_rollback(True)

    def day_rows_agree(self) -> None:
        assert {
            (AccountRef(row.branch, row.account, row.currency), row.dateref): (
                row.total_debit,
                row.total_credit,
                row.accumulated_debit,
                row.accumulated_credit,
            )
            for row in Balance.objects.all()
        } == self.model.day_rows()

    def statements_agree(self) -> None:
        for account in ACCOUNTS:
            found = ledger.statement(account, date_from=date(2026, 1, 1), date_to=date(2027, 1, 1), limit=500)
            assert [
                (line.dateref, -line.amount if line.debitcredit == "D" else line.amount, line.running)
                for line in found.lines
            ] == self.model.statement(account)
            assert found.closing == self.model.balance(account)

    @rule()
    def proof_finds_nothing(self) -> None:
        assert prove() == []


@pytest.mark.django_db
class TestAgainstModel:
    def test_every_command_has_the_outcome_and_leaves_the_balances_that_the_model_says(self) -> None:
        run_state_machine_as_test(
            LedgerMachine,
            settings=settings(
                max_examples=20,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=[Phase.generate],  # a shorter example takes minutes to find, which no run of the suite has
                print_blob=True,
            ),
        )
