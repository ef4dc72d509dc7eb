"""The engine: the only code that moves money. Lock, read, check everything, then write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal
from uuid import UUID

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.ledger import rows, writes
from apps.ledger.fold import Command, Fold, TracekeyReused
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
    fingerprint,
    is_in_window,
)


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
def post_batch(entries: Sequence[Entry], *, now: datetime, dry_run: bool = False) -> list[EntryResult]:
    """Post many entries, in order, each all or nothing; a refused one changes nothing and the others go on.

    One result per entry, in the same order. Safe to repeat: an entry that was posted before answers as it did then.
    ``dry_run``: the answers are what they would be, and nothing is posted. Raises BatchTooLarge above BATCH_LINES_MAX
    lines.
    """
    if sum(len(entry.legs) for entry in entries) > BATCH_LINES_MAX:
        raise BatchTooLarge(f"A batch holds at most {BATCH_LINES_MAX} lines.", field="legs")
    today = business_date(now)
    commands = [_command(entry, today) for entry in entries]
    run(commands, now=now, dry=dry_run)
    return [command.result() for command in commands]


@transaction_required
def post(entry: Entry, *, now: datetime) -> PostResult:
    """Post one entry. Raises the refusal, having changed nothing. Safe to repeat."""
    return run_one(command_for(entry, now=now), now=now)


@transaction_required
def reverse(*, tracekey: UUID, reversal_tracekey: UUID, now: datetime) -> ReverseResult:
    """Take an entry back: the same legs with the sides exchanged, dated today, under ``reversal_tracekey``.

    Safe to repeat. An entry that was never posted is refused from now on. Raises AlreadyReversed under another
    tracekey, InsufficientFunds when a receiver has spent the money, AccountFrozen.
    """
    if rows.lock_or_bury(tracekey, now=now):
        return ReverseResult("NEVER_POSTED")
    reversed_by = rows.reversal_of(tracekey)
    if reversed_by not in (None, reversal_tracekey):
        raise AlreadyReversed(f"It was reversed by {reversed_by}.", field="reversal_tracekey")
    legs = tuple(
        Leg(
            account=line.account,
            amount=line.amount,
            debitcredit=CREDIT if line.debitcredit == DEBIT else DEBIT,
            eventcode=line.eventcode,
            description="Reversal",
            details={"reverses": str(tracekey)},
        )
        for line in rows.posted_lines([tracekey])[tracekey]
    )
    command = command_for(Entry(tracekey=reversal_tracekey, legs=legs), reverses=tracekey, now=now)
    return ReverseResult("REVERSED", run_one(command, now=now))


def command_for(entry: Entry, *, now: datetime, reverses: UUID | None = None, hold_id: UUID | None = None) -> Command:
    """Check the entry's form; what is malformed carries its refusal from here on.

    What an entry takes back, or which hold it ends, is part of its body: the same legs alone are no repeat of it.
    """
    return _command(entry, business_date(now), reverses=reverses, hold_id=hold_id)


def _command(entry: Entry, today: date, *, reverses: UUID | None = None, hold_id: UUID | None = None) -> Command:
    command = Command(entry, entry.dateref or today, reverses=reverses, hold_id=hold_id)
    try:
        command.body_hash, command.legs = fingerprint(entry, also=reverses or hold_id)
    except DomainError as refusal:
        command.refusal = refusal
    return command


def run_one(command: Command, *, now: datetime) -> PostResult:
    """Run a single command. Raises its refusal."""
    run([command], now=now)
    if command.posting is None:
        raise command.refusal or RuntimeError("A command ended without an answer.")
    return command.posting


def run(commands: Sequence[Command], *, now: datetime, dry: bool = False) -> None:
    """Post a batch; each command carries its posting or its refusal afterwards. ``dry``: nothing is written."""
    claims = {
        c.entry.tracekey: rows.Claim(c.body_hash, c.reverses, c.dateref) for c in reversed(commands) if c.refusal is None
    }
    if not claims:
        return
    known = rows.known_keys(sorted(claims)) if dry else rows.claim_keys(claims, now=now)
    if known:
        _answer_known(commands, known)
    fold = Fold(today=business_date(now), now=now)
    _lock_and_read(fold, [command for command in commands if command.refusal is None and command.posting is None])
    fold.take_all(commands)
    if dry:
        return
    # From here on the batch must succeed.
    _settle_claims(fold, claims, known)
    writes.write_lines(fold.lines, now=now)
    writes.write_deferred(fold.later, now=now)
    if changed := [book for book in fold.books.values() if book.touched]:
        writes.write_sums(changed, now=now)


def _answer_known(commands: Sequence[Command], known: dict[UUID, rows.KnownKey]) -> None:
    """Answer every command whose tracekey was used before this batch."""
    lines = rows.posted_lines([tracekey for tracekey, key in known.items() if not key.is_tombstone])
    for command in commands:
        key = known.get(command.tracekey)
        if key is None or command.refusal:
            continue
        if key.is_tombstone:
            command.refusal = PostingVoided()
        elif key.body_hash != command.body_hash:
            command.refusal = TracekeyReused(field="tracekey")
        else:
            command.posting = PostResult(command.tracekey, tuple(lines[command.tracekey]), replayed=True)


def _lock_and_read(fold: Fold, commands: Sequence[Command]) -> None:
    """Lock every account of these commands, then read what the checks need. See Note [Fences] in rows.py."""
    since: dict[AccountRef, date] = {}
    codes = set()
    for command in commands:
        day = command.dateref
        if not is_in_window(day, today=fold.today):
            continue  # it will be refused, and must not make us read its days
        for leg in command.legs:
            earliest = since.get(leg.account)
            if earliest is None or day < earliest:
                since[leg.account] = day
            codes.add(leg.eventcode)
    if not since:
        return
    fold.books = rows.lock_accounts(since)
    if len(fold.books) < len(since):
        fold.deferred = rows.read_deferred([ref for ref in since if ref not in fold.books])
    fold.events = rows.read_events(codes)
    fold.closed = rows.read_closed({ref.branch for ref in since})
    _read_days(fold, {ref: since[ref] for ref in fold.books})
    if hold_ids := [command.hold_id for command in commands if command.hold_id]:
        fold.holds = rows.read_holds(hold_ids)


def _read_days(fold: Fold, since: dict[AccountRef, date]) -> None:
    stored = rows.read_days(since) if since else {}
    # Only a back-dated line on an account with a floor asks how much was held on which day.
    asking = [ref for ref, day in since.items() if day < fold.today and _is_guarded_and_held(fold, ref)]
    held = rows.read_held(asking) if asking else {}
    today = fold.today.toordinal()
    for ref, book in fold.books.items():
        book.load_days(stored[ref], today=today, since=since[ref].toordinal(), held=held.get(ref, ()))


def _is_guarded_and_held(fold: Fold, ref: AccountRef) -> bool:
    book = fold.books[ref]
    return book.min_balance is not None and book.pending_debit > 0


def _settle_claims(fold: Fold, claims: dict[UUID, rows.Claim], known: dict[UUID, rows.KnownKey]) -> None:
    """Keep the claims of what was accepted, under its own hash and day; give the others back."""
    unused, changed = [], {}
    for tracekey, claim in claims.items():
        command = fold.done.get(tracekey)
        if command is None:
            if tracekey not in known:
                unused.append(tracekey)
        elif command.body_hash != claim.body_hash or command.dateref != claim.dateref:
            changed[tracekey] = rows.Claim(command.body_hash, command.reverses, command.dateref)
    if unused or changed:
        rows.settle_claims(unused=unused, changed=changed)
