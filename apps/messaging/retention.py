"""How long the post office keeps what is done: days, as a broker would, never counts."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from apps.common.transactions import transaction
from apps.messaging import partitions

# The inbox is the guarantee "once only": a copy that comes later than this takes effect again, and a group that lost its
# offsets reads all that the broker still has. That is more than its retention: Kafka deletes whole segments, and one takes
# records for a week. (Dead letters are kept for longer; replays of them get a new id.)
SEGMENT_DAYS = 7
INBOX_KEPT_FOR = timedelta(
    days=SEGMENT_DAYS + max(days for kind, days in settings.TOPIC_RETENTION_DAYS.items() if kind != "error")
)
LOCAL_RECORDS_KEPT_FOR = timedelta(days=7)
ROWS_MAX = 5_000  # one batch: a short transaction

# By the primary key, in whose order the rows were made: no other index is needed.
_DELETE = """
DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT %s) AND {column} < %s
"""
_TABLES = (
    ("messaging_inbox", "handled_at", INBOX_KEPT_FOR),
    ("messaging_localrecord", "appended_at", LOCAL_RECORDS_KEPT_FOR),
)


@transaction
def _batch(table: str, column: str, before: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_DELETE.format(table=table, column=column), [ROWS_MAX, before])
        return int(cursor.rowcount)


def forget(*, now: datetime, batches_max: int = 100) -> int:
    """Delete what is older than it is kept for. How many rows; safe to repeat, bounded per call.

    The message log goes by whole days, which are not counted; the days ahead are opened here too.
    """
    partitions.maintain(now=now)
    deleted = 0
    for table, column, kept_for in _TABLES:
        for _ in range(batches_max):
            rows = _batch(table, column, now - kept_for)
            deleted += rows
            if rows < ROWS_MAX:
                break
    return deleted
