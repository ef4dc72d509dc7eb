"""Accounts in memory, while their rows are locked: totals by day, carried forward, floors and ceilings. Pure.

Note [Slots]
    A book keeps a day's totals in slots counted backwards: slot 0 is the last day (today, or a stored day after it when
    clocks differ), slot 1 the day before, up to the earliest day of the batch. The balance of all days is the account's
    posted sum, so the balance at the end of slot n is that sum less what the slots before n brought: nothing has to be
    carried while lines are folded, and no row before the earliest day is read. Accumulated sums are made once, at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.money import AMOUNT_MAX
from apps.ledger.rules import BATCH_LINES_MAX, CREDIT, SUM_MAX, ZERO, AccountRef, Balances, Side

_UNKNOWN = Decimal(-1)
# Nobody adds up what of a deferred account waits to be rolled up, and a sum without room would stop all roll-ups: the
# other half is for what waits, 50,000 of the largest amounts.
DEFERRED_SUM_MAX = SUM_MAX / 2
_SUM_NEAR = SUM_MAX - AMOUNT_MAX * BATCH_LINES_MAX  # below it no batch can reach SUM_MAX


class InsufficientFunds(DomainError):
    """The account would fall below its floor."""

    code, retryable = "R103", True


class AboveCeiling(DomainError):
    """The account would rise above its ceiling."""

    code, retryable = "R120", True


class SumTooLarge(DomainError):
    """The account's sums have no room for this amount."""

    code = "R119"


class StoredDay(NamedTuple):
    """A day row as it was read. ``id``: as the server's text, which is only written again."""

    id: str
    ordinal: int
    total_debit: Decimal
    total_credit: Decimal


class ChangedDay(NamedTuple):
    """A day row to write. ``id`` None: it is new, and ``created_by`` its first line's tracekey."""

    id: str | None
    dateref: date
    total_debit: Decimal
    total_credit: Decimal
    accumulated_debit: Decimal
    accumulated_credit: Decimal
    created_by: UUID | None
    tracekey: UUID


@dataclass(slots=True)
class AccountBook:
    """A locked account and those of its days that the batch may touch. See Note [Slots]."""

    id: UUID
    ref: AccountRef
    status: str
    min_balance: Decimal | None
    max_balance: Decimal | None
    posted_debit: Decimal
    posted_credit: Decimal
    pending_debit: Decimal
    last: int = 0  # the ordinal of slot 0
    debits: list[Decimal] = field(default_factory=list)
    credits: list[Decimal] = field(default_factory=list)
    nets: list[Decimal] = field(default_factory=list)  # credits less debits
    held: list[Decimal] = field(default_factory=list)
    stored: dict[int, str] = field(default_factory=dict)  # slot to the row's id
    touched: dict[int, tuple[UUID, int, UUID]] = field(default_factory=dict)  # slot to first key, last line and its key
    # A lower bound of what may still be taken on the poorest of the slots; negative: nobody has counted yet.
    room: Decimal = _UNKNOWN

    is_plain: bool = False  # active, no ceiling, and sums that a batch can't fill

    @property
    def posted(self) -> Decimal:
        return self.posted_credit - self.posted_debit

    @property
    def available(self) -> Decimal:
        return self.posted_credit - self.posted_debit - self.pending_debit

    def load_days(
        self, stored: Iterable[StoredDay], *, today: int, since: int, held: Iterable[tuple[date, Decimal]] = ()
    ) -> None:
        """Take the stored rows from the day ``since`` on, oldest first, and what has been held since when.

        Without the latter everything held has been held for ever.
        """
        days = list(stored)
        self.last = max(days[-1].ordinal, today) if days else today
        count = self.last - since + 1
        self.debits, self.credits, self.nets = [ZERO] * count, [ZERO] * count, [ZERO] * count
        for row_id, ordinal, debit, credit in days:
            slot = self.last - ordinal
            self.debits[slot], self.credits[slot], self.nets[slot] = debit, credit, credit - debit
            self.stored[slot] = row_id
        self.held = [self.pending_debit] * count
        for day_held, amount in held:  # the last day bears all of it, also what is held since a day after it
            for slot in range(max(self.last - day_held.toordinal() + 1, 1), count):
                self.held[slot] -= amount
        self.room = _UNKNOWN
        if self.min_balance is not None:  # as if all these days' credits had come on the last one
            self.room = self.available - self.min_balance - (sum(self.credits, ZERO) if count > 1 else ZERO)
        has_space = max(self.posted_debit, self.posted_credit) < _SUM_NEAR
        self.is_plain = has_space and self.status == "ACTIVE" and self.max_balance is None

    def apply(self, side: Side, amount: Decimal, slot: int) -> Balances:
        """Add a line to a day, and the balances right after it. Tentative: a negative amount takes it back."""
        if side == CREDIT:
            self.posted_credit += amount
            self.credits[slot] += amount
            self.nets[slot] += amount
        else:
            self.posted_debit += amount
            self.debits[slot] += amount
            self.nets[slot] -= amount
        posted = self.posted_credit - self.posted_debit
        pending = self.pending_debit
        return Balances(posted, pending, posted - pending, posted if slot == 0 else self.balance_at(slot))

    def take_back(self, side: Side, amount: Decimal, slot: int) -> None:
        """Undo ``apply``."""
        self.apply(side, -amount, slot)
        self.room = _UNKNOWN

    def balance_at(self, slot: int) -> Decimal:
        """The balance at the end of a slot's day."""
        balance = self.posted_credit - self.posted_debit
        for net in self.nets[:slot]:
            balance -= net
        return balance

    def confirm(self, slot: int, *, line: int, tracekey: UUID) -> None:
        """The line just applied is part of an accepted entry: its day and the later ones are to be written."""
        known = self.touched.get(slot)
        self.touched[slot] = (known[0] if known else tracekey, line, tracekey)

    def release(self, amount: Decimal, *, since: date) -> None:
        """A hold ends: what it reserved since its day is free again. (A negative amount holds.)"""
        self.pending_debit -= amount
        for slot in range(min(max(self.last - since.toordinal(), 0) + 1, len(self.held))):
            self.held[slot] -= amount
        self.room = _UNKNOWN

    def check_taken(self, change: Decimal, slot: int) -> None:
        """The account was left with less, by ``change`` < 0 from a slot's day on: is every day still above the floor?

        Raises InsufficientFunds.
        """
        if self.min_balance is None:
            return
        room = self.room + change
        if room >= 0:
            self.room = room
            return
        left = self._least(slot)
        if left < 0:
            raise InsufficientFunds(
                f"Account {self.ref.branch}/{self.ref.account} would be below its floor on {self._poorest_day(slot)}."
            )
        self.room = self._least(len(self.debits) - 1)

    def _least(self, slot: int) -> Decimal:
        """What may still be taken on the poorest day from a slot's on."""
        assert self.min_balance is not None  # noqa: S101  # callers asked
        return min(self._left(slot)) - self.min_balance

    def _left(self, slot: int) -> list[Decimal]:
        """Balance less what is held, for each slot up to this one."""
        balance, found = self.posted_credit - self.posted_debit, []
        for held, net in zip(self.held[: slot + 1], self.nets, strict=False):
            found.append(balance - held)
            balance -= net
        return found

    def _poorest_day(self, slot: int) -> date:
        """The first day from the slot's on that is below the floor."""
        left = self._left(slot)
        below = max(n for n, amount in enumerate(left) if self.min_balance is not None and amount < self.min_balance)
        return date.fromordinal(self.last - below)

    def there(self, slot: int) -> Decimal:
        """What can be taken from a slot's day on without going below zero or the floor, the credit limit left alone."""
        return max(min(self._left(slot)), ZERO)

    def check_given(self, slot: int) -> None:
        """The account was left with more: is every day still below the ceiling? Raises AboveCeiling."""
        if self.max_balance is None:
            return
        balance = self.posted_credit - self.posted_debit
        for n in range(slot + 1):
            if balance > self.max_balance:
                day = date.fromordinal(self.last - n)
                raise AboveCeiling(f"Account {self.ref.branch}/{self.ref.account} would be above its ceiling on {day}.")
            balance -= self.nets[n]

    def check_sums(self) -> None:
        """Raises SumTooLarge when a lifetime's debits or credits no longer fit their columns."""
        if self.posted_debit > SUM_MAX or self.posted_credit > SUM_MAX:
            raise SumTooLarge

    def changed_days(self) -> list[ChangedDay]:
        """The rows to write: every day that got a line, and every stored day after the first of them."""
        if len(self.touched) == 1 and (only := self.touched.get(0)):  # most accounts have lines of today alone
            row_id, day, own = self.stored.get(0), date.fromordinal(self.last), (self.debits[0], self.credits[0])
            return [ChangedDay(row_id, day, *own, self.posted_debit, self.posted_credit, only[0], only[2])]
        first, found, newest = max(self.touched), [], (-1, UUID(int=0))
        debit = self.posted_debit - sum(self.debits[: first + 1], ZERO)
        credit = self.posted_credit - sum(self.credits[: first + 1], ZERO)
        # From the earliest day on, a row was last changed by the last line of any day up to it.
        for slot in range(first, -1, -1):
            own_debit, own_credit = self.debits[slot], self.credits[slot]
            debit, credit = debit + own_debit, credit + own_credit
            row_id, created_by = self.stored.get(slot), None
            if touched := self.touched.get(slot):
                created_by = touched[0]
                if touched[1] > newest[0]:
                    newest = touched[1:]
            elif row_id is None:
                continue
            day = date.fromordinal(self.last - slot)
            found.append(ChangedDay(row_id, day, own_debit, own_credit, debit, credit, created_by, newest[1]))
        return found
