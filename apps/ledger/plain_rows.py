"""What plain lines read and write, in columns. See Note [Plain lines] in ``plain.py``, and Note [Fences] in ``rows.py``."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from django.db import connection

from apps.common import pg_binary, prepared
from apps.common.arrays import array_text
from apps.common.clock import uuid7, uuid7_run
from apps.common.pg_binary import Column, Layout
from apps.ledger import plain, rows
from apps.ledger.balances import AccountBook, StoredDay
from apps.ledger.commands import Command, EventRule, HeldRow, Suspended
from apps.ledger.plain import Accounts, Amounts, Days, Folded, Gathered
from apps.ledger.rules import AccountRef, Balances, PostedLine, PostResult
from apps.ledger.writes import WRITE_SUMS

_LINES_AT_ONCE = 1_000  # made, then sent: the server has work while the next are made
_CENT = Decimal("0.01")
_tuple = tuple.__new__  # a named tuple without the detour over its own constructor

# As rows.LOCK and rows.DAYS, but in one row each: the driver makes an object for every value of every row.
_LOCK = f"""
WITH locked AS MATERIALIZED ({rows.LOCK})
SELECT string_agg(n::text, ','), string_agg(id::text, ','), string_agg(status, ','),
    string_agg(coalesce(maxbalance::text, ''), ','), string_agg((status = 'ACTIVE' AND maxbalance IS NULL)::int::text, ','),
    string_agg((minbalance IS NOT NULL)::int::text, ','), string_agg(coalesce(minbalance, 0.00)::text, ','),
    string_agg(posteddebit::text, ','), string_agg(postedcredit::text, ','), string_agg(pendingdebit::text, ',')
FROM locked
"""  # noqa: S608 - a constant
_DAYS = f"""
SELECT string_agg((n - 1)::text, ','), string_agg(id, ','), string_agg((%s::date - dateref)::text, ','),
    string_agg(totaldebit::text, ','), string_agg(totalcredit::text, ',')
FROM ({rows.DAYS}) found
"""  # noqa: S608 - a constant

_LINE = Layout(
    {
        "id": pg_binary.UUID,
        "tracekey": pg_binary.UUID,
        "amount": pg_binary.NUMERIC,
        "debitcredit": "S1",
        "eventcode": ">i4",
        "dateref": ">i4",
        "balanced": "?",
        "balanceafter": pg_binary.NUMERIC,
        "pendingafter": pg_binary.NUMERIC,
        "dayafter": pg_binary.NUMERIC,
        "daynet": pg_binary.NUMERIC,
        "deferred": "?",
        "createdat": ">i8",
    },
    others=5,
)
_COPY_LINES = (
    f"COPY ledger_transaction ({', '.join(_LINE.names)}, branch, account, currency, description, details) "
    "FROM STDIN (FORMAT BINARY)"
)


@dataclass(slots=True)
class Read:
    """What a batch reads behind its locks. Texts of accounts and days as the server wrote them, by their place."""

    accounts: Accounts
    days: Days
    account_ids: Sequence[str]
    statuses: str | None
    ceilings: str | None
    places: Column  # of those that were found
    day_ids: Sequence[str]
    events: dict[int, EventRule]
    closed: dict[str, int]
    suspended: list[Suspended]
    holds: dict[UUID, HeldRow]

    @classmethod
    def of(
        cls,
        locked: Sequence[Any],
        stored: Sequence[Any],
        events: Iterable[Sequence[Any]],
        closed: Iterable[tuple[Any, ...]],
        held: Iterable[Sequence[Any]],
        *,
        count: int,
    ) -> "Read":
        """From the server's answers. Raises OverflowError for sums that do not fit."""
        number, ids, statuses, ceilings, *columns = locked
        places = pg_binary.whole_numbers(number) - 1
        day_place, day_ids, slot, debit, credit = stored
        closed_days, suspended = rows.closed_and_suspended(closed)
        return cls(
            _accounts(places, columns, count),
            Days(*map(pg_binary.whole_numbers, (day_place, slot, debit, credit))),
            _at(places, ids, count),
            statuses,
            ceilings,
            places,
            pg_binary.texts(day_ids),
            events={code: EventRule(*rule) for code, *rule in events},
            closed=closed_days,
            suspended=suspended,
            holds={row[0]: HeldRow(*row) for row in held},
        )

    def books(self, refs: Mapping[AccountRef, int]) -> dict[AccountRef, AccountBook]:
        """Those of these accounts that are there, as ``fold`` wants them, without their days."""
        if not refs:
            return {}
        accounts, count = self.accounts, len(self.account_ids)
        statuses, ceilings = (_at(self.places, text, count) for text in (self.statuses, self.ceilings))
        made = {}
        for ref, n in refs.items():
            if accounts.found[n]:
                sums = [_money(column[n]) for column in (accounts.debit, accounts.credit, accounts.pending)]
                floor = _money(accounts.floor[n]) if accounts.floored[n] else None
                ceiling = Decimal(ceilings[n]) if ceilings[n] else None
                limits = statuses[n], floor, ceiling
                made[ref] = AccountBook(UUID(self.account_ids[n]), ref, *limits, sums[0], sums[1], sums[2])
        return made

    def days_of(self, refs: Mapping[AccountRef, int], *, today: date) -> dict[AccountRef, list[StoredDay]]:
        """The stored days of these accounts, oldest first."""
        by_place: dict[int, list[StoredDay]] = {n: [] for n in refs.values()}
        last = today.toordinal()
        for n in np.flatnonzero(np.isin(self.days.place, list(by_place))).tolist():
            day = StoredDay(
                self.day_ids[n], last - int(self.days.slot[n]), _money(self.days.debit[n]), _money(self.days.credit[n])
            )
            by_place[int(self.days.place[n])].append(day)
        return {ref: by_place[n] for ref, n in refs.items()}


def _money(cents: Any) -> Decimal:
    return int(cents) * _CENT


def _days_of(slots: Column, today: date) -> list[date]:
    """The days so many days before today; there are a few of them."""
    days = [today - timedelta(days=slot) for slot in range(int(slots.max(initial=0)) + 1)]
    return [days[slot] for slot in slots.tolist()]


class Question(NamedTuple):
    """Which accounts to lock, and since when their days are wanted: arrays as text."""

    keys: list[str]
    head: list[str]  # of the few accounts that are locked first: Note [Convoy] in rows.py
    branches: str
    since: str
    codes: str

    @classmethod
    def of(cls, gathered: Gathered, *, today: date) -> "Question":
        """Ask for all accounts of a batch."""
        refs = list(gathered.places)
        return cls(
            ['{"' + '","'.join(column) + '"}' for column in zip(*refs, strict=True)],  # nothing in a key is to be escaped
            rows.columns(nsmallest(rows.CONVOY_HEAD, refs), 3) if len(refs) >= rows.CONVOY_ACCOUNTS_MIN else [],
            array_text(list({ref.branch for ref in refs})),
            array_text(_days_of(gathered.since, today)),
            array_text(list(gathered.codes)),
        )


def _at(places: Column, text: str | None, count: int) -> Sequence[str]:
    """Texts by their place; the server has them in the order of the accounts' keys."""
    found = pg_binary.texts(text)
    if len(found) == count:
        return found
    made = [""] * count
    for n, each in zip(places.tolist(), found, strict=True):
        made[n] = each
    return made


def _accounts(places: Column, columns: Sequence[str | None], count: int) -> Accounts:
    values = np.zeros((len(columns) + 1, count), np.int64)
    values[0, places] = 1
    for row, text in zip(values[1:], columns, strict=True):
        row[places] = pg_binary.whole_numbers(text)
    found, plain_ones, floored, floor, debit, credit, pending = values
    return Accounts(found == 1, plain_ones == 1, floored == 1, floor, debit, credit, pending)


@dataclass(slots=True)
class Lines:
    """Lines as rows of COPY, as far as they are known before their accounts are."""

    amounts: Amounts
    ids: list[UUID]
    rows: Column
    ends: list[bytes]  # of each row: its texts

    @classmethod
    def of(cls, gathered: Gathered, *, today: date, now: datetime) -> "Lines":
        """All lines that may be plain."""
        amounts = Amounts.of(gathered.lines)
        count, legs = len(gathered.lines), [command.legs[0] for command in gathered.lines]
        ids = list(uuid7_run(count))
        made = _LINE.rows(
            count,
            {
                "id": pg_binary.uuid_run(ids[0].int if ids else 0, count),
                "tracekey": pg_binary.uuids([command.entry.tracekey for command in gathered.lines]),
                "amount": pg_binary.numerics(amounts.cents),
                "debitcredit": np.where(amounts.debit, b"D", b"C"),
                "eventcode": [leg[3] for leg in legs],
                "dateref": today.toordinal() - pg_binary.EPOCH - gathered.slot,
                "createdat": pg_binary.microseconds(now),
            },
        )
        sized, known = pg_binary.sized, _Sized()
        heads = [known[branch] + sized(account.encode()) + known[currency] for branch, account, currency in gathered.places]
        tails = _Tails()
        ends = [heads[place] + tails[leg[4:]] for place, leg in zip(gathered.place.tolist(), legs, strict=True)]
        return cls(amounts, ids, made, ends)

    def blocks(self, folded: Folded, pending: Column) -> Iterator[bytes]:
        """COPY's data of those lines that were posted."""
        money = (folded.posted, pending, folded.day, folded.net)
        balances = pg_binary.numerics(np.concatenate(money)).reshape(4, -1)
        made, ends = self.rows, self.ends
        if len(folded.index) < len(ends):
            made, ends = made[folded.index], [ends[n] for n in folded.index.tolist()]
        for name, column in zip(("balanceafter", "pendingafter", "dayafter", "daynet"), balances, strict=True):
            made[name] = column
        raw, width = made.tobytes(), made.dtype.itemsize
        yield pg_binary.COPY_HEAD
        for start in range(0, len(ends), _LINES_AT_ONCE):
            some = enumerate(ends[start : start + _LINES_AT_ONCE], start)
            yield b"".join([raw[n * width : (n + 1) * width] + end for n, end in some])
        yield pg_binary.COPY_TAIL


class PlainBatch:
    """A large batch: its accounts locked and read, and its plain lines posted. Called in the order of its methods."""

    def __init__(self, *, today: date, now: datetime) -> None:
        self._today, self._now = today, now
        self.gathered_count = -1

    def gather(self, commands: Sequence[Command]) -> None:
        """Take commands that are well formed; needs no server."""
        self.gathered_count = len(commands)
        self._gathered = plain.gather(commands, today=self._today)
        self.accounts: list[AccountRef] = list(self._gathered.places)
        if self.accounts:
            self._question = Question.of(self._gathered, today=self._today)

    def lock_and_read(self) -> Read:
        """As ``rows.lock_and_read``, in columns. Lines are made while the server works."""
        question = self._question
        holds = [command.hold_id for command in self._gathered.others if command.hold_id]
        found = prepared.fetch_each(
            *([(rows.LOCK, question.head)] if question.head else []),
            (_LOCK, question.keys),
            (_DAYS, [self._today, *question.keys, question.since]),
            (rows.EVENTS, [question.codes]),
            (rows.CLOSED, [question.branches, self._now]),
            *([(rows.HELD, [array_text(holds)])] if holds else []),
            told=False,
            meanwhile=self._make_lines,
        )
        held = found.pop() if holds else []
        *_, locked, stored, events, closed = found
        self._read = Read.of(locked[0], stored[0], events, closed, held, count=len(self.accounts))
        return self._read

    def _make_lines(self) -> None:
        self._lines = Lines.of(self._gathered, today=self._today, now=self._now)

    def since(self) -> dict[AccountRef, date]:
        """The earliest day of each account."""
        return dict(zip(self.accounts, _days_of(self._gathered.since, self._today), strict=True))

    def missing(self) -> list[AccountRef]:
        """Accounts that are not there, or deferred."""
        return [self.accounts[n] for n in np.flatnonzero(~self._read.accounts.found).tolist()]

    def decide(self, refused: Collection[AccountRef]) -> dict[AccountRef, int]:
        """Decide all that is plain. The accounts whose lines are left, and their places."""
        read, gathered = self._read, self._gathered
        odd = plain.odd_accounts(gathered, read.events, read.closed, today=self._today)
        odd[[gathered.places[ref] for ref in refused]] = True
        self._folded = plain.fold(gathered, self._lines.amounts, read.accounts, read.days, odd=odd)
        return {self.accounts[n]: n for n in np.flatnonzero(odd).tolist()}

    def write(self) -> None:
        """Write the lines, and the sums of their accounts and days; their commands carry their postings then."""
        folded, gathered = self._folded, self._gathered
        if not len(folded.index):
            return
        commands = [gathered.lines[n] for n in folded.index.tolist()]
        pending = self._read.accounts.pending[gathered.place[folded.index]]
        made: list[_Sums] = []

        def blocks() -> Iterator[bytes]:
            yield from self._lines.blocks(folded, pending)
            # While the server still takes the lines:
            made.append(_sums(commands, gathered, self._read, folded, today=self._today))
            _answer(commands, [self._lines.ids[n] for n in folded.index.tolist()], folded, pending)

        rows.copy_rows(_COPY_LINES, blocks())
        (sums,) = made
        now = self._now
        pg_binary.register(connection.connection)
        written = rows.fetch_hot(WRITE_SUMS, [now, *sums.accounts, now, *sums.stored, now, now, *sums.new])[0]
        if written != sums.counts:
            raise RuntimeError(f"The ledger wrote {written} rows: somebody changed accounts or days without their lock.")


class _Sized(dict[str, bytes]):
    """Keys that many accounts have in common."""

    def __missing__(self, key: str) -> bytes:
        made = self[key] = pg_binary.sized(key.encode())
        return made


class _Tails(dict[tuple[str, str | None], bytes]):
    """Descriptions and details, which many lines may have in common."""

    def __missing__(self, key: tuple[str, str | None]) -> bytes:
        description, details = key
        text = pg_binary.NULL if details is None else pg_binary.sized(b"\x01" + details.encode())  # jsonb's version
        made = self[key] = pg_binary.sized(description.encode()) + text
        return made


class _Sums(NamedTuple):
    """The parameters of WRITE_SUMS: of accounts, of days that are stored, of new ones; and how many rows each has."""

    accounts: list[Any]
    stored: list[Any]
    new: list[Any]
    counts: tuple[int, int, int]


def _sums(lines: Sequence[Command], gathered: Gathered, read: Read, folded: Folded, *, today: date) -> _Sums:
    ids = pg_binary.uuids_of_texts([read.account_ids[n] for n in folded.account.tolist()])
    of_accounts = (folded.debit, folded.credit, read.accounts.pending[folded.account])
    totals = (folded.day_debit, folded.day_credit, folded.day_debits, folded.day_credits)
    old, new = np.flatnonzero(folded.day_row >= 0), np.flatnonzero(folded.day_row < 0)
    return _Sums(
        [pg_binary.UuidArray(ids), *_numerics(*of_accounts)],
        [
            pg_binary.UuidArray(pg_binary.uuids_of_texts([read.day_ids[n] for n in folded.day_row[old].tolist()])),
            *_numerics(*(column[old] for column in totals)),
            pg_binary.UuidArray(pg_binary.uuids([lines[n].tracekey for n in folded.day_last[old].tolist()])),
        ],
        _new_days(new, lines, gathered, folded, totals, today=today),
        (len(ids), len(old), len(new)),
    )


def _new_days(
    new: Column, lines: Sequence[Command], gathered: Gathered, folded: Folded, totals: Sequence[Column], *, today: date
) -> list[Any]:
    if not len(new):
        return ["{}"] * 11
    refs = list(gathered.places)
    keys = zip(*[refs[n] for n in folded.day_account[new].tolist()], strict=True)
    days = _days_of(folded.day_slot[new], today)
    return [
        array_text([uuid7() for _ in days]),
        *(array_text(column) for column in keys),
        array_text(days),
        *(array_text([_money(cents) for cents in column[new].tolist()]) for column in totals),
        *(array_text([lines[n].tracekey for n in column[new].tolist()]) for column in (folded.day_first, folded.day_last)),
    ]


def _numerics(*columns: Column) -> list[Any]:
    made = pg_binary.numerics(np.concatenate(columns)).reshape(len(columns), -1)
    return [pg_binary.NumericArray(column) for column in made]


def _answer(commands: Sequence[Command], ids: Sequence[UUID], folded: Folded, pending: Column) -> None:
    columns = (folded.posted.tolist(), pending.tolist(), folded.day.tolist())
    nothing = Decimal("0.00")
    for command, line_id, posted_cents, pending_cents, day_cents in zip(commands, ids, *columns, strict=True):
        ref, amount, side, eventcode, _, _ = command.legs[0]
        posted = posted_cents * _CENT
        held = pending_cents * _CENT if pending_cents else nothing
        available = posted - held if pending_cents else posted
        day = posted if day_cents == posted_cents else day_cents * _CENT
        balances = _tuple(Balances, (posted, held, available, day))
        line = _tuple(PostedLine, (line_id, ref, side, amount, eventcode, command.dateref, balances))
        command.posting = _tuple(PostResult, (command.entry.tracekey, (line,), False))
