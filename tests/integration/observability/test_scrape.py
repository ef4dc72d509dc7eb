"""What Prometheus reads at /metrics, who may read it, and what happens when a part of it cannot be read."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import override_settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from apps.common.clock import uuid7
from apps.messaging import inbox, lag
from apps.messaging import metrics as messaging_metrics
from apps.messaging.consumer import consume_once
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.lag import LagWatch
from apps.messaging.models import Message, Pending, Redelivery
from apps.messaging.outbox import publish_raw
from apps.messaging.partitions import first_message_id
from apps.messaging.relay import relay_all
from apps.messaging.transports import transport
from apps.messaging.transports.base import OutgoingRecord, TransportDown
from apps.observability import metrics, scrape
from apps.saga.models import Run, RunStatus
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC, Reader, ScriptedTransport, again, post
from tests.process import free_port

TOKEN = "a-token-of-the-tests-that-is-long-enough"

Samples = dict[str, dict[tuple[str, ...], float]]
Grown = Callable[[str], dict[tuple[str, ...], float]]


def scraped(client: Client, **headers: str) -> Samples:
    """Every sample, by name and by the values of its labels in the order of their names."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    found: Samples = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture(autouse=True)
def _fresh_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of the test before is none."""
    monkeypatch.setattr(messaging_metrics, "_watch", LagWatch())
    monkeypatch.setattr(lag, "WAIT_S", 60.0)  # on a busy machine a broker that answers may take longer than a scraper waits


class TestWhoMayScrape:
    @pytest.mark.django_db(transaction=True)
    def test_only_who_brings_the_token(self, client: Client) -> None:
        with override_settings(METRICS_TOKEN=TOKEN, EMBEDDED=False):
            for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
                answer = client.get("/metrics", headers=wrong)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="metrics"')
                assert answer.content == b""
            assert scraped(client, Authorization=f"Bearer {TOKEN}")

    def test_nobody_without_a_token_outside_the_embedded_mode(self, client: Client) -> None:
        with override_settings(METRICS_TOKEN="", EMBEDDED=False):
            assert client.get("/metrics").status_code == 404

    @pytest.mark.django_db(transaction=True)
    def test_everybody_on_the_loopback_of_the_embedded_mode(self, client: Client) -> None:
        with override_settings(METRICS_TOKEN="", EMBEDDED=True):
            assert scraped(client)

    def test_a_probe_and_a_scraper_are_not_sent_to_tls(self, client: Client) -> None:
        with override_settings(SECURE_SSL_REDIRECT=True, METRICS_TOKEN=TOKEN):
            assert client.get("/healthz").status_code == 200
            assert client.get("/metrics").status_code == 401
            assert client.get("/orders").status_code == 301

    def test_a_process_asks_for_the_token_too(self) -> None:
        port = free_port()
        end = scrape.serve(port, host="127.0.0.1")
        try:
            with override_settings(METRICS_TOKEN=TOKEN):
                with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60)
                refused.value.close()
                request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Authorization": f"Bearer {TOKEN}"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert b"process_open_fds" in answer.read()
        finally:
            end()


@pytest.mark.django_db(transaction=True)
class TestMessages:
    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        made = Reader("tests")
        yield made
        made.close()

    def test_what_waits_for_the_relay_and_since_when(self, client: Client) -> None:
        assert scraped(client)["lastro_messages_to_relay_oldest_seconds"] == {(): 0}
        post(1, 2, 3)
        minute_ago = first_message_id(timezone.now() - timedelta(minutes=1))
        oldest, _, parked = Pending.objects.order_by("seq")
        Pending.objects.filter(pk=oldest.pk).update(message_id=minute_ago)
        Pending.objects.filter(pk=parked.pk).update(parked_at=timezone.now())
        found = scraped(client)
        assert found["lastro_messages_to_relay"] == {(): 2}
        assert found["lastro_messages_parked"] == {(): 1}
        assert 60 <= found["lastro_messages_to_relay_oldest_seconds"][()] < 90

    def test_redeliveries_by_group(self, client: Client) -> None:
        now = timezone.now()
        for group, count in (("one", 2), ("two", 1)):
            for _ in range(count):
                Redelivery.objects.create(
                    group=group, topic=TOPIC, key="k", message_id=uuid7(), envelope={}, due_at=now, created_at=now
                )
        assert scraped(client)["lastro_redeliveries"] == {("one",): 2, ("two",): 1}

    def test_dead_letters_of_the_last_day(self, client: Client, reader: Reader) -> None:
        assert scraped(client)["lastro_dead_letters_day"] == {(): 0}
        meta = {"message-id": str(uuid7()), "schema": "messaging.unreadable.v1", "error": {}}
        with transaction.atomic():
            publish_raw(topic=ERROR_TOPIC, key="k", meta=meta, body={}, bytes_max=1000)
        assert scraped(client)["lastro_dead_letters_day"] == {(): 1}

    def test_the_lag_of_every_group_and_partition(self, client: Client, reader: Reader) -> None:
        post(1, 2, key="a")
        post(1, key="b")
        relay_all()
        found = scraped(client)
        assert found["lastro_broker_up"] == {(): 1}
        behind = {labels: value for labels, value in found["lastro_consumer_lag"].items() if labels[0] == "tests"}
        assert sum(behind.values()) == 3
        assert {labels[2] for labels in behind} == {TOPIC}

    def test_a_broker_that_does_not_answer(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def away() -> lag.Lags:
            raise TransportDown("nobody answers")

        monkeypatch.setattr(lag, "all_lags", away)
        found = scraped(client)
        assert found["lastro_broker_up"] == {(): 0}
        assert "lastro_consumer_lag" not in found
        assert "lastro_messages_to_relay" in found

    def test_a_broker_that_hangs_does_not_hold_up_the_scrape(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        let_go = threading.Event()
        asked: list[int] = []

        def hang() -> lag.Lags:
            asked.append(1)
            let_go.wait(30)
            return {}

        monkeypatch.setattr(lag, "all_lags", hang)
        monkeypatch.setattr(lag, "WAIT_S", 0.05)
        monkeypatch.setattr(lag, "REFRESH_S", 0.0)
        for _ in range(3):
            assert scraped(client)["lastro_broker_up"] == {(): 0}
        assert len(asked) == 1, "a second question is not asked while the first has no answer"
        let_go.set()
        watch = messaging_metrics._watch
        assert watch._asking is not None
        watch._asking.join(60)

    def test_the_broker_is_not_asked_more_than_every_few_seconds(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []

        def answer() -> lag.Lags:
            asked.append(1)
            return {("g", "t", 0): 7}

        monkeypatch.setattr(lag, "all_lags", answer)
        for _ in range(3):
            assert scraped(client)["lastro_consumer_lag"] == {("g", "0", "t"): 7}
        assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
class TestWork:
    """What a relay and a consumer count while they work."""

    @pytest.fixture
    def reader(self) -> Iterator[Reader]:
        made = Reader("tests")
        yield made
        made.close()

    @pytest.fixture
    def grown(self, client: Client) -> Grown:
        """By how much the samples of a name have grown since the test began."""
        before = scraped(client)

        def grown(name: str) -> dict[tuple[str, ...], float]:
            now = scraped(client).get(name, {})
            more = {labels: value - before.get(name, {}).get(labels, 0) for labels, value in now.items()}
            return {labels: value for labels, value in more.items() if value}

        return grown

    def consume(self) -> None:
        consumer = transport().consumer(group="tests", topics=[TOPIC])
        consume_once(consumer, group="tests", timeout_s=0)
        consumer.close()

    def test_messages_by_topic_and_each_batch(self, grown: Grown, reader: Reader) -> None:
        post(1, 2, 3)
        relay_all()
        assert grown("lastro_relay_messages_total") == {("acknowledged", TOPIC): 3}
        assert grown("lastro_relay_batch_seconds_count") == {(): 1}

    def test_a_broker_that_is_away(self, grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
        broker = ScriptedTransport()
        broker.down = True
        monkeypatch.setattr("apps.messaging.relay.transport", lambda: broker)
        post(1)
        assert relay_all().broker_down
        assert grown("lastro_relay_failures_total") == {("broker_down",): 1}
        assert grown("lastro_relay_messages_total") == {}

    def test_a_message_and_its_copy(self, grown: Grown, reader: Reader) -> None:
        post(1)
        relay_all()
        self.consume()
        again(Message.objects.get(topic=TOPIC))
        relay_all()
        self.consume()
        assert reader.numbers() == [1]
        assert grown("lastro_consumer_messages_total") == {("tests", "handled", TOPIC): 1, ("tests", "copy", TOPIC): 1}
        assert grown("lastro_consumer_commit_seconds_count") == {("tests",): 2}

    def test_one_that_fails_is_put_aside_and_handled_later(self, grown: Grown, reader: Reader) -> None:
        reader.failing[1] = [RuntimeError("no"), RuntimeError("no")]
        post(1, 2)
        relay_all()
        self.consume()
        assert grown("lastro_consumer_messages_total") == {("tests", "put_aside", TOPIC): 2}
        for _ in range(3):
            Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
            self.consume()
        assert reader.numbers() == [1, 2]
        said = {("tests", "put_aside", TOPIC): 2, ("tests", "handled", TOPIC): 2}
        assert grown("lastro_consumer_messages_total") == said
        assert grown("lastro_consumer_failures_total") == {("tests", TOPIC): 2}

    def test_one_that_is_buried_and_one_that_nobody_can_read(self, grown: Grown, reader: Reader, client: Client) -> None:
        reader.failing[1] = [InvalidMessage("never")]
        post(1)
        relay_all()
        transport().send([OutgoingRecord(TOPIC, "k", b"no envelope", [])])
        self.consume()
        assert grown("lastro_consumer_messages_total") == {("tests", "buried", TOPIC): 2}
        assert grown("lastro_consumer_failures_total") == {("tests", TOPIC): 2}
        assert scraped(client)["lastro_dead_letters_topic_day"] == {(ERROR_TOPIC,): 2}

    def test_what_is_for_others_is_passed_over(self, grown: Grown, reader: Reader) -> None:
        inbox._handlers["tests"].clear()
        post(1)
        relay_all()
        self.consume()
        assert grown("lastro_consumer_messages_total") == {("tests", "passed_over", TOPIC): 1}

    def test_is_told_by_the_process_that_does_it_and_not_by_the_web_servers(self, client: Client, reader: Reader) -> None:
        post(1)
        relay_all()
        port = free_port()
        end = scrape.serve(port, host="127.0.0.1")
        try:
            with override_settings(METRICS_TOKEN=TOKEN, EMBEDDED=False):
                said = {"Authorization": f"Bearer {TOKEN}"}
                request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=said)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert (
                        f'lastro_relay_messages_total{{outcome="acknowledged",topic="{TOPIC}"}}'.encode() in answer.read()
                    )
                found = scraped(client, **said)
        finally:
            end()
        assert "lastro_messages_to_relay" in found
        assert not [name for name in found if name.startswith(("lastro_relay_", "lastro_consumer_m"))]


@pytest.mark.django_db(transaction=True)
class TestRuns:
    def test_runs_by_status_and_zeros_too(self, client: Client) -> None:
        now = timezone.now()
        for status, live in (
            (RunStatus.RUNNING, True),
            (RunStatus.RUNNING, True),
            (RunStatus.COMPENSATING, True),
            (RunStatus.STUCK, False),
            (RunStatus.COMPLETED, False),
        ):
            Run.objects.create(
                global_id=uuid4(),
                use_case="tests",
                version=1,
                subject_id=uuid4(),
                business_key="k",
                status=status,
                due_at=now if live else None,
                started_at=now,
            )
        found = scraped(client)
        assert found["lastro_saga_runs"] == {("RUNNING",): 2, ("WAITING",): 0, ("COMPENSATING",): 1, ("STUCK",): 1}
        assert found["lastro_saga_runs_over_day"] == {("COMPLETED",): 1, ("COMPENSATED",): 0, ("HANDLED",): 0}


@pytest.mark.django_db(transaction=True)
class TestASourceThatFails:
    def test_takes_only_its_own_readings_with_it(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> list[metrics.Reading]:
            raise ValueError("no")

        monkeypatch.setitem(metrics._sources, "saga", (broken, True))
        found = scraped(client)
        others = ("broker", "identity", "ledger", "ledger_chain", "messaging", "payments", "triage", "webhooks")
        up = dict.fromkeys([(name,) for name in others], 1)
        assert found["lastro_metrics_source_up"] == {**up, ("saga",): 0}
        assert "lastro_saga_runs" not in found
        assert "lastro_messages_to_relay" in found

    def test_a_slow_query_is_ended(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def slow() -> list[metrics.Reading]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(30)")
            return []

        monkeypatch.setattr(metrics, "STATEMENT_TIMEOUT", "50ms")
        monkeypatch.setitem(metrics._sources, "saga", (slow, True))
        assert scraped(client)["lastro_metrics_source_up"][("saga",)] == 0
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",), "the limit is the source's own"
