"""A ledger so simple that it is right: lists of lines and holds, every balance a sum over all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

from apps.ledger.public import BACKDATE_DAYS_MAX, AccountRef

ZERO = Decimal(0)


@dataclass(frozen=True)
class Line:
    account: AccountRef
    signed: Decimal
    dateref: date


@dataclass(frozen=True)
class Held:
    account: AccountRef | None
    amount: Decimal | None
    dateref: date
    status: str = "OPEN"
    tracekey: UUID | None = None


# A line as it was answered: account, signed amount, day; then posted, pending and the day's balance, unless it is deferred.
Answer = tuple[AccountRef, Decimal, date, tuple[Decimal, Decimal, Decimal] | None]
_STATUS_CODES = {"FROZEN": "R102", "CLOSED": "R121"}


@dataclass
class ModelLedger:
    floors: dict[AccountRef, Decimal | None]
    today: date
    ceilings: dict[AccountRef, Decimal] = field(default_factory=dict)
    deferred: frozenset[AccountRef] = frozenset()
    closed: date = date.min
    lines: list[Line] = field(default_factory=list)
    holds: dict[str, Held] = field(default_factory=dict)
    entries: dict[UUID, tuple[object, list[Line]]] = field(default_factory=dict)
    buried: set[UUID] = field(default_factory=set)
    reversals: dict[UUID, UUID] = field(default_factory=dict)
    asked: dict[UUID, object] = field(default_factory=dict)
    statuses: dict[AccountRef, str] = field(default_factory=dict)  # none: active
    answers: dict[UUID, list[Answer]] = field(default_factory=dict)
    batches: dict[str, tuple[object, list[str]]] = field(default_factory=dict)

    def balance(self, account: AccountRef, day: date | None = None) -> Decimal:
        day = day or date.max
        return sum((line.signed for line in self.lines if line.account == account and line.dateref <= day), ZERO)

    def held(self, account: AccountRef, day: date | None = None) -> Decimal:
        day = day or date.max
        return sum(
            (h.amount for h in self.holds.values() if h.status == "OPEN" and h.account == account and h.dateref <= day),
            ZERO,
        )

    def _broken_floor(self, account: AccountRef, since: date) -> bool:
        floor = self.floors[account]
        days = [since + timedelta(days=n) for n in range((self.today - since).days + 1)]
        return floor is not None and any(self.balance(account, day) - self.held(account, day) < floor for day in days)

    def _broken_ceiling(self, account: AccountRef, since: date) -> bool:
        ceiling = self.ceilings.get(account)
        days = [since + timedelta(days=n) for n in range((self.today - since).days + 1)]
        return ceiling is not None and any(self.balance(account, day) > ceiling for day in days)

    def there(self, account: AccountRef, since: date) -> Decimal:
        """What can be taken on the poorest day."""
        days = [since + timedelta(days=n) for n in range((self.today - since).days + 1)]
        return max(ZERO, min(self.balance(account, day) - self.held(account, day) for day in days))

    def post_up_to(self, tracekey: UUID, debit: AccountRef, credit: AccountRef, amount: Decimal, day: date | None) -> str:
        """As ``post``, of what is there."""
        mark = ("up_to", amount)
        if tracekey in self.buried:
            return "R108"
        if tracekey in self.entries:
            known = self.entries[tracekey][0]
            asked = ((debit, -amount), (credit, amount))
            return "REPLAYED" if known[2] == mark and known[1] == day and self.asked[tracekey] == asked else "R107"
        since = day or self.today
        closed = since <= self.closed or self._barred([debit, credit])
        if not closed and self.today - timedelta(days=BACKDATE_DAYS_MAX) <= since <= self.today:
            amount = min(amount, ZERO if debit in self.deferred else self.there(debit, since))
            if not amount:
                return "R103"
        outcome = self.post(tracekey, [(debit, -amount), (credit, amount)], day, mark=mark)
        if outcome == "POSTED":
            self.asked[tracekey] = ((debit, -mark[1]), (credit, mark[1]))
        return outcome

    def post_group(self, entries: list[tuple[UUID, list[tuple[AccountRef, Decimal]], date | None]]) -> list[str]:
        """All of them, or none."""
        before = list(self.lines), dict(self.entries)
        outcomes = [""] * len(entries)
        for place, entry in enumerate(entries):
            outcomes[place] = self.post(*entry)
            if outcomes[place] not in ("POSTED", "REPLAYED"):
                self.lines, self.entries = before
                self.answers = {tracekey: self.answers[tracekey] for tracekey in self.entries}
                return [
                    outcome if n == place or self._is_known(outcome, entries[n][0], before[1]) else "R123"
                    for n, outcome in enumerate(self._known(entries, outcomes, place))
                ]
        return outcomes

    @staticmethod
    def _is_known(outcome: str, tracekey: UUID, before: dict[UUID, object]) -> bool:
        return outcome in ("R107", "R108") or (outcome == "REPLAYED" and tracekey in before)

    def _known(self, entries: list, outcomes: list[str], place: int) -> list[str]:
        """Repeats and reuses are recognised before anything is decided, also behind the one that was refused."""
        found = list(outcomes)
        for n in range(place + 1, len(entries)):
            tracekey, legs, day = entries[n]
            if tracekey in self.buried:
                found[n] = "R108"
            elif tracekey in self.entries:
                found[n] = "REPLAYED" if self.entries[tracekey][0] == (tuple(legs), day, None) else "R107"
        return found

    def post(
        self, tracekey: UUID, legs: list[tuple[AccountRef, Decimal]], dateref: date | None, mark: object = None
    ) -> str:
        """POSTED, REPLAYED or the code of the refusal."""
        body = (tuple(legs), dateref, mark)
        if tracekey in self.buried:
            return "R108"
        if tracekey in self.entries:
            return "REPLAYED" if self.entries[tracekey][0] == body else "R107"
        day = dateref or self.today
        if not self.today - timedelta(days=BACKDATE_DAYS_MAX) <= day <= self.today:
            return "R109"
        if barred := self._barred([legs[0][0]]):
            return barred
        if day <= self.closed:
            return "R122"
        if barred := self._barred([account for account, _ in legs]):
            return barred
        new = [Line(account, signed, day) for account, signed in legs]
        self.lines += new
        for account in dict.fromkeys(account for account, _ in legs):
            net = sum((signed for other, signed in legs if other == account), ZERO)
            broken = "R103" if net < 0 and self._broken_floor(account, day) else ""
            broken = "R120" if net > 0 and self._broken_ceiling(account, day) else broken
            if broken:
                del self.lines[-len(new) :]
                return broken
        self.entries[tracekey] = (body, new)
        self.answers[tracekey] = self._answer(new)
        return "POSTED"

    def _barred(self, accounts: list[AccountRef]) -> str:
        """The code of the first of them that takes nothing."""
        return next((_STATUS_CODES[self.statuses[ref]] for ref in accounts if ref in self.statuses), "")

    def _answer(self, new: list[Line]) -> list[Answer]:
        """What is said of each line: the balances right after it, before the entry's next one."""
        del self.lines[-len(new) :]
        found: list[Answer] = []
        for line in new:
            self.lines.append(line)
            ref = line.account
            balances = (self.balance(ref), self.held(ref), self.balance(ref, line.dateref))
            found.append((ref, line.signed, line.dateref, None if ref in self.deferred else balances))
        return found

    def keyed(self, key: str, wanted: object, post: Callable[[], list[str]]) -> list[str] | str:
        """A batch under a key: the same batch again has the same answer, another one is refused."""
        if key not in self.batches:
            self.batches[key] = (wanted, post())
            return self.batches[key][1]
        known, outcomes = self.batches[key]
        if known != wanted:
            return "R126"
        return ["REPLAYED" if outcome == "POSTED" else outcome for outcome in outcomes]

    def set_frozen(self, account: AccountRef, frozen: bool) -> str:
        if self.statuses.get(account) == "CLOSED":
            return "R121"
        self.statuses.pop(account, None)
        if frozen:
            self.statuses[account] = "FROZEN"
        return "DONE"

    def close_account(self, account: AccountRef) -> str:
        if self.balance(account) or self.held(account):
            return "R125"
        self.statuses[account] = "CLOSED"
        return "DONE"

    def set_limits(self, account: AccountRef, floor: Decimal | None, ceiling: Decimal | None) -> str:
        if floor is not None and self.balance(account) - self.held(account) < floor:
            return "R103"
        if ceiling is not None and self.balance(account) > ceiling:
            return "R120"
        self.floors[account] = floor
        self.ceilings.pop(account, None)
        if ceiling is not None:
            self.ceilings[account] = ceiling
        return "DONE"

    def hold(self, key: str, account: AccountRef, amount: Decimal) -> str:
        known = self.holds.get(key)
        if known:
            if known.status in ("VOIDED", "EXPIRED"):
                return "R114"
            return known.status if (known.account, known.amount) == (account, amount) else "R115"
        if barred := self._barred([account]):
            return barred
        if self.floors[account] is not None and self.balance(account) - self.held(account) < amount:
            return "R103"
        self.holds[key] = Held(account, amount, self.today)
        return "OPEN"

    def post_hold(self, key: str, tracekey: UUID, credit: AccountRef, part: Decimal | None = None) -> str:
        known = self.holds.get(key)
        if known is None:
            return "R113"
        if known.status in ("VOIDED", "EXPIRED") or (known.status == "POSTED" and known.tracekey != tracekey):
            return "R114"
        if part is not None and part > known.amount:
            return "R110"
        amount = known.amount if part is None else part
        self.holds[key] = replace(known, status="POSTED", tracekey=tracekey)
        legs = [(known.account, -amount), (credit, amount)]
        outcome = self._post_held(tracekey, legs, key)
        if outcome not in ("POSTED", "REPLAYED"):
            self.holds[key] = known
        return outcome

    def _post_held(self, tracekey: UUID, legs: list[tuple[AccountRef, Decimal]], key: str) -> str:
        floors, self.floors = self.floors, dict.fromkeys(self.floors)  # its money was reserved
        try:
            return self.post(tracekey, legs, None, mark=key)
        finally:
            self.floors = floors

    def expire_holds(self) -> int:
        """Every open hold is over."""
        due = [key for key, held in self.holds.items() if held.status == "OPEN"]
        for key in due:
            self.holds[key] = replace(self.holds[key], status="EXPIRED")
        return len(due)

    def close_day(self, day: date) -> bool:
        was_open = day > self.closed
        self.closed = max(day, self.closed)
        return was_open

    def void_hold(self, key: str) -> str:
        known = self.holds.setdefault(key, Held(None, None, self.today, status="VOIDED"))
        if known.status == "POSTED":
            return "R114"
        if known.status == "OPEN":
            self.holds[key] = replace(known, status="VOIDED")
        return self.holds[key].status

    def reverse(self, tracekey: UUID, reversal: UUID) -> str:
        if tracekey not in self.entries:
            self.buried.add(tracekey)
            return "NEVER_POSTED"
        if self.reversals.get(tracekey, reversal) != reversal:
            return "R116"
        legs = [(line.account, -line.signed) for line in self.entries[tracekey][1]]
        outcome = self.post(reversal, legs, None, mark=tracekey)
        if outcome in ("POSTED", "REPLAYED"):
            self.reversals[tracekey] = reversal
            return "REVERSED"
        return outcome

    def day_rows(self) -> dict[tuple[AccountRef, date], tuple[Decimal, Decimal, Decimal, Decimal]]:
        """What the balance table must hold: totals and accumulated sums, for every day with a line."""
        found = {}
        for account, day in {(line.account, line.dateref) for line in self.lines}:
            own = [line for line in self.lines if line.account == account and line.dateref <= day]
            found[account, day] = (
                sum((-line.signed for line in own if line.dateref == day and line.signed < 0), ZERO),
                sum((line.signed for line in own if line.dateref == day and line.signed > 0), ZERO),
                sum((-line.signed for line in own if line.signed < 0), ZERO),
                sum((line.signed for line in own if line.signed > 0), ZERO),
            )
        return found

    def statement(self, account: AccountRef) -> list[tuple[date, Decimal, Decimal]]:
        """Day, signed amount and running balance of every line, by day and then as posted."""
        running, found = ZERO, []
        for line in sorted((line for line in self.lines if line.account == account), key=lambda line: line.dateref):
            running += line.signed
            found.append((line.dateref, line.signed, running))
        return found
