"""publish(): a message becomes a row in the caller's transaction, and nothing else."""

import json
import logging
import re
import zlib
from typing import Any

from django.db import connection
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.transactions import transaction_required
from apps.messaging import wakeup
from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.envelope import ENVELOPE_BYTES_MAX, Meta, encode
from apps.observability import ids

logger = logging.getLogger(__name__)

# How finely relays can share the work. A bucket is a hash of the key, so one key is always in one bucket; the number
# may only change while nothing is pending.
BUCKETS = 16
KEY_CHARACTERS_MAX = 200

# One statement, one round trip: the log row and the thin row that says it has not been sent yet.
_INSERT = """
WITH message AS (
    INSERT INTO messaging_message (message_id, topic, key, schema, meta, body, created_at)
    VALUES (%(message_id)s, %(topic)s, %(key)s, %(schema)s, %(meta)s::jsonb, %(body)s::jsonb, %(now)s)
    RETURNING seq
)
INSERT INTO messaging_pending (seq, bucket, topic, key, attempts, due_at, error)
SELECT seq, %(bucket)s, %(topic)s, %(key)s, 0, %(now)s, '' FROM message
"""


def bucket_of(key: str) -> int:
    """The bucket of a key: the same in every process and every release."""
    return zlib.crc32(key.encode()) % BUCKETS


def is_key(key: str) -> bool:
    """Can messages have this key?"""
    return 1 <= len(key) <= KEY_CHARACTERS_MAX and not re.search("[\x00\ud800-\udfff]", key)


@transaction_required
def publish(message: Message, *, key: str, reply_to: str = "") -> None:
    """Send a message when, and only when, the caller's transaction commits.

    ``key`` keeps order: messages of one topic and key reach consumers in the order in which they were published, if
    their publishers hold the same row lock (as verbs on one aggregate do). ``reply_to`` is what an answer carries back.
    Raises TransactionMisuse outside a transaction, InvalidMessage when the message cannot be sent at all.
    """
    bound = ids.current()
    meta = Meta(
        message_id=uuid7(),
        schema=message.schema,
        global_id=bound.get("global_id", ""),
        steps=tuple(filter(None, bound.get("steps", "").split(","))),
        trace=bound.get("trace") or bound.get("request_id", ""),
        reply_to=reply_to,
    )
    publish_raw(topic=message.topic, key=key, meta=meta.to_json(), body=message.to_body())


@transaction_required
def publish_raw(*, topic: str, key: str, meta: dict[str, Any], body: Any, bytes_max: int = ENVELOPE_BYTES_MAX) -> None:
    """Publish an envelope as it is: dead letters and replays, whose body may follow no contract."""
    if not is_key(key):
        raise InvalidMessage(f"The key has 1 to {KEY_CHARACTERS_MAX} characters, and no U+0000.")
    if len(encode(meta, body)) > bytes_max:
        raise InvalidMessage(f"The message is larger than {bytes_max} bytes.")
    values = {
        "message_id": meta["message-id"],
        "topic": topic,
        "key": key,
        "schema": meta["schema"],
        "meta": json.dumps(meta),
        "body": json.dumps(body),
        "now": timezone.now(),
        "bucket": bucket_of(key),
    }
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, values)
    wakeup.relay_after_commit()
