"""One group for each way in which a consumer may commit. Imported only by the processes of a deployment."""

from collections.abc import Sequence

from django.db import connection, transaction

from apps.common.errors import DomainError
from apps.messaging.public import Meta, Received, handles, handles_batch
from tests.failures.deployed import breakpoints
from tests.failures.deployed.numbers import BATCH, SHARED, SINGLE, Misplaced, Numbered

BATCH_ROWS_MAX = 50


class NotHandled(DomainError):
    """The tests' handlers take no negative number."""

    code, status = "R699", 422


def _effect(group: str, message: Numbered | Misplaced) -> None:
    if message.n < 0:
        raise NotHandled
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO deployed_effect ("group", key, n, previous)
               SELECT %s, %s, %s, coalesce(max(n), 0) FROM deployed_effect WHERE "group" = %s AND key = %s""",
            [group, message.key, message.n, group, message.key],
        )
    breakpoints.reach(f"{group}.inside")
    # Called when the database has committed, before the consumer can do anything about the offset.
    transaction.on_commit(lambda: breakpoints.reach(f"{group}.committed"))


@handles(Numbered, group=SINGLE)
def one_commit_each(message: Numbered, _meta: Meta) -> None:
    """The default."""
    _effect(SINGLE, message)


@handles(Numbered, group=SHARED, shares_commit=True)
def several_in_one_commit(message: Numbered, _meta: Meta) -> None:
    """As many as a poll brings."""
    _effect(SHARED, message)


@handles_batch(Numbered, group=BATCH, rows_max=BATCH_ROWS_MAX)
def a_batch(received: Sequence[Received[Numbered]]) -> None:
    """Several in one call."""
    for one in received:
        _effect(BATCH, one.message)


@handles(Misplaced, group=SINGLE)
def misplaced(message: Misplaced, _meta: Meta) -> None:
    """From the topic that was missing."""
    _effect(SINGLE, message)
