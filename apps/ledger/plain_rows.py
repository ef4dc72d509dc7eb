"""What plain lines read and write, in columns. See Note [Plain lines] in ``plain.py``, and Note [Fences] in ``rows.py``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NamedTuple

import numpy as np
from django.db import connection

from apps.common import pg_binary
from apps.common.arrays import array_text
from apps.common.clock import uuid7
from apps.common.meanwhile import Work
from apps.common.pg_binary import Column
from apps.ledger import rows
from apps.ledger.balances import AccountBook, StoredDay
from apps.ledger.commands import EventRule, Suspended
from apps.ledger.plain import Accounts, Days, Gathered, Left, money
from apps.ledger.rules import AccountRef
from apps.ledger.writes import WRITE_SUMS

# As rows.LOCK and rows.DAYS, but in one row each: the driver makes an object for every value of every row.
LOCK = f"""
WITH locked AS MATERIALIZED ({rows.LOCK})
SELECT string_agg(n::text, ','), string_agg(place, ','), string_agg(status, ','),
    string_agg(coalesce(maxbalance::text, ''), ','), string_agg((status = 'ACTIVE' AND maxbalance IS NULL)::int::text, ','),
    string_agg((minbalance IS NOT NULL)::int::text, ','), string_agg(coalesce(minbalance, 0.00)::text, ','),
    string_agg(posteddebit::text, ','), string_agg(postedcredit::text, ','), string_agg(pendingdebit::text, ',')
FROM locked
"""  # noqa: S608 - a constant

DAYS = f"""
SELECT string_agg((n - 1)::text, ','), string_agg(ctid, ','), string_agg((%s::date - dateref)::text, ','),
    string_agg(totaldebit::text, ','), string_agg(totalcredit::text, ',')
FROM ({rows.DAYS}) found
"""  # noqa: S608 - a constant


@dataclass(slots=True)
class Locked:
    """Accounts behind their locks; ``rows``: where they stand. Texts as the server wrote them."""

    accounts: Accounts
    rows: Column
    statuses: str | None
    ceilings: str | None
    places: Column  # of those that were found

    @classmethod
    def of(cls, locked: Sequence[Any], *, count: int) -> "Locked":
        """From the answer to LOCK. Raises OverflowError for sums that do not fit."""
        number, found, statuses, ceilings, *columns = locked
        places = pg_binary.whole_numbers(number) - 1
        stand = np.zeros(count, pg_binary.TID)
        stand[places] = pg_binary.tids_of_texts(found)
        return cls(_accounts(places, columns, count), stand, statuses, ceilings, places)


@dataclass(slots=True)
class Read:
    """What a batch reads behind its locks; ``day_rows``: where each of the days stands."""

    locked: Locked
    days: Days
    day_rows: Column
    events: dict[int, EventRule]
    closed: dict[str, int]
    suspended: list[Suspended]

    @classmethod
    def of(
        cls,
        locked: Locked,
        stored: Sequence[Any],
        events: Iterable[Sequence[Any]],
        closed: Iterable[tuple[Any, ...]],
    ) -> "Read":
        """From the server's answers. Raises OverflowError for sums that do not fit."""
        day_place, day_rows, slot, debit, credit = stored
        closed_days, suspended = rows.closed_and_suspended(closed)
        return cls(
            locked,
            Days(*map(pg_binary.whole_numbers, (day_place, slot, debit, credit))),
            pg_binary.tids_of_texts(day_rows),
            events={code: EventRule(*rule) for code, *rule in events},
            closed=closed_days,
            suspended=suspended,
        )

    def books(self, refs: Mapping[AccountRef, int]) -> dict[AccountRef, AccountBook]:
        """Those of these accounts that are there, as ``fold`` wants them, without their days."""
        if not refs:
            return {}
        locked, accounts = self.locked, self.locked.accounts
        statuses, ceilings = (_at(locked.places, text, len(locked.rows)) for text in (locked.statuses, locked.ceilings))
        made = {}
        for ref, n in refs.items():
            if accounts.found[n]:
                sums = [money(column[n]) for column in (accounts.debit, accounts.credit, accounts.pending)]
                floor = money(accounts.floor[n]) if accounts.floored[n] else None
                ceiling = Decimal(ceilings[n]) if ceilings[n] else None
                limits = statuses[n], floor, ceiling
                made[ref] = AccountBook(None, pg_binary.tid_text(locked.rows[n]), ref, *limits, sums[0], sums[1], sums[2])
        return made

    def days_of(self, refs: Mapping[AccountRef, int], *, today: date) -> dict[AccountRef, list[StoredDay]]:
        """The stored days of these accounts, oldest first."""
        by_place: dict[int, list[StoredDay]] = {n: [] for n in refs.values()}
        last = today.toordinal()
        for n in np.flatnonzero(np.isin(self.days.place, list(by_place))).tolist():
            row, ordinal = pg_binary.tid_text(self.day_rows[n]), last - int(self.days.slot[n])
            day = StoredDay(row, ordinal, money(self.days.debit[n]), money(self.days.credit[n]))
            by_place[int(self.days.place[n])].append(day)
        return {ref: by_place[n] for ref, n in refs.items()}


def days_of(slots: Column, today: date) -> list[date]:
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
            array_text(days_of(gathered.since, today)),
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


class Sums(NamedTuple):
    """The parameters of WRITE_SUMS: of accounts, of days that are stored, of new ones; and how many rows each has."""

    accounts: list[Any]
    stored: list[Any]
    new: list[Any]
    counts: tuple[int, int, int]

    @classmethod
    def of(cls, gathered: Gathered, read: Read, left: Left, *, today: date) -> "Sums":
        """What the lines left behind."""
        lines = gathered.lines
        of_accounts = (left.debit, left.credit, read.locked.accounts.pending[left.account])
        totals = (left.day_debit, left.day_credit, left.day_debits, left.day_credits)
        old, new = np.flatnonzero(left.day_row >= 0), np.flatnonzero(left.day_row < 0)
        return cls(
            [pg_binary.TidArray(read.locked.rows[left.account]), *_numerics(*of_accounts)],
            [
                pg_binary.TidArray(read.day_rows[left.day_row[old]]),
                *_numerics(*(column[old] for column in totals)),
                pg_binary.UuidArray(pg_binary.uuids([lines[n].tracekey for n in left.day_last[old].tolist()])),
            ],
            _new_days(new, gathered, left, totals, today=today),
            (len(left.account), len(old), len(new)),
        )

    def write(self, *, now: datetime, work: Work) -> None:
        """Write them in one statement."""
        pg_binary.register(connection.connection)
        values = [now, *self.accounts, now, *self.stored, now, now, *self.new]
        written = rows.fetch_hot(WRITE_SUMS, values, work=work)[0]
        if written != self.counts:
            raise RuntimeError(f"The ledger wrote {written} rows: somebody changed accounts or days without their lock.")


def _new_days(new: Column, gathered: Gathered, left: Left, totals: Sequence[Column], *, today: date) -> list[Any]:
    if not len(new):
        return ["{}"] * 11
    refs, lines = list(gathered.places), gathered.lines
    keys = zip(*[refs[n] for n in left.day_account[new].tolist()], strict=True)
    days = days_of(left.day_slot[new], today)
    return [
        array_text([uuid7() for _ in days]),
        *(array_text(column) for column in keys),
        array_text(days),
        *(array_text([money(cents) for cents in column[new].tolist()]) for column in totals),
        *(array_text([lines[n].tracekey for n in column[new].tolist()]) for column in (left.day_first, left.day_last)),
    ]


def _numerics(*columns: Column) -> list[Any]:
    made = pg_binary.numerics(np.concatenate(columns)).reshape(len(columns), -1)
    return [pg_binary.NumericArray(column) for column in made]
