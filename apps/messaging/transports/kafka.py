"""Kafka, by kafka-python: the writing side. The reading side is kafka_consumer.py, topics and lag are kafka_admin.py.

Note [Order per key when one record fails]
A relay hands a batch over, and a key may have several records in it. kafka-python has one batch of a partition in
flight at a time, so what comes later can only overtake a record that *failed*: the client gives up on batch n (its
delivery timeout is over) and goes on with batch n + 1 of the same partition. If m2 of a key was acknowledged that way,
putting m1 back would be too late: consumers have seen m2 first. Marking cannot mend that, so it must not happen: the
producer stops with its first failure. The future's error callback runs before the client may send the partition's next
batch; it throws away everything that has not been sent and closes the producer (KIP-15 gave Java's close(0) this use).
What was under way keeps its answer if it came, and is NOT_SENT otherwise: it is sent again and the inbox drops the
copy. The next call makes a new producer, for about 30 ms.
A refusal by the broker ends kafka-python's idempotent producer anyway (3.0.12): it fails whatever waits, and whatever
comes, with the refused record's own error. Throwing the rest away first keeps that blame from the innocent.

Note [Whose fault is it]
REFUSED counts an attempt against the row and blocks its key; so only the record's or its topic's own faults are
refusals. Timeouts, lost connections, a refused login, a lost producer session are nobody's fault.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.future import Future

from apps.common.transactions import durable
from apps.messaging.transports import kafka_admin
from apps.messaging.transports.base import (
    Consumer,
    DesiredTopic,
    Fate,
    OutgoingRecord,
    Sending,
    SendOutcome,
    TopicPlan,
    TransportDown,
    TransportMisconfigured,
)
from apps.messaging.transports.kafka_admin import BOOTSTRAP_S, wire_name
from apps.messaging.transports.kafka_consumer import KafkaMember
from apps.messaging.transports.kafka_login import client_settings, first_cause
from apps.messaging.transports.kafka_partitioner import KeyPartitioner

logger = logging.getLogger(__name__)

METADATA_S = 5  # waiting for a topic's partitions
REQUEST_S = 5  # waiting for one answer of the broker
DELIVERY_S = 6  # from send() to the last word about a record, the client's own retries included
SEND_S_MAX = 12  # one call of send(), metadata and delivery in turn. The relay's lease (15 s) is longer.
# A big batch goes in few large requests, which cost half of what many small ones do; a small one goes at once.
LINGER_MS, LINGER_RECORDS_MIN = 50, 500
BATCH_BYTES = 131_072
RECORD_BYTES_MAX = 1_000_000  # with headers; below the broker's own default limit of 1,048,588 for a batch of one
FLUSH_S_MIN = 0.1
STOP_S = 1  # after the deadline: a producer that stops decides what is left

_NOT_THE_RECORD = (
    kafka_errors.RetriableError,  # timeouts and connections too
    kafka_errors.IllegalStateError,  # the producer was closed by its first failure
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.ProducerFencedError,
)
_ADVICE: dict[type[Exception], str] = {
    kafka_errors.MessageSizeTooLargeError: (
        "The record is larger than the broker or the topic takes (max.message.bytes). Send less, or a link to it."
    ),
    kafka_errors.TopicAuthorizationFailedError: (
        "This login may not write to the topic. Grant it WRITE on the topic, then un-park the message."
    ),
    kafka_errors.InvalidTopicError: "Kafka takes no topic of this name. Correct the message's contract.",
    kafka_errors.InvalidRecordError: "Kafka calls the record invalid. A compacted topic, for one, takes none without key.",
    kafka_errors.PolicyViolationError: "A policy of the broker forbids this record. Ask who runs the broker.",
}


def refusal(error: BaseException) -> str:
    """Why the broker refuses the record itself, and what to do; "" when the record is not to blame."""
    if isinstance(error, _NOT_THE_RECORD) or not isinstance(error, kafka_errors.BrokerResponseError):
        return ""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "The broker refuses the record.")
    return f"{advice} ({type(error).__name__}: {error})"


class _Producer:
    """One producer, of this process, that ends with its first failure. See Note [Order per key when one record fails]."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.known_topics: set[str] = set()
        self._names: dict[str, str] = {}  # our topic -> its name at the broker
        self.failed = threading.Event()
        with first_cause():
            self._client: Any = KafkaProducer(
                **client_settings(),
                enable_idempotence=True,  # said, so that a conflict is an error instead of a silent "off"
                acks="all",
                linger_ms=LINGER_MS,
                batch_size=BATCH_BYTES,
                compression_type="lz4",
                partitioner=KeyPartitioner(),
                max_request_size=RECORD_BYTES_MAX,
                max_block_ms=METADATA_S * 1000,
                request_timeout_ms=REQUEST_S * 1000,
                delivery_timeout_ms=DELIVERY_S * 1000,
                bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )

    def linger(self, milliseconds: int) -> None:
        """How long a request may wait to be filled. flush() says "now", but does not end a wait that has begun."""
        self._client._accumulator.config["linger_ms"] = milliseconds

    def send(self, record: OutgoingRecord) -> Any:
        """Hand a record over; the future tells its fate. Raises what the client raises."""
        topic = self._names.get(record.topic)
        if topic is None:
            topic = self._names[record.topic] = wire_name(record.topic)
        try:
            headers = [(name, value.encode()) for name, value in record.headers]
            future = self._client.send(topic, value=record.value, key=record.key.encode(), headers=headers)
        except Exception as error:
            # It may stop under our hands, and then its parts raise what they like.
            if self.failed.is_set() and not isinstance(error, kafka_errors.KafkaError):
                raise kafka_errors.IllegalStateError(f"The producer has stopped: {error!r}") from error
            raise
        future.add_errback(self._stop)
        return future

    def flush(self, futures: Sequence[Any], deadline: float) -> None:
        """Send at once what waits, and wait for the last word about every future. After the deadline nothing leaves."""
        try:
            self._client.flush(_left(deadline))
        except kafka_errors.KafkaTimeoutError as error:
            self._stop(error)
        except Exception as error:
            # The broker found a batch too large and the client has split it: flush() then takes its halves for unknown
            # (kafka-python 3.0.12), the futures do not. Or the producer has stopped.
            if not (self.failed.is_set() or isinstance(error, kafka_errors.KafkaError)):
                raise
            logger.debug("flush ended with %r", error)
        for future in futures:
            if future.is_done:
                continue
            if time.monotonic() > deadline + STOP_S:
                return  # They count as not sent.
            try:
                future.get(_left(deadline))
            except kafka_errors.KafkaError as error:
                if not future.is_done:
                    self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if self.failed.is_set():
            return
        self.failed.set()
        accumulator = self._client._accumulator
        # The public close() begins with a flush, which is just what must not happen.
        self._client._sender.force_close()
        while True:
            appending = accumulator._appends_in_progress.get()
            accumulator.abort_undrained_batches(kafka_errors.IllegalStateError(f"An earlier record failed: {error!r}"))
            if not appending:
                return

    def close(self) -> None:
        """Let go of the connections. Nothing may be under way any more."""
        self._client._sender.force_close()
        self._client._sender.join(REQUEST_S)
        try:
            self._client.close(timeout=1)
        except kafka_errors.KafkaError as error:
            logger.info("a producer was closed with %r", error)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), FLUSH_S_MIN)


class KafkaTransport:
    """Kafka. Safe to share between threads; a fork makes its own producer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: _Producer | None = None

    @durable
    def send(self, records: Sequence[OutgoingRecord]) -> Sequence[SendOutcome]:
        """Hand over, flush, and look at every future. Within SEND_S_MAX."""
        return self.begin(records).outcomes()

    @durable
    def begin(self, records: Sequence[OutgoingRecord]) -> Sending:
        """Hand over; the client sends from a thread of its own until ``outcomes`` waits for it."""
        deadline = time.monotonic() + SEND_S_MAX
        producer = self._producer()
        unknown = self._unknown_topics(producer, {record.topic for record in records})
        producer.linger(LINGER_MS if len(records) >= LINGER_RECORDS_MIN else 0)
        return _Sending(self, producer, records, _hand_over(producer, records, unknown), deadline)

    def _producer(self) -> _Producer:
        with self._lock:
            if self._made is None or self._made.pid != os.getpid() or self._made.failed.is_set():
                try:
                    self._made = _Producer()
                except TransportMisconfigured as error:
                    raise TransportDown(str(error)) from error  # no message is to blame; an operator is needed
            return self._made

    def discard(self, producer: _Producer) -> None:
        """A producer that has failed is of no more use: the next call makes a new one."""
        with self._lock:
            if self._made is producer:
                self._made = None
        producer.close()

    @staticmethod
    def _unknown_topics(producer: _Producer, topics: set[str]) -> set[str]:
        """The client would wait METADATA_S for each unknown topic, with everybody else behind it: ask first."""
        fresh = topics - producer.known_topics
        if not fresh:
            return set()
        there = kafka_admin.existing_topics()
        producer.known_topics |= fresh & there
        return fresh - there

    def consumer(self, *, group: str, topics: Sequence[str]) -> Consumer:
        """Join a group."""
        return KafkaMember(group=group, topics=topics)

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """The broker's end offsets minus the group's committed ones."""
        return kafka_admin.lag(group=group, topics=topics)

    def check(self) -> None:
        """Log in. Raises TransportMisconfigured when the broker refuses us, TransportDown when nobody answers."""
        kafka_admin.log_in()

    def plan_topics(self, topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
        """Compare with the broker's topics."""
        return kafka_admin.plan_topics(topics)

    def create_topics(self, topics: Sequence[DesiredTopic]) -> None:
        """Create the missing ones."""
        kafka_admin.create_topics(topics)
        with self._lock:
            if self._made is not None:
                self._made.known_topics.clear()


class _Sending:
    """A batch under way."""

    def __init__(
        self,
        transport: KafkaTransport,
        producer: _Producer,
        records: Sequence[OutgoingRecord],
        found: Sequence[Any],
        deadline: float,
    ) -> None:
        self._transport, self._producer, self._records = transport, producer, records
        self._found, self._deadline = found, deadline

    @durable
    def outcomes(self) -> Sequence[SendOutcome]:
        """Flush, and look at every future."""
        producer = self._producer
        producer.flush([item for item in self._found if isinstance(item, Future)], self._deadline)
        outcomes, cause = _fates(self._records, self._found)
        if producer.failed.is_set():
            self._transport.discard(producer)
        if cause is not None and not any(outcome.fate is not Fate.NOT_SENT for outcome in outcomes):
            raise TransportDown(f"Kafka acknowledged nothing: {cause!r}") from cause
        return outcomes


_ACKNOWLEDGED = SendOutcome(Fate.ACKNOWLEDGED)


def _hand_over(producer: _Producer, records: Sequence[OutgoingRecord], unknown: set[str]) -> list[Any]:
    """For each record its future, or the SendOutcome that is known already, or the error that ended the hand-over."""
    found: list[Any] = []
    blocked: set[tuple[str, str]] = set()
    ended: Exception | None = None
    for record in records:
        if ended is not None:
            found.append(ended)
            continue
        if blocked and (record.topic, record.key) in blocked:
            found.append(SendOutcome(Fate.NOT_SENT))
            continue
        if record.topic in unknown:
            found.append(SendOutcome(Fate.REFUSED, _unknown(record.topic)))
        else:
            try:
                found.append(producer.send(record))
                continue
            except (kafka_errors.MessageSizeTooLargeError, ValueError, TypeError) as error:
                found.append(SendOutcome(Fate.REFUSED, refusal(error) or f"The record cannot be sent: {error}"))
            except kafka_errors.KafkaError as error:
                ended = error
                found.append(error)
                continue
        blocked.add((record.topic, record.key))
    return found


def _unknown(topic: str) -> str:
    return (
        f"The topic {wire_name(topic)} does not exist, or this login may not see it. "
        "Run: manage.py topics --apply, then un-park the message."
    )


def _fates(records: Sequence[OutgoingRecord], found: Sequence[Any]) -> tuple[list[SendOutcome], Exception | None]:
    """One outcome per record, and the first error that was nobody's fault."""
    outcomes: list[SendOutcome] = []
    blocked: set[tuple[str, str]] = set()
    cause: Exception | None = None
    for record, item in zip(records, found, strict=True):
        outcome, error = _fate(item)
        if outcome is _ACKNOWLEDGED:
            outcomes.append(outcome)
            continue
        slot = (record.topic, record.key)
        cause = cause or error
        if outcome.fate is Fate.REFUSED and slot in blocked:
            outcome = SendOutcome(Fate.NOT_SENT)  # the first of its key is the one that counts
        blocked.add(slot)
        outcomes.append(outcome)
    return outcomes, cause


def _fate(item: Any) -> tuple[SendOutcome, Exception | None]:
    if isinstance(item, SendOutcome):
        return item, None
    if isinstance(item, Exception):
        return SendOutcome(Fate.NOT_SENT), item
    if item.succeeded():
        return _ACKNOWLEDGED, None
    error = item.exception or kafka_errors.KafkaTimeoutError("the delivery is not decided")
    reason = refusal(error)
    if reason:
        return SendOutcome(Fate.REFUSED, reason), None
    return SendOutcome(Fate.NOT_SENT), error
