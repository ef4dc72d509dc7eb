"""Verbs that meet on one payment, in threads with connections of their own."""

import base64
import os
import threading
from collections.abc import Callable
from decimal import Decimal

import pytest
from django.db import connections, transaction
from pytest_django import Settings

from apps.payments import public as payments
from apps.payments import vault
from apps.payments.models import Payment, PaymentOperation, ProcessorTransaction
from tests.integration.idempotency.test_operations import wait_for_a_blocked_backend
from tests.integration.payments import world
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db(transaction=True)


def race(*calls: Callable[[], object]) -> list[object]:
    """Run the calls at once, each in a thread and connection of its own; give what they gave or raised."""
    outcomes: list[object] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(index: int) -> None:
        try:
            barrier.wait()
            outcomes[index] = calls[index]()
        except Exception as error:
            outcomes[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


class TestRaces:
    def test_four_equal_authorisations_are_one_payment(self) -> None:
        token = world.save_card().token
        outcomes = race(*[lambda: world.authorise(card_token=token)] * 4)
        assert len({outcome.id for outcome in outcomes}) == 1  # type: ignore[attr-defined]
        assert PaymentOperation.objects.get().times_asked == 4

    def test_an_authorisation_and_its_void_at_once_never_leave_a_payment_that_stands(self) -> None:
        token = world.save_card().token
        for number in range(10):
            key = f"race-{number}"
            race(lambda key=key: world.authorise(card_token=token, step_key=key), lambda key=key: world.void(step_key=key))  # type: ignore[misc]
        pump_messages()
        assert set(Payment.objects.values_list("state", flat=True)) == {"VOIDED"}
        assert not ProcessorTransaction.objects.filter(voided_at__isnull=True).exists()

    def test_two_refunds_at_once_never_exceed_the_capture(self) -> None:
        view = world.authorise()
        pump_messages()
        world.capture(view.id)
        pump_messages()
        outcomes = race(*[lambda n=n: world.refund(view.id, "6", step_key=f"r{n}") for n in range(2)])  # type: ignore[misc]
        pump_messages()
        assert sum(isinstance(outcome, payments.RefundTooLarge) for outcome in outcomes) == 1
        assert payments.payment(view.id).refunded_amount == Decimal(6)

    def test_a_capture_and_a_void_at_once_end_in_one_of_the_two_on_both_sides(self) -> None:
        for number in range(5):
            key = f"race-{number}"
            view = world.authorise(step_key=key)
            pump_messages()
            race(
                lambda view=view, key=key: world.capture(view.id, step_key=f"{key}c"),  # type: ignore[misc]
                lambda key=key: world.void(step_key=key),  # type: ignore[misc]
            )
            pump_messages()
            theirs = ProcessorTransaction.objects.get(payment_id=view.id)
            assert payments.payment(view.id).state == ("CAPTURED" if theirs.captured_amount else "VOIDED")

    def test_two_reencryptions_at_once_leave_no_card_under_the_old_key(self, settings: Settings) -> None:
        """The second says 0, which lets the old key go, only when the first has committed or given up."""
        old, new = (base64.urlsafe_b64encode(os.urandom(32)).decode() for _ in range(2))
        settings.VAULT_KEYS = [old]
        world.save_card()
        settings.VAULT_KEYS = [new, old]

        def first_gives_up() -> None:
            with transaction.atomic():
                vault.reencrypt()
                second.start()
                wait_for_a_blocked_backend()
                transaction.set_rollback(True)

        def reencrypt() -> None:
            with transaction.atomic():
                found.append(vault.reencrypt())
            connections.close_all()

        found: list[int] = []
        second = threading.Thread(target=reencrypt)
        first_gives_up()
        second.join()
        assert found == [1]
