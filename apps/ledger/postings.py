"""The engine: the only code that moves money. Lock, read, check everything, then write."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from apps.common.clock import business_date, uuid7
from apps.common.errors import DomainError
from apps.common.money import exact_cents
from apps.common.transactions import transaction_required
from apps.ledger import rows
from apps.ledger.balances import AccountBook
from apps.ledger.rules import (
    BATCH_LINES_MAX,
    CREDIT,
    DEBIT,
    AccountRef,
    BatchTooLarge,
    Entry,
    EntryResult,
    Leg,
    PostedLine,
    PostResult,
    check_dateref,
    details_text,
    fingerprint,
    is_in_window,
)


class UnknownAccount(DomainError):
    """There is no such ledger account."""

    code = "R101"


class AccountFrozen(DomainError):
    """The account is frozen: it takes no postings and no holds."""

    code = "R102"


class UnknownEvent(DomainError):
    """There is no such event."""

    code = "R104"


class EventInactive(DomainError):
    """The event is not active."""

    code = "R105"


class EventSideRefused(DomainError):
    """The event does not allow this side (debit or credit)."""

    code = "R106"


class TracekeyReused(DomainError):
    """The tracekey was already used for something else."""

    code = "R107"


class PostingVoided(DomainError):
    """The posting was reversed before it arrived, and is refused for good."""

    code = "R108"


class AlreadyReversed(DomainError):
    """The entry was already reversed, under another tracekey."""

    code = "R116"


class HoldEnded(DomainError):
    """The hold has ended: it was posted, voided, or has expired."""

    code = "R114"


@dataclass(slots=True)
class Command:
    """An entry on its way through the engine."""

    entry: Entry
    dateref: date
    body_hash: bytes = b""
    reverses: UUID | None = None  # the entry takes this one back; events then don't mind the side
    hold_id: UUID | None = None  # the first leg's account lets go of this hold
    refusal: DomainError | None = None
    posting: PostResult | None = None

    @property
    def tracekey(self) -> UUID:
        return self.entry.tracekey

    def result(self) -> EntryResult:
        return EntryResult(self.tracekey, self.posting, self.refusal)


@dataclass(frozen=True, slots=True)
class ReverseResult:
    """NEVER_POSTED: there was nothing to take back, and the late posting will be refused."""

    status: Literal["REVERSED", "NEVER_POSTED"]
    posting: PostResult | None = None


@transaction_required
def post_batch(entries: Sequence[Entry], *, now: datetime) -> list[EntryResult]:
    """Post many entries, in order, each all or nothing; a refused one changes nothing and the others go on.

    One result per entry, in the same order. Safe to repeat: an entry that was posted before answers as it did then.
    Raises BatchTooLarge above BATCH_LINES_MAX lines.
    """
    if sum(len(entry.legs) for entry in entries) > BATCH_LINES_MAX:
        raise BatchTooLarge(f"A batch holds at most {BATCH_LINES_MAX} lines.", field="legs")
    commands = [command_for(entry, now=now) for entry in entries]
    run(commands, now=now)
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
    command = Command(entry, entry.dateref or business_date(now), reverses=reverses, hold_id=hold_id)
    try:
        command.body_hash = fingerprint(entry, also=reverses or hold_id)
    except DomainError as refusal:
        command.refusal = refusal
    return command


def run_one(command: Command, *, now: datetime) -> PostResult:
    """Run a single command. Raises its refusal."""
    run([command], now=now)
    if command.posting is None:
        raise command.refusal or RuntimeError("A command ended without an answer.")
    return command.posting


def run(commands: Sequence[Command], *, now: datetime) -> None:
    """Post a batch; each command carries its posting or its refusal afterwards."""
    claims = {c.tracekey: (c.body_hash, c.reverses) for c in reversed(commands) if c.refusal is None}
    if not claims:
        return
    known = rows.claim_keys(claims, now=now)
    fold = Fold(claims=claims, known=known, today=business_date(now), now=now)
    fold.answer_known(commands)
    fresh = [command for command in commands if command.refusal is None and command.posting is None]
    fold.lock_and_read(fresh)
    for command in fresh:
        fold.take(command)
    # From here on the batch must succeed.
    fold.settle_claims()
    if fold.lines:
        rows.write(fold.lines, [book for book in fold.books.values() if book.is_changed], now=now)


@dataclass(slots=True)
class Fold:
    """The state of a batch between its locks and its writes."""

    claims: dict[UUID, tuple[bytes, UUID | None]]
    known: dict[UUID, rows.KnownKey]
    today: date
    now: datetime
    books: dict[AccountRef, AccountBook] = field(default_factory=dict)
    events: dict[int, rows.EventRule] = field(default_factory=dict)
    holds: dict[UUID, rows.HeldRow] = field(default_factory=dict)
    lines: list[rows.NewLine] = field(default_factory=list)
    done: dict[UUID, Command] = field(default_factory=dict)  # accepted in this batch, by tracekey

    def answer_known(self, commands: Sequence[Command]) -> None:
        """Answer every command whose tracekey was used before this batch."""
        if not self.known:
            return
        lines = rows.posted_lines([tracekey for tracekey, key in self.known.items() if not key.is_tombstone])
        for command in commands:
            key = self.known.get(command.tracekey)
            if key is None or command.refusal:
                continue
            if key.is_tombstone:
                command.refusal = PostingVoided()
            elif key.body_hash != command.body_hash:
                command.refusal = TracekeyReused(field="tracekey")
            else:
                command.posting = PostResult(command.tracekey, tuple(lines[command.tracekey]), replayed=True)

    def lock_and_read(self, commands: Sequence[Command]) -> None:
        """Lock every account of these commands, then read what the checks need. See Note [Fences] in rows.py."""
        points: dict[AccountRef, set[date]] = {}
        codes = set()
        for command in commands:
            if not is_in_window(command.dateref, today=self.today):
                continue  # it will be refused, and must not make us read its days
            for leg in command.entry.legs:
                points.setdefault(leg.account, {self.today}).add(command.dateref)
                codes.add(leg.eventcode)
        if not points:
            return
        self.books = rows.lock_accounts(points)
        self.events = rows.read_events(codes)
        self._read_days({ref: points[ref] for ref in self.books})
        if hold_ids := [command.hold_id for command in commands if command.hold_id]:
            self.holds = rows.read_holds(hold_ids)

    def _read_days(self, points: dict[AccountRef, set[date]]) -> None:
        since = {ref: min(dates) for ref, dates in points.items()}
        stored = rows.read_days(since) if since else {}
        # Only a back-dated line on a guarded account asks how much was held on which day.
        asking = [ref for ref, day in since.items() if day < self.today and self._is_guarded_and_held(ref)]
        held = rows.read_held(asking) if asking else {}
        for ref, book in self.books.items():
            holds = held.get(ref) or [(date.min, book.pending_debit)]
            hold_days = {day for day, _ in holds if day >= since[ref]}
            book.load_days(stored[ref], points=points[ref] | hold_days, held=holds)

    def _is_guarded_and_held(self, ref: AccountRef) -> bool:
        book = self.books[ref]
        return book.min_balance is not None and book.pending_debit > 0

    def take(self, command: Command) -> None:
        """Decide one command: its posting or its refusal."""
        try:
            first = self.done.get(command.tracekey)
            if first is None:
                check_dateref(command.dateref, today=self.today)
                self._check_accounts(command)
                self._check_events(command)
                command.posting = self._apply(command)
                self.done[command.tracekey] = command
            elif first.body_hash == command.body_hash and first.posting:
                command.posting = replace(first.posting, replayed=True)
            else:
                raise TracekeyReused(field="tracekey")
        except DomainError as refusal:
            command.refusal = refusal

    def _check_accounts(self, command: Command) -> None:
        for leg in command.entry.legs:
            book = self.books.get(leg.account)
            if book is None:
                raise UnknownAccount(f"There is no account {'/'.join(leg.account)}.", field="account")
            if book.is_frozen:
                raise AccountFrozen(f"Account {'/'.join(leg.account)} is frozen.", field="account")

    def _check_events(self, command: Command) -> None:
        if command.reverses:
            return
        for leg in command.entry.legs:
            event = self.events.get(leg.eventcode)
            if event is None:
                raise UnknownEvent(f"There is no event {leg.eventcode}.", field="eventcode")
            if not event.active:
                raise EventInactive(f"Event {leg.eventcode} is not active.", field="eventcode")
            if not (event.allow_debit if leg.debitcredit == DEBIT else event.allow_credit):
                side = "a debit" if leg.debitcredit == DEBIT else "a credit"
                raise EventSideRefused(f"Event {leg.eventcode} does not allow {side}.", field="debitcredit")

    def _apply(self, command: Command) -> PostResult:
        """Apply the legs, check every account they touched, and take all back if one check fails."""
        hold = self._open_hold(command)
        debtor = self.books[command.entry.legs[0].account]
        if hold:
            debtor.release(hold.amount, since=hold.dateref)
        lines = [self._apply_leg(command, leg) for leg in command.entry.legs]
        try:
            self._check_funds(command, hold.amount if hold else None)
        except DomainError:
            for leg in command.entry.legs:
                self.books[leg.account].apply(leg.debitcredit, -leg.amount, dateref=command.dateref)
            if hold:
                debtor.release(-hold.amount, since=hold.dateref)
            raise
        for leg in command.entry.legs:
            self.books[leg.account].confirm(dateref=command.dateref, tracekey=command.tracekey)
        if hold:
            hold.status = "POSTED"
        self.lines += lines
        return PostResult(command.tracekey, tuple(line.posted for line in lines))

    def _open_hold(self, command: Command) -> rows.HeldRow | None:
        if command.hold_id is None:
            return None
        hold = self.holds[command.hold_id]
        if hold.status != "OPEN":
            raise HoldEnded(f"The hold is {hold.status}.", field="key")
        if hold.expires_at is not None and hold.expires_at <= self.now:
            raise HoldEnded(f"The hold expired at {hold.expires_at.isoformat()}.", field="key")
        return hold

    def _apply_leg(self, command: Command, leg: Leg) -> rows.NewLine:
        book = self.books[leg.account]
        day = book.apply(leg.debitcredit, leg.amount, dateref=command.dateref)
        posted = PostedLine(
            id=uuid7(),
            account=leg.account,
            debitcredit=leg.debitcredit,
            amount=exact_cents(leg.amount),
            eventcode=leg.eventcode,
            dateref=command.dateref,
            balances=book.after(day),
        )
        return rows.NewLine(
            posted=posted,
            tracekey=command.tracekey,
            description=leg.description,
            details=details_text(leg.details),
            balanced=len(command.entry.legs) > 1,
            day_net=day.net,
        )

    def _check_funds(self, command: Command, released: Decimal | None) -> None:
        """Floors, for accounts that the entry leaves with less than before. A released hold is money that was promised."""
        net: dict[AccountRef, Decimal] = {}
        if released is not None:
            net[command.entry.legs[0].account] = released
        for leg in command.entry.legs:
            signed = leg.amount if leg.debitcredit == CREDIT else -leg.amount
            net[leg.account] = net.get(leg.account, Decimal(0)) + signed
        for ref, change in net.items():
            book = self.books[ref]
            book.check_sums()
            if change < 0:
                book.check_floor(since=command.dateref)

    def settle_claims(self) -> None:
        """Keep the claims of what was accepted, under its own hash; give the others back."""
        claimed = [tracekey for tracekey in self.claims if tracekey not in self.known]
        unused = [tracekey for tracekey in claimed if tracekey not in self.done]
        rehashed = {
            tracekey: command.body_hash
            for tracekey, command in self.done.items()
            if command.body_hash != self.claims[tracekey][0]
        }
        if unused or rehashed:
            rows.settle_claims(unused=unused, rehashed=rehashed)
