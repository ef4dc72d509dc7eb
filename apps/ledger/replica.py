"""Questions may be put to a replica by callers who say how fresh the answer has to be.

Note [Fresh enough]
    A replica is a moment behind, so nobody reads from it without saying so. What a caller says is a position in the
    database's log (an LSN): every write answers with one, and whoever shows it reads what that write wrote, or something
    newer. The replica is asked whether it has come that far, for WAIT_S at most; otherwise the primary answers, which is
    never wrong. ``0/0`` asks for nothing in particular, and a replica that is long behind is left alone even then.
    Every failure of the replica has the same end: the primary answers. That includes queries that the replica cancels,
    because they are in the way of what it replays, and a replica that was promoted: its log is another one from there on.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections

from apps.common.errors import InvalidRequest
from apps.ledger import reading

logger = logging.getLogger(__name__)

REPLICA = "replica"  # of DATABASES; there when DATABASE_REPLICA_URL is set
WAIT_S = 0.2  # a replica is milliseconds behind; one that is not would keep callers waiting for nothing
POLL_S = 0.01
PAUSE_AFTER_FAILURE_S = 5.0  # as long a process leaves a replica alone that could not be reached

T = TypeVar("T")
_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a question found, and where. ``lsn``: the position up to which the replica knew everything."""

    value: T
    source: Literal["primary", "replica"]
    lsn: str | None = None


class _Link:
    """What this process knows of the replica. Threads may meet here: the worst is a second line in the log."""

    is_down = False
    resting_until = 0.0

    def failed(self, error: Exception) -> None:
        self.resting_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
        if not self.is_down:
            logger.warning("the replica does not answer, so the primary does: %r", error)
        self.is_down = True

    def answered(self) -> None:
        if self.is_down:
            logger.warning("the replica answers again")
        self.is_down = False


link = _Link()


def is_configured() -> bool:
    """Is there a replica?"""
    return REPLICA in connections.databases


def written_lsn() -> str | None:
    """A position behind everything that is committed by now; None without a replica, where nobody needs one.

    A statement of its own, after the commit.
    """
    if not is_configured():
        return None
    return str(reading.fetch("SELECT pg_current_wal_insert_lsn()::text", [])[0][0])


def check_lsn(text: str) -> str:
    """Raises InvalidRequest for what is no position."""
    if not _LSN.fullmatch(text):
        raise InvalidRequest("min_lsn is what a write answered as Ledger-Lsn, or 0/0.", field="min_lsn")
    return text


def ask(question: Callable[[], T], *, min_lsn: str | None) -> Answer[T]:
    """Put a question to the replica if it has come to ``min_lsn``, else to the primary. See Note [Fresh enough].

    None is for callers who need the newest. The question may be put twice. Raises what it raises.
    """
    if min_lsn is not None and is_configured() and time.monotonic() >= link.resting_until:
        try:
            with reading.reading_from(REPLICA):
                if lsn := _reached(min_lsn):
                    return Answer(question(), "replica", lsn)
        except (DatabaseError, InterfaceError) as error:
            leave(error)
    value = question()
    # Taken behind the question, so that what is asked next is no older. Who named no position needs none.
    return Answer(value, "primary", None if min_lsn is None else written_lsn())


def leave(error: Exception) -> None:
    """The replica failed: let go of it, for a while unless it only cancelled what was in its way."""
    connections[REPLICA].close()
    if isinstance(error.__cause__, psycopg.errors.SerializationFailure):
        logger.info("the replica cancelled a query, so the primary answers: %r", error)
    else:
        link.failed(error)


_STATE = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, pg_last_wal_replay_lsn() >= %s::pg_lsn,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) <= %s
"""


def _reached(min_lsn: str) -> str | None:
    """How far the replica has come, if that is far enough, now or in a moment."""
    end = time.monotonic() + WAIT_S
    while True:
        is_replica, lsn, is_there, is_young = reading.fetch(_STATE, [min_lsn, settings.DATABASE_REPLICA_LAG_MAX_S])[0]
        if not is_replica:
            link.failed(RuntimeError("It is no replica (any more)."))
            return None
        link.answered()
        if is_there and (is_young or _is_idle()):
            return str(lsn)
        if is_there or time.monotonic() >= end:
            return None
        time.sleep(POLL_S)


def _is_idle() -> bool:
    """The last commit that the replica knows is old: was there no other one?"""
    with reading.reading_from(DEFAULT_DB_ALIAS):
        newest = written_lsn()
    return bool(reading.fetch("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [newest])[0][0])


def behind_bytes() -> int | None:
    """How much of the log the replica has not replayed yet; None when it does not answer."""
    newest = written_lsn()
    try:
        with reading.reading_from(REPLICA):
            sql = "SELECT greatest(pg_wal_lsn_diff(%s::pg_lsn, pg_last_wal_replay_lsn()), 0) WHERE pg_is_in_recovery()"
            found = reading.fetch(sql, [newest])
    except (DatabaseError, InterfaceError) as error:
        leave(error)
        return None
    return int(found[0][0]) if found else None
