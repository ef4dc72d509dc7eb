"""The same commands on the model and on PostgreSQL; after every step both must agree on everything."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid5

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.ledger.models import Balance
from apps.ledger.public import AccountRef, Entry, Leg
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, LIMITED, NOW, open_bank
from tests.integration.ledger.model_ledger import ModelLedger

ACCOUNTS = (ANA, BOB, LIMITED, CLEARING)
FLOORS = {ANA: Decimal(0), BOB: Decimal(0), LIMITED: Decimal(-100), CLEARING: None}

accounts = st.sampled_from(ACCOUNTS)
amounts = st.sampled_from([Decimal("0.01"), Decimal(1), Decimal("33.33"), Decimal(60), Decimal(100)])
# Few keys, so that repeats, reuse and undo before do happen all the time.
tracekeys = st.integers(0, 25).map(lambda n: uuid5(UUID(int=0), str(n)))
hold_keys = st.sampled_from(["a", "b", "c", "d", "e", "f"])
days_back = st.sampled_from([None, 0, 1, 2, 5, 7, 8, -1])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.now: datetime = NOW
        open_bank(self.now)
        self.model = ModelLedger(FLOORS, NOW.date())

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.block.__exit__(None, None, None)

    def day(self, back: int | None) -> date | None:
        return None if back is None else self.model.today - timedelta(days=back)

    def agree(self, expected: str, run: object) -> None:
        try:
            with transaction.atomic():
                outcome = run()
        except DomainError as refusal:
            outcome = refusal.code
        assert outcome == expected

    def post(self, tracekey: UUID, legs: list[tuple[AccountRef, Decimal]], dateref: date | None) -> None:
        entry = Entry(
            tracekey=tracekey,
            dateref=dateref,
            legs=tuple(
                Leg(account=account, amount=abs(signed), debitcredit="D" if signed < 0 else "C", eventcode=ANY)
                for account, signed in legs
            ),
        )
        expected = self.model.post(tracekey, legs, dateref)
        self.agree(expected, lambda: "REPLAYED" if ledger.post(entry, now=self.now).replayed else "POSTED")

    @rule(tracekey=tracekeys, account=accounts, amount=amounts, is_debit=st.booleans(), back=days_back)
    def post_line(self, tracekey: UUID, account: AccountRef, amount: Decimal, is_debit: bool, back: int | None) -> None:
        self.post(tracekey, [(account, -amount if is_debit else amount)], self.day(back))

    @rule(tracekey=tracekeys, debit=accounts, credit=accounts, amount=amounts, back=days_back)
    def transfer(self, tracekey: UUID, debit: AccountRef, credit: AccountRef, amount: Decimal, back: int | None) -> None:
        self.post(tracekey, [(debit, -amount), (credit, amount)], self.day(back))

    @rule(tracekey=tracekeys)
    def repeat(self, tracekey: UUID) -> None:
        known = self.model.entries.get(tracekey)
        if known and known[0][2] is None:
            self.post(tracekey, list(known[0][0]), known[0][1])

    @rule(key=hold_keys, account=accounts, amount=amounts)
    def hold(self, key: str, account: AccountRef, amount: Decimal) -> None:
        values = {"key": key, "branch": account.branch, "account": account.account, "amount": amount, "now": self.now}
        self.agree(self.model.hold(key, account, amount), lambda: ledger.hold(**values).status)

    @rule(key=hold_keys, tracekey=tracekeys, credit=accounts)
    def post_hold(self, key: str, tracekey: UUID, credit: AccountRef) -> None:
        values = {"key": key, "tracekey": tracekey, "credit": credit, "eventcode": ANY, "description": "", "now": self.now}
        self.agree(
            self.model.post_hold(key, tracekey, credit),
            lambda: "REPLAYED" if ledger.post_hold(**values).replayed else "POSTED",
        )

    @rule(key=hold_keys)
    def void_hold(self, key: str) -> None:
        self.agree(self.model.void_hold(key), lambda: ledger.void_hold(key=key, now=self.now).status)

    @rule(tracekey=tracekeys, reversal=tracekeys)
    def reverse(self, tracekey: UUID, reversal: UUID) -> None:
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

    @invariant()
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
                max_examples=12,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                print_blob=True,
            ),
        )
