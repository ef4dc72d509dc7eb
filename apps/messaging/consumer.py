"""The consumer: broker to inbox to handler, then the offset. One message that fails holds up its own key and no other.

Note [Failing without blocking a partition]
A message whose handler fails is written to the redelivery table and its offset is committed, so the partition goes on.
Later messages of the same group, topic and key queue behind it there, so the key keeps its order. After the last
attempt the message goes to ``<topic>.error`` in the commit that removes it from the queue, and the key goes on.
"""

import json
import logging
import random
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection
from django.db import transaction as django_transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.messaging import envelope as envelopes
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.envelope import DEAD_LETTER_BYTES_MAX
from apps.messaging.inbox import groups, handle_once, take
from apps.messaging.models import Redelivery
from apps.messaging.outbox import KEY_CHARACTERS_MAX, is_key, publish_raw
from apps.messaging.transports import transport
from apps.messaging.transports.base import Consumer, IncomingRecord

logger = logging.getLogger(__name__)

POLL_RECORDS_MAX = 100
POLL_TIMEOUT_S = 0.2
REDELIVERIES_MAX = 100  # handled between two polls, so that a long queue does not starve fresh records
ATTEMPTS_MAX = 6  # the first one, then after about 0.2, 0.8, 3, 13 and 51 s
DELAY_MAX = timedelta(minutes=2)
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 5.0  # between attempts to reach a database or a broker that is away
FAILURES_MAX = 2  # partitions that fail in one poll; then the rest of it waits too
RAW_CHARACTERS_MAX = 100_000  # of an unreadable record; the whole of it stays in its topic, at the offset that is noted


def delay(attempts: int) -> timedelta:
    """How long a failed message waits after so many attempts: 0.2 s, times four each, plus or minus a quarter."""
    seconds = 0.2 * 4 ** min(attempts - 1, 10) * random.uniform(0.75, 1.25)  # noqa: S311  # jitter, not a secret
    return min(timedelta(seconds=seconds), DELAY_MAX)


def error_topic(topic: str) -> str:
    """The dead-letter topic beside a topic: the last word becomes ``error``."""
    return topic.rsplit(".", 1)[0] + ".error"


def deliver(record: IncomingRecord, *, group: str, now: datetime) -> None:
    """Handle one record, or queue it for redelivery. When this returns, the record's offset may be committed."""
    try:
        envelope = envelopes.decode(record.value)
        meta = envelopes.read_meta(envelope["meta"])
        if not is_key(record.key):
            raise InvalidMessage(f"A record's key has 1 to {KEY_CHARACTERS_MAX} characters, and no U+0000.")
    except InvalidMessage as error:
        _bury_unreadable(record, group=group, error=error)
        return
    if _waits_behind(record, group=group):
        _queue(record, envelope, meta.message_id, group=group, now=now, error=None)
        return
    try:
        _handle(envelope, group=group, now=now)
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise  # The database is away: no message is to blame, and the offset stays.
        _queue(record, envelope, meta.message_id, group=group, now=now, error=error)


@transaction
def _handle(envelope: dict[str, Any], *, group: str, now: datetime) -> None:
    handle_once(envelope, group=group, now=now)


def _waits_behind(record: IncomingRecord, *, group: str) -> bool:
    return Redelivery.objects.filter(group=group, topic=record.topic, key=record.key).exists()


@transaction
def _queue(
    record: IncomingRecord,
    envelope: dict[str, Any],
    message_id: UUID,
    *,
    group: str,
    now: datetime,
    error: Exception | None,
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO messaging_redelivery
               ("group", topic, key, message_id, envelope, attempts, due_at, error, created_at)
               VALUES (%s, %s, %s, %s, %s::jsonb, 0, %s, '', %s) ON CONFLICT DO NOTHING RETURNING id""",
            [group, record.topic, record.key, message_id, json.dumps(envelope), now, now],
        )
        inserted = cursor.fetchone()
    if inserted and error is not None:
        _count_failure(Redelivery.objects.get(pk=inserted[0]), error, now=now)


@transaction
def _bury_unreadable(record: IncomingRecord, *, group: str, error: DomainError) -> None:
    """A record that is no envelope still gets one, so that it can be looked at and nothing is lost."""
    meta = {
        "message-id": str(uuid7()),
        "schema": "messaging.unreadable.v1",
        "error": {
            **_reason(error),
            "group": group,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "attempts": 1,
        },
    }
    text = record.value.decode("utf-8", errors="backslashreplace").replace("\x00", "\\x00")
    body = {"raw": text[:RAW_CHARACTERS_MAX], "bytes": len(record.value)}
    key = record.key if is_key(record.key) else "unreadable"
    publish_raw(topic=error_topic(record.topic), key=key, meta=meta, body=body, bytes_max=DEAD_LETTER_BYTES_MAX)


def _reason(error: Exception) -> dict[str, Any]:
    code = error.code if isinstance(error, DomainError) else ""
    text = f"{type(error).__name__}: {error}"[:1000]
    # An error may quote anything, also what jsonb cannot hold.
    text = text.encode("utf-8", errors="backslashreplace").decode().replace("\x00", "\\x00")
    return {"code": code, "reason": text}


def _count_failure(row: Redelivery, error: Exception, *, now: datetime) -> None:
    row.attempts += 1
    hopeless = isinstance(error, DomainError) and not error.retryable
    if hopeless or row.attempts >= ATTEMPTS_MAX:
        _bury(row, error, now=now)
        return
    logger.warning("message %s failed in %s, attempt %s", row.message_id, row.group, row.attempts, exc_info=error)
    row.error = str(_reason(error)["reason"])
    row.due_at = now + delay(row.attempts)
    row.save(update_fields=["attempts", "error", "due_at"])


def _bury(row: Redelivery, error: Exception, *, now: datetime) -> None:
    row.delete()
    # Buried is done: a copy that the relay sends later must neither be handled out of its order nor be buried again.
    # Somebody may replay the dead letter, which has an id of its own.
    if not take(row.message_id, group=row.group, now=now):
        return
    logger.error("message %s goes from %s to its dead letters", row.message_id, row.group, exc_info=error)
    found = {**_reason(error), "group": row.group, "topic": row.topic, "attempts": row.attempts}
    # A dead letter is a message of its own: two groups may bury the same one.
    meta = {**row.envelope["meta"], "message-id": str(uuid7()), "error": {**found, "message-id": str(row.message_id)}}
    body = row.envelope["body"]
    publish_raw(topic=error_topic(row.topic), key=row.key, meta=meta, body=body, bytes_max=DEAD_LETTER_BYTES_MAX)


@transaction
def redeliver_one(*, group: str, now: datetime) -> bool:
    """Handle the next queued message that is due and first of its key. False when there is none.

    The row stays locked while its handler runs: two consumers never hold messages of one key.
    """
    heads = Redelivery.objects.raw(
        """SELECT * FROM messaging_redelivery r WHERE r."group" = %s AND r.due_at <= %s AND NOT EXISTS (
               SELECT 1 FROM messaging_redelivery e
               WHERE e."group" = r."group" AND e.topic = r.topic AND e.key = r.key AND e.id < r.id
           ) ORDER BY r.id LIMIT 1 FOR UPDATE SKIP LOCKED""",
        [group, now],
    )
    for row in heads:
        try:
            with django_transaction.atomic():
                handle_once(row.envelope, group=group, now=now)
                row.delete()
        except Exception as error:
            _count_failure(row, error, now=now)
        return True
    return False


def redeliver(*, group: str, now: datetime, stop: threading.Event | None = None) -> int:
    """Handle queued messages that are due, at most REDELIVERIES_MAX."""
    handled = 0
    while handled < REDELIVERIES_MAX and not _is_set(stop) and redeliver_one(group=group, now=now):
        handled += 1
    return handled


class Pauses:
    """How long each partition of a member waits after a technical failure: from PAUSE_S_MIN, doubling to PAUSE_S_MAX."""

    def __init__(self) -> None:
        self._next_s: dict[tuple[str, int], float] = {}

    def after_failure(self, record: IncomingRecord) -> float:
        """The pause of the record's partition, in seconds; the next one is twice as long."""
        slot = (record.topic, record.partition)
        pause_s = self._next_s.get(slot, PAUSE_S_MIN)
        self._next_s[slot] = min(pause_s * 2, PAUSE_S_MAX)
        return pause_s

    def after_success(self, record: IncomingRecord) -> None:
        """The partition is well again."""
        self._next_s.pop((record.topic, record.partition), None)


def consume_once(
    consumer: Consumer,
    *,
    group: str,
    timeout_s: float,
    stop: threading.Event | None = None,
    pauses: Pauses | None = None,
) -> int:
    """Poll once, handle what came, then what is due again. The offset follows each record's own commit.

    Between two messages it looks at ``stop``; what it leaves is read again. A record that cannot even be put aside
    (the database is away) pauses its partition; the others go on, and the member stays in its group.
    """
    pauses = pauses or Pauses()
    records: Sequence[IncomingRecord] = consumer.poll(records_max=POLL_RECORDS_MAX, timeout_s=timeout_s)
    handled = 0
    failed: set[tuple[str, int]] = set()
    for record in records:
        slot = (record.topic, record.partition)
        if _is_set(stop):
            return 0
        if slot in failed:
            continue  # It comes again, after the one that failed.
        # When two partitions failed in a row the fault is everywhere: each attempt may cost a connection's timeout.
        if len(failed) >= FAILURES_MAX or not _delivered(record, group=group):
            failed.add(slot)
            consumer.retry(record, after_s=pauses.after_failure(record))
            continue
        consumer.commit(record)
        pauses.after_success(record)
        handled += 1
    if failed:
        return handled  # The redeliveries need the same database.
    return handled + redeliver(group=group, now=timezone.now(), stop=stop)


def _delivered(record: IncomingRecord, *, group: str) -> bool:
    try:
        deliver(record, group=group, now=timezone.now())
    except Exception:
        where = f"{record.topic}/{record.partition} at {record.offset}"
        logger.warning("consumer %s cannot take %s and pauses the partition", group, where, exc_info=True)
        connection.close()  # The next attempt makes a fresh one.
        return False
    return True


def _is_set(stop: threading.Event | None) -> bool:
    return stop is not None and stop.is_set()


class ConsumerThread(threading.Thread):
    """One member of one group, until ``stop`` is set. A database or broker that is away is waited for."""

    def __init__(self, group: str, stop: threading.Event) -> None:
        super().__init__(name=f"consumer-{group}", daemon=True)
        self._group, self._stop_requested = group, stop
        self._pause_s = PAUSE_S_MIN

    def run(self) -> None:
        while not self._stop_requested.is_set():
            try:
                self._consume()
            except Exception:
                logger.exception("consumer %s pauses for %.1f s", self._group, self._pause_s)
                connection.close()
                self._stop_requested.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    def _consume(self) -> None:
        consumer = transport().consumer(group=self._group, topics=groups()[self._group])
        pauses = Pauses()
        try:
            while not self._stop_requested.is_set():
                try:
                    consume_once(
                        consumer, group=self._group, timeout_s=POLL_TIMEOUT_S, stop=self._stop_requested, pauses=pauses
                    )
                    self._pause_s = PAUSE_S_MIN
                except DatabaseError:
                    # A redelivery, or the local transport itself. The member stays: to leave and join costs a rebalance.
                    logger.warning("consumer %s waits for the database", self._group, exc_info=True)
                    connection.close()
                    self._stop_requested.wait(self._pause_s)
                    self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
        finally:
            consumer.close()
            connection.close()
