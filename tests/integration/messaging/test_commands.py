"""The processes of a deployment without Celery: they do their work, and stop when told to."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import override_settings

from apps.messaging import topics
from apps.messaging.contracts.payments import AuthoriseRequested, CardResult
from apps.messaging.inbox import groups
from apps.messaging.models import Message, Pending
from apps.messaging.outbox import publish
from apps.messaging.transports.base import DesiredTopic, TopicPlan, TransportDown, TransportMisconfigured
from tests.integration.messaging.world import ScriptedTransport, post
from tests.process import free_port

ROOT = Path(__file__).resolve().parents[3]
START_S_MAX = 120
STOP_S_MAX = 60  # ours is below ten seconds; a busy machine may take longer


@contextlib.contextmanager
def process(*arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the project on the database of this test, with a local broker unless told otherwise."""
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
        "MESSAGING_TRANSPORT": "local",
        "PYTHONUNBUFFERED": "1",
        **more,
    }
    command = [sys.executable, "-W", "ignore", "manage.py", *arguments]
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_of_interrupts,  # noqa: PLW1509  # it asks the system for one thing
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def _hear_of_interrupts() -> None:
    """Whoever was started in the background of a script ignores SIGINT, and so do its children: not those that we test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


@pytest.mark.process
@pytest.mark.django_db(transaction=True)
class TestStart:
    """With a Kafka that cannot be used: no server is needed to be refused by none."""

    @pytest.mark.parametrize("command", ["relay", "consume"])
    def test_ends_with_a_sentence_when_waiting_would_not_help(self, command: str) -> None:
        with process(command, MESSAGING_TRANSPORT="kafka", KAFKA_BOOTSTRAP_SERVERS="") as running:
            said = running.communicate(timeout=START_S_MAX)[0]
        assert running.returncode == 1
        assert said.splitlines()[-1] == "CommandError: KAFKA_BOOTSTRAP_SERVERS is empty. Set it to host:port of a broker."
        assert "Traceback" not in said

    @pytest.mark.parametrize("command", ["relay", "consume"])
    def test_waits_for_a_broker_that_is_away_until_it_is_told_to_stop(self, command: str) -> None:
        with process(command, MESSAGING_TRANSPORT="kafka", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1") as running:
            assert running.stdout is not None
            assert any("the broker is away; next attempt in" in line for line in running.stdout)
            assert stop(running, signal.SIGTERM) == 0

    def test_serves_its_own_metrics_on_loopback(self) -> None:
        port = free_port()
        with process("relay", "--metrics-port", str(port)) as relay:
            assert first_line(relay) == "relaying"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                assert "process_resident_memory_bytes" in answer.read().decode()
            with process("relay", "--metrics-port", str(port)) as second:
                said = second.communicate(timeout=START_S_MAX)[0]
            assert second.returncode == 1
            assert f"CommandError: The metrics cannot be served on 127.0.0.1:{port}" in said
            assert stop(relay, signal.SIGTERM) == 0


class Flaky(ScriptedTransport):
    """A broker that is away for the first questions."""

    def __init__(self, *, away: int) -> None:
        super().__init__()
        self.away = away

    def check(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise TransportDown("nobody answers")

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        return [TopicPlan(topic.name, "create") for topic in topics[:1]] if self.away < -1 else []


class TestWaiting:
    @pytest.fixture(autouse=True)
    def _short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topics, "PAUSE_S_MIN", 0.001)

    def test_a_broker_that_comes_back_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topics, "transport", partial(_same, Flaky(away=3)))
        assert topics.wait_for_broker(threading.Event())

    def test_a_missing_topic_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topics, "transport", partial(_same, Flaky(away=-1)))
        with pytest.raises(TransportMisconfigured, match=r"Topics are missing: .*Run: manage.py topics --apply"):
            topics.wait_for_broker(threading.Event())

    def test_who_is_told_to_stop_does_not_wait(self) -> None:
        stopped = threading.Event()
        stopped.set()
        assert not topics.wait_for_broker(stopped)


def _same(broker: Flaky) -> Flaky:
    return broker


class TestArguments:
    @pytest.mark.parametrize("names", ["nobody", "payments,nobody", "", ","])
    def test_consume_refuses_a_group_that_nobody_handles(self, names: str) -> None:
        with pytest.raises(CommandError, match="No such group"):
            call_command("consume", groups=names)

    @override_settings(DATABASE_POOL_MAX=1)
    def test_wants_a_connection_for_each_group(self) -> None:
        with pytest.raises(CommandError, match="set DATABASE_POOL_MAX to"):
            call_command("consume")

    def test_every_group_is_known_when_django_has_started(self) -> None:
        assert {"payments"} <= set(groups())
