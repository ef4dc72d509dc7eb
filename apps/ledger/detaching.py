"""Months that are sealed go to a file, leave the table, and come back. Every step proves what it relies on.

Note [Nothing lost]
    SEALED → EXPORTED: the file is written beside its name, renamed when it is whole and on disk, and read back: only when
    each part's hash is right does the row say so, in the same commit. → DETACHED: the file is read once more, then the
    partition is detached and the row says so, in one commit. Its table stays under its name until somebody drops it, who
    has the file read again before. Killed anywhere, a step has happened or not, and is simply repeated.
    Months are detached from the oldest on, and come back from the newest on, so what is not in the table are always all
    months up to one: sums go on from that month's closing balances. The default partition refuses their days meanwhile.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from django.db import connection
from psycopg import sql

from apps.common import parquet
from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.ledger import chain, month_files, seals
from apps.ledger.chain_lines import COLUMNS, SELECTED, Line, after
from apps.ledger.chain_models import Month
from apps.ledger.months import TRANSACTIONS
from apps.ledger.rows import columns, fetch
from apps.ledger.seals import LOCK_TIMEOUT, WrongMonthState, lock_months, name_of

logger = logging.getLogger(__name__)

_OF_MONTH = "ledger_transaction_of_month"
MONTHS_AT_ONCE = 12  # worked at by one call
STEPS_MAX = 3 * MONTHS_AT_ONCE


class ArchiveDamaged(DomainError):
    """The archive's file is missing, or its lines are not those that were sealed."""

    code = "R138"


@transaction
def export_month(month: date, *, directory: Path, by: str, now: datetime) -> Month:
    """Write a sealed month to its file and read it back. Safe to repeat: then the file is written anew, if it is damaged.

    Raises WrongMonthState for a month that is not sealed, ArchiveDamaged when what was written is not what was sealed.
    """
    row = _locked(month)
    if row.state != Month.State.SEALED and month_files.difference(row, directory) is None:
        if month_files.closings_difference(month, directory):  # these never leave the database
            month_files.write_closings(month, directory)
        return row
    if row.state == Month.State.DETACHED:
        raise ArchiveDamaged(f"{month_files.difference(row, directory)}. Attach the month first.", field="month")
    chain.share_partitions()
    row.path, row.file_hash = month_files.write(month, directory), b""
    _check_file(row, directory)
    row.file_hash = parquet.file_hash(month_files.file_of(directory, row.path))
    row.state, row.exported_at, row.exported_by = Month.State.EXPORTED, now, by
    row.save()
    return row


@transaction
def detach_month(month: date, *, directory: Path, by: str, now: datetime) -> Month:
    """Take an exported month out of the table, after its file was read again; its own table stays. Safe to repeat.

    Raises WrongMonthState when it is not exported or an earlier month has lines in the table, ArchiveDamaged, and
    OperationalError when the table is busy for too long.
    """
    row = _locked(month)
    if row.state == Month.State.DETACHED:
        return row
    if row.state != Month.State.EXPORTED:
        raise WrongMonthState(f"{name_of(month)} is not exported.", field="month")
    earlier = Month.objects.filter(month__lt=month).exclude(state=Month.State.DETACHED).order_by("month").first()
    if earlier is not None:
        raise WrongMonthState(f"{name_of(earlier.month)} has to be detached before.", field="month")
    _check_file(row, directory)
    with _partitions() as cursor:
        cursor.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(
                sql.Identifier(TRANSACTIONS.table), sql.Identifier(TRANSACTIONS.name(month))
            )
        )
        _bar_default(cursor, after(month))
    row.state, row.detached_at, row.detached_by = Month.State.DETACHED, now, by
    row.save()
    return row


@transaction
def drop_detached(month: date, *, directory: Path) -> bool:
    """Drop the table that a detached month left behind, after its file was read again. Was it there?

    Raises WrongMonthState for a month that is not detached, ArchiveDamaged.
    """
    row = _locked(month)
    if row.state != Month.State.DETACHED:
        raise WrongMonthState(f"{name_of(month)} is not detached.", field="month")
    if not _is_there(month):
        return False
    _check_file(row, directory)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(TRANSACTIONS.name(month))))
    return True


@transaction
def attach_month(month: date, *, directory: Path) -> Month:
    """Bring a detached month back: its own table if it is still there, else from the file. Safe to repeat.

    Its lines are proved before they are seen. Raises WrongMonthState when a later month is detached, or this one was
    never exported; ArchiveDamaged; OperationalError when the table is busy for too long.
    """
    row = _locked(month)
    if row.state == Month.State.EXPORTED:
        return row
    if row.state != Month.State.DETACHED:
        raise WrongMonthState(f"{name_of(month)} is not detached.", field="month")
    later = Month.objects.filter(month__gt=month, state=Month.State.DETACHED).order_by("-month").first()
    if later is not None:
        raise WrongMonthState(f"{name_of(later.month)} has to come back before.", field="month")
    if not _is_there(month):
        _check_file(row, directory)
        _restore(row, directory)
    if what := seals.differing_part(month, _lines_of(TRANSACTIONS.name(month))):  # a table that lay about
        raise ArchiveDamaged(f"In the table {TRANSACTIONS.name(month)} {what}.", field="month")
    _bound(month)
    with _partitions() as cursor:
        _bar_default(cursor, month if Month.objects.filter(month__lt=month, state=Month.State.DETACHED).exists() else None)
        cursor.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(TRANSACTIONS.table),
                sql.Identifier(TRANSACTIONS.name(month)),
                sql.Literal(str(month)),
                sql.Literal(str(after(month))),
            )
        )
        cursor.execute(f"ALTER TABLE {TRANSACTIONS.name(month)} DROP CONSTRAINT {_OF_MONTH}")
    seals.refuse_changes(month)
    row.state = Month.State.EXPORTED
    row.save()
    return row


def archive_months(
    *, online: int, directory: Path, by: str, now: datetime, steps_max: int = STEPS_MAX
) -> list[tuple[date, str]]:
    """Seal the months that are over, and export and detach all but the last ``online`` whole ones, step by step.

    What was done: months and their new states. 0: does nothing at all. The days of a month that is sealed are closed
    before. Tables stay for somebody to drop. Stops at the first month that is not ready; past one that was brought back by
    hand nothing is exported or detached, and months are sealed all the same. Safe to repeat.
    """
    if not online:
        return []
    steps = _steps(online=online, directory=directory, by=by, now=now)
    return [(row.month, row.state) for row in islice(steps, steps_max)]


def _steps(*, online: int, directory: Path, by: str, now: datetime) -> Iterator[Month]:
    """One commit for each row that is given."""
    back = _brought_back(online, now)
    if back is not None:
        logger.info("%s was brought back: it and all later months stay until somebody detaches it", name_of(back))
    for month in _due(online, now, back):
        row = Month.objects.filter(month=month).first()
        if row is None:
            try:
                seals.close_days(month, now=now)
                row = seals.seal_month(month, by=by, now=now)
            except seals.MonthNotReady as reason:
                logger.info("%s is not sealed: %s", name_of(month), reason)
                return
            yield row
        if not _is_older(month, online, now) or (back is not None and month >= back):
            continue
        if row.state == Month.State.SEALED:
            row = export_month(month, directory=directory, by=by, now=now)
            yield row
        yield detach_month(month, directory=directory, by=by, now=now)


# Months without lines have no part; they may be sealed all the same.
_FIRST = """
SELECT least((SELECT min(month) FROM ledger_month WHERE state <> 'DETACHED'), (
    SELECT min(p.month) FROM ledger_block_part p
    WHERE NOT EXISTS (SELECT FROM ledger_month m WHERE m.month = p.month AND m.state = 'DETACHED')))
"""


def _brought_back(online: int, now: datetime) -> date | None:
    """The first month that would not be here, had nobody brought it back."""
    row = Month.objects.filter(state=Month.State.EXPORTED, detached_at__isnull=False).order_by("month").first()
    return row.month if row and _is_older(row.month, online, now) else None


def _due(online: int, now: datetime, back: date | None) -> list[date]:
    """The first months with something to do, in order: those that are over and not sealed, and those that need not stay."""
    month = fetch(_FIRST, [])[0][0]
    states = dict(Month.objects.values_list("month", "state"))  # a row for each month, for years
    sealed_last = max(states, default=date.min)
    months: list[date] = []
    while month is not None and after(month) <= business_date(now) and len(months) < MONTHS_AT_ONCE:
        if month in states:
            may_go = back is None or month < back
            is_due = states[month] != Month.State.DETACHED and may_go and _is_older(month, online, now)
        else:
            is_due = month > sealed_last  # else it has no lines and was passed over: it can't be sealed any more
        if is_due:
            months.append(month)
        month = after(month)
    return months


def _is_older(month: date, online: int, now: datetime) -> bool:
    """Did so many whole months end since this one?"""
    oldest = business_date(now).replace(day=1)
    for _ in range(online):
        oldest = (oldest - timedelta(days=1)).replace(day=1)
    return month < oldest


def _locked(month: date) -> Month:
    lock_months()
    row = Month.objects.filter(month=month).first()
    if row is None:
        raise WrongMonthState(f"{name_of(month)} is not sealed.", field="month")
    return row


def _check_file(row: Month, directory: Path) -> None:
    if what := month_files.difference(row, directory):
        raise ArchiveDamaged(f"{what}.", field="month")


def _is_there(month: date) -> bool:
    return bool(fetch("SELECT to_regclass(%s) IS NOT NULL", [TRANSACTIONS.name(month)])[0][0])


def _partitions() -> Any:
    """A cursor, while nobody else opens, reads for the chain, detaches or attaches partitions; to the commit."""
    cursor = connection.cursor()
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [TRANSACTIONS.table])
    return cursor


def _bar_default(cursor: Any, first: date | None) -> None:
    """Let the default partition refuse days before this one: their months are in files. None: let it take every day."""
    default = sql.Identifier(TRANSACTIONS.default)
    cursor.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS ledger_transaction_online").format(default))
    if first is not None:
        statement = "ALTER TABLE {} ADD CONSTRAINT ledger_transaction_online CHECK (dateref >= {})"
        cursor.execute(sql.SQL(statement).format(default, sql.Literal(str(first))))


# jsonb's own text gives the same text again; a time in microseconds is exact in a numeric.
_RESTORED = {
    "details": "k.details::jsonb",
    "createdat": "timestamptz 'epoch' + k.createdat * interval '1 microsecond'",
}
_KINDS = {
    "seq": "bigint",
    "eventcode": "int",
    "createdat": "bigint",
    **dict.fromkeys(("id", "tracekey"), "uuid"),
    **dict.fromkeys(("balanced", "deferred"), "bool"),
    **dict.fromkeys(("amount", "balanceafter", "pendingafter", "dayafter", "daynet"), "numeric"),
    "dateref": "date",
}


def _restore(row: Month, directory: Path) -> None:
    """Make the month's table again and fill it from the file; it belongs to nothing yet."""
    names, table = ", ".join(COLUMNS), sql.Identifier(TRANSACTIONS.name(row.month))
    values = ", ".join(_RESTORED.get(name, f"k.{name}") for name in COLUMNS)
    arrays = ", ".join(f"%s::{_KINDS.get(name, 'text')}[]" for name in COLUMNS)
    insert = sql.SQL(f"INSERT INTO {{}} ({names}) SELECT {values} FROM unnest({arrays}) AS k ({names})")  # noqa: S608  # names
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)").format(
                table, sql.Identifier(TRANSACTIONS.table)
            )
        )
        for lines in month_files.read(directory, row.path):
            cursor.execute(insert.format(table), _columns(lines))


def _columns(lines: Sequence[Line]) -> list[str]:
    return columns(lines, len(COLUMNS))


def _lines_of(table: str) -> Iterator[Line]:
    """The lines of a table of a month in the order of seq, in memory that does not grow with them."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(f"SELECT {SELECTED} FROM {table} ORDER BY seq, id")  # noqa: S608 - names of ours
        while lines := cursor.fetchmany(month_files.LINES_AT_ONCE):
            yield from lines


def _bound(month: date) -> None:
    """Prove that all lines are of the month, so that attaching, which keeps others out, has nothing to read."""
    table = TRANSACTIONS.name(month)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {_OF_MONTH}")
        cursor.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {_OF_MONTH} CHECK (dateref >= '{month}' AND dateref < '{after(month)}')"
        )
