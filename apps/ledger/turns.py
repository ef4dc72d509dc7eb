"""Checks take turns: each begins with a lock, and with a snapshot that contains what the last one wrote."""

from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

from apps.common.errors import DomainError
from apps.ledger import increments, reconciliation
from apps.ledger.care_models import Check

# Far above what a check takes: one that hangs must not hold its snapshot for ever.
STATEMENT_TIMEOUTS = {"FULL": "2h", "INCREMENTAL": "10min"}
KILLED_S = 5  # then the server has noticed that a check's process is gone


class CheckRunning(DomainError):
    """Another check is running: they take turns."""

    code, retryable = "R133", True


def take_turn(kind: str, *, wait: str) -> None:
    """One check at a time. The lock comes before the snapshot, which so contains what the last check wrote.

    Months can't come or go from here on, so the table has those that the snapshot knows. Raises CheckRunning.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUTS[kind]}'")
        cursor.execute(f"SET LOCAL lock_timeout = '{wait}'")
        # A worker kills what takes too long; the server would go on by itself, and nobody else had a turn meanwhile.
        cursor.execute(f"SET LOCAL client_connection_check_interval = '{KILLED_S}s'")
        try:
            cursor.execute("LOCK TABLE ledger_proof IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute(reconciliation.KEEP_MONTHS)
        except OperationalError as error:
            if isinstance(error.__cause__, LockNotAvailable):
                raise CheckRunning from None
            raise


def know_server() -> str:
    """Which server this is. Proofs that speak of another one's transactions are forgotten."""
    now, before = increments.cluster(), last_cluster()
    if before not in (None, now):
        increments.forget_proofs()
    return now


def last_cluster() -> str | None:
    """The server of the last check."""
    return Check.objects.exclude(cluster="").order_by("-id").values_list("cluster", flat=True).first()
