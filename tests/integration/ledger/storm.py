"""Everything that may happen to a ledger, at random and all at once: what was asked for, and what was answered."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.ledger import chain, queue
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef, Entry, EntryResult
from apps.messaging.envelope import Meta
from apps.messaging.public import Received
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, LIMITED, NOW, TODAY, fund, line, money, move

FEES, CAPPED, FICKLE = (AccountRef("0001", name) for name in ("FEES", "CAPPED", "FICKLE"))
REFS = (ANA, BOB, LIMITED, CLEARING, CAPPED, FICKLE)
OPENING = 300
DAYS_BACK = (0, 0, 0, 1, 3, 5, 7)
CLOSING = {0: 6, 1: 4}  # which thread closes which day, in its middle step
EXACT = timedelta(0)
DayRows = list[tuple[Any, ...]]


def open_accounts() -> None:
    """The bank of the other tests, and one account that is deferred, one with a ceiling, one that is frozen and thawed."""
    with transaction.atomic():
        ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        ledger.open_account(branch="0001", account="CAPPED", max_balance=money(2 * OPENING), now=NOW)
        ledger.open_account(branch="0001", account="FICKLE", now=NOW)
    for ref in REFS:
        fund(ref, OPENING, dateref=TODAY - timedelta(days=7))


def day_rows(until: date) -> DayRows:
    """Every stored day up to one, as it is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM ledger_balance WHERE dateref <= %s ORDER BY id", [until])
        return cursor.fetchall()


@dataclass
class Log:
    """What all threads did. Only appended to, so that they may share it."""

    answers: list[tuple[Entry, EntryResult]] = field(default_factory=list)  # also of repeats
    queued: list[UUID] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)  # key and how, of ends that were accepted for the first time
    closed: list[tuple[date, DayRows]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)

    def posted(self) -> dict[UUID, tuple[Entry, ledger.PostResult]]:
        """Entries that were posted, with their first answer."""
        found = [(entry, result.posting) for entry, result in list(self.answers) if result.posting]
        return {entry.tracekey: (entry, posting) for entry, posting in found if not posting.replayed}


class Thread:
    """One of them, with dice of its own."""

    def __init__(self, number: int, log: Log, *, steps: int, seed: int = 0, clocks: Sequence[timedelta] = (EXACT,)) -> None:
        """``clocks``: how far those of the machines differ that they run on."""
        self._number, self._log, self._steps, self._clocks = number, log, steps, clocks
        self._draw = random.Random(seed * 1_000 + number)
        self._deeds: list[tuple[Callable[[], str], int]] = [
            (self.single, 4),
            (self.batch, 5),
            (self.stream, 2),
            (self.queue, 4),
            (self.hold, 4),
            (self.end_hold, 4),
            (self.expire, 1),
            (self.reverse, 3),
            (self.roll_up, 2),
            (self.freeze, 2),
            (self.chain, 2),
        ]

    def _now(self) -> datetime:
        return NOW + self._draw.choice(self._clocks)

    def run(self) -> None:
        """All steps; a refusal is an outcome, and nothing else may be raised."""
        deeds, weights = zip(*self._deeds, strict=True)
        for step in range(self._steps):
            if step == self._steps // 2 and self._number in CLOSING:
                self._try(self.close_day)
            self._try(self._draw.choices(deeds, weights)[0])

    def _try(self, deed: Callable[[], str]) -> None:
        try:
            outcome = deed()
        except DomainError as refusal:
            outcome = refusal.code
        self._log.outcomes.append(f"{deed.__name__} {outcome}")

    # --- Entries ------------------------------------------------------------------------------------------------
    def _amount(self) -> Decimal:
        return money(self._draw.choice(["0.01", "3", "33.33", "80", "250"]))

    def _entry(self) -> Entry:
        known = self._log.answers
        if known and self._draw.random() < 0.15:  # a repeat, or its key with another body
            entry = self._draw.choice(known)[0]
            return entry if self._draw.random() < 0.7 else line(ANA, "C", "7.77", tracekey=entry.tracekey)
        day: date | None = TODAY - timedelta(days=self._draw.choice(DAYS_BACK))
        if len(self._clocks) > 1 and self._draw.random() < 0.5:
            day = None  # the clock's own
        if self._draw.random() < 0.3:
            return line(self._draw.choice([*REFS, FEES]), self._draw.choice("DCC"), self._amount(), dateref=day)
        debit, credit = self._draw.sample(REFS, 2)
        if self._draw.random() < 0.3:
            credit = FEES
        entry = move(debit, credit, self._amount(), dateref=day)
        return replace(entry, up_to=True) if self._draw.random() < 0.1 else entry

    def single(self) -> str:
        """One entry, a commit of its own."""
        entry = self._entry()
        try:
            result = EntryResult(entry.tracekey, ledger.post_alone(entry, now=self._now()))
        except DomainError as refusal:
            result = EntryResult(entry.tracekey, refusal=refusal)
        self._log.answers.append((entry, result))
        return result.code or "OK"

    def batch(self) -> str:
        """Some entries, perhaps linked, perhaps under a key, perhaps only to see."""
        entries = [self._entry() for _ in range(self._draw.randint(2, 6))]
        if self._draw.random() < 0.3:
            entries = [replace(entry, group="g") for entry in entries]
        key = str(uuid7()) if self._draw.random() < 0.2 else None
        dry = self._draw.random() < 0.1
        with transaction.atomic():
            results = ledger.post_batch(entries, now=self._now(), key=key, dry_run=dry)
        if dry:
            return "DRY"
        self._log.answers.extend(zip(entries, results, strict=True))
        return "OK" if any(result.posting for result in results) else "REFUSED"

    def stream(self) -> str:
        """Some batches, the next one made ready while the one before is posted; or single lines, and the next one sent."""
        size = self._draw.choice([1, 3])
        entries = [self._entry() for _ in range(self._draw.randint(3, 12))]
        batches = [entries[start : start + size] for start in range(0, len(entries), size)]
        posted: list[EntryResult] = []
        try:
            for results in ledger.post_batches(batches, clock=self._now):
                posted += results
        finally:  # a batch that loses a deadlock ends the stream, not what was posted before it
            self._log.answers.extend(zip(entries, posted, strict=False))
        return "OK" if any(result.posting for result in posted) else "REFUSED"

    def queue(self) -> str:
        """Some entries by message."""
        entries = [replace(entry, up_to=False, group=None) for entry in (self._entry() for _ in range(4))]
        asked = [queue._request(entry) for entry in entries]
        received = [Received(one, Meta(message_id=uuid7(), schema=one.schema), "storm") for one in asked]
        with transaction.atomic():
            queue.answer_requests(received, now=self._now())
        self._log.queued.extend(entry.tracekey for entry in entries)
        return "OK"

    def reverse(self) -> str:
        """Take back something, or what never was."""
        posted = list(self._log.posted())
        tracekey = self._draw.choice(posted) if posted and self._draw.random() < 0.9 else uuid7()
        with transaction.atomic():
            return ledger.reverse(tracekey=tracekey, reversal_tracekey=uuid7(), now=self._now()).status

    # --- Holds --------------------------------------------------------------------------------------------------
    def hold(self) -> str:
        """Hold something; some of it is over already."""
        key, ref = str(uuid7()), self._draw.choice(REFS)
        expires_at = self._now() if self._draw.random() < 0.3 else None
        values = {"key": key, "branch": ref.branch, "account": ref.account, "expires_at": expires_at}
        with transaction.atomic():
            ledger.hold(amount=self._amount(), now=self._now(), **values)
        self._log.held.append(key)
        return "OK"

    def end_hold(self) -> str:
        """Void or post, whole or in part, a hold that others may be ending."""
        if not self._log.held:
            return "NONE"
        key = self._draw.choice(self._log.held[-10:])
        if self._draw.random() < 0.4:
            with transaction.atomic():
                return ledger.void_hold(key=key, now=self._now()).status
        amount = None if self._draw.random() < 0.5 else money("0.01")
        values = {"tracekey": uuid7(), "credit": self._draw.choice([CLEARING, FEES]), "eventcode": ANY, "description": ""}
        with transaction.atomic():
            ledger.post_hold(key=key, amount=amount, now=self._now(), **values)
        self._log.ended.append((key, str(values["tracekey"])))
        return "POSTED"

    def expire(self) -> str:
        """End what is over."""
        with transaction.atomic():
            return "SOME" if ledger.expire_holds(now=self._now(), limit=3) else "NONE"

    # --- Accounts and days --------------------------------------------------------------------------------------
    def roll_up(self) -> str:
        """A few waiting lines."""
        with transaction.atomic():
            return "SOME" if ledger.roll_up(now=self._now(), limit=5) else "NONE"

    def chain(self) -> str:
        """Hash what is settled."""
        return "SOME" if chain.chain(now=self._now()) else "NONE"

    def freeze(self) -> str:
        """Freeze, or thaw."""
        frozen = self._draw.random() < 0.4
        with transaction.atomic():
            ledger.set_frozen(account=FICKLE, frozen=frozen, now=self._now())
        return "FROZEN" if frozen else "THAWED"

    def close_day(self) -> str:
        """Close a day, and remember how it was in the moment of closing."""
        day = TODAY - timedelta(days=CLOSING[self._number])
        with transaction.atomic():
            was_open = ledger.close_day(branch="0001", day=day, now=self._now())
            self._log.closed.append((day, day_rows(day)))
        return "CLOSED" if was_open else "WAS CLOSED"


def told(log: Log) -> Counter[str]:
    """How often each deed had each outcome."""
    return Counter(log.outcomes)


def others(entry: Entry) -> Sequence[Entry]:
    """The same tracekey with another body."""
    legs = tuple(replace(leg, amount=leg.amount + money("0.01")) for leg in entry.legs)
    return [replace(entry, legs=legs, group=None)]
