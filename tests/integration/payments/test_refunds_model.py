"""Random refunds, answers, repeats and kills on the model and on PostgreSQL; after every step both must agree.

The bus is the worst that there is: it loses, doubles, delays and reorders whatever was committed. A kill is a commit that
never comes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pytest_django import Settings

from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef
from apps.messaging.contracts.payments import CardResult, RefundRequested
from apps.orders import merchant_money
from apps.payments import refunds, results
from apps.payments.merchants import Answer
from apps.payments.models import Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction
from apps.payments.processor import operations as processor
from config import demo
from tests.integration.payments import world
from tests.saga_driver import pump_messages

CAPTURED = Decimal("10.50")
REFUSES = 2  # the payment whose card's bank refuses refunds
whom = st.integers(0, REFUSES)
amounts = st.sampled_from([None, Decimal("0.01"), Decimal(3), Decimal("3.50"), Decimal("10.50"), Decimal(11)])
keys = st.sampled_from([None, None, "a", "b", "c"])  # few, so that they are used again
kills = st.sampled_from([False, False, False, True])


def _nobodys_transaction() -> transaction.Atomic:
    """One that does not count as a transaction, as that of a TestCase: the verbs' own commits happen inside of it."""
    block = transaction.atomic()
    block._from_testcase = True  # type: ignore[attr-defined]
    return block


def open_merchants_ledger() -> None:
    """Where merchants' own payments are posted, and nothing else."""
    with transaction.atomic():
        demo._open_ledger(now=world.NOW)
    demo._open_merchants(now=world.NOW)


class Killed(Exception):
    """The process ended here: what it did is not committed."""


@dataclass
class Asked:
    """A refund as the model knows it. ``decided`` by the processor, ``heard`` by us: two moments."""

    payment: int
    amount: Decimal
    decided: bool = False
    heard: bool = False

    @property
    def is_refused(self) -> bool:
        return self.payment == REFUSES


@dataclass
class Model:
    refunds: dict[UUID, Asked] = field(default_factory=dict)
    keys: dict[str, tuple[tuple[int, Decimal | None], UUID]] = field(default_factory=dict)

    def left(self, payment: int) -> Decimal:
        promised = [
            one.amount for one in self.refunds.values() if one.payment == payment and not (one.heard and one.is_refused)
        ]
        return CAPTURED - sum(promised, Decimal(0))

    def given_back(self, payment: int, *, heard: bool) -> Decimal:
        """What our books say, or the processor's."""
        done = [
            one.amount
            for one in self.refunds.values()
            if one.payment == payment and not one.is_refused and (one.heard if heard else one.decided)
        ]
        return sum(done, Decimal(0))


class RefundMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block = _nobodys_transaction()
        self.block.__enter__()
        open_merchants_ledger()
        token = world.save_card().token
        refusing = world.save_card(world.REFUND_REFUSED).token
        views = [
            world.authorise(
                card_token=refusing if number == REFUSES else token,
                step_key=f"p{number}",
                reply_to="",
                captures_itself=True,
            )
            for number in range(REFUSES + 1)
        ]
        pump_messages()
        self.payments = [view.id for view in views]
        self.posted = [CAPTURED] * len(views)
        self.model = Model()

    def teardown(self) -> None:
        try:
            self.all_comes_to_rest()
        finally:
            transaction.set_rollback(True)
            self.block.__exit__(None, None, None)

    def attempt(self, work: Callable[[], Answer | None], *, killed: bool) -> Answer | str | None:
        """Do it in a commit of its own. Gives the answer or the code of the refusal; None for what was killed."""
        try:
            with _nobodys_transaction():
                found = work()
                if killed:
                    raise Killed
        except Killed:
            return None
        except DomainError as refusal:
            return refusal.code
        return found

    @rule(payment=whom, amount=amounts, key=keys, killed=kills)
    def ask(self, payment: int, amount: Decimal | None, key: str | None, killed: bool) -> None:
        command = refunds.NewRefund(
            account_id="acc_shop",
            payment_id=self.payments[payment],
            amount=amount,
            reason="",
            idempotency_key=key,
            body={} if amount is None else {"amount": amount},
        )
        outcome = self.attempt(lambda: refunds.ask_refund(command, now=world.NOW), killed=killed)
        if outcome is not None:
            self.compare(outcome, payment, amount, key)

    def compare(self, outcome: Answer | str, payment: int, amount: Decimal | None, key: str | None) -> None:
        if key is not None and key in self.model.keys:
            first, refund_id = self.model.keys[key]
            if first != (payment, amount):
                assert outcome == "R013"
                return
            assert isinstance(outcome, Answer)
            assert outcome.body["id"] == str(refund_id)
            return
        wanted = self.model.left(payment) if amount is None else amount
        if not 0 < wanted <= self.model.left(payment):
            assert outcome == "R212"
            return
        assert isinstance(outcome, Answer)
        assert (outcome.status, outcome.body["status"]) == (202, "pending")
        assert Decimal(outcome.body["amount"]) == wanted
        refund_id = UUID(outcome.body["id"])
        self.model.refunds[refund_id] = Asked(payment, wanted)
        if key is not None:
            self.model.keys[key] = ((payment, amount), refund_id)

    @rule(which=st.integers(0, 9), killed=kills)
    def request_arrives(self, which: int, killed: bool) -> None:
        """For the first time or again, in any order."""
        if not self.model.refunds:
            return
        refund_id = sorted(self.model.refunds)[which % len(self.model.refunds)]
        self.attempt(lambda: self.deliver_request(refund_id), killed=killed)
        if not killed:
            self.model.refunds[refund_id].decided = True

    def deliver_request(self, refund_id: UUID) -> None:
        row = PaymentOperation.objects.get(pk=refund_id)
        assert row.amount is not None
        request = RefundRequested(operation_key=row.operation_key, payment_id=row.payment_id, amount=row.amount)
        with transaction.atomic():
            processor.refund(request, reply_to="", now=world.NOW)

    @rule(which=st.integers(0, 9), killed=kills)
    def answer_arrives(self, which: int, killed: bool) -> None:
        """For the first time or again; in any order."""
        decided = sorted(one for one, asked in self.model.refunds.items() if asked.decided)
        if not decided:
            return
        refund_id = decided[which % len(decided)]
        self.attempt(lambda: self.deliver_answer(refund_id), killed=killed)
        if not killed:
            self.model.refunds[refund_id].heard = True

    def deliver_answer(self, refund_id: UUID) -> None:
        row = PaymentOperation.objects.get(pk=refund_id)
        said = ProcessorOperation.objects.get(operation_key=row.operation_key)
        answer = CardResult(
            operation_key=said.operation_key,
            payment_id=row.payment_id,
            kind="refund",
            status=said.status,
            processor_reference=said.reference,
            answered_at=said.answered_at,
            amount=said.amount,
            error_code=said.error_code,
            error_message=said.error_message,
        )
        with transaction.atomic():
            results.record_result(answer, now=world.NOW)

    @rule(which=st.integers(0, 9))
    def the_contrary_arrives(self, which: int) -> None:
        """Of a refund that is answered: whatever is said now changes nothing."""
        heard = sorted(one for one, asked in self.model.refunds.items() if asked.heard)
        if not heard:
            return
        refund_id = heard[which % len(heard)]
        row = PaymentOperation.objects.get(pk=refund_id)
        contrary = "rejected" if row.status == "APPROVED" else "approved"
        late = CardResult(
            operation_key=row.operation_key,
            payment_id=row.payment_id,
            kind="refund",
            status=contrary,
            processor_reference="psr_late",
            answered_at=world.NOW,
            amount=row.amount,
            error_code="" if contrary == "approved" else "late",
        )
        with transaction.atomic():
            results.record_result(late, now=world.NOW)

    @rule(payment=whom, killed=kills)
    def the_payments_change_is_heard(self, payment: int, killed: bool) -> None:
        """For the first time or again, late or never."""
        self.attempt(lambda: self.post(payment), killed=killed)
        if not killed:
            self.posted[payment] = CAPTURED - self.model.given_back(payment, heard=True)

    def post(self, payment: int) -> None:
        with transaction.atomic():
            merchant_money.post_taken(self.payments[payment], now=world.NOW)

    @invariant()
    def the_ledger_is_the_sum(self) -> None:
        owed = sum(self.posted, Decimal(0))
        assert ledger.balance(AccountRef("0001", "merchants")).posted == owed
        assert ledger.balance(AccountRef("0001", "card-clearing")).posted == -owed

    @invariant()
    def books_agree_with_the_model(self) -> None:
        for number, payment_id in enumerate(self.payments):
            ours = Payment.objects.get(pk=payment_id)
            theirs = ProcessorTransaction.objects.get(payment_id=payment_id)
            assert ours.refunded_amount == self.model.given_back(number, heard=True)
            assert theirs.refunded_amount == self.model.given_back(number, heard=False)
            assert ours.refunded_amount <= theirs.refunded_amount <= ours.captured_amount == CAPTURED
            approved = ours.operations.filter(kind="refund", status="APPROVED")
            assert approved.aggregate(total=Sum("amount", default=Decimal(0)))["total"] == ours.refunded_amount
            assert ours.state == ("REFUNDED" if ours.refunded_amount == CAPTURED else "CAPTURED")

    @invariant()
    def there_are_the_refunds_that_were_answered_and_no_other(self) -> None:
        rows = {row.pk: row.status for row in PaymentOperation.objects.filter(kind="refund")}
        assert rows == {
            refund_id: "REQUESTED" if not asked.heard else "REJECTED" if asked.is_refused else "APPROVED"
            for refund_id, asked in self.model.refunds.items()
        }

    def all_comes_to_rest(self) -> None:
        """What was lost is asked for again in the end: then both sides say the same."""
        for refund_id, asked in self.model.refunds.items():
            if not asked.decided:
                self.deliver_request(refund_id)
            self.deliver_answer(refund_id)
            asked.decided = asked.heard = True
        for number in range(len(self.payments)):
            self.post(number)
            self.posted[number] = CAPTURED - self.model.given_back(number, heard=True)
        self.the_ledger_is_the_sum()
        self.books_agree_with_the_model()
        self.there_are_the_refunds_that_were_answered_and_no_other()


@pytest.mark.django_db
class TestAgainstModel:
    def test_no_sequence_gives_back_more_than_was_taken_or_twice_under_one_key(self, settings: Settings) -> None:
        settings.LEDGER_MERCHANTS_ACCOUNT = "merchants"
        run_state_machine_as_test(
            RefundMachine,
            settings=hypothesis_settings(
                max_examples=12,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=[Phase.generate],
                print_blob=True,
            ),
        )
