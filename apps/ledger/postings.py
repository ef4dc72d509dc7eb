"""The engine: the only code that moves money. Lock, read, check everything, then write."""

import gc
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from django.conf import settings

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.meanwhile import Work
from apps.common.transactions import TransactionMisuse, in_transaction, transaction, transaction_required
from apps.ledger import batches, keys, months_behind, rows, singles, suspensions, writes
from apps.ledger.balances import StoredDay
from apps.ledger.commands import Command, NewLine, Suspended, results_of
from apps.ledger.fold import SUSPENDED, Fold, TracekeyReused
from apps.ledger.rules import (
    BATCH_LINES_MAX,
    CREDIT,
    DEBIT,
    AccountRef,
    BatchTooLarge,
    Entry,
    EntryResult,
    Leg,
    PostResult,
    first_day,
)

if TYPE_CHECKING:
    from apps.ledger.plain_batch import PlainBatch
    from apps.ledger.plain_known import Known

PLAIN_ENTRIES_MIN = 100  # from so many on, columns cost less than a loop


class PostingVoided(DomainError):
    """The posting was reversed before it arrived, and is refused for good."""

    code = "R108"


class AlreadyReversed(DomainError):
    """The entry was already reversed, under another tracekey."""

    code = "R116"


@dataclass(frozen=True, slots=True)
class ReverseResult:
    """NEVER_POSTED: there was nothing to take back, and the late posting will be refused."""

    status: Literal["REVERSED", "NEVER_POSTED"]
    posting: PostResult | None = None


@transaction_required
def post_batch(
    entries: Sequence[Entry], *, now: datetime, key: str | None = None, dry_run: bool = False
) -> list[EntryResult]:
    """Post many entries, in order, each all or nothing; a refused one changes nothing and the others go on.

    One result per entry, in the same order. Safe to repeat: an entry that was posted before answers as it did then.
    ``key``: then its refusals are repeated, too, for LEDGER_BATCH_KEYS_DAYS. ``dry_run``: the answers are what they would
    be, and nothing is posted. Raises BatchKeyReused, and BatchTooLarge above BATCH_LINES_MAX lines.
    """
    check_size(entries)
    today = business_date(now)
    with collector_paused():
        commands = [Command(entry, entry.dateref or today) for entry in entries]
        known = 0 if key is None or dry_run else batches.claim(key, commands, now=now)
        run(commands, now=now, dry=dry_run)
        if key is not None and not dry_run:
            batches.keep_refusals(key, commands, known=known)
        return results_of(commands)


def check_size(entries: Sequence[Entry]) -> None:
    """Raises BatchTooLarge."""
    if sum([len(entry.legs) for entry in entries]) > BATCH_LINES_MAX:
        raise BatchTooLarge(f"A batch holds at most {BATCH_LINES_MAX} lines.", field="legs")


@transaction_required
def post(entry: Entry, *, now: datetime) -> PostResult:
    """Post one entry. Raises the refusal, having changed nothing. Safe to repeat."""
    return run_one(command_for(entry, now=now), now=now)


def post_alone(entry: Entry, *, now: datetime) -> PostResult:
    """Post one entry as a commit of its own. Raises the refusal, having changed nothing. Safe to repeat.

    A single line is one round trip, its commit included. Raises TransactionMisuse inside a transaction.
    """
    if in_transaction():
        raise TransactionMisuse("post_alone is a commit of its own and was called inside a transaction.")
    command = command_for(entry, now=now)
    if singles.is_single(command) and (posting := singles.post_line(command, today=business_date(now), now=now)):
        return posting
    return _commit_one(command, now=now)


@transaction
def _commit_one(command: Command, *, now: datetime) -> PostResult:
    return run_one(command, now=now)


@transaction_required
def reverse(*, tracekey: UUID, reversal_tracekey: UUID, now: datetime) -> ReverseResult:
    """Take an entry back: the same legs with the sides exchanged, dated today, under ``reversal_tracekey``.

    Safe to repeat. An entry that was never posted is refused from now on. Raises AlreadyReversed under another
    tracekey, InsufficientFunds when a receiver has spent the money, AccountFrozen, MonthArchived when its lines are in
    the archive and it was not reversed under this tracekey.
    """
    if keys.lock_or_bury(tracekey, now=now):
        return ReverseResult("NEVER_POSTED")
    reversed_by = keys.reversal_of(tracekey)
    if reversed_by not in (None, reversal_tracekey):
        raise AlreadyReversed(f"It was reversed by {reversed_by}.", field="reversal_tracekey")
    lines = keys.posted_lines([tracekey]).get(tracekey)
    if lines is None:
        return _reverse_archived(tracekey, reversed_by)
    legs = tuple(
        Leg(
            account=line.account,
            amount=line.amount,
            debitcredit=CREDIT if line.debitcredit == DEBIT else DEBIT,
            eventcode=line.eventcode,
            description="Reversal",
            details={"reverses": str(tracekey)},
        )
        for line in lines
    )
    command = command_for(Entry(tracekey=reversal_tracekey, legs=legs), reverses=tracekey, now=now)
    return ReverseResult("REVERSED", run_one(command, now=now))


def _reverse_archived(tracekey: UUID, reversed_by: UUID | None) -> ReverseResult:
    """An entry whose lines are in the archive is not taken back any more; a reversal from before is repeated."""
    if reversed_by is not None and (lines := keys.posted_lines([reversed_by]).get(reversed_by)):
        return ReverseResult("REVERSED", PostResult(reversed_by, tuple(lines), replayed=True))
    raise months_behind.refusal_of(tracekey)


def command_for(entry: Entry, *, now: datetime, reverses: UUID | None = None, hold_id: UUID | None = None) -> Command:
    """An entry to run, perhaps one that takes another back, or ends a hold."""
    return Command(entry, entry.dateref or business_date(now), reverses=reverses, hold_id=hold_id)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Don't look for garbage meanwhile: a batch makes ten objects a line, keeps all, and looking doubles its time.

    For the whole process; when two threads meet here, the second one runs with the collector on. It is only slower.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_one(command: Command, *, now: datetime) -> PostResult:
    """Run a single command. Raises its refusal."""
    run([command], now=now)
    if command.posting is None:
        raise command.refusal or RuntimeError("A command ended without an answer.")
    return command.posting


def run(
    commands: Sequence[Command],
    *,
    now: datetime,
    dry: bool = False,
    plain: "PlainBatch | None" = None,
    work: Work | None = None,
) -> None:
    """Post a batch; each command carries its posting or its refusal afterwards. ``dry``: nothing is written.

    ``plain``: these commands, made ready as far as somebody had the time. ``work`` may be done while the server works.
    """
    if len(commands) == 1 and not dry and singles.is_single(commands[0]):
        commands[0].posting = singles.post_line(commands[0], today=business_date(now), now=now)
        if commands[0].posting is not None:
            return
    fold = Fold(today=business_date(now), now=now)
    if len(commands) >= PLAIN_ENTRIES_MIN and not dry and commands[0].concerns is None:
        claims, fresh = _post_plain(fold, commands, plain or plain_batch(commands, now=now), work or Work())
    else:
        claims = keys.known_keys(commands) if dry else keys.claim_keys(commands, now=now)
        fresh = _unknown(commands, claims)
        _lock_and_read(fold, fresh, dry=dry)
    if not fresh:
        return  # all of them have their answers
    lines = fold.take_all(commands)
    if dry:
        deque(lines, maxlen=0)
        if fold.opened:
            rows.forget_opened(fold.opened)
        return
    sums = writes.Sums()
    # Every line that is written has passed all its checks. What fails from here on is a bug, and undoes the batch.
    writes.write_lines(
        chain(lines, _then(lambda: sums.take(fold.books.values()))),
        line_count=sum([len(command.legs) for command in fresh]),
        now=now,
    )
    writes.write_deferred(fold.later, now=now)
    if len(fold.done) < len(commands):
        _settle_claims(fold, claims)
    sums.write(now=now)
    if unused := [ref for ref in fold.opened if ref in fold.books and not fold.books[ref].touched]:
        rows.forget_opened(unused)  # a refused line opens no account


def _unknown(commands: Sequence[Command], claims: keys.Claims) -> list[Command]:
    """Answer those whose tracekeys were used before. The others that are well formed."""
    if claims.known:
        _answer_known(commands, claims.known)
    return [command for command in commands if command.refusal is None and command.posting is None]


def plain_batch(commands: Iterable[Command], *, now: datetime, known: "Known | None" = None) -> "PlainBatch":
    """A large batch, of which nothing is made ready yet."""
    from apps.ledger.plain_batch import PlainBatch  # numpy takes a tenth of a second, which most processes don't owe

    return PlainBatch(commands, today=business_date(now), now=now, known=known)


def _post_plain(
    fold: Fold, commands: Sequence[Command], batch: "PlainBatch", work: Work
) -> tuple[keys.Claims, list[Command]]:
    """Claim, lock and read for all, and post what is plain: Note [Plain lines] in plain.py. Which commands are left?"""
    work.first(batch.steps)
    # A large batch hopes that all its keys are new, and finds out at the first one that is not.
    claims = keys.Claims(batch.claimed, {}) if batch.claim(work) else keys.claim_keys(commands, now=fold.now)
    fresh = _unknown(commands, claims)
    batch.take(fresh)
    if not batch.accounts:
        return claims, fresh
    if batch.is_foreseen:
        batch.write(work)
        return claims, [command for command in fresh if command.posting is None]
    if settings.LEDGER_OPEN_ON_FIRST_USE:
        fold.opened = rows.open_missing(batch.accounts, now=fold.now)
    try:
        read = batch.lock_and_read(work)
    except OverflowError:  # sums that no column holds; the locks are taken, and taking them again is nothing
        _lock_and_read(fold, fresh, dry=False)
        return claims, fresh
    fold.events, fold.closed = read.events, read.closed
    missing, refused = batch.missing(), {}
    if missing or read.suspended:
        refused = _look_around(fold, batch.accounts, missing, read.suspended, dry=False)
    if odd := batch.decide(refused):
        fold.books = read.books(odd)
        _mark_suspended(fold, refused)
        _load_days(fold, read.days_of(odd, today=fold.today), batch.since())
    batch.write(work)
    return claims, [command for command in fresh if command.posting is None]


def _then(work: Callable[[], None]) -> Iterator[list[NewLine]]:
    """After the last line, while the server still takes those before it."""
    work()
    yield from ()


def _answer_known(commands: Sequence[Command], known: dict[int, keys.KnownKey]) -> None:
    """Answer every command whose tracekey was used before this batch."""
    lines = keys.posted_lines([UUID(int=key) for key, found in known.items() if not found.is_tombstone])
    for command in commands:
        key = known.get(command.key)
        if key is None or command.refusal:
            continue
        if key.is_tombstone:
            command.refusal = PostingVoided()
        elif key.body_hash != command.body_hash:
            command.refusal = TracekeyReused(field="tracekey")
        elif command.tracekey not in lines:
            command.refusal = months_behind.refusal_of(command.tracekey)
        else:
            command.posting = PostResult(command.tracekey, tuple(lines[command.tracekey]), replayed=True)


def _lock_and_read(fold: Fold, commands: Sequence[Command], *, dry: bool) -> None:
    """Lock every account of these commands, then read what the checks need. See Note [Fences] in rows.py."""
    since: dict[AccountRef, date] = {}
    codes = set()
    first, today = first_day(fold.today), fold.today
    for command in commands:
        day = command.dateref
        if not first <= day <= today:
            continue  # it will be refused, and must not make us read its days
        for leg in command.legs:
            earliest = since.get(leg.account)
            if earliest is None or day < earliest:
                since[leg.account] = day
            codes.add(leg.eventcode)
    if not since:
        return
    if settings.LEDGER_OPEN_ON_FIRST_USE:
        fold.opened = rows.open_missing(since, now=fold.now)
    holds = [command.hold_id for command in commands if command.hold_id]
    locked = rows.lock_and_read(since, codes, holds, now=fold.now)
    fold.books, fold.events, fold.closed, fold.holds = locked.books, locked.events, locked.closed, locked.holds
    missing = [ref for ref in since if ref not in fold.books] if len(fold.books) < len(since) else []
    _mark_suspended(fold, _look_around(fold, since, missing, locked.suspended, dry=dry))
    _load_days(fold, locked.days, since)


def _look_around(
    fold: Fold, refs: Collection[AccountRef], missing: Sequence[AccountRef], found: Sequence[Suspended], *, dry: bool
) -> suspensions.Refused:
    """Which of the missing accounts are deferred ones; wait for suspensions. Those that may not be written after all."""
    if missing:
        others = rows.read_deferred(missing, now=fold.now)
        fold.deferred, found = others.statuses, [*found, *others.suspended]
        fold.closed.update(others.closed)
    return suspensions.heed(refs, found, now=fold.now, wait_s=0 if dry else suspensions.WAIT_S) if found else {}


def _mark_suspended(fold: Fold, refused: suspensions.Refused) -> None:
    """Whoever touches one of these accounts will look twice at it, and be refused."""
    fold.suspended = refused
    for ref in refused:
        if book := fold.books.get(ref):
            book.status = SUSPENDED
        elif ref in fold.deferred:
            fold.deferred[ref] = SUSPENDED


def _load_days(fold: Fold, days: Mapping[AccountRef, Sequence[StoredDay]], since: Mapping[AccountRef, date]) -> None:
    # Only what is back-dated asks how much was held on which day.
    asking = [ref for ref, book in fold.books.items() if since[ref] < fold.today and book.pending_debit > 0]
    held = rows.read_held(asking) if asking else {}
    last = fold.today.toordinal()
    for ref, book in fold.books.items():
        book.load_days(days[ref], today=last, since=since[ref].toordinal(), held=held.get(ref, ()))


def _settle_claims(fold: Fold, claims: keys.Claims) -> None:
    """Keep the claims of what was accepted, under its own hash and day; give the others back."""
    unused = [claim for key, claim in claims.made.items() if claim.posting is None and key not in fold.done]
    changed = [command for key, command in fold.done.items() if command is not claims.made[key]]
    if unused or changed:
        keys.settle_claims(unused=unused, changed=changed)
