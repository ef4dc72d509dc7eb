"""Tables partitioned by time: partitions are opened ahead, and dropped whole when nothing in them is kept.

The key begins with its time (UUID version 7), so a range of keys is a range of time. The default partition takes what no
partition is open for: a row is never refused because a maintenance task did not run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from uuid import UUID

from django.db import OperationalError, connection
from psycopg import sql

from apps.common.clock import first_uuid7
from apps.common.transactions import transaction

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = "2s"  # opening and dropping wait for readers, and writers wait behind them: rather try again later


class Span(Enum):
    """How much time one partition holds; the value is what its name ends with."""

    DAY = "%Y%m%d"
    MONTH = "%Y%m"

    def start(self, moment: datetime) -> date:
        """The first day (UTC) of the span in which a moment falls."""
        day = moment.astimezone(UTC).date()
        return day if self is Span.DAY else day.replace(day=1)

    def after(self, start: date) -> date:
        """The first day of the next span."""
        # 31 days after the first of a month is always in the next one.
        return start + timedelta(days=1) if self is Span.DAY else (start + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table partitioned by ranges of a UUID7, and how its partitions are opened and dropped."""

    table: str
    key: str
    span: Span

    @property
    def default(self) -> str:
        """The partition for what no other is open for."""
        return f"{self.table}_default"

    def name(self, start: date) -> str:
        """The partition that begins on this day."""
        return f"{self.table}_{start.strftime(self.span.value)}"

    def bounds(self, start: date) -> tuple[UUID, UUID]:
        """The lowest key of the partition, and the lowest one after it."""
        low, high = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (start, self.span.after(start)))
        return first_uuid7(low), first_uuid7(high)

    def is_there(self) -> bool:
        """Is the table in the database, and partitioned?"""
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'p'", [self.table])
            return cursor.fetchone() is not None

    def starts(self) -> list[date]:
        """The first days of the partitions that are there, in order."""
        digits = 8 if self.span is Span.DAY else 6
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                "WHERE i.inhparent = %s::regclass AND c.relname ~ %s ORDER BY 1",
                [self.table, f"^{self.table}_[0-9]{{{digits}}}$"],
            )
            names = [name for (name,) in cursor.fetchall()]
        return [datetime.strptime(name[-digits:], self.span.value).date() for name in names]  # noqa: DTZ007  # a date

    def open_ahead(self, *, now: datetime, ahead: int, lock_timeout: str = LOCK_TIMEOUT) -> None:
        """Open the present partition and so many after it. Safe to repeat, and to run beside itself."""
        there, start = set(self.starts()), self.span.start(now)
        for _ in range(ahead + 1):
            if start not in there:
                self.quietly(self.open, start, lock_timeout=lock_timeout)
            start = self.span.after(start)

    def quietly(self, change: Callable[..., object], start: date, **options: object) -> bool:
        """Open or drop a partition, and whether it says so; when the table is busy for too long, the next try does it."""
        try:
            return bool(change(start, **options))
        except OperationalError as error:
            logger.warning("%s has to wait for the next try: %s", self.name(start), error)
            return False

    @transaction
    def open(self, start: date, *, lock_timeout: str = LOCK_TIMEOUT) -> None:
        """Open one partition, and move what came for it before. Raises OperationalError when the table is busy."""
        low, high = self.bounds(start)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
            # Two may meet here; the second waits, and finds the partition made.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self.table])
            cursor.execute("SELECT to_regclass(%s)", [self.name(start)])
            if cursor.fetchone()[0] is not None:
                return
            statements = (
                "CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
                # Writers wait at the table. Who had chosen the default partition already, and waited there for the lock
                # below, would be refused by the server when the row belongs into the new one. Readers go on.
                "LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE",
                # Rows of this span that came before it was opened. Without a lock more could come until the last statement.
                "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
                """WITH moved AS (DELETE FROM {default} WHERE {key} >= {low} AND {key} < {high} RETURNING *)
                   INSERT INTO {partition} SELECT * FROM moved""",
                "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high})",
            )
            for statement in statements:
                cursor.execute(
                    sql.SQL(statement).format(
                        table=sql.Identifier(self.table),
                        partition=sql.Identifier(self.name(start)),
                        default=sql.Identifier(self.default),
                        key=sql.Identifier(self.key),
                        low=sql.Literal(str(low)),
                        high=sql.Literal(str(high)),
                    )
                )

    @transaction
    def drop_if_empty(self, start: date, *, lock_timeout: str = LOCK_TIMEOUT) -> bool:
        """Drop one partition if no row is in it. Was it dropped? Raises OperationalError when the table is busy."""
        partition = sql.Identifier(self.name(start))
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
            cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(partition))
            if cursor.fetchone()[0]:
                return False
            # Looked at again under the lock. The table first, as everybody does who comes to a partition through it.
            cursor.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(self.table)))
            cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(partition))
            if cursor.fetchone()[0]:
                return False
            cursor.execute(sql.SQL("DROP TABLE {}").format(partition))
        return True

    @transaction
    def drop(
        self,
        start: date,
        *,
        keep: Callable[[UUID, UUID], bool] = lambda _low, _high: False,
        lock_timeout: str = LOCK_TIMEOUT,
    ) -> bool:
        """Drop one partition, unless ``keep`` says of its bounds that something in it is still needed. Was it dropped?

        Raises OperationalError when the table is busy.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
            if keep(*self.bounds(start)):
                return False
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(self.name(start))))
        return True
