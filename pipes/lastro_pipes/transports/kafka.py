"""Kafka, by kafka-python: the writing side. The reading side is kafka_member.py.

Note [A producer that failed is thrown away]
A refusal by the broker ends kafka-python's idempotent producer (3.0.12): it fails whatever waits with the refused record's
own error. So after any failure the producer is thrown away, and what was not acknowledged is sent again, one at a time:
only then is the blame the record's own.
"""

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.settings import Settings
from lastro_pipes.transports import kafka_admin
from lastro_pipes.transports.base import Member, Outgoing, Topic
from lastro_pipes.transports.kafka_admin import BOOTSTRAP_S
from lastro_pipes.transports.kafka_login import client_settings, first_cause
from lastro_pipes.transports.kafka_member import KafkaMember

logger = logging.getLogger(__name__)

METADATA_S = 2
REQUEST_S = 2
DELIVERY_S = 4  # from send() to the last word about a record; a stop has to be over within 10 s
RECORD_BYTES_MAX = 1_000_000  # with headers; below the broker's own default limit for a batch of one
FLUSH_S_MIN = 0.1
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


class KafkaTransport:
    """See the module. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: Any = None
        self._known: set[str] = set()

    def send(self, records: Sequence[Outgoing]) -> Sequence[str]:
        """See Transport."""
        reasons = self._unknown(records)
        places = [place for place, reason in enumerate(reasons) if not reason]
        if not places:
            return reasons
        errors = self._send([records[place] for place in places])
        is_one_to_blame = any(error is not None and _is_refusal(error) for error in errors)
        for place, error in zip(places, errors, strict=True):
            if error is not None and is_one_to_blame and len(places) > 1:
                error = self._send([records[place]])[0]  # noqa: PLW2901  # alone the answer is its own
            if error is not None and not _is_refusal(error):
                raise BrokerDown(f"Kafka did not acknowledge: {error!r}") from error
            reasons[place] = _refusal(error) if error is not None else ""
        return reasons

    def _send(self, records: Sequence[Outgoing]) -> list[Exception | None]:
        """For each record None, or the error with which it failed."""
        deadline = time.monotonic() + DELIVERY_S
        producer = self._producer()
        found = [self._hand_over(producer, record) for record in records]
        # A broker that is slow: the futures tell.
        with contextlib.suppress(kafka_errors.KafkaError):
            producer.flush(max(deadline - time.monotonic(), FLUSH_S_MIN))
        errors = [item if isinstance(item, Exception) else _error(item, deadline) for item in found]
        if any(error is not None for error in errors):
            self.close()
        return errors

    def _hand_over(self, producer: Any, record: Outgoing) -> Any:
        headers = [(name, value.encode(errors="backslashreplace")) for name, value in record.headers]
        name = f"{self._settings.prefix}{record.topic}"
        try:
            return producer.send(name, value=record.value.encode(), key=record.key.encode(), headers=headers)
        except (kafka_errors.KafkaError, ValueError, TypeError) as error:
            return error

    def _unknown(self, records: Sequence[Outgoing]) -> list[str]:
        """The client would wait METADATA_S for each unknown topic: ask first."""
        fresh = {record.topic for record in records} - self._known
        if fresh:
            self._known |= fresh & kafka_admin.existing_topics(self._settings)
        return ["" if record.topic in self._known else self._advice(record.topic) for record in records]

    def _advice(self, topic: str) -> str:
        return (
            f"The topic {self._settings.prefix}{topic} does not exist, or this login may not see it. "
            "Its service makes it: pipes topics --apply"
        )

    def _producer(self) -> Any:
        if self._made is None:
            with first_cause(self._settings):
                self._made = KafkaProducer(
                    **client_settings(self._settings),
                    enable_idempotence=True,  # said, so that a conflict is an error instead of a silent "off"
                    acks="all",
                    linger_ms=5,
                    max_request_size=RECORD_BYTES_MAX,
                    max_block_ms=METADATA_S * 1000,
                    request_timeout_ms=REQUEST_S * 1000,
                    delivery_timeout_ms=DELIVERY_S * 1000,
                    bootstrap_timeout_ms=int(BOOTSTRAP_S * 1000),
                    allow_auto_create_topics=False,
                    metrics_enabled=False,
                )
        return self._made

    def member(self, *, group: str, topics: Sequence[str]) -> Member:
        """See Transport."""
        return KafkaMember(self._settings, group=group, topics=topics)

    def check(self) -> None:
        """See Transport."""
        kafka_admin.log_in(self._settings)

    def missing(self, topics: Sequence[Topic]) -> list[str]:
        """See Transport."""
        there = kafka_admin.existing_topics(self._settings)
        return [topic.name for topic in topics if topic.name not in there]

    def create(self, topics: Sequence[Topic]) -> None:
        """See Transport."""
        kafka_admin.create(self._settings, topics)

    def lag(self, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """See Transport."""
        return kafka_admin.lag(self._settings, group=group, topics=topics)

    def close(self) -> None:
        """See Transport."""
        made, self._made = self._made, None
        self._known.clear()  # A topic that is gone is found out once, and not waited for every time.
        if made is None:
            return
        try:
            made.close(timeout=1)
        except (kafka_errors.KafkaError, OSError, Misconfigured) as error:
            logger.info("a producer was closed with %r", error)


def _error(future: Any, deadline: float) -> Exception | None:
    try:
        future.get(max(deadline - time.monotonic(), FLUSH_S_MIN))
    except kafka_errors.KafkaError as error:
        found: Exception = error
        return found
    return None


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, _NOT_THE_RECORD):
        return False
    return isinstance(
        error, kafka_errors.BrokerResponseError | kafka_errors.MessageSizeTooLargeError | ValueError | TypeError
    )


def _refusal(error: Exception) -> str:
    if isinstance(error, kafka_errors.MessageSizeTooLargeError):
        return f"The record is larger than the broker or the topic takes (max.message.bytes). ({error})"
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        return f"This login may not write to the topic: grant it WRITE. ({error})"
    return f"The broker refuses the record. ({type(error).__name__}: {error})"
