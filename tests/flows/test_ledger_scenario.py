"""The scenario of the Flow design through the real outbox, broker and consumer."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger import scenario
from apps.ledger.care_models import Suspension
from apps.ledger.models import Account
from apps.messaging.models import Redelivery
from config import demo
from tests import shop
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.usefixtures("opened")


@contextmanager
def post_office() -> Iterator[None]:
    """A relay and consumers, at work until the end."""
    stop, errors = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            while not stop.wait(0.02):
                pump_messages()
        except BaseException as error:  # raised below
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(150)
    assert not errors, errors


def run(*words: str) -> tuple[int, dict[str, Any]]:
    """The command's exit code, and what it says as JSON."""
    output = StringIO()
    try:
        call_command("ledger_scenario", "--json", *words, stdout=output)
    except SystemExit as ending:
        return int(str(ending.code)), json.loads(output.getvalue())
    return 0, json.loads(output.getvalue())


def deposit() -> ledger.Entry:
    amount = ledger.balance(shop.CUSTOMER_ACCOUNT).posted
    return ledger.Entry.line(
        tracekey=uuid7(), account=shop.CUSTOMER_ACCOUNT, amount=amount, debitcredit="C", eventcode=demo.EVENT_DEPOSIT
    )


class TestScenario:
    def test_finds_every_line_and_every_balance_as_it_must_be_and_leaves_nothing_behind(self) -> None:
        with post_office():
            code, found = run("--transactions", "80", "--accounts", "5", "--seed", "7")
            assert (code, found["differences"], found["unanswered"]) == (0, [], 0)
            assert found["back_dated"] > 10
            assert found["requests"] > found["transactions"] < found["lines"], (
                "some are asked for twice, some are transfers"
            )
            assert found["suspended_branches"] >= 1
            again = run("--transactions", "20", "--accounts", "5")[1]
        assert again["differences"] == [], "lines of an earlier run are no difference"
        sums = Account.objects.filter(branch_id=scenario.BRANCH).values_list("posted_debit", "posted_credit")
        assert len(sums) == 5
        assert all(debit == credit for debit, credit in sums)
        assert not Suspension.objects.filter(lifted_at=None).exists()
        assert ledger.check_balances() == []

    def test_others_are_put_aside_meanwhile_and_posted_afterwards(self) -> None:
        other, before = deposit(), ledger.balance(shop.CUSTOMER_ACCOUNT).posted
        with transaction.atomic():
            ledger.request_postings([other])
        with post_office():
            # It was asked for first, so a queue that stood still for it would answer nobody.
            code, found = run("--transactions", "30", "--timeout", "60")
        assert (code, found["differences"]) == (0, [])
        Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
        pump_messages()
        assert ledger.balance(shop.CUSTOMER_ACCOUNT).posted == before * 2
        shop.assert_nothing_left_over()

    def test_says_what_nobody_answers(self) -> None:
        code, found = run("--transactions", "3", "--timeout", "1", "--shared")
        assert (code, found["unanswered"], found["suspended_branches"]) == (2, 3, 0)
        assert {one["what"] for one in found["differences"]} >= {"outcome", "line missing"}

    def test_is_alone(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        errors: list[str] = []

        def second() -> None:
            try:
                run("--transactions", "1")
            except CommandError as error:
                errors.append(str(error))
            finally:
                connections.close_all()

        with scenario.alone():
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(90)
        assert [error[:4] for error in errors] == ["R127"]
