"""Verbs and answers, over the real bus: our side, the processor, and back."""

from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from apps.common.transactions import TransactionMisuse
from apps.messaging.contracts.payments import AuthoriseRequested, CardResult
from apps.messaging.models import Message
from apps.payments import operations, results
from apps.payments import public as payments
from apps.payments.models import Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction
from tests.integration.payments import world
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db


def state() -> str:
    return Payment.objects.get().state


def operation(kind: str) -> PaymentOperation:
    return PaymentOperation.objects.get(kind=kind)


def sent(schema: str) -> int:
    return Message.objects.filter(schema=schema).count()


def facts() -> list[str]:
    return [row.body["state"] for row in Message.objects.filter(schema="payments.payment_changed.v1").order_by("seq")]


class TestAuthorise:
    def test_stores_the_payment_and_asks_the_processor_without_the_card_number(self) -> None:
        view = world.authorise()
        request = Message.objects.get(schema=AuthoriseRequested.schema)
        assert (view.status, view.state, view.waits_for_answer) == ("pending", "PENDING", True)
        assert request.key == str(view.id)
        assert request.meta["reply-to"] == world.STEP
        assert world.GOOD not in str(request.body)

    def test_approved_is_stored_on_both_sides_and_published(self) -> None:
        view = world.authorise()
        pump_messages()
        assert payments.payment(view.id).status == "approved"
        assert ProcessorTransaction.objects.get().status == "approved"
        assert facts() == ["PENDING", "AUTHORISED"]

    @pytest.mark.parametrize(
        ("number", "code"), [(world.DECLINED, "card_declined"), (world.NO_FUNDS, "insufficient_funds")]
    )
    def test_rejected_is_stored_on_both_sides_with_its_message_and_published(self, number: str, code: str) -> None:
        view = world.authorise(number)
        pump_messages()
        ours, theirs = payments.payment(view.id), ProcessorTransaction.objects.get()
        assert (ours.status, ours.error_code, ours.error_message) == ("rejected", code, theirs.error_message)
        assert (theirs.status, theirs.error_code) == ("rejected", code)
        assert facts() == ["PENDING", "REJECTED"]

    @pytest.mark.parametrize(("amount", "code"), [("0.99", "amount_too_small"), ("1000.01", "amount_too_large")])
    def test_an_amount_out_of_range_is_the_processors_to_reject(self, amount: str, code: str) -> None:
        view = world.authorise(amount=amount)
        pump_messages()
        assert payments.payment(view.id).error_code == code

    def test_twice_asks_twice_and_is_one_payment_with_one_answer(self) -> None:
        token = world.save_card().token
        first = world.authorise(card_token=token)
        second = world.authorise(card_token=token)
        pump_messages()
        assert first.id == second.id
        assert second.state == "UNKNOWN"
        assert (operation("authorise").times_asked, operation("authorise").late_answers) == (2, 1)
        assert ProcessorOperation.objects.get().times_answered == 2
        assert state() == "AUTHORISED"

    def test_again_after_the_answer_gives_the_answer_again_and_changes_nothing(self) -> None:
        token = world.save_card(world.DECLINED).token
        world.authorise(card_token=token)
        pump_messages()
        world.authorise(card_token=token)
        pump_messages()
        assert sent(CardResult.schema) == 2
        assert state() == "REJECTED"

    def test_another_amount_under_the_same_key_is_refused(self) -> None:
        token = world.save_card().token
        world.authorise(card_token=token)
        with pytest.raises(payments.StepKeyReused):
            world.authorise(card_token=token, amount="11")

    def test_an_unknown_card_or_another_owners_is_refused_alike(self) -> None:
        with pytest.raises(payments.UnknownCard):
            world.authorise(card_token="tok_nothing")
        with pytest.raises(payments.UnknownCard):
            world.authorise(card_owner_id="acc_other")
        assert not Payment.objects.exists()

    def test_a_malformed_amount_is_refused(self) -> None:
        with pytest.raises(payments.InvalidAmount):
            world.authorise(amount="10.505")

    def test_needs_a_transaction(self) -> None:
        with pytest.raises(TransactionMisuse):
            payments.capture(step_key="k", reply_to="", payment_id=uuid4(), now=world.NOW)


class TestCapture:
    def test_takes_the_whole_amount_once_however_often_it_is_asked(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        world.capture(view.id)
        pump_messages()
        world.capture(view.id)
        pump_messages()
        after = payments.payment(view.id)
        assert (after.state, after.captured_amount) == ("CAPTURED", Decimal("10.50"))
        assert ProcessorTransaction.objects.get().captured_amount == Decimal("10.50")
        assert operation("capture").late_answers == 2

    def test_under_a_second_key_is_refused(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        with pytest.raises(payments.PaymentCaptured):
            world.capture(view.id, step_key="other")
        pump_messages()
        with pytest.raises(payments.PaymentCaptured):
            world.capture(view.id, step_key="other")

    def test_before_the_authorisation_is_refused(self) -> None:
        view = world.authorise()
        with pytest.raises(payments.PaymentNotAuthorised):
            world.capture(view.id)

    def test_of_a_rejected_payment_is_refused(self) -> None:
        view = world.authorise(world.DECLINED)
        pump_messages()
        with pytest.raises(payments.PaymentNotAuthorised):
            world.capture(view.id)

    def test_that_the_processor_refuses_leaves_the_authorisation_to_be_voided(self) -> None:
        view = world.authorise(world.CAPTURE_REFUSED)
        pump_messages()
        world.capture(view.id)
        pump_messages()
        after = payments.payment(view.id)
        assert (after.state, after.error_code) == ("AUTHORISED", "capture_refused")
        assert world.void().waits_for_answer
        pump_messages()
        assert state() == "VOIDED"

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(payments.UnknownPayment):
            world.capture(uuid4())

    def test_the_database_allows_one_capture_alone(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        row = operation("capture")
        row.pk, row.step_key = uuid4(), "other"
        with pytest.raises(IntegrityError), transaction.atomic():
            row.save(force_insert=True)


class TestVoid:
    def test_gives_an_authorisation_free(self) -> None:
        world.authorise()
        pump_messages()
        view = world.void()
        assert view.waits_for_answer
        pump_messages()
        assert state() == "VOIDED"
        assert ProcessorTransaction.objects.get().voided_at is not None
        assert facts() == ["PENDING", "AUTHORISED", "VOIDED"]

    def test_twice_and_once_more_after_the_answer(self) -> None:
        world.authorise()
        pump_messages()
        world.void()
        assert world.void().waits_for_answer
        pump_messages()
        assert not world.void().waits_for_answer
        assert PaymentOperation.objects.filter(kind="void").count() == 1
        assert state() == "VOIDED"

    def test_while_the_outcome_is_unknown_voids_whatever_it_is(self) -> None:
        world.authorise(world.ANSWER_LOST)
        pump_messages()
        assert state() == "PENDING"
        assert world.void().waits_for_answer
        pump_messages()
        assert state() == "VOIDED"

    def test_an_authorisation_that_is_answered_after_the_void_is_counted_and_changes_nothing(self) -> None:
        world.authorise(world.ANSWERED_LATE)
        pump_messages()
        world.void()
        pump_messages()
        late = operation("authorise")
        assert (late.status, late.late_answers) == ("APPROVED", 1)
        assert state() == "VOIDED"

    def test_before_the_authorisation_leaves_a_tombstone_here_and_there(self) -> None:
        view = world.void()
        assert (view.state, view.amount, view.waits_for_answer) == ("VOIDED", None, False)
        with pytest.raises(payments.PaymentVoided):
            world.authorise()
        pump_messages()
        assert state() == "VOIDED"
        assert ProcessorTransaction.objects.get().voided_at is not None

    def test_before_the_authorisation_twice(self) -> None:
        world.void()
        pump_messages()
        assert not world.void().waits_for_answer
        assert PaymentOperation.objects.count() == 1

    def test_on_its_way_already_refuses_a_late_authorisation_and_a_late_capture(self) -> None:
        token = world.save_card().token
        view = world.authorise(card_token=token)
        pump_messages()
        world.void()
        with pytest.raises(payments.PaymentVoided):
            world.authorise(card_token=token)
        with pytest.raises(payments.PaymentVoided):
            world.capture(view.id)

    def test_of_a_rejected_payment_is_not_needed(self) -> None:
        world.authorise(world.DECLINED)
        pump_messages()
        assert not world.void().waits_for_answer
        assert not world.void().waits_for_answer
        assert operation("void").status == "NOT_NEEDED"
        assert state() == "REJECTED"

    def test_of_a_captured_payment_is_refused(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        pump_messages()
        with pytest.raises(payments.PaymentCaptured):
            world.void()

    def test_that_loses_against_a_capture_under_way_is_refused_by_the_processor(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        world.void()
        pump_messages()
        assert operation("void").error_code == "already_captured"
        assert state() == "CAPTURED"
        assert ProcessorTransaction.objects.get().voided_at is None


class TestRefund:
    def captured(self) -> payments.PaymentView:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        pump_messages()
        return payments.payment(view.id)

    def test_gives_back_in_parts_up_to_what_was_captured(self) -> None:
        view = self.captured()
        world.refund(view.id, "4")
        world.refund(view.id, "4")
        pump_messages()
        partly = payments.payment(view.id)
        assert (partly.state, partly.refunded_amount) == ("CAPTURED", Decimal(4))
        world.refund(view.id, "6.50", step_key="rest")
        pump_messages()
        wholly = payments.payment(view.id)
        assert (wholly.state, wholly.refunded_amount) == ("REFUNDED", Decimal("10.50"))

    def test_that_succeeds_after_a_refused_one_leaves_no_error_on_the_payment(self) -> None:
        view = self.captured()
        world.refund(view.id, "4", step_key="refused")
        refused = TestAnswers().result(
            view, operation_key="refused:refund", kind="refund", status="rejected", error_code="try_later"
        )
        TestAnswers().record(refused)
        assert payments.payment(view.id).error_code == "try_later"
        world.refund(view.id, "10.50", step_key="again")
        answer = TestAnswers().result(view, operation_key="again:refund", kind="refund")
        TestAnswers().record(answer)
        shown = payments.payment(view.id).to_json()
        assert (shown["state"], shown["error"]) == ("REFUNDED", None)

    def test_counts_what_is_on_its_way(self) -> None:
        view = self.captured()
        world.refund(view.id, "10")
        with pytest.raises(payments.RefundTooLarge):
            world.refund(view.id, "0.51", step_key="second")

    def test_before_the_capture_is_refused(self) -> None:
        view = world.authorise()
        pump_messages()
        with pytest.raises(payments.PaymentNotCaptured):
            world.refund(view.id, "1")


class TestAnswers:
    def result(self, view: payments.PaymentView, **changes: object) -> CardResult:
        values = {
            "operation_key": f"{world.STEP}:authorise",
            "payment_id": view.id,
            "kind": "authorise",
            "status": "approved",
            "processor_reference": "psr_1",
            "answered_at": world.NOW,
            **changes,
        }
        return CardResult(**values)  # type: ignore[arg-type]

    def record(self, result: CardResult) -> None:
        with transaction.atomic():
            results.record_result(result, now=world.NOW)

    def test_a_second_and_different_answer_changes_nothing(self) -> None:
        view = world.authorise()
        self.record(self.result(view))
        self.record(self.result(view, status="rejected", error_code="card_declined"))
        assert (state(), operation("authorise").late_answers) == ("AUTHORISED", 1)

    def test_a_doubled_answer_counts_once(self) -> None:
        world.authorise(world.ANSWERED_TWICE)
        pump_messages()
        assert (state(), operation("authorise").late_answers) == ("AUTHORISED", 1)
        assert facts() == ["PENDING", "AUTHORISED"]

    def test_a_lost_answer_comes_when_it_is_asked_for_again(self) -> None:
        token = world.save_card(world.ANSWER_LOST).token
        world.authorise(card_token=token)
        pump_messages()
        assert (state(), sent(CardResult.schema)) == ("PENDING", 0)
        world.authorise(card_token=token)
        pump_messages()
        assert state() == "AUTHORISED"

    @pytest.mark.parametrize(
        "changes",
        [{"operation_key": "nobody:authorise"}, {"kind": "void"}, {"status": "perhaps"}],
    )
    def test_an_answer_that_nobody_asked_for_is_refused(self, changes: dict[str, object]) -> None:
        view = world.authorise()
        with pytest.raises(results.UnknownOperation):
            self.record(self.result(view, **changes))

    def test_an_approval_of_another_amount_is_refused_and_the_payment_waits(self) -> None:
        view = world.authorise()
        with pytest.raises(results.UnknownOperation):
            self.record(self.result(view, amount=Decimal("5.00")))
        assert (state(), operation("authorise").status) == ("PENDING", "REQUESTED")

    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            ({}, ("rejected", "")),
            ({"error_code": "c" * 41, "error_message": "m" * 301}, ("c" * 40, "m" * 300)),
            (
                {"error_code": "blocked", "error_message": f"The card {world.GOOD} is blocked."},
                ("blocked", "The card ****4242 is blocked."),
            ),
        ],
    )
    def test_a_refusal_in_whatever_words_is_kept_and_shows_no_card_number(
        self, said: dict[str, object], kept: tuple[str, str]
    ) -> None:
        view = world.authorise()
        result = self.result(view, status="rejected", amount=Decimal("5.00"), **said)
        self.record(result)
        row = Payment.objects.get()
        assert (row.state, (row.error_code, row.error_message)) == ("REJECTED", kept)
        told = results.answer_of(result)
        assert (told["error_code"], told["error_message"]) == kept


class TestAskOverdue:
    def test_asks_again_about_merchants_payments_alone_and_not_for_ever(self) -> None:
        card = world.save_card(world.ANSWERED_LATE)
        world.authorise(card_token=card.token, reply_to="")
        world.authorise(card_token=card.token, step_key="of a saga")
        later = world.NOW
        for _ in range(10):
            later += operations.ANSWER_OVERDUE * 2
            operations.ask_overdue(now=later)
        asked = dict(PaymentOperation.objects.values_list("step_key", "times_asked"))
        assert asked == {world.STEP: operations.ASKED_TIMES_MAX, "of a saga": 1}
        assert Payment.objects.get(step_key=world.STEP).state == "UNKNOWN"

    def test_leaves_fresh_requests_alone(self) -> None:
        world.authorise(reply_to="")
        assert operations.ask_overdue(now=world.NOW + operations.ANSWER_OVERDUE) == 0
