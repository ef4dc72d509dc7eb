"""The months of the saga's tables. See Note [Months] in models.py."""

from datetime import datetime

from apps.common.partitions import Partitioned, Span

MONTHS_AHEAD = 3  # of a maintenance task that does not run, before runs land in the default partition
RUNS = Partitioned("saga_run", key="id", span=Span.MONTH)
STEPS = Partitioned("saga_step", key="run_id", span=Span.MONTH)
ATTEMPTS = Partitioned("saga_attempt", key="run_id", span=Span.MONTH)
TABLES = (RUNS, STEPS, ATTEMPTS)


def open_ahead(*, now: datetime) -> None:
    """Open the present month and those after it. Safe to repeat, and to run beside itself."""
    for table in TABLES:
        table.open_ahead(now=now, ahead=MONTHS_AHEAD)
