"""A large batch on its way through the database, what is plain in columns. See Note [Plain lines] in ``plain.py``."""

import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from django.db import IntegrityError, connection

from apps.common import pg_binary, prepared
from apps.common.arrays import array_text
from apps.common.meanwhile import Work, in_steps, to_the_end
from apps.common.pg_binary import Column
from apps.common.transactions import kept_savepoint
from apps.ledger import keys, plain, plain_keys, plain_lines, rows
from apps.ledger.commands import Command, results_of
from apps.ledger.plain import Folded, Left
from apps.ledger.plain_known import Known, StoredDays, is_much
from apps.ledger.plain_lines import Lines
from apps.ledger.plain_rows import (
    DAYS,
    LOCK,
    LOOK_UP,
    Locked,
    LookedUp,
    Question,
    Read,
    Sums,
    days_of,
    keys_of,
    stored_days,
    up_to,
)
from apps.ledger.rules import AccountRef, EntryResult, first_day

_COMMANDS_AT_ONCE = 500
_LONG_S = 0.02  # for the first locks: somebody is at work on the same accounts
_COMMANDS, _CLAIMS, _GATHERED, _LINES = 1, 2, 3, 4  # what is made, in this order
# Locks are taken in the order of keys, so each row is to be looked up by itself, in the order of the arrays. Without this a
# small table would be read as a whole, in any order.
_IN_ORDER: tuple[str, list[Any]] = (
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true)",
    [],
)


class _NotAsForeseenError(Exception):
    """Somebody has changed what a batch was decided by."""


class _Ahead:
    """Blocks of a COPY: as they are asked for, or before that, in ``steps``."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._made = blocks, deque[bytes]()

    def steps(self) -> Iterator[None]:
        for block in self._blocks:
            self._made.append(block)
            yield

    def __iter__(self) -> Iterator[bytes]:
        while self._made:
            yield self._made.popleft()
        yield from self._blocks


class _Decided(NamedTuple):
    """What is to be written of plain lines."""

    folded: Folded
    read: Read
    left: Left
    sums: Sums
    blocks: _Ahead


class PlainBatch:
    """A large batch: its keys claimed, its accounts locked and read, its plain lines posted; methods in this order.

    If it ``is_foreseen`` when its keys are claimed, all that is left is to ``write``: Note [Foreseen] in plain_known.py.

    What needs no server is made in steps, before its time if somebody has some to spare: ``steps``. Otherwise it is made
    while the server works on what was made before, or when it is needed. ``known``: what the batches of a stream know of
    accounts; this one adds to it when it is ``committed``.
    """

    def __init__(self, commands: Iterable[Command], *, today: date, now: datetime, known: Known | None = None) -> None:
        self._source, self._today, self._now = iter(commands), today, now
        self.known, self._is_kept = known or Known(today), known is not None
        self.is_foreseen = False  # decided by what was known, and its sums are written
        self._decided: _Decided | None = None
        self._blocks: _Ahead
        self._sums: Sums
        self._version: int | None = None  # that its accounts have now
        self._seen: Column
        self.disputed: str | None = None  # a branch in which others have changed many accounts since the last batch
        self._left: Left
        self._commands: list[Command] = []
        self.claimed: dict[int, Command] = {}
        self._claims: list[bytes] = []
        self._made = 0
        self._failed: Exception | None = None
        self._results: list[EntryResult] = []  # if they are ready
        self.steps = self._make()

    def _make(self) -> Iterator[None]:
        try:
            while some := list(islice(self._source, _COMMANDS_AT_ONCE)):
                self._commands += some
                yield
            self._made = _COMMANDS
            ordered = keys.in_order(self._commands)
            yield
            for block in plain_keys.blocks(ordered, self.claimed, now=self._now):
                self._claims.append(block)
                yield
            self._made = _CLAIMS
            yield from self._gather([command for command in self._commands if command.refusal is None])
            self._made = _GATHERED
            yield
            yield from self._make_lines()
            self._made = _LINES
        except Exception as error:  # whoever had the time is not who has the trouble
            self._failed = error

    def commands(self) -> list[Command]:
        """All of them."""
        self._need(_COMMANDS)
        return self._commands

    def _need(self, made: int) -> None:
        """Go on until so much is made."""
        while self._made < made:
            self._step()

    def _step(self) -> None:
        if next(self.steps, self) is self and self._made < _LINES:
            raise self._failed or RuntimeError("A batch was left before it was made ready.")

    def _claim_blocks(self) -> Iterator[bytes]:
        sent = 0
        while sent < len(self._claims) or self._made < _CLAIMS:
            if sent == len(self._claims):
                self._step()
            some = self._claims[sent:]
            sent += len(some)
            yield from some

    def claim(self, work: Work) -> bool:
        """Check forms, and claim all tracekeys if none was used before. Otherwise none is claimed. Note [Fences], 1.

        If the batch can be foreseen, its accounts are locked and its sums written as well: Note [Foreseen].
        """
        self.known.settle()
        foreseeing = self._foresee() if self._is_kept and self.known.foresees() else None
        try:
            return self._claim(work, foreseeing)
        except _NotAsForeseenError:
            self.known.foresaw(right=False)
            self.known.remember(self._at, self._seen)
            return self._claim(work, None)

    def _claim(self, work: Work, foreseeing: Iterator[None] | None) -> bool:
        try:
            with kept_savepoint():
                if foreseeing:
                    self._look_up(work)
                    work.first(foreseeing)
                rows.copy_rows(plain_keys.COPY, self._claim_blocks(), work=work)
                if foreseeing:
                    deque(foreseeing, maxlen=0)
                    self._write_foreseen(work)
        except IntegrityError:
            return False
        return True

    def _look_up(self, work: Work) -> None:
        """Ask for what is not known yet, if it is known already what to ask for."""
        if self._made < _GATHERED or not self.accounts:
            return
        known, at = self.known, self._at
        unseen = np.flatnonzero(known.versions(at, connection.connection) == 0)
        if not len(unseen):
            return
        pg_binary.register(connection.connection)
        _, (today, *keys, since) = self._ask_days(unseen)
        (answer,) = rows.fetch_hot(LOOK_UP, [*keys, up_to(len(unseen)), today, *keys, since], work=work)
        try:
            found = LookedUp.of(answer, unseen)
        except OverflowError:  # sums that no column holds
            return
        if known.changed_meanwhile(at[found.places], found.versions):
            self.disputed = self.accounts[0].branch
        known.take(at[found.places], found.ids, found.columns)
        known.take_days(at, unseen, found.days)
        known.remember(at[found.places], found.versions)
        days = found.days.days
        known.forget(at[days.place[days.slot < 0]])  # a clock is ahead: whoever reads them behind their locks is told, too

    def _foresee(self) -> Iterator[None]:
        """Decide by what is known, in steps, if that is enough, and nothing is left for others to decide."""
        known, today = self.known, self._today
        while self._made < _LINES and self._failed is None:
            yield
            next(self.steps, None)
        yield
        if self._failed or self._gathered.others or not self.accounts:
            return
        at, gathered = self._at, self._gathered
        if not known.versions(at, connection.connection).all():
            return
        everywhere, odd = np.arange(len(at)), np.zeros(len(at), np.bool_)
        accounts, stored = known.accounts(at, ~odd), known.days(at, everywhere, gathered.since)
        folded = plain.fold(gathered, self._lines.added, accounts, stored.days, odd=odd)
        if odd.any():
            return
        yield
        left = folded.left()
        yield
        read = Read(known.ids[at], accounts, stored, {}, {}, [])
        blocks = _Ahead(self._lines.blocks(folded, accounts.pending[gathered.place]))
        self._decided = _Decided(folded, read, left, Sums.of(gathered, read, left, today=today), blocks)

    def _write_foreseen(self, work: Work) -> None:
        """Lock the accounts and write what was decided, if they are as they were known: Note [Foreseen]."""
        decided, self._decided = self._decided, None
        if decided is None:
            return
        known, at, sums = self.known, self._at, decided.sums
        self._seen = known.versions(at, connection.connection)
        known.forget(at)  # until the commit
        work.first(decided.blocks.steps())
        try:
            with prepared.fetch_in_turn(
                _IN_ORDER,
                sums.if_unchanged(self._seen, now=self._now),
                (rows.EVENTS, [self._question.codes]),
                (rows.CLOSED, [self._question.branches, self._now]),
                work=work,
            ) as found:
                _, written, *rules = found
        except IntegrityError:  # of rows that somebody has made without a lock; of keys it would mean something else
            raise _NotAsForeseenError from None
        version = sums.version_if_unchanged(written[0])
        read = Read.of(decided.read.ids, decided.read.accounts, decided.read.stored, rules)
        odd = plain.odd_accounts(self._gathered, read.events, read.closed, today=self._today)
        if version is None or read.suspended or odd.any():
            raise _NotAsForeseenError
        self.is_foreseen, self._version, self._blocks = True, version, decided.blocks
        self._folded, self._read, self._left, self._sums = decided.folded, read, decided.left, sums

    def take(self, fresh: Sequence[Command]) -> None:
        """The well-formed commands that are new."""
        self._need(_GATHERED)
        if len(fresh) != self._gathered_count:
            self._need(_LINES)
            to_the_end(self._gather(fresh))
            to_the_end(self._make_lines())

    def _gather(self, commands: Sequence[Command]) -> Generator[None, None, None]:
        self._gathered_count = len(commands)
        self._gathered = yield from plain.gather(commands, today=self._today)
        self.accounts: list[AccountRef] = list(self._gathered.places)
        if self.accounts:
            self._question = Question.of(self._gathered)
            self._at = self.known.places(self.accounts)

    def _make_lines(self) -> Generator[None, None, None]:
        self._lines = yield from Lines.of(self._gathered, today=self._today, now=self._now)

    def lock_and_read(self, work: Work) -> Read:
        """As ``rows.lock_and_read``, in columns, and only what is not known: Note [Known accounts] in plain_known.py."""
        question, at = self._question, self._at
        pg_binary.register(connection.connection)
        seen = self.known.versions(at, connection.connection)
        self.known.forget(at)  # until the commit
        unseen = np.flatnonzero(seen == 0)
        sent = time.monotonic()  # which waits, too, where the server takes no more behind the first
        with prepared.fetch_in_turn(
            *([(rows.LOCK, question.head)] if question.head else []),
            (LOCK, [*question.keys, pg_binary.XidArray(seen), question.numbers]),
            *([self._ask_days(unseen)] if len(unseen) else []),
            (rows.EVENTS, [question.codes]),
            (rows.CLOSED, [question.branches, self._now]),
            work=work,
        ) as found:
            if question.head:
                next(found)
                if time.monotonic() - sent > _LONG_S:
                    self.disputed = self.accounts[0].branch
            locked = Locked.of(next(found)[0], count=len(self.accounts))  # while the server reads days
            read = [stored_days(next(found)[0], unseen)] if len(unseen) else []
            rules = list(found)
        changed = np.zeros(len(seen), np.bool_)
        changed[locked.read] = True
        again = np.flatnonzero(locked.found & (seen > 0) & changed)
        if is_much(len(again), len(seen) - len(unseen)):
            self.disputed = self.accounts[int(again[0])].branch
        if len(again):
            (answer,) = rows.fetch_hot(*self._ask_days(again), work=work)
            read.append(stored_days(answer, again))
        self.known.take(at[locked.read], locked.ids, locked.columns)
        since = self._gathered.since
        stored = [self.known.days(at, np.flatnonzero(locked.found & (seen > 0) & ~changed), since)]
        if read:
            days = StoredDays.of(read)
            self.known.take_days(at, np.concatenate([unseen, again]), days)
            stored.append(days.where(days.days.slot <= since[days.days.place]))
        accounts = self.known.accounts(at, locked.found)
        self._read = Read.of(self.known.ids[at], accounts, StoredDays.of(stored), rules, locked)
        return self._read

    def _ask_days(self, places: Column) -> tuple[str, list[Any]]:
        """Of these accounts; of all days that a later batch may ask for, if there is one."""
        if self._is_kept:
            since = [first_day(self._today)] * len(places)
        else:
            since = days_of(self._gathered.since[places], self._today)
        keys = self._question.keys
        if len(places) < len(self.accounts):
            keys = keys_of([self.accounts[n] for n in places.tolist()])
        return DAYS, [self._today, *keys, array_text(since)]

    def since(self) -> dict[AccountRef, date]:
        """The earliest day of each account."""
        return dict(zip(self.accounts, days_of(self._gathered.since, self._today), strict=True))

    def missing(self) -> list[AccountRef]:
        """Accounts that are not there, or deferred."""
        return [self.accounts[n] for n in np.flatnonzero(~self._read.accounts.found).tolist()]

    def decide(self, refused: Collection[AccountRef]) -> dict[AccountRef, int]:
        """Decide all that is plain. The accounts whose lines are left, and their places."""
        read, gathered = self._read, self._gathered
        self._need(_LINES)
        odd = plain.odd_accounts(gathered, read.events, read.closed, today=self._today)
        odd[[gathered.places[ref] for ref in refused]] = True
        self._folded = plain.fold(gathered, self._lines.added, read.accounts, read.stored.days, odd=odd)
        return {self.accounts[n]: n for n in np.flatnonzero(odd).tolist()}

    def _answer(self, folded: Folded, pending: Column) -> Generator[None, None, None]:
        yield from self._lines.answer(self._gathered.lines, folded, pending)
        if len(folded.index) == len(self._commands):
            self._results = yield from in_steps(self._commands, results_of, _COMMANDS_AT_ONCE)

    def results(self) -> list[EntryResult]:
        """What became of each command, when all have their answers."""
        return self._results or results_of(self._commands)

    def write(self, work: Work) -> None:
        """Write the lines, and the sums of their accounts and days; their commands carry their postings then."""
        folded = self._folded
        if not len(folded.index):
            return
        pending = self._read.accounts.pending[self._gathered.place[folded.index]]
        blocks = self._blocks if self.is_foreseen else self._lines.blocks(folded, pending)
        answers, making = self._answer(folded, pending), self._make_sums()
        work.first(answers)
        if not self.is_foreseen:
            work.first(making)
        rows.copy_rows(plain_lines.COPY, blocks, work=work)
        if not self.is_foreseen:
            deque(making, maxlen=0)
            self._version = self._sums.write(now=self._now, work=work)
        deque(answers, maxlen=0)

    def _make_sums(self) -> Iterator[None]:
        self._left = self._folded.left()
        self._sums = Sums.of(self._gathered, self._read, self._left, today=self._today)
        yield

    def committed(self) -> None:
        """What is known of its accounts now is of use to the next batch."""
        if self._version is not None:
            self.known.settle_later(partial(self._keep, self._version))
        if self.is_foreseen:
            self.known.foresaw(right=True)

    def _keep(self, version: int) -> None:
        left, at, ids = self._left, self._at, np.empty(len(self._left.day_row), pg_binary.UUID)
        ids[left.stored], ids[left.new] = self._read.stored.ids[left.day_row[left.stored]], self._sums.new_ids
        self.known.keep_days((at[left.day_account], left.day_slot), ids, left.day_debit, left.day_credit)
        self.known.keep(at[left.account], version, left.debit, left.credit)
