"""The message log's days: partitions opened ahead, and dropped when they are older than they are kept for."""

import logging
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection

from apps.common.clock import first_uuid7 as first_message_id
from apps.common.clock import time_of_uuid7
from apps.common.partitions import Partitioned, Span

__all__ = ["DAYS_AHEAD", "LOCK_TIMEOUT", "days", "first_message_id", "maintain"]

logger = logging.getLogger(__name__)

DAYS_AHEAD = 14  # of a maintenance task that does not run, before messages land in the default partition
LOCK_TIMEOUT = "2s"  # opening and dropping wait for readers, and publishers wait behind them: rather try again later
LOG = Partitioned("messaging_message", key="id", span=Span.DAY)


def days() -> list[date]:
    """The days that have a partition of their own, in order."""
    return LOG.starts()


def maintain(*, now: datetime) -> None:
    """Open the days ahead and drop those that are too old. Safe to repeat, and to run beside itself."""
    LOG.open_ahead(now=now, ahead=DAYS_AHEAD, lock_timeout=LOCK_TIMEOUT)
    _open_missed(now)
    there = days()
    if settings.MESSAGE_LOG_DAYS:
        oldest = now.astimezone(UTC).date() - timedelta(days=settings.MESSAGE_LOG_DAYS)
        for day in there:
            if day < oldest:
                LOG.quietly(_drop, day)


def _open_missed(now: datetime) -> None:
    """Give days of their own to what came when none was open, weeks ago perhaps: else it would be kept for ever."""
    before = LOG.bounds(now.astimezone(UTC).date())[0]
    missed = None
    for _ in range(DAYS_AHEAD):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM {LOG.default} WHERE id < %s ORDER BY id LIMIT 1", [before])  # noqa: S608
            found = cursor.fetchone()
        if found is None or found == missed:  # the table is busy: the next call does it
            return
        missed = found
        LOG.quietly(_open, time_of_uuid7(found[0]).date())


def _open(day: date) -> None:
    LOG.open(day, lock_timeout=LOCK_TIMEOUT)


def _drop(day: date) -> None:
    if not LOG.drop(day, keep=_is_needed, lock_timeout=LOCK_TIMEOUT):
        logger.error("messages of %s are still not sent: their day is kept", day)


def _is_needed(low: UUID, high: UUID) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM messaging_pending WHERE message_id >= %s AND message_id < %s)", [low, high]
        )
        return bool(cursor.fetchone()[0])
