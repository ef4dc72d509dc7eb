"""The message log's days: partitions opened ahead, and dropped when they are older than they are kept for.

An id begins with its time (UUID version 7), so a range of ids is a range of time. The default partition takes what no
day is open for: a message is never refused because a maintenance task did not run.
"""

import logging
import uuid
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection
from psycopg import sql

from apps.common.transactions import transaction

logger = logging.getLogger(__name__)

DAYS_AHEAD = 14  # of a maintenance task that does not run, before messages land in the default partition
LOCK_TIMEOUT = "2s"  # opening and dropping wait for readers, and publishers wait behind them: rather try again later
TABLE = "messaging_message"

_BOUNDS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'messaging_message'::regclass AND c.relname ~ '^messaging_message_[0-9]{8}$' ORDER BY 1
"""


def first_message_id(moment: datetime) -> UUID:
    """The lowest id that a message of this moment can have: ids begin with their time, so their index is one of times."""
    milliseconds = max(int(moment.timestamp() * 1000), 0)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (0x2 << 62))


def days() -> list[date]:
    """The days that have a partition of their own, in order."""
    with connection.cursor() as cursor:
        cursor.execute(_BOUNDS)
        return [datetime.strptime(name[-8:], "%Y%m%d").date() for (name,) in cursor.fetchall()]  # noqa: DTZ007  # a date


def maintain(*, now: datetime) -> None:
    """Open the days ahead and drop those that are too old. Safe to repeat, and to run beside itself."""
    there = set(days())
    today = now.astimezone(UTC).date()
    for ahead in range(DAYS_AHEAD + 1):
        day = today + timedelta(days=ahead)
        if day not in there:
            _quietly(_open, day)
    if settings.MESSAGE_LOG_DAYS:
        for day in sorted(there):
            if day < today - timedelta(days=settings.MESSAGE_LOG_DAYS):
                _quietly(_drop, day)


def _quietly(change: object, day: date) -> None:
    try:
        change(day)  # type: ignore[operator]
    except OperationalError as error:
        logger.warning("the log's day %s has to wait for the next try: %s", day, error)


def _name(day: date) -> str:
    return f"{TABLE}_{day:%Y%m%d}"


def _bounds(day: date) -> tuple[UUID, UUID]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return first_message_id(start), first_message_id(start + timedelta(days=1))


@transaction
def _open(day: date) -> None:
    low, high = _bounds(day)
    table, default = sql.Identifier(_name(day)), sql.Identifier(f"{TABLE}_default")
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        # Two may meet here; the second waits, and finds the table made.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [TABLE])
        cursor.execute("SELECT to_regclass(%s)", [_name(day)])
        if cursor.fetchone()[0] is not None:
            return
        statements = (
            "CREATE TABLE {table} (LIKE messaging_message INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
            # Messages of this day that came before it was opened. Without a lock more could come until the last statement.
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
            """WITH moved AS (DELETE FROM {default} WHERE id >= {low} AND id < {high} RETURNING *)
               INSERT INTO {table} SELECT * FROM moved""",
            "ALTER TABLE messaging_message ATTACH PARTITION {table} FOR VALUES FROM ({low}) TO ({high})",
        )
        for statement in statements:
            cursor.execute(
                sql.SQL(statement).format(
                    table=table, default=default, low=sql.Literal(str(low)), high=sql.Literal(str(high))
                )
            )


@transaction
def _drop(day: date) -> None:
    low, high = _bounds(day)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        cursor.execute(
            "SELECT EXISTS (SELECT FROM messaging_pending WHERE message_id >= %s AND message_id < %s)", [low, high]
        )
        if cursor.fetchone()[0]:
            logger.error("messages of %s are still not sent: their day is kept", day)
            return
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(_name(day))))
