"""Batch after batch on one connection: the next one is made ready while the server works on the one before."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING

from apps.common.clock import business_date
from apps.common.meanwhile import Work
from apps.common.transactions import transaction
from apps.ledger import postings
from apps.ledger.commands import Command, results_of
from apps.ledger.rules import Entry, EntryResult

if TYPE_CHECKING:
    from apps.ledger.plain_batch import PlainBatch

_BATCHES_A_COLLECTION = 10  # what a batch leaves is freed without the collector, except for some refusals


def post_batches(batches: Iterable[Sequence[Entry]], *, clock: Callable[[], datetime]) -> Iterator[list[EntryResult]]:
    """Post batches, each as a commit of its own, in order; the results of each, once it is committed.

    A batch is taken from ``batches`` before the one before it is posted, outside of any transaction, so the source may
    wait. Safe to repeat: entries that were posted before answer as they did then. Raises BatchTooLarge for a batch above
    BATCH_LINES_MAX lines when it is that batch's turn, and TransactionMisuse inside a transaction.
    """
    source, done = iter(batches), (list[object](), list[object]())
    with postings.collector_paused():
        ready = _take(source, clock)
        for number in count(1):
            if ready is None:
                return
            following = _take(source, clock)
            results = _post(ready, following, done[0])
            yield results
            done = (done[1], [ready, results])  # the caller may hold the last results until it has the next
            ready = following
            if number % _BATCHES_A_COLLECTION == 0:
                gc.collect(0)


@dataclass(slots=True)
class _Ready:
    """A batch that waits for its turn."""

    entries: Sequence[Entry]
    now: datetime
    plain: "PlainBatch | None"

    def commands(self) -> Iterator[Command]:
        """Made one by one."""
        today = business_date(self.now)
        return (Command(entry, entry.dateref or today) for entry in self.entries)


def _take(source: Iterator[Sequence[Entry]], clock: Callable[[], datetime]) -> _Ready | None:
    entries = next(source, None)
    if entries is None:
        return None
    ready = _Ready(entries, clock(), None)
    if len(entries) >= postings.PLAIN_ENTRIES_MIN:
        ready.plain = postings.plain_batch(ready.commands(), now=ready.now)
    return ready


def _forget(done: list[object]) -> Iterator[None]:
    """What a batch leaves takes its time to be freed: not before the server has work again."""
    done.clear()
    yield


@transaction
def _post(batch: _Ready, following: _Ready | None, done: list[object]) -> list[EntryResult]:
    postings.check_size(batch.entries)
    commands = batch.plain.commands() if batch.plain else list(batch.commands())
    ahead = [following.plain.steps] if following and following.plain else []
    postings.run(commands, now=batch.now, plain=batch.plain, work=Work(_forget(done), *ahead))
    return batch.plain.results() if batch.plain else results_of(commands)
