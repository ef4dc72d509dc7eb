"""publish(): a message becomes a row in the caller's transaction, and nothing else."""

import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
from django.conf import settings
from django.db import connection
from django.db import transaction as django_transaction
from django.utils import timezone

from apps.common.arrays import array_text
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
WORD_CHARACTERS_MAX = 200  # of a schema, trace or global id; an index takes 2,700 bytes, and ours are much shorter
ROWS_MAX = 1_000  # of one statement; publish_many makes as many as it needs
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")

# One statement, one round trip: the log row and the thin row that says that our relay has not sent it yet.
_INSERT_ONE = """
WITH message AS (
    INSERT INTO messaging_message (id, aggregatetype, aggregateid, type, payload, global_id, trace, created_at)
    VALUES (%(id)s, %(topic)s, %(key)s, %(schema)s, %(payload)s, %(global_id)s, %(trace)s, %(now)s)
    RETURNING seq
)
INSERT INTO messaging_pending (seq, message_id, bucket, topic, key, attempts, due_at, error)
SELECT seq, %(id)s, %(bucket)s, %(topic)s, %(key)s, 0, %(now)s, '' FROM message WHERE %(relayed)s
"""
# The numbers are drawn in the order of the list.
_INSERT_MANY = """
WITH rows AS MATERIALIZED (
    SELECT nextval('messaging_seq') AS seq, r.*
    FROM unnest(%(id)s::uuid[], %(topic)s::text[], %(key)s::text[], %(schema)s::text[], %(payload)s::text[],
                %(global_id)s::text[], %(trace)s::text[], %(bucket)s::smallint[])
         AS r (id, topic, key, schema, payload, global_id, trace, bucket)
), message AS (
    INSERT INTO messaging_message (id, seq, aggregatetype, aggregateid, type, payload, global_id, trace, created_at)
    SELECT id, seq, topic, key, schema, payload, global_id, trace, %(now)s FROM rows
)
INSERT INTO messaging_pending (seq, message_id, bucket, topic, key, attempts, due_at, error)
SELECT seq, id, bucket, topic, key, 0, %(now)s, '' FROM rows WHERE %(relayed)s
"""
# The same as parts of somebody else's WITH, who writes rows of its own in the same statement: see ``collecting``.
WITH_MESSAGES = """
message_row AS MATERIALIZED (
    SELECT nextval('messaging_seq') AS seq, r.*
    FROM jsonb_to_recordset(%(messages)s::jsonb)
         AS r (id uuid, topic text, key text, schema text, payload text, global_id text, trace text, bucket smallint)
), message_log AS (
    INSERT INTO messaging_message (id, seq, aggregatetype, aggregateid, type, payload, global_id, trace, created_at)
    SELECT id, seq, topic, key, schema, payload, global_id, trace, %(messages_at)s FROM message_row
), message_pending AS (
    INSERT INTO messaging_pending (seq, message_id, bucket, topic, key, attempts, due_at, error)
    SELECT seq, id, bucket, topic, key, 0, %(messages_at)s, '' FROM message_row WHERE %(messages_relayed)s
)
"""


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    topic: str
    key: str
    schema: str
    payload: str
    global_id: str
    trace: str
    bucket: int


def bucket_of(key: str) -> int:
    """The bucket of a key: the same in every process and every release."""
    return zlib.crc32(key.encode()) % BUCKETS


def is_relayed() -> bool:
    """Does our relay send what is published, rather than Debezium? See docs/outbox.md."""
    return bool(settings.OUTBOX_READER == "relay")


def is_key(key: str) -> bool:
    """Can messages have this key?"""
    return 1 <= len(key) <= KEY_CHARACTERS_MAX and not _UNSENDABLE.search(key)


@transaction_required
def publish(message: Message, *, key: str, reply_to: str = "") -> None:
    """Send a message when, and only when, the caller's transaction commits.

    ``key`` keeps order: messages of one topic and key reach consumers in the order in which they were published, if
    their publishers hold the same row lock (as verbs on one aggregate do). ``reply_to`` is what an answer carries back.
    Raises TransactionMisuse outside a transaction, InvalidMessage when the message cannot be sent at all.
    """
    _write([_row(message.topic, key, _meta(message, reply_to), message.to_body(), ENVELOPE_BYTES_MAX)])


@transaction_required
def publish_many(messages: Sequence[tuple[Message, str]], *, answering: Sequence[Meta] | None = None) -> None:
    """Publish messages, each with its key, in this order, by one statement for every ROWS_MAX of them.

    ``answering``: for each message the meta of the one it answers, whose ids and reply_to it carries, instead of the ids
    that are bound here. Raises what ``publish`` raises, and then none of them is published.
    """
    if answering is None:
        metas = [_meta(message, "") for message, _ in messages]
    else:
        metas = [_answer_meta(message, to) for (message, _), to in zip(messages, answering, strict=True)]
    rows = [
        _row(message.topic, key, meta, message.to_body(), ENVELOPE_BYTES_MAX)
        for (message, key), meta in zip(messages, metas, strict=True)
    ]
    for first in range(0, len(rows), ROWS_MAX):
        _write(rows[first : first + ROWS_MAX])


@transaction_required
def publish_raw(*, topic: str, key: str, meta: dict[str, Any], body: Any, bytes_max: int = ENVELOPE_BYTES_MAX) -> None:
    """Publish an envelope as it is: dead letters and replays, whose body may follow no contract."""
    _write([_row(topic, key, meta, body, bytes_max)])


def _meta(message: Message, reply_to: str) -> dict[str, Any]:
    bound = ids.current()
    return Meta(
        message_id=uuid7(),
        schema=message.schema,
        global_id=bound.get("global_id", ""),
        steps=tuple(filter(None, bound.get("steps", "").split(","))),
        trace=bound.get("trace") or bound.get("request_id", ""),
        reply_to=reply_to,
    ).to_json()


def _answer_meta(message: Message, to: Meta) -> dict[str, Any]:
    return Meta(
        message_id=uuid7(),
        schema=message.schema,
        global_id=to.global_id,
        steps=to.steps,
        trace=to.trace,
        reply_to=to.reply_to,
    ).to_json()


def _row(topic: str, key: str, meta: dict[str, Any], body: Any, bytes_max: int) -> _Row:
    if not is_key(key):
        raise InvalidMessage(f"The key has 1 to {KEY_CHARACTERS_MAX} characters, and no U+0000.")
    payload = encode(meta, body)
    if len(payload) > bytes_max:
        raise InvalidMessage(f"The message is larger than {bytes_max} bytes.")
    return _Row(
        id=meta["message-id"],
        topic=topic,
        key=key,
        # Others write envelopes, too, and what they call so may be no text, or too long for an index and for a header.
        schema=_word(meta["schema"]),
        payload=payload.decode(),
        global_id=_word(meta.get("global-id") or ""),
        trace=_word(meta.get("trace") or ""),
        bucket=bucket_of(key),
    )


def _word(value: Any) -> str:
    """A value of the meta as a column of the log, by which a message is found; the whole of it is in the payload."""
    return str(value)[:WORD_CHARACTERS_MAX]


def _write(rows: Sequence[_Row]) -> None:
    if _is_collecting.get():
        for row in rows:
            django_transaction.on_commit(_Waiting(row))
    elif rows:
        _insert(rows)


def _insert(rows: Sequence[_Row]) -> None:
    columns = _Row.__slots__
    if len(rows) == 1:
        values: dict[str, Any] = {name: getattr(rows[0], name) for name in columns}
        statement = _INSERT_ONE
    else:
        values = {name: array_text([getattr(row, name) for row in rows]) for name in columns}
        statement = _INSERT_MANY
    with connection.cursor() as cursor:
        cursor.execute(statement, {**values, "now": timezone.now(), "relayed": is_relayed()})
    _wake_relay()


def _wake_relay() -> None:
    if is_relayed():
        wakeup.relay_after_commit()


# --- Collecting ---------------------------------------------------------------------------------------------------------
# Note [Collected messages]
# An engine that writes its own rows when its work is done can write the messages of that work in the same statement: a
# round trip less for each. Until then a message waits among the transaction's commit hooks, because Django forgets those
# with their savepoint, exactly as PostgreSQL would forget the row. Numbers are drawn in the order of publishing, under
# the same locks, so the order of a key stays what it was. Inside a collection another one collects nothing: its messages
# belong to the outer one, which alone knows what was published before them.
_is_collecting: ContextVar[bool] = ContextVar("outbox_is_collecting", default=False)


class _Waiting:
    """A published message that is not written yet: a commit hook that has to be gone before the commit."""

    __slots__ = ("row",)

    def __init__(self, row: _Row) -> None:
        self.row = row

    def __call__(self) -> NoReturn:
        raise RuntimeError(f"the message {self.row.id} to {self.row.topic} was committed without being written")


class Collected:
    """The messages that are published in a ``collecting`` block, and that no rolled back savepoint has taken away."""

    def __init__(self, *, is_inner: bool) -> None:
        self._is_inner = is_inner

    def take(self) -> dict[str, Any]:
        """The values of WITH_MESSAGES, when there are any: the caller writes them. Empty: there is nothing to write."""
        rows = self._take()
        if not rows:
            return {}
        _wake_relay()
        return {
            "messages": orjson.dumps(rows).decode(),
            "messages_at": timezone.now(),
            "messages_relayed": is_relayed(),
        }

    def write(self) -> None:
        """Write what was published and not taken."""
        if rows := self._take():
            _insert(rows)

    def discard(self) -> None:
        """The work of the block failed, and what it published is not sent."""
        self._take()

    def _take(self) -> list[_Row]:
        if self._is_inner:
            return []
        hooks = connection.run_on_commit
        rows = [hook.row for _, hook, *_ in hooks if isinstance(hook, _Waiting)]
        if rows:
            connection.run_on_commit = [entry for entry in hooks if not isinstance(entry[1], _Waiting)]
        return rows


@contextmanager
def collecting() -> Iterator[Collected]:
    """Keep the messages that are published in this block, to be written by one who writes other rows too.

    Inside a transaction only. What nobody took is written at the end of the block; when the block raises, it is not sent.
    """
    is_inner = _is_collecting.get()
    collected = Collected(is_inner=is_inner)
    token = _is_collecting.set(True)
    try:
        yield collected
    except BaseException:
        collected.discard()
        raise
    else:
        collected.write()
    finally:
        _is_collecting.reset(token)
