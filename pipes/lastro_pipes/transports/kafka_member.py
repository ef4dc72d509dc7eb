"""Kafka, by kafka-python: one member of a consumer group.

Offsets are committed by hand, and never ahead of what is done: of each partition the member knows what it has given out,
and commits up to the first record that is not done. Records behind that may be done already; after a crash they are read
again, and the store knows them. Rebalancing is cooperative. Partitions are only ever taken away inside ``poll``, which has
sent what there was to commit first.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener

from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.settings import Settings
from lastro_pipes.transports.base import Incoming
from lastro_pipes.transports.kafka_admin import BOOTSTRAP_S
from lastro_pipes.transports.kafka_assignor import EvenAssignor
from lastro_pipes.transports.kafka_login import client_settings, first_cause

logger = logging.getLogger(__name__)

HEARTBEATS = 5  # of a session; a member that misses them all is taken for dead
POLL_INTERVAL_S = 300  # a member that is in one turn for longer is taken for stuck, and loses its partitions
METADATA_AGE_S = 30  # a topic made after the start is found within this time
COMMIT_S = 3
CLOSE_S = 2
FETCH_WAIT_MS = 200
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


@dataclass(slots=True)
class Partition:
    """What was given out of a partition, in order, and whether it is done."""

    given: dict[int, bool] = field(default_factory=dict)  # offset -> done
    paused_until: float = 0.0
    to_commit: int | None = None

    def finish(self, offset: int) -> None:
        """One is done. What is done from the first one on can be committed."""
        if offset in self.given:
            self.given[offset] = True
        while self.given and self.given[first := next(iter(self.given))]:
            del self.given[first]
            self.to_commit = first + 1

    def forget_from(self, first: int) -> None:
        """This one and those behind it are read again."""
        self.given = {offset: done for offset, done in self.given.items() if offset < first}


class KafkaMember:
    """See the module. For one thread."""

    def __init__(self, settings: Settings, *, group: str, topics: Sequence[str]) -> None:
        self._prefix = settings.prefix
        self._partitions: dict[Any, Partition] = {}
        self._holds: dict[Any, int] = {}
        self._listener = _Listener()
        with first_cause(settings):
            self._client: Any = KafkaConsumer(
                **client_settings(settings),
                group_id=f"{settings.prefix}{group}",
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # a new group reads what is kept
                partition_assignment_strategy=[EvenAssignor],
                session_timeout_ms=settings.kafka_session_s * 1000,
                heartbeat_interval_ms=settings.kafka_session_s * 1000 // HEARTBEATS,
                max_poll_interval_ms=POLL_INTERVAL_S * 1000,
                metadata_max_age_ms=METADATA_AGE_S * 1000,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
            names = [f"{settings.prefix}{topic}" for topic in topics]
            self._client.subscribe(topics=names, listener=self._listener)
            # A member that leads its group before it has heard of the topics' partitions gives none of them to anybody,
            # and takes that for the right answer until a partition is added (kafka-python 3.0.12): so hear of them first.
            for name in names:
                self._client.partitions_for_topic(name)

    def poll(self, *, records_max: int, timeout_s: float) -> Sequence[Incoming]:
        """See Member."""
        self._commit()
        self._resume()
        # A broker that is away is waited for in here, but a connection that is refused just while the client looks for its
        # group comes out of it (kafka-python 3.0.12).
        try:
            found = self._client.poll(timeout_ms=int(timeout_s * 1000), max_records=records_max)
        except kafka_errors.RetriableError as error:
            raise BrokerDown(f"Kafka does not answer: {error!r}") from error
        except kafka_errors.AuthorizationError as error:
            raise Misconfigured(
                f"This login may not read: grant it READ on the topics and the group. ({error!r})"
            ) from error
        self._forget_gone()
        return [self._give(partition, record) for partition, records in found.items() for record in records]

    def _give(self, partition: Any, record: Any) -> Incoming:
        self._partitions.setdefault(partition, Partition()).given[record.offset] = False
        # A record without key, value or readable key came from somebody else; it must still get to the dead letters.
        return Incoming(
            topic=record.topic.removeprefix(self._prefix),
            partition=record.partition,
            offset=record.offset,
            key=(record.key or b"").decode("utf-8", errors="backslashreplace"),
            value=record.value or b"",
            headers={name: (value or b"").decode("utf-8", errors="backslashreplace") for name, value in record.headers},
            sent_at=datetime.fromtimestamp(record.timestamp / 1000, UTC) if record.timestamp > 0 else None,
            hold=self._holds.get(partition, 0),
        )

    def done(self, record: Incoming) -> None:
        """See Member."""
        if self.holds(record):
            self._partitions[self._of(record)].finish(record.offset)

    def give_back(self, records: Sequence[Incoming], *, after_s: float) -> None:
        """See Member. Seeks back to the first of each partition and pauses it; the heartbeat goes on.

        What lies between and was not given back is read again too: the store knows what is done.
        """
        by_partition: dict[Any, list[int]] = {}
        for record in records:
            if self.holds(record):
                by_partition.setdefault(self._of(record), []).append(record.offset)
        for partition, offsets in by_partition.items():
            kept = self._partitions[partition]
            first = min(offsets)
            kept.forget_from(first)
            self._client.seek(partition, first)
            self._client.pause(partition)
            kept.paused_until = time.monotonic() + after_s

    def holds(self, record: Incoming) -> bool:
        """See Member."""
        partition = self._of(record)
        return self._holds.get(partition, 0) == record.hold and partition in self._partitions

    def close(self) -> None:
        """See Member. Within COMMIT_S + CLOSE_S."""
        try:
            self._commit()
        finally:
            try:
                self._client.close(autocommit=False, timeout_ms=CLOSE_S * 1000)
            except kafka_errors.KafkaError as error:
                logger.warning("the group was left in disorder: %r", error)

    def _of(self, record: Incoming) -> Any:
        return TopicPartition(f"{self._prefix}{record.topic}", record.partition)

    def _commit(self) -> None:
        offsets = {
            partition: OffsetAndMetadata(kept.to_commit, "", -1)
            for partition, kept in self._partitions.items()
            if kept.to_commit is not None
        }
        if not offsets:
            return
        try:
            self._client.commit(offsets, timeout_ms=COMMIT_S * 1000)
        except kafka_errors.CommitFailedError:
            # We were put out of the group; the new owners read from the last offset that was committed.
            logger.warning("partitions were lost before their offsets were committed")
        except kafka_errors.KafkaError as error:
            logger.warning("offsets could not be committed, and are tried again: %r", error)
            return
        for partition in offsets:
            self._partitions[partition].to_commit = None

    def _resume(self) -> None:
        now = time.monotonic()
        for partition, kept in self._partitions.items():
            if 0 < kept.paused_until <= now:
                kept.paused_until = 0.0
                if partition in self._client.assignment():
                    self._client.resume(partition)

    def _forget_gone(self) -> None:
        """A partition that left us is another member's: to commit our old offset later would set it back."""
        while self._listener.gone:
            partition = self._listener.gone.popleft()
            self._partitions.pop(partition, None)
            self._holds[partition] = self._holds.get(partition, 0) + 1
