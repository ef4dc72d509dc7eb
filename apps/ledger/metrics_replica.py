"""What a scraper is told of the ledger."""

from collections.abc import Iterator

from apps.ledger import replica
from apps.observability.metrics import LEDGER_REPLICA_BEHIND, LEDGER_REPLICA_UP, Reading
from apps.observability.metrics import register as register_source


def register() -> None:
    """Tell of the replica at every scrape, if there is one."""
    if replica.is_configured():
        register_source("ledger_replica", readings, queries=True)


def readings() -> Iterator[Reading]:
    """Does it answer, and how far is it behind?"""
    behind = replica.behind_bytes()
    yield Reading(LEDGER_REPLICA_UP, int(behind is not None))
    if behind is not None:
        yield Reading(LEDGER_REPLICA_BEHIND, behind)
