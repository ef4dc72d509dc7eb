"""Batch after batch on one connection: the next one is made ready while the server works on the one before.

A batch of a single line is one statement. The next one is not only made ready meanwhile: it is sent. A larger one of which
all is known is decided before it is sent.
"""

import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from django.db import Error

from apps.common.clock import business_date
from apps.common.meanwhile import Work
from apps.common.transactions import transaction
from apps.ledger import postings, singles
from apps.ledger.commands import Command, results_of
from apps.ledger.rules import Entry, EntryResult, PostResult
from apps.ledger.stream_turns import Turns

if TYPE_CHECKING:
    from apps.ledger.plain_batch import PlainBatch
    from apps.ledger.plain_known import Known

# What a batch leaves is freed without the collector, except for some refusals: it looks every ten batches, or 1,000 lines.
_BATCH, _LINE, _COLLECTION = 100, 1, 1_000


def post_batches(
    batches: Iterable[Sequence[Entry]], *, clock: Callable[[], datetime]
) -> Generator[list[EntryResult], None, None]:
    """Post batches, each as a commit of its own, in order; the results of each, once it is committed.

    A batch is taken from ``batches`` before the one before it is posted, outside of any transaction, so the source may
    wait. Safe to repeat: entries that were posted before answer as they did then. Raises BatchTooLarge for a batch above
    BATCH_LINES_MAX lines when it is that batch's turn, and TransactionMisuse inside a transaction.

    Streams that post to the same accounts take turns of three seconds: Note [Turns] in stream_turns.py.

    A batch of a single line is sent as soon as it is taken, and up to two of them are in flight. So when one raises (a lock
    that somebody keeps, a connection that is lost), or the caller or its source ends the stream, a line that was taken and
    not answered may have been posted.
    """
    source, done, looked = iter(batches), (list[object](), list[object]()), 0
    known = _Known()
    with postings.collector_paused(), closing(singles.Line()) as line, closing(Turns()) as turns:
        ready = _take(source, clock, known)
        while ready is not None:
            sent = ready.sent or _send(line, ready)
            following = _take(source, clock, known)
            if sent and following:
                following.sent = _send(line, following)
            posting = line.answer() if sent else None
            if ready.plain and turns.take():
                ready.plain.known.others_had_a_turn()
            results = _result_of(ready, posting) if posting else _post(ready, following, done[0])
            if ready.plain:
                ready.plain.committed()
                turns.disputed(ready.plain.disputed)
            yield results
            done = (done[1], [ready, results])  # the caller may hold the last results until it has the next
            ready = following
            looked += _LINE if sent else _BATCH
            if looked >= _COLLECTION:
                looked = 0
                gc.collect(0)


@dataclass(slots=True)
class _Ready:
    """A batch that waits for its turn."""

    entries: Sequence[Entry]
    now: datetime
    plain: "PlainBatch | None" = None
    line: Command | None = None  # if it is a single one
    sent: bool = False  # it is in flight

    def commands(self) -> Iterator[Command]:
        """Made one by one."""
        today = business_date(self.now)
        return (Command(entry, entry.dateref or today) for entry in self.entries)

    def made(self) -> list[Command]:
        """All of them."""
        return [self.line] if self.line else list(self.commands())


class _Known:
    """What the batches of one day know of accounts."""

    def __init__(self) -> None:
        self._now: Known | None = None

    def on(self, today: date) -> "Known":
        """For the batches of this day."""
        from apps.ledger.plain_known import Known  # numpy

        if self._now is None or self._now.today != today or self._now.is_full:
            self._now = Known(today)
        return self._now


def _take(source: Iterator[Sequence[Entry]], clock: Callable[[], datetime], known: _Known) -> _Ready | None:
    entries = next(source, None)
    if entries is None:
        return None
    ready = _Ready(entries, clock())
    if len(entries) == 1:
        ready.line = _line_of(ready)
    if len(entries) >= postings.PLAIN_ENTRIES_MIN:
        today = business_date(ready.now)
        ready.plain = postings.plain_batch(ready.commands(), now=ready.now, known=known.on(today))
    return ready


def _line_of(batch: _Ready) -> Command | None:
    """Its only entry, if it is a single line. What is wrong with it is said when it is its turn."""
    try:
        (command,) = batch.commands()
        return command if singles.is_single(command) else None
    except (AttributeError, TypeError):  # it is no entry
        return None


def _send(line: singles.Line, batch: _Ready) -> bool:
    """Send it, if it is a single line and may be in flight."""
    if batch.line is None:
        return False
    try:
        return line.send(batch.line, today=business_date(batch.now), now=batch.now)
    except Error:  # there is no connection
        return False


def _result_of(batch: _Ready, posting: PostResult) -> list[EntryResult]:
    return [EntryResult(batch.entries[0].tracekey, posting)]


def _forget(done: list[object]) -> Iterator[None]:
    """What a batch leaves takes its time to be freed: not before the server has work again."""
    done.clear()
    yield


@transaction
def _post(batch: _Ready, following: _Ready | None, done: list[object]) -> list[EntryResult]:
    postings.check_size(batch.entries)
    commands = batch.plain.commands() if batch.plain else batch.made()
    ahead = [following.plain.steps] if following and following.plain else []
    postings.run(commands, now=batch.now, plain=batch.plain, work=Work(_forget(done), *ahead))
    return batch.plain.results() if batch.plain else results_of(commands)
