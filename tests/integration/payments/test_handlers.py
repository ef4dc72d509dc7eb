"""The answer wakes the step that waits for it, in the commit that records it."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.payments import public as payments
from apps.payments.models import Payment, PaymentOperation, ProcessorTransaction
from apps.saga import definition as definitions
from apps.saga import public as saga
from apps.saga.models import Run
from tests.integration.payments import world
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)


def approved(answer: dict[str, Any]) -> None:
    if answer["status"] != "approved":
        raise payments.PaymentRefused(answer["error_message"])


class Authorise(saga.AskStep):
    name, kind, attempts_max = "authorise", saga.COMPENSABLE, 3

    def ask(self, run: saga.Run) -> None:
        payments.authorise(
            step_key=run.step_key,
            reply_to=run.reply_key,
            account_id="acc_shop",
            order_ref=str(run.subject_id),
            card_token=run.data["card_token"],
            amount=Decimal(run.data["amount"]),
            now=run.now,
        )

    def on_answer(self, run: saga.Run, answer: dict[str, Any]) -> dict[str, Any]:
        approved(answer)
        return {"payment_id": answer["payment_id"]}

    def ask_undo(self, run: saga.Run) -> bool:
        return payments.void(step_key=run.step_key, reply_to=run.reply_key, now=run.now).waits_for_answer

    def on_undo_answer(self, run: saga.Run, answer: dict[str, Any]) -> None:
        approved(answer)


class Capture(saga.AskStep):
    name, kind = "capture", saga.PIVOT
    reads: ClassVar = {"authorise": {"payment_id": UUID}}

    def ask(self, run: saga.Run) -> None:
        payment_id = UUID(run.outputs["authorise"]["payment_id"])
        payments.capture(step_key=run.step_key, reply_to=run.reply_key, payment_id=payment_id, now=run.now)

    def on_answer(self, run: saga.Run, answer: dict[str, Any]) -> None:
        approved(answer)


@pytest.fixture
def journey() -> Iterator[saga.Definition]:
    definition = saga.register(saga.Definition("payments.test", version=1, steps=(Authorise(), Capture())))
    yield definition
    del definitions._registry[definition.use_case, definition.version]


def run(journey: saga.Definition, number: str, amount: str = "10.50") -> Run:
    data = {"card_token": world.save_card(number).token, "amount": amount}
    with transaction.atomic():
        run_id = saga.start(journey, subject_id=uuid4(), business_key="b", data=data, now=timezone.now())
    return finish(run_id)


class TestACardsJourney:
    @pytest.mark.parametrize("number", [world.GOOD, world.ANSWER_LOST, world.ANSWERED_TWICE])
    def test_ends_with_the_money_taken_once(self, journey: saga.Definition, number: str) -> None:
        assert run(journey, number).status == "COMPLETED"
        assert Payment.objects.get().state == "CAPTURED"
        assert ProcessorTransaction.objects.get().captured_amount == Decimal("10.50")

    @pytest.mark.parametrize(
        ("number", "amount"), [(world.DECLINED, "10.50"), (world.NO_FUNDS, "10.50"), (world.GOOD, "1000.01")]
    )
    def test_ends_compensated_when_the_card_is_refused(self, journey: saga.Definition, number: str, amount: str) -> None:
        assert run(journey, number, amount).status == "COMPENSATED"
        assert Payment.objects.get().state == "REJECTED"

    def test_ends_with_a_void_when_the_capture_is_refused(self, journey: saga.Definition) -> None:
        assert run(journey, world.CAPTURE_REFUSED).status == "COMPENSATED"
        assert Payment.objects.get().state == "VOIDED"
        assert ProcessorTransaction.objects.get().voided_at is not None

    def test_an_answer_behind_the_void_is_refused_and_counted(self, journey: saga.Definition) -> None:
        ended = run(journey, world.ANSWERED_LATE)
        assert (ended.status, ended.late_answers) == ("COMPENSATED", 1)
        assert Payment.objects.get().state == "VOIDED"
        assert PaymentOperation.objects.get(kind="authorise").late_answers == 1
