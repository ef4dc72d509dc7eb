"""What the logs say of postings: one line for an entry alone, a summary for many, and each refusal under its tracekey."""

import logging
from collections.abc import Sequence

from apps.common.errors import DomainError
from apps.ledger.rules import Entry, EntryResult, PostResult
from apps.observability import ids

logger = logging.getLogger(__name__)

# Refusals of one batch that are written one by one; whoever has more has one mistake. All of them are in its answer.
REFUSALS_MAX = 100


def tell_posted(posting: PostResult) -> None:
    """An entry was posted alone."""
    with ids.bound(tracekey=str(posting.tracekey)):
        if posting.replayed:
            logger.info("posted before")
        else:
            logger.info("posted, lines: %s", len(posting.lines))


def tell_refused(entry: Entry, refusal: DomainError) -> None:
    """An entry was refused."""
    with ids.bound(tracekey=str(entry.tracekey)):
        logger.info("refused: %s %s", refusal.code, refusal.detail)


def tell_queued(entries: Sequence[Entry]) -> None:
    """Entries wait in the queue."""
    if len(entries) == 1:
        with ids.bound(tracekey=str(entries[0].tracekey)):
            logger.info("queued")
    else:
        logger.info("queued %s entries", len(entries))


def tell_results(results: Sequence[EntryResult]) -> None:
    """What became of a batch. Call it when it is committed."""
    if not logger.isEnabledFor(logging.INFO):
        return
    refused = [result for result in results if result.refusal is not None]
    for tracekey, _, refusal in refused[:REFUSALS_MAX]:
        with ids.bound(tracekey=str(tracekey)):
            logger.info("refused: %s %s", refusal and refusal.code, refusal and refusal.detail)
    if len(results) == 1 and not refused and results[0].posting:
        tell_posted(results[0].posting)
    else:
        logger.info("batch: %s posted, %s refused", len(results) - len(refused), len(refused))
