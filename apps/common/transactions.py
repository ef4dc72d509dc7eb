"""Three words for transactions; every writing function wears one.

- ``@transaction``: I am the commit. Calling me inside a transaction is an error.
- ``@transaction_required``: I am part of yours.
- ``@durable``: I hold none, because I wait for the network.
"""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection
from django.db import transaction as django_transaction

P = ParamSpec("P")
R = TypeVar("R")


class TransactionMisuse(RuntimeError):
    """A function was called on the wrong side of a transaction's edge: a bug of the caller."""


def in_transaction() -> bool:
    """Is a transaction open that our code opened? (The one a TestCase wraps around a test does not count.)"""
    for block in connection.atomic_blocks:  # noqa: SIM110  # every verb asks, and a generator costs more than the answer
        if not getattr(block, "_from_testcase", False):
            return True
    return False


def transaction(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that is exactly one commit. Raises TransactionMisuse when a transaction is already open."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if in_transaction():
            raise TransactionMisuse(f"{function.__qualname__} is a commit of its own and was called inside a transaction.")
        with django_transaction.atomic(durable=True):
            return function(*args, **kwargs)

    return wrapper


def transaction_required(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that writes as a part of its caller's commit. Raises TransactionMisuse outside one."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not in_transaction():
            raise TransactionMisuse(f"{function.__qualname__} is a part of a commit and was called outside a transaction.")
        return function(*args, **kwargs)

    return wrapper


def durable(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that waits for the network. Raises TransactionMisuse when a transaction is open."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if in_transaction():
            raise TransactionMisuse(f"{function.__qualname__} waits for the network and was called inside a transaction.")
        return function(*args, **kwargs)

    return wrapper


def leave_connection() -> None:
    """For whoever will wait long for somebody else: of a pool others may have the connection meanwhile."""
    if not connection.in_atomic_block and connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()


class _KeptSavepoint(django_transaction.Atomic):
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None and connection.savepoint_ids and not connection.needs_rollback:
            connection.atomic_blocks.pop()
            connection.savepoint_ids.pop()
            return
        super().__exit__(exc_type, exc_value, traceback)


def kept_savepoint() -> django_transaction.Atomic:
    """A block within a transaction that is rolled back when it raises, as ``atomic()``.

    When it does not, its savepoint is left to the commit instead of being released: a round trip less. For a few blocks
    in one transaction, not for loops, because the server keeps every savepoint.
    """
    return _KeptSavepoint(DEFAULT_DB_ALIAS, savepoint=True, durable=False)
