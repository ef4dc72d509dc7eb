"""Posting a file of entries, batch by batch, each a commit of its own.

Whoever is killed loses the batch that was not committed, and nobody has to know which: the same file again posts what is
missing, because every tracekey is posted once.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import sleep

from django.db import InterfaceError, OperationalError, connection

from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.ledger.entry_files import Batch, EntryFile, Refused
from apps.ledger.postings import post_batch
from apps.ledger.rules import Entry, EntryResult
from apps.ledger.streams import post_batches

PAUSES_S = (0.1, 0.5, 2.0, 5.0)  # before the same batch is tried again: a deadlock is over at once, a restart in seconds

Answers = Iterator[list[EntryResult]]
Poster = Callable[[Iterator[Sequence[Entry]]], Answers]


@dataclass(slots=True)
class Tally:
    """What became of the entries so far. ``rows``: of those that are answered. ``repeated``: were posted before."""

    entries: int = 0
    rows: int = 0
    posted: int = 0
    repeated: int = 0
    refused: int = 0
    retryable: int = 0  # of the refused: the same entry may be posted later
    tries: int = 0  # of batches that had to be tried again
    codes: Counter[str] = field(default_factory=Counter)

    def note(self, refusal: Refused) -> None:
        """One more is refused."""
        self.refused += 1
        self.codes[refusal.code] += 1


def post_file(
    file: EntryFile,
    tally: Tally,
    *,
    rows_max: int,
    dry: bool,
    note: Callable[[Refused], None],
    tell: Callable[[Tally], None],
    clock: Callable[[], datetime],
) -> None:
    """Post the entries of a file that was checked, ``rows_max`` rows at once. Safe to repeat.

    ``tally`` is kept meanwhile. ``note`` hears of each refusal, ``tell`` after each batch. ``dry``: what would be, batch by
    batch, none of which knows of those before it. Raises FileRefused when the file was changed, LedgerSuspended when
    posting is suspended everywhere, OperationalError or InterfaceError when a batch fails again and again.
    """
    post: Poster = (lambda batches: _dry(batches, clock)) if dry else (lambda batches: post_batches(batches, clock=clock))
    for batch, results in _answered(file.batches(rows_max=rows_max), post, tally):
        stopped: DomainError | None = None
        for line, result in zip(batch.lines, results, strict=True):
            if (refusal := result.refusal) is not None:
                refused = Refused.by(refusal, line=line, tracekey=result.tracekey)
                tally.note(refused)
                tally.retryable += refusal.retryable
                note(refused)
                stopped = refusal if refusal.stops_queue else stopped
            elif result.posting is not None and result.posting.replayed:
                tally.repeated += 1
            else:
                tally.posted += 1
        tally.entries += len(batch.entries)
        tally.rows += batch.rows
        tell(tally)
        if stopped:
            raise stopped


def _answered(batches: Iterator[Batch], post: Poster, tally: Tally) -> Iterator[tuple[Batch, list[EntryResult]]]:
    """Each batch with its results. One that fails for a passing reason is tried again, and those taken since with it."""
    taken: deque[Batch] = deque()
    failures = 0
    while True:
        try:
            for results in post(_entries(taken, batches)):
                failures = 0
                yield taken.popleft(), results
            return
        except (OperationalError, InterfaceError):  # a deadlock, a lock that somebody keeps, a server that restarts
            if failures == len(PAUSES_S):
                raise
            if connection.connection is not None and not connection.is_usable():
                connection.close()
            sleep(PAUSES_S[failures])
            failures += 1
            tally.tries += 1


def _entries(taken: "deque[Batch]", batches: Iterator[Batch]) -> Iterator[Sequence[Entry]]:
    """First what was taken and not answered."""
    yield from [batch.entries for batch in taken]
    for batch in batches:
        taken.append(batch)
        yield batch.entries


def _dry(batches: Iterable[Sequence[Entry]], clock: Callable[[], datetime]) -> Answers:
    return (_try(batch, clock()) for batch in batches)


@transaction
def _try(batch: Sequence[Entry], now: datetime) -> list[EntryResult]:
    return post_batch(batch, now=now, dry_run=True)
