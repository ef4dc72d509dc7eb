"""The processes of a deployment without Celery: they do their work, and stop when told to."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from apps.messaging.contracts.payments import AuthoriseRequested, CardResult
from apps.messaging.inbox import groups
from apps.messaging.models import Message, Pending
from apps.messaging.outbox import publish
from tests.integration.messaging.world import post

ROOT = Path(__file__).resolve().parents[3]
START_S_MAX = 60
STOP_S_MAX = 10  # what orchestrators allow


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the project on the database of this test."""
    database = connection.settings_dict
    login = f"{quote(database['USER'])}:{quote(database['PASSWORD'] or '')}"
    server = f"{database['PORT'] or 5432}/{database['NAME']}?host={quote(database['HOST'], safe='/')}"
    url = f"postgresql://{login}@:{server}"
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "LASTRO_EMBEDDED": "1",
        "CELERY_BROKER_URL": "memory://",
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-W", "ignore", "manage.py", *arguments]
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def first_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def stop(running: subprocess.Popen[str], number: signal.Signals) -> int:
    running.send_signal(number)
    return running.wait(STOP_S_MAX)


def until_there_is(schema: str) -> Message:
    pause = threading.Event()
    for _ in range(START_S_MAX * 20):
        if found := Message.objects.filter(schema=schema).first():
            return found
        pause.wait(0.05)
    raise AssertionError(f"no {schema} was published")


@pytest.mark.process
@pytest.mark.django_db(transaction=True)
class TestProcesses:
    def test_relay_and_consume_carry_a_request_to_the_processor_and_stop_when_told(self) -> None:
        question = AuthoriseRequested(
            operation_key="op-1:authorise",
            payment_id=uuid4(),
            amount=Decimal("10.50"),
            currency="BRL",
            card_bin="411111",
            card_last4="1111",
            card_brand="visa",
            card_exp_month=12,
            card_exp_year=2099,
            order_ref="order-1",
        )
        with process("relay") as relay, process("consume") as consume:
            assert first_line(relay) == "relaying"
            assert first_line(consume).startswith("consuming: ")
            with transaction.atomic():
                publish(question, key=str(question.payment_id))
            answer = until_there_is(CardResult.schema)
            assert answer.body["operation_key"] == "op-1:authorise"
            assert stop(consume, signal.SIGTERM) == 0
            assert stop(relay, signal.SIGINT) == 0

    def test_relay_can_do_it_once(self) -> None:
        post(1, 2)
        with process("relay", "--once") as relay:
            assert first_line(relay) == "relayed: 2"
            assert relay.wait(STOP_S_MAX) == 0
        assert not Pending.objects.exists()


class TestArguments:
    @pytest.mark.parametrize("names", ["nobody", "payments,nobody", "", ","])
    def test_consume_refuses_a_group_that_nobody_handles(self, names: str) -> None:
        with pytest.raises(CommandError, match="No such group"):
            call_command("consume", groups=names)

    def test_every_group_is_known_when_django_has_started(self) -> None:
        assert {"payments"} <= set(groups())
