"""The months of ``ledger_transaction``: partitions over ``dateref``, so a month is whole when its days are closed."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from apps.common.partitions import Partitioned, Span
from apps.ledger.rules import BACKDATE_DAYS_MAX

MONTHS_AHEAD = 3  # of a maintenance task that does not run, before lines land in the default partition


@dataclass(frozen=True, slots=True)
class PartitionedByDate(Partitioned):
    """A table partitioned by ranges of a date."""

    def bounds(self, start: date) -> tuple[date, date]:  # type: ignore[override]  # a date where others have a UUID7
        """The first day of the partition, and the first one after it."""
        return start, self.span.after(start)


TRANSACTIONS = PartitionedByDate("ledger_transaction", key="dateref", span=Span.MONTH)


def open_ahead(*, now: datetime) -> None:
    """Open the months of the days that may be posted to, and those after them. Safe to repeat, and beside itself."""
    first = now - timedelta(days=BACKDATE_DAYS_MAX + 1)
    # The oldest partition may hold all months before it, too: those are not opened any more.
    if (there := TRANSACTIONS.starts()) and there[0] > first.date():
        first = now
    TRANSACTIONS.open_ahead(now=first, ahead=MONTHS_AHEAD)
