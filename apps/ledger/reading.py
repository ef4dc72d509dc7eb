"""Where questions are read, on the primary or on a replica, and for how long at most."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections, transaction

from apps.common.errors import DomainError

# What a question over many lines may take: a caller waits no longer for a page, and the next one needs the connection.
STATEMENT_TIMEOUT_MS = 15_000

_alias: ContextVar[str] = ContextVar("lastro_ledger_read_from", default=DEFAULT_DB_ALIAS)


class TooMuchToRead(DomainError):
    """The answer needs more lines than one question may read."""

    code = "R142"


def alias() -> str:
    """The database that this context's questions are put to."""
    return _alias.get()


@contextmanager
def reading_from(name: str) -> Iterator[None]:
    """Put this context's questions to another database while the block runs."""
    token = _alias.set(name)
    try:
        yield
    finally:
        _alias.reset(token)


def fetch(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement where questions are read, and give its rows."""
    with connections[alias()].cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def fetch_limited(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """As ``fetch``, for what reads many lines. Raises TooMuchToRead after STATEMENT_TIMEOUT_MS."""
    try:
        with transaction.atomic(using=alias()):
            fetch("SELECT set_config('statement_timeout', %s, true)", [str(STATEMENT_TIMEOUT_MS)])
            found = fetch(sql, parameters)
            # Nothing was written; and within a caller's transaction its own limit is in force again.
            transaction.set_rollback(True, using=alias())
    except OperationalError as error:
        if _ran_out_of_time(error):
            raise TooMuchToRead(
                f"It takes longer than {STATEMENT_TIMEOUT_MS // 1000} s: ask for a shorter period."
            ) from None
        raise
    return found


def _ran_out_of_time(error: OperationalError) -> bool:
    """Not every cancelled query: a replica cancels those that are in its way, and says so by another code."""
    cause = error.__cause__
    return isinstance(cause, psycopg.errors.QueryCanceled) and "statement timeout" in str(cause)
