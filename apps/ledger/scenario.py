"""The scenario of the Flow design on a living ledger: what is asked for by message must arrive, to the cent.

Snapshot the balances, suspend the others, put transactions on the queue, wait for every tracekey, compare statements and
balances. ``manage.py ledger_scenario`` goes through it; here is each step.

Note [A branch of its own]
    The scenario has a branch that nobody else posts to, so that what it finds there is its own doing. Its accounts have no
    floor: no entry is refused for what others have not brought yet, and any order of posting has the same end. A ledger
    forgets nothing, so its lines stay; ``settle`` brings the accounts back to zero, and the next run uses them again.
    The other branches are suspended meanwhile: their balances must be the same before and after, and nobody shares the
    time that is measured. They refuse (REFUSE): what the queue brings for them is put aside and comes again by itself,
    while in the mode WAIT it would hold up the scenario's own requests. The suspension ends by itself if nobody lifts it.
    Two runs at once would find each other's lines: a lock of the database's session keeps the second one out.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.common.transactions import transaction, transaction_required
from apps.ledger import accounts, postings, queries, queue, suspensions
from apps.ledger.models import Branch
from apps.ledger.queries import DayBalance, Outcome, StatementLine
from apps.ledger.rows import fetch
from apps.ledger.rules import BACKDATE_DAYS_MAX, CREDIT, DEBIT, ZERO, AccountRef, Entry, Side

BRANCH = "SCENARIO"
EVENT = 2_000_000_001  # far from the codes that people choose
ACCOUNTS_MAX = 1_000
TRANSACTIONS_MAX = 100_000  # some minutes of one consumer
CENTS_MAX = 100_000  # of one line; small, so that no sum of many runs is ever full
TRANSFERS = 0.3  # of all entries; the others are single lines, as the design's own are
BACK_DATED = 0.3  # of all entries: one to BACKDATE_DAYS_MAX days
REPEATS = 0.05  # of all entries are asked for twice
STATEMENT_PAGE = 500
ASK_ROWS = 1_000  # outcomes asked for in one question


class ScenarioRunning(DomainError):
    """Another run of the scenario is under way: wait for its end."""

    code, retryable = "R127", True


class NothingToRun(DomainError):
    """A run has at least one transaction and two accounts, and not too many."""

    code, status = "R128", 422


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """An account as it was: its days in the window, the one before them first, and its lines in them."""

    days: dict[date, DayBalance]
    lines: tuple[StatementLine, ...]
    opening: Decimal
    closing: Decimal
    posted: Decimal


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The scenario's accounts, and what stands on all others: debits, credits, pending."""

    accounts: dict[AccountRef, AccountSnapshot]
    others: tuple[Decimal, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something that is not as it must be."""

    what: str
    where: str
    expected: str
    found: str


@contextmanager
def alone() -> Iterator[None]:
    """Keep other runs out. Raises ScenarioRunning."""
    if not fetch("SELECT pg_try_advisory_lock(hashtext('ledger.scenario'), 0)", [])[0][0]:
        raise ScenarioRunning
    try:
        yield
    finally:
        fetch("SELECT pg_advisory_unlock(hashtext('ledger.scenario'), 0)", [])


@transaction_required
def prepare(count: int, *, now: datetime) -> list[AccountRef]:
    """Open the branch, the event and so many accounts. Safe to repeat. Raises NothingToRun."""
    if not 2 <= count <= ACCOUNTS_MAX:
        raise NothingToRun(f"A run has 2 to {ACCOUNTS_MAX} accounts.", field="accounts")
    accounts.open_branch(branch=BRANCH, description="ledger_scenario", now=now)
    accounts.ensure_event(code=EVENT, description="ledger_scenario", now=now)
    refs = [AccountRef(BRANCH, f"{number:09d}") for number in range(1, count + 1)]
    for ref in refs:
        accounts.open_account(branch=BRANCH, account=ref.account, min_balance=None, now=now)
    return refs


def draw_entries(count: int, refs: Sequence[AccountRef], *, today: date, days_back_max: int, seed: int) -> list[Entry]:
    """Random lines and transfers, some of them back-dated. Raises NothingToRun."""
    if not 1 <= count <= TRANSACTIONS_MAX:
        raise NothingToRun(f"A run has 1 to {TRANSACTIONS_MAX} transactions.", field="transactions")
    draw = random.Random(seed)  # noqa: S311 - a test's dice
    return [_draw_entry(draw, refs, today=today, days_back_max=days_back_max) for _ in range(count)]


def _draw_entry(draw: random.Random, refs: Sequence[AccountRef], *, today: date, days_back_max: int) -> Entry:
    amount = Decimal(draw.randint(1, CENTS_MAX)).scaleb(-2)
    back = draw.randint(1, days_back_max) if days_back_max and draw.random() < BACK_DATED else 0
    dateref = today - timedelta(days=back)
    first, second = draw.sample(list(refs), 2)
    if draw.random() < TRANSFERS:
        return Entry.transfer(tracekey=uuid7(), debit=first, credit=second, amount=amount, eventcode=EVENT, dateref=dateref)
    side: Side = DEBIT if draw.random() < 0.5 else CREDIT
    return Entry.line(tracekey=uuid7(), account=first, amount=amount, debitcredit=side, eventcode=EVENT, dateref=dateref)


@transaction
def ask(entries: Sequence[Entry], *, seed: int) -> int:
    """Put them on the queue, as any client would, some of them twice. How many requests?"""
    draw = random.Random(seed)  # noqa: S311 - a test's dice
    asked = [entry for entry in entries for _ in range(2 if draw.random() < REPEATS else 1)]
    queue.request_postings(asked)
    return len(asked)


@transaction
def suspend_others(*, by: str, now: datetime, until: datetime) -> list[UUID]:
    """Suspend posting to every other branch. The suspensions. See Note [A branch of its own].

    Raises WritersInside, TooManySuspensions, and then nothing is suspended.
    """
    others = Branch.objects.exclude(branch=BRANCH).order_by("branch").values_list("branch", flat=True)
    return [
        suspensions.suspend(mode="REFUSE", reason="ledger_scenario", by=by, branch=branch, now=now, until=until).id
        for branch in others[: suspensions.ACTIVE_MAX + 1]
    ]


@transaction
def resume_others(suspension_ids: Sequence[UUID], *, by: str, now: datetime) -> None:
    """Lift the suspensions. Safe to repeat."""
    for suspension_id in suspension_ids:
        suspensions.resume(suspension_id=suspension_id, by=by, now=now)


def take_snapshot(refs: Sequence[AccountRef], *, today: date, with_others: bool) -> Snapshot:
    """The accounts' days, lines and balances, and what stands on all others, if these stand still."""
    others: tuple[Decimal, ...] = ()
    if with_others:
        (others,) = fetch(
            "SELECT coalesce(sum(posteddebit), 0), coalesce(sum(postedcredit), 0), coalesce(sum(pendingdebit), 0) "
            "FROM ledger_account WHERE branch <> %s",
            [BRANCH],
        )
    return Snapshot({ref: _take_account(ref, today=today) for ref in refs}, others)


def _take_account(ref: AccountRef, *, today: date) -> AccountSnapshot:
    first = today - timedelta(days=BACKDATE_DAYS_MAX)
    days = [first + timedelta(days=number) for number in range(-1, BACKDATE_DAYS_MAX + 1)]
    lines: list[StatementLine] = []
    cursor: str | None = None
    while True:  # ends with the statement's last page
        page = queries.statement(ref, date_from=first, date_to=today, cursor=cursor, limit=STATEMENT_PAGE)
        lines += page.lines
        if (cursor := page.next_cursor) is None:
            break
    return AccountSnapshot(
        days={day: queries.balance_on(ref, day) for day in days},
        lines=tuple(lines),
        opening=page.opening,
        closing=page.closing,
        posted=queries.balance(ref).posted,
    )


def answered(tracekeys: Sequence[UUID]) -> dict[UUID, Outcome]:
    """What became of those of these that became something."""
    found: dict[UUID, Outcome] = {}
    for start in range(0, len(tracekeys), ASK_ROWS):
        outcomes = queries.outcomes(tracekeys[start : start + ASK_ROWS])
        found.update({outcome.tracekey: outcome for outcome in outcomes if outcome.result != "UNKNOWN"})
    return found


@transaction_required
def settle(refs: Sequence[AccountRef], *, now: datetime) -> None:
    """Bring the accounts back to zero. Safe to repeat."""
    entries = [
        Entry.line(
            tracekey=uuid7(),
            account=ref,
            amount=abs(posted),
            debitcredit=DEBIT if posted > 0 else CREDIT,
            eventcode=EVENT,
            description="settled",
        )
        for ref in refs
        if (posted := queries.balance(ref).posted)
    ]
    for result in postings.post_batch(entries, now=now) if entries else ():
        if result.refusal:
            raise result.refusal


# --- Comparing ----------------------------------------------------------------------------------------------------------
def compare(before: Snapshot, after: Snapshot, entries: Sequence[Entry], outcomes: dict[UUID, Outcome]) -> list[Mismatch]:
    """What is not as the entries, posted once each, must have left it."""
    found = [
        Mismatch("outcome", str(entry.tracekey), "POSTED", outcome.code or outcome.result)
        for entry in entries
        if (outcome := outcomes.get(entry.tracekey, Outcome(entry.tracekey, "UNKNOWN"))).result != "POSTED"
    ]
    moved = _moves(entries)
    for ref, then in before.accounts.items():
        found += _compare_account(ref, then, after.accounts[ref], moved.get(ref, []))
    if before.others != after.others:
        found.append(Mismatch("the other accounts", "debits, credits, pending", *_texts(before.others, after.others)))
    return found


@dataclass(frozen=True, slots=True)
class _Move:
    """A line that must be there."""

    tracekey: UUID
    dateref: date
    debitcredit: Side
    amount: Decimal

    @property
    def signed(self) -> Decimal:
        return self.amount if self.debitcredit == CREDIT else -self.amount


def _moves(entries: Sequence[Entry]) -> dict[AccountRef, list[_Move]]:
    found: dict[AccountRef, list[_Move]] = {}
    for entry in entries:
        for leg in entry.legs:
            if entry.dateref is not None:
                move = _Move(entry.tracekey, entry.dateref, leg.debitcredit, leg.amount)
                found.setdefault(leg.account, []).append(move)
    return found


def _compare_account(
    ref: AccountRef, before: AccountSnapshot, after: AccountSnapshot, moves: Sequence[_Move]
) -> list[Mismatch]:
    where = "/".join(ref)
    found = _compare_lines(where, before, after, moves)
    for day, then in before.days.items():
        expected = _day_after(then, [move for move in moves if move.dateref <= day])
        if expected != after.days[day]:
            found.append(Mismatch("day", f"{where} {day}", *_texts(_sums(expected), _sums(after.days[day]))))
    total = sum((move.signed for move in moves), ZERO)
    for what, expected_sum, found_sum in (
        ("balance", before.posted + total, after.posted),
        ("opening", before.opening, after.opening),
        ("closing", before.closing + total, after.closing),
    ):
        if expected_sum != found_sum:
            found.append(Mismatch(what, where, *_texts(expected_sum, found_sum)))
    return found


def _compare_lines(where: str, before: AccountSnapshot, after: AccountSnapshot, moves: Sequence[_Move]) -> list[Mismatch]:
    expected = Counter(_as_move(line) for line in before.lines)
    expected.update(moves)
    there = Counter(_as_move(line) for line in after.lines)
    found = [Mismatch("line missing", where, _line_text(move), "") for move in (expected - there).elements()]
    found += [Mismatch("line too much", where, "", _line_text(move)) for move in (there - expected).elements()]
    running = after.opening
    for line in after.lines:
        running += _as_move(line).signed
        if line.running != running:
            found.append(Mismatch("running balance", f"{where} {line.tracekey}", *_texts(running, line.running)))
            break  # those behind it follow from it
    return found


def _as_move(line: StatementLine) -> _Move:
    return _Move(line.tracekey, line.dateref, line.debitcredit, line.amount)


def _line_text(move: _Move) -> str:
    return f"{move.tracekey} {move.dateref} {move.debitcredit} {move.amount}"


def _day_after(day: DayBalance, until: Sequence[_Move]) -> DayBalance:
    """The day with these lines, of it and of the days before it."""
    own = [move for move in until if move.dateref == day.dateref]
    debits, credits = _by_side(until)
    own_debits, own_credits = _by_side(own)
    return replace(
        day,
        balance=day.balance + credits - debits,
        total_debit=day.total_debit + own_debits,
        total_credit=day.total_credit + own_credits,
        accumulated_debit=day.accumulated_debit + debits,
        accumulated_credit=day.accumulated_credit + credits,
    )


def _by_side(moves: Sequence[_Move]) -> tuple[Decimal, Decimal]:
    debits = sum((move.amount for move in moves if move.debitcredit == DEBIT), ZERO)
    return debits, sum((move.amount for move in moves if move.debitcredit == CREDIT), ZERO)


def _sums(day: DayBalance) -> tuple[Decimal, ...]:
    return day.balance, day.total_debit, day.total_credit, day.accumulated_debit, day.accumulated_credit


def _texts(expected: object, found: object) -> tuple[str, str]:
    def text(value: object) -> str:
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return text(expected), text(found)
