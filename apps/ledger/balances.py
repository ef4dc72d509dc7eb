"""Accounts in memory, while their rows are locked: totals, days carried forward, and the floor on every day. Pure."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from apps.common.errors import DomainError
from apps.ledger.rules import DEBIT, SUM_MAX, ZERO, AccountRef, Balances, Side


class InsufficientFunds(DomainError):
    """The account would fall below its floor."""

    code, retryable = "R103", True


class SumTooLarge(DomainError):
    """The account's sums have no room for this amount."""

    code = "R119"


@dataclass(slots=True)
class Day:
    """One point in time of an account: a stored day row, a new one, or a mere check point (today, the day of a hold)."""

    dateref: date
    total_debit: Decimal = ZERO
    total_credit: Decimal = ZERO
    accumulated_debit: Decimal = ZERO
    accumulated_credit: Decimal = ZERO
    held: Decimal = ZERO
    row_id: UUID | None = None  # None: not stored (yet)
    line_count: int = 0  # lines that the batch adds to this very day
    tracekey: UUID | None = None  # who changed it last, in this batch
    created_by: UUID | None = None

    @property
    def balance(self) -> Decimal:
        return self.accumulated_credit - self.accumulated_debit

    @property
    def net(self) -> Decimal:
        return self.total_credit - self.total_debit


@dataclass(slots=True)
class AccountBook:
    """A locked account and those of its days that the batch may touch.

    ``days`` are sorted and begin with the last row before the earliest dateref of the batch, which is only read.
    """

    id: UUID
    ref: AccountRef
    is_frozen: bool
    min_balance: Decimal | None
    posted_debit: Decimal
    posted_credit: Decimal
    pending_debit: Decimal
    days: list[Day]
    dates: list[date]
    is_changed: bool = False

    @property
    def posted(self) -> Decimal:
        return self.posted_credit - self.posted_debit

    @property
    def available(self) -> Decimal:
        return self.posted_credit - self.posted_debit - self.pending_debit

    def load_days(self, stored: list[Day], *, points: Iterable[date], held: Iterable[tuple[date, Decimal]]) -> None:
        """Take the stored rows, add the check points between them, and say how much was held on each."""
        by_date = {day.dateref: day for day in stored}
        holds = list(held)
        previous = Day(date.min)
        for dateref in sorted(by_date.keys() | set(points)):
            day = by_date.get(dateref)
            if day is None:
                day = by_date[dateref] = Day(
                    dateref,
                    accumulated_debit=previous.accumulated_debit,
                    accumulated_credit=previous.accumulated_credit,
                )
            day.held = sum((amount for since, amount in holds if since <= dateref), ZERO)
            previous = day
        self.dates = sorted(by_date)
        self.days = [by_date[dateref] for dateref in self.dates]

    def apply(self, side: Side, amount: Decimal, *, dateref: date) -> Day:
        """Add a line to its day and carry it into every later day. The day must have been loaded as a point.

        Tentative until ``confirm``: a negative amount takes it back.
        """
        index = bisect_left(self.dates, dateref)
        self._carry(side, amount, index)
        return self.days[index]

    def confirm(self, *, dateref: date, tracekey: UUID) -> None:
        """The line just applied is part of an accepted entry: its day and the later ones are to be written."""
        index = bisect_left(self.dates, dateref)
        own = self.days[index]
        own.line_count += 1
        own.created_by = own.created_by or tracekey
        for day in self.days[index:]:
            day.tracekey = tracekey
        self.is_changed = True

    def _carry(self, side: Side, amount: Decimal, index: int) -> None:
        days = self.days
        if side == DEBIT:
            self.posted_debit += amount
            days[index].total_debit += amount
            for day in days[index:]:
                day.accumulated_debit += amount
        else:
            self.posted_credit += amount
            days[index].total_credit += amount
            for day in days[index:]:
                day.accumulated_credit += amount

    def release(self, amount: Decimal, *, since: date) -> None:
        """A hold ends: what it reserved since its day is free again. (A negative amount holds.)"""
        self.pending_debit -= amount
        for day in self.days:
            if day.dateref >= since:
                day.held -= amount

    def check_floor(self, *, since: date) -> None:
        """Raises InsufficientFunds when on any day from ``since`` on the balance less what is held is below the floor."""
        if self.min_balance is None:
            return
        for day in self.days[bisect_left(self.dates, since) :]:
            if day.accumulated_credit - day.accumulated_debit - day.held < self.min_balance:
                name = f"{self.ref.branch}/{self.ref.account}"
                raise InsufficientFunds(f"Account {name} would be below its floor on {day.dateref}.")

    def check_sums(self) -> None:
        """Raises SumTooLarge when a lifetime's debits or credits no longer fit their columns."""
        if self.posted_debit > SUM_MAX or self.posted_credit > SUM_MAX:
            raise SumTooLarge

    def after(self, day: Day) -> Balances:
        """The answer to a line of this day: balances right after it."""
        return Balances(
            posted=self.posted_credit - self.posted_debit,
            pending=self.pending_debit,
            available=self.available,
            day=day.accumulated_credit - day.accumulated_debit,
        )

    def changed_days(self) -> list[Day]:
        """The rows to write: every stored day that was shifted, every new day that got a line."""
        return [day for day in self.days if day.tracekey and (day.row_id or day.line_count)]
