"""The engine's decisions, one command after the other, in memory: posted or refused, and what is to be written. Pure.

What is locked and read before stands in ``books``; nothing here knows the database. See Note [Fences] in ``rows.py``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from apps.common.clock import uuid7_run
from apps.common.errors import DomainError
from apps.ledger.balances import AccountBook, InsufficientFunds, SumTooLarge
from apps.ledger.commands import Command, EventRule, HeldRow, NewLine
from apps.ledger.rules import (
    CREDIT,
    DEBIT,
    AccountRef,
    Balances,
    CheckedLeg,
    PostedLine,
    PostResult,
    check_dateref,
)

SUSPENDED = "SUSPENDED"  # a status for as long as a batch lasts
_tuple = tuple.__new__  # a named tuple without the detour over its own constructor
_IDS_MAX = 1 << 20  # more than a batch has lines
LINES_AT_ONCE = 200  # decided, then sent: enough for a system call, and the server has work soon


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


class HoldEnded(DomainError):
    """The hold has ended: it was posted, voided, or has expired."""

    code = "R114"


class AccountClosed(DomainError):
    """The account is closed for good."""

    code = "R121"


class DayClosed(DomainError):
    """The day is closed: it takes no postings any more."""

    code = "R122"


class LinkedRefused(DomainError):
    """Another entry of the same group was refused, so this one was not posted either."""

    code = "R123"


@dataclass(slots=True)
class Fold:
    """The state of a batch between its locks and its writes."""

    today: date
    now: datetime
    books: dict[AccountRef, AccountBook] = field(default_factory=dict)
    deferred: dict[AccountRef, str] = field(default_factory=dict)  # accounts that take no lock, and their status
    events: dict[int, EventRule] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)  # branch to the ordinal of its last closed day
    suspended: Mapping[AccountRef, DomainError] = field(default_factory=dict)  # their books have the status SUSPENDED
    holds: dict[UUID, HeldRow] = field(default_factory=dict)
    opened: list[AccountRef] = field(default_factory=list)  # by this batch, on first use
    lines: list[NewLine] = field(default_factory=list)  # of what was just decided
    line_count: int = 0
    later: list[NewLine] = field(default_factory=list)  # of deferred accounts
    done: dict[int, Command] = field(default_factory=dict)  # accepted in this batch, by key
    _ids: Iterator[UUID] = field(default_factory=lambda: uuid7_run(_IDS_MAX))
    _allowed: set[tuple[int, str]] = field(default_factory=set)
    _ordinals: dict[date, int] = field(default_factory=dict)

    def take_all(self, commands: Iterable[Command]) -> Iterator[list[NewLine]]:
        """Decide commands in order, and give some lines at a time as soon as nothing can take them back.

        Neighbours of one group are posted together or not at all.
        """
        group: list[Command] = []
        for command in commands:
            name = command.entry.group
            if group and name != group[0].entry.group:
                self._take_group(group)
                group = []
            if name is not None:
                group.append(command)
                continue
            self.take(command)
            if len(self.lines) >= LINES_AT_ONCE:
                yield self.lines
                self.lines = []
        if group:
            self._take_group(group)
        yield self.lines

    def take(self, command: Command) -> None:
        """Decide one command: its posting or its refusal. What was decided before stays."""
        if command.refusal is not None or command.posting is not None:
            return
        try:
            key = command.entry.tracekey.int
            first = self.done.get(key)
            if first is None:
                if len(command.legs) != 1 or not self._accept_line(command):
                    self._accept(command)
                self.done[key] = command
            elif first.body_hash == command.body_hash and first.posting:
                command.posting = first.posting._replace(replayed=True)
            else:
                raise TracekeyReused(field="tracekey")
        except DomainError as refusal:
            command.refusal = refusal

    def _take_group(self, group: list[Command]) -> None:
        books = {leg.account: self.books.get(leg.account) for command in group for leg in command.legs}
        before = [(book, dict(book.touched)) for book in books.values() if book]
        counts = len(self.lines), len(self.later)
        for command in group:
            if command.refusal is None and command.key in self.done:  # posted before the group, whatever becomes of it
                self.take(command)
        fresh = [command for command in group if command.refusal is None and command.posting is None]
        for command in group:
            self.take(command)
            if command.refusal:
                break
        else:
            return
        for command in reversed(fresh):
            self._forget(command)
        for book, touched in before:
            book.touched = touched
        del self.lines[counts[0] :], self.later[counts[1] :]

    def _forget(self, command: Command) -> None:
        """Take a group's entry back, because another one was refused."""
        if command.posting is not None and not command.posting.replayed:
            slot_day = self._ordinal(command.dateref)
            for line in command.posting.lines:
                if book := self.books.get(line.account):
                    book.take_back(line.debitcredit, line.amount, book.last - slot_day)
            del self.done[command.key]
        if command.refusal is None:
            command.posting, command.refusal = None, LinkedRefused()

    def _accept_line(self, command: Command) -> bool:
        """Accept what most commands are: a line that nothing speaks against. False: ``_accept`` has to look closer.

        The same as ``_accept``, in a third of the time; that both agree is tested by batches that take both ways.
        """
        ref, amount, side, eventcode, description, details = command.legs[0]
        book, ordinal = self.books.get(ref), self._ordinals.get(command.dateref)
        if book is None or ordinal is None or not book.is_plain or (eventcode, side) not in self._allowed:
            return False
        if self.closed or command.concerns:
            return False
        slot = book.last - ordinal
        if side == CREDIT:
            book.posted_credit += amount
            book.credits[slot] += amount
            book.nets[slot] += amount
        else:
            if book.min_balance is not None:
                room = book.room - amount
                if room < 0:
                    return False
                book.room = room
            book.posted_debit += amount
            book.debits[slot] += amount
            book.nets[slot] -= amount
        posted, pending = book.posted_credit - book.posted_debit, book.pending_debit
        day = posted if slot == 0 else book.balance_at(slot)
        tracekey = command.entry.tracekey
        self.line_count += 1
        known = book.touched.get(slot)
        book.touched[slot] = (known[0] if known else tracekey, self.line_count, tracekey)
        balances = _tuple(Balances, (posted, pending, posted - pending, day))
        line = _tuple(PostedLine, (next(self._ids), ref, side, amount, eventcode, command.dateref, balances))
        self.lines.append(_tuple(NewLine, (line, tracekey, description, details, False, book.nets[slot], False)))
        command.posting = _tuple(PostResult, (tracekey, (line,), False))
        return True

    def _accept(self, command: Command) -> None:
        ordinal = self._ordinal(command.dateref)
        for leg in command.legs:
            self._check_account(leg.account, ordinal, command.dateref)
            if (leg.eventcode, leg.debitcredit) not in self._allowed and not command.reverses:
                self._check_event(leg)
        legs = self._up_to(command, ordinal) if command.entry.up_to else command.legs
        hold = self._open_hold(command) if command.hold_id else None
        lines = self._apply(command, legs, ordinal, hold)
        for line in lines:
            if line.deferred:
                self.later.append(line)
                continue
            book = self.books[line.posted.account]
            self.line_count += 1
            book.confirm(book.last - ordinal, line=self.line_count, tracekey=line.tracekey)
            self.lines.append(line)
        if hold:
            hold.status = "POSTED"
        command.posting = PostResult(command.entry.tracekey, tuple([line.posted for line in lines]))

    def _ordinal(self, dateref: date) -> int:
        """The day as a number. Raises DateRefused outside the window."""
        ordinal = self._ordinals.get(dateref)
        if ordinal is None:
            check_dateref(dateref, today=self.today)
            ordinal = self._ordinals[dateref] = dateref.toordinal()
        return ordinal

    def _check_account(self, ref: AccountRef, ordinal: int, dateref: date) -> None:
        book = self.books.get(ref)
        status = book.status if book else self.deferred.get(ref)
        if status != "ACTIVE":
            name = "/".join(ref)
            if refusal := self.suspended.get(ref):
                raise refusal
            if status is None:
                raise UnknownAccount(f"There is no account {name}.", field="account")
            if status == "FULL":
                raise SumTooLarge(f"Account {name} is deferred, and its sums are half full.", field="account")
            if status == "CLOSED":
                raise AccountClosed(f"Account {name} is closed.", field="account")
            raise AccountFrozen(f"Account {name} is frozen.", field="account")
        if self.closed and ordinal <= self.closed.get(ref.branch, 0):
            raise DayClosed(f"{dateref} is closed in branch {ref.branch}.", field="dateref")

    def _check_event(self, leg: CheckedLeg) -> None:
        event = self.events.get(leg.eventcode)
        if event is None:
            raise UnknownEvent(f"There is no event {leg.eventcode}.", field="eventcode")
        if not event.active:
            raise EventInactive(f"Event {leg.eventcode} is not active.", field="eventcode")
        if not (event.allow_debit if leg.debitcredit == DEBIT else event.allow_credit):
            side = "a debit" if leg.debitcredit == DEBIT else "a credit"
            raise EventSideRefused(f"Event {leg.eventcode} does not allow {side}.", field="debitcredit")
        self._allowed.add((leg.eventcode, leg.debitcredit))

    def _up_to(self, command: Command, ordinal: int) -> list[CheckedLeg]:
        """The legs with what is there, at most what was asked for. Raises InsufficientFunds when nothing is there."""
        ref = command.legs[0].account
        book = self.books.get(ref)
        if book is None:
            raise InsufficientFunds(f"Account {'/'.join(ref)} is deferred: nobody knows what is there.")
        amount = min(command.legs[0].amount, book.there(book.last - ordinal))
        if amount == 0:
            raise InsufficientFunds(f"Account {ref.branch}/{ref.account} has nothing available.")
        return [leg._replace(amount=amount) for leg in command.legs]

    def _open_hold(self, command: Command) -> HeldRow:
        assert command.hold_id is not None  # noqa: S101  # the caller asked
        hold = self.holds[command.hold_id]
        if hold.status != "OPEN":
            raise HoldEnded(f"The hold is {hold.status}.", field="key")
        if hold.expires_at is not None and hold.expires_at <= self.now:
            raise HoldEnded(f"The hold expired at {hold.expires_at.isoformat()}.", field="key")
        return hold

    def _apply(self, command: Command, legs: Sequence[CheckedLeg], ordinal: int, hold: HeldRow | None) -> list[NewLine]:
        """Apply the legs, check every account they touched, and take all back if one check fails."""
        if hold:
            self.books[legs[0].account].release(hold.amount, since=hold.dateref)
        lines = [self._apply_leg(command, leg, ordinal) for leg in legs]
        try:
            self._check_funds(legs, ordinal, hold.amount if hold else None)
        except DomainError:
            for leg in legs:
                if book := self.books.get(leg.account):
                    book.take_back(leg.debitcredit, leg.amount, book.last - ordinal)
            if hold:
                self.books[legs[0].account].release(-hold.amount, since=hold.dateref)
            raise
        return lines

    def _apply_leg(self, command: Command, leg: CheckedLeg, ordinal: int) -> NewLine:
        ref, amount, side, eventcode, description, details = leg
        book = self.books.get(ref)
        balances, day_net = None, amount
        if book is not None:
            slot = book.last - ordinal
            balances = book.apply(side, amount, slot)
            day_net = book.nets[slot]
        posted = PostedLine(next(self._ids), ref, side, amount, eventcode, command.dateref, balances)
        is_leg = len(command.legs) > 1
        return NewLine(posted, command.entry.tracekey, description, details, is_leg, day_net, book is None)

    def _check_funds(self, legs: Sequence[CheckedLeg], ordinal: int, released: Decimal | None) -> None:
        """Floors and ceilings. A released hold is money that was promised."""
        if len(legs) == 1 and released is None:  # most are single lines
            ref, amount, side = legs[0][:3]
            self._check_change(ref, amount if side == CREDIT else -amount, ordinal)
            return
        net: dict[AccountRef, Decimal] = {}
        if released is not None:
            net[legs[0].account] = released
        for ref, amount, side, *_ in legs:
            net[ref] = net.get(ref, Decimal(0)) + (amount if side == CREDIT else -amount)
        for ref, change in net.items():
            self._check_change(ref, change, ordinal, has_released=released is not None and ref == legs[0].account)

    def _check_change(self, ref: AccountRef, change: Decimal, ordinal: int, *, has_released: bool = False) -> None:
        book = self.books.get(ref)
        if book is None:
            return
        book.check_sums()
        if change < 0:
            book.check_taken(change, book.last - ordinal)
        elif change > 0 and not has_released:  # what is given back from a hold is not more on the account
            book.check_given(book.last - ordinal)
