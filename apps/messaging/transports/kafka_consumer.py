"""Kafka, by kafka-python: one member of a consumer group.

Offsets are committed by hand. ``commit(record)`` only notes; the next ``poll`` and ``close`` send what was noted, so an
offset is never ahead of the database and costs one request a batch, not one a record. Rebalancing is cooperative: a
member keeps its other partitions while some move. Partitions are only ever taken from it inside ``poll``, which has
sent what was noted first. A crash in between, or a commit that failed, means that records are read again: the inbox
drops the copies.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from apps.messaging.transports.base import IncomingRecord
from apps.messaging.transports.kafka_admin import BOOTSTRAP_S, our_name, wire_name
from apps.messaging.transports.kafka_login import client_settings, first_cause

logger = logging.getLogger(__name__)

SESSION_S = 15  # how long a killed member keeps its partitions from the others
HEARTBEAT_S = 3
POLL_INTERVAL_S = 300  # a member that handles one batch for longer is taken for stuck, and loses its partitions
METADATA_AGE_S = 30  # a topic made after the start is found within this time
COMMIT_S = 5
CLOSE_S = 3
FETCH_WAIT_MS = 200
PARTITION_BYTES = 1_048_576  # of one fetch; a single larger record is fetched all the same
GONE_MAX = 10_000


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Runs in the client's own thread, so it only notes what left us."""

    def __init__(self) -> None:
        self.gone: deque[Any] = deque(maxlen=GONE_MAX)

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.gone.extend(revoked)

    def on_partitions_lost(self, lost: Any) -> None:
        self.gone.extend(lost)

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Nothing to do: it begins at the committed offset."""


class KafkaMember:
    """One member of a consumer group. For one thread."""

    def __init__(self, *, group: str, topics: Sequence[str]) -> None:
        self._group = group
        self._noted: dict[Any, int] = {}  # partition -> the offset after the last record that is done
        self._paused: dict[Any, float] = {}  # partition -> when it goes on
        self._listener = _Listener()
        with first_cause():
            self._client: Any = KafkaConsumer(
                **client_settings(),
                group_id=wire_name(group),
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # a new group reads what is kept, as the local transport does
                partition_assignment_strategy=[CooperativeStickyAssignor],
                session_timeout_ms=SESSION_S * 1000,
                heartbeat_interval_ms=HEARTBEAT_S * 1000,
                max_poll_interval_ms=POLL_INTERVAL_S * 1000,
                metadata_max_age_ms=METADATA_AGE_S * 1000,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                max_partition_fetch_bytes=PARTITION_BYTES,
                bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
            names = [wire_name(topic) for topic in topics]
            self._client.subscribe(topics=names, listener=self._listener)
            # A member that leads its group before it has heard of the topics' partitions gives none of them to anybody,
            # and takes that for the right answer until a partition is added (kafka-python 3.0.12): so hear of them first.
            for name in names:
                self._client.partitions_for_topic(name)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[IncomingRecord]:
        """Send what was noted, let paused partitions go on whose time has come, and read."""
        self._commit_noted()
        self._resume()
        found = self._client.poll(timeout_ms=int(timeout_s * 1000), max_records=records_max)
        self._forget_gone()
        return [_record(record) for records in found.values() for record in records]

    def commit(self, record: IncomingRecord) -> None:
        """Note the offset; see the module."""
        self._noted[_partition(record)] = record.offset + 1

    def retry(self, record: IncomingRecord, *, after_s: float) -> None:
        """Seek back to the record and pause its partition; the heartbeat and the other partitions go on."""
        partition = _partition(record)
        if partition not in self._client.assignment():
            return  # It moved; its new owner reads the record again.
        self._client.seek(partition, record.offset)
        self._client.pause(partition)
        self._paused[partition] = time.monotonic() + after_s

    def close(self) -> None:
        """Send what was noted and leave the group. Within COMMIT_S + CLOSE_S."""
        try:
            self._commit_noted()
        finally:
            try:
                self._client.close(autocommit=False, timeout_ms=CLOSE_S * 1000)
            except kafka_errors.KafkaError as error:
                logger.warning("consumer %s left its group in disorder: %r", self._group, error)

    def assignment(self) -> set[tuple[str, int]]:
        """The partitions that this member owns now."""
        return {(our_name(partition.topic), partition.partition) for partition in self._client.assignment()}

    def _commit_noted(self) -> None:
        if not self._noted:
            return
        offsets = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in self._noted.items()}
        try:
            self._client.commit(offsets, timeout_ms=COMMIT_S * 1000)
        except kafka_errors.CommitFailedError:
            # We were put out of the group; the new owners read from the last offset that was committed.
            logger.warning("consumer %s lost its partitions before their offsets were committed", self._group)
        except kafka_errors.KafkaError as error:
            logger.warning("consumer %s could not commit its offsets and tries again: %r", self._group, error)
            return
        self._noted.clear()

    def _resume(self) -> None:
        now = time.monotonic()
        for partition in [partition for partition, until in self._paused.items() if until <= now]:
            del self._paused[partition]
            if partition in self._client.assignment():
                self._client.resume(partition)

    def _forget_gone(self) -> None:
        """A partition that left us is another member's: to commit our old offset later would set it back."""
        while self._listener.gone:
            partition = self._listener.gone.popleft()
            self._noted.pop(partition, None)
            self._paused.pop(partition, None)


def _partition(record: IncomingRecord) -> Any:
    return TopicPartition(wire_name(record.topic), record.partition)


def _record(record: Any) -> IncomingRecord:
    # A record without key, value or readable key came from somebody else; it must still get to the dead letters.
    key = (record.key or b"").decode("utf-8", errors="backslashreplace")
    return IncomingRecord(our_name(record.topic), record.partition, record.offset, key, record.value or b"")
