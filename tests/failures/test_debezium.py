"""Debezium reads the outbox instead of the relay: the same records, every number of every key once, in order."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import override_settings
from kafka import KafkaConsumer, TopicPartition

from apps.messaging import partitions
from apps.messaging.models import Pending
from apps.observability import ids
from tests.deployment import Deployment
from tests.failures.deployed.numbers import Numbered
from tests.failures.numbered import Keys, Load

pytestmark = [
    pytest.mark.process,
    pytest.mark.distributed,
    pytest.mark.on_servers("kafka"),
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(600),
]

# As docs/outbox.md has them, once and for each change of readers.
PUBLICATION = """
CREATE PUBLICATION lastro_outbox FOR TABLE messaging_message WITH (publish = 'insert', publish_via_partition_root = true)
"""
SLOT = "SELECT pg_create_logical_replication_slot('lastro_outbox', 'pgoutput')"
PASSED = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = 'lastro_outbox'"


def ask(sql: str, values: list[Any] | None = None) -> Any:
    """The first value of a statement on the deployment's database, if it has one."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0] if cursor.description else None


@pytest.fixture
def slot(deployed: Deployment) -> Iterator[None]:
    """What the connector reads from, from here on."""
    deployed.scale(relay=2, consume=2)
    deployed.until(lambda: not Pending.objects.exists(), what="what earlier tests left is relayed")
    ask(PUBLICATION)
    ask(SLOT)
    yield
    deployed.services("stop", "debezium")
    deployed.until(
        lambda: ask("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'lastro_outbox'"),
        what="nobody reads the slot",
    )
    ask("SELECT pg_drop_replication_slot('lastro_outbox')")
    ask("DROP PUBLICATION lastro_outbox")
    # What the connector remembers is of this slot; with another one it would refuse to start.
    (deployed.folder / "services" / "debezium" / "offsets").unlink(missing_ok=True)


def records(deployed: Deployment, keys: Keys) -> dict[str, list[Any]]:
    """All records of these keys at the broker, by their message's id: partition, key, value and headers."""
    reader = KafkaConsumer(bootstrap_servers=deployed.environment["KAFKA_BOOTSTRAP_SERVERS"], enable_auto_commit=False)
    found = defaultdict(list)
    try:
        places = [TopicPartition(Numbered.topic, at) for at in reader.partitions_for_topic(Numbered.topic)]
        reader.assign(places)
        reader.seek_to_beginning(*places)
        ends = reader.end_offsets(places)

        def has_read_on() -> bool:
            for batch in reader.poll(timeout_ms=200).values():
                for one in batch:
                    headers = {name: value for name, value in one.headers if value}  # Debezium sends empty ones, too
                    if (one.key or b"").decode() in keys.published:  # other tests send foreign records
                        found[headers["id"].decode()].append((one.partition, one.key, one.value, headers))
            return all(reader.position(place) >= ends[place] for place in places)

        deployed.until(has_read_on, what="everything is read")
    finally:
        reader.close()
    return found


@pytest.mark.usefixtures("slot")
class TestDebezium:
    def test_sends_the_records_that_the_relay_sends(self, deployed: Deployment) -> None:
        deployed.services("start", "debezium")
        keys = Keys(20)
        with ids.bound(global_id="orders:4711", trace="a-trace"):
            for key in [*keys.published] * 3:
                keys.publish(key)
        self._has_sent_everything(deployed)
        keys.all_arrive(deployed)  # the inbox drops the copies
        found = records(deployed, keys)
        assert len(found) == 60
        for copies in found.values():
            assert len(copies) == 2, "one of the relay, one of Debezium"
            assert copies[0] == copies[1]

    def test_takes_over_under_load_dies_and_gives_back(self, deployed: Deployment) -> None:
        keys = Keys(20)
        with Load(keys):
            keys.flow(deployed)
            deployed.services("start", "debezium")
        with override_settings(OUTBOX_READER="debezium"):
            with Load(keys):
                deployed.until(lambda: not Pending.objects.exists(), what="the relay has nothing left to send")
                deployed.scale(consume=2)
                keys.flow(deployed)
                deployed.kill_server("debezium")
                before = dict(keys.published)
                deployed.until(
                    lambda: all(n > before[key] + 2 for key, n in keys.published.items()), what="messages come meanwhile"
                )
                deployed.services("start", "debezium")
                keys.flow(deployed)
            assert not Pending.objects.exists()
        with Load(keys):
            self._has_sent_everything(deployed)
            deployed.scale(relay=2, consume=2)
            keys.flow(deployed)
            deployed.services("stop", "debezium")
            keys.flow(deployed)
        keys.all_arrive(deployed)

    def test_reads_a_day_that_was_opened_later(self, deployed: Deployment) -> None:
        deployed.services("start", "debezium")
        day = max(partitions.days()) + timedelta(days=1)
        partitions.LOG.open(day, lock_timeout=partitions.LOCK_TIMEOUT)
        keys = Keys(1)
        with override_settings(OUTBOX_READER="debezium"):
            keys.publish_rounds(1)
        message_id = partitions.first_message_id(datetime.combine(day, time(12), tzinfo=UTC))
        ask(
            "INSERT INTO messaging_message (id, aggregatetype, aggregateid, type, payload, created_at) "
            "SELECT %s, aggregatetype, aggregateid, type, '{}', now() FROM messaging_message WHERE aggregateid = ANY(%s)",
            [message_id, list(keys.published)],
        )
        self._has_sent_everything(deployed)
        assert [len(copies) for copies in records(deployed, keys).values()] == [1, 1]

    def test_lets_go_of_the_log_while_nothing_is_published(self, deployed: Deployment) -> None:
        deployed.services("start", "debezium")
        ask("CREATE TABLE IF NOT EXISTS deployed_noise (n int)")
        for _ in range(3):
            ask("INSERT INTO deployed_noise SELECT generate_series(1, 10000)")
        position = ask("SELECT pg_current_wal_lsn()")
        deployed.until(lambda: ask(PASSED, [position]), what="the server may forget the log")

    @staticmethod
    def _has_sent_everything(deployed: Deployment) -> None:
        """Of what was written by now. The slot moves on when a later message comes."""
        position, later = ask("SELECT pg_current_wal_lsn()"), Keys(1)

        def passed() -> bool:
            later.publish(*later.published)
            return bool(ask(PASSED, [position]))

        deployed.until(passed, what="Debezium has sent what was written by now")
