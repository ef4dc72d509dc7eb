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
from apps.ledger.plain_known import StoredDays
from apps.ledger.rules import AccountRef
from apps.ledger.writes import WRITE_SUMS, WRITE_SUMS_IF_UNCHANGED

# As rows.LOCK and rows.DAYS, but in one row each: the driver makes an object for every value of every row. Of an account
# whose version was seen before no more than that it is there is told: Note [Known accounts] in plain_known.py.
LOCK = """
SELECT string_agg(int4send(n), ''), string_agg(int4send(n), '') FILTER (WHERE changed),
    string_agg(uuid_send(id), '') FILTER (WHERE changed), string_agg(status, ',') FILTER (WHERE changed),
    string_agg(coalesce(maxbalance::text, ''), ',') FILTER (WHERE changed),
    string_agg((status = 'ACTIVE' AND maxbalance IS NULL)::int::text, ',') FILTER (WHERE changed),
    string_agg((minbalance IS NOT NULL)::int::text, ',') FILTER (WHERE changed),
    string_agg(coalesce(minbalance, 0.00)::text, ',') FILTER (WHERE changed),
    string_agg(posteddebit::text, ',') FILTER (WHERE changed), string_agg(postedcredit::text, ',') FILTER (WHERE changed),
    string_agg(pendingdebit::text, ',') FILTER (WHERE changed)
FROM (
    SELECT a.id, a.status, a.minbalance, a.maxbalance, a.posteddebit, a.postedcredit, a.pendingdebit,
        NOT a.xmin = k.seen AS changed, k.n
    FROM (SELECT unnest(%s::text[]) AS branch, unnest(%s::text[]) AS account, unnest(%s::text[]) AS currency,
        unnest(%s::xid[]) AS seen, unnest(%s::int[]) AS n) k
    JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
    WHERE NOT a.deferred
    ORDER BY a.branch, a.account, a.currency
    FOR NO KEY UPDATE OF a
) locked
"""

DAYS = f"""
SELECT string_agg(int4send(n::int - 1), ''), string_agg(uuid_send(id), ''), string_agg(int4send(%s::date - dateref), ''),
    string_agg(totaldebit::text, ','), string_agg(totalcredit::text, ',')
FROM ({rows.DAYS.replace("d.id::text", "d.id")}) found
"""  # noqa: S608 - a constant

# What is to be known of plain accounts before they are locked, and of their days, in one snapshot.
LOOK_UP = f"""
SELECT accounts.*, days.* FROM (
    SELECT string_agg(int4send(k.n), ''), string_agg(a.xmin::text, ','),
        string_agg(uuid_send(a.id), ''), string_agg('1', ','), string_agg((a.minbalance IS NOT NULL)::int::text, ','),
        string_agg(coalesce(a.minbalance, 0.00)::text, ','), string_agg(a.posteddebit::text, ','),
        string_agg(a.postedcredit::text, ','), string_agg(a.pendingdebit::text, ',')
    FROM (SELECT unnest(%s::text[]) AS branch, unnest(%s::text[]) AS account, unnest(%s::text[]) AS currency,
        unnest(%s::int[]) AS n) k
    JOIN ledger_account a ON a.branch = k.branch AND a.account = k.account AND a.currency = k.currency
    WHERE NOT a.deferred AND a.status = 'ACTIVE' AND a.maxbalance IS NULL
) accounts, ({DAYS}) days
"""  # noqa: S608 - a constant


@dataclass(slots=True)
class Locked:
    """Accounts behind their locks: whether they are there. What was ``read`` of some, as the server wrote it."""

    found: Column
    read: Column  # places
    ids: Column
    statuses: Sequence[str]
    ceilings: Sequence[str]
    columns: list[Column]

    @classmethod
    def of(cls, answer: Sequence[Any], *, count: int) -> "Locked":
        """From the answer to LOCK. Raises OverflowError for sums that do not fit."""
        number, read, ids, statuses, ceilings, *columns = answer
        found = np.zeros(count, np.bool_)
        found[pg_binary.values(number, pg_binary.INTEGER)] = True
        return cls(
            found,
            pg_binary.values(read, pg_binary.INTEGER),
            pg_binary.values(ids, pg_binary.UUID),
            pg_binary.texts(statuses),
            pg_binary.texts(ceilings),
            [pg_binary.whole_numbers(text) for text in columns],
        )


class LookedUp(NamedTuple):
    """Plain accounts before they are locked, by their places in the question: versions, ids, and columns of Accounts."""

    places: Column
    versions: Column
    ids: Column
    columns: list[Column]
    days: StoredDays

    @classmethod
    def of(cls, answer: Sequence[Any], places: Column) -> "LookedUp":
        """From the answer to LOOK_UP for these places. Raises OverflowError for sums that do not fit."""
        number, version, ids, *columns = answer[:9]
        return cls(
            places[pg_binary.values(number, pg_binary.INTEGER)],
            pg_binary.whole_numbers(version),
            pg_binary.values(ids, pg_binary.UUID),
            [pg_binary.whole_numbers(text) for text in columns],
            stored_days(answer[9:], places),
        )


def stored_days(answer: Sequence[Any], places: Column) -> StoredDays:
    """From the answer to DAYS for these places of the question. Raises OverflowError for sums that do not fit."""
    asked, ids, slot, debit, credit = answer
    place = places[pg_binary.values(asked, pg_binary.INTEGER)]
    days = Days(place, _integers(slot), pg_binary.whole_numbers(debit), pg_binary.whole_numbers(credit))
    return StoredDays(days, pg_binary.values(ids, pg_binary.UUID))


def _integers(sent: bytes | None) -> Column:
    return pg_binary.values(sent, pg_binary.INTEGER).astype(np.int64)


@dataclass(slots=True)
class Read:
    """What a batch knows behind its locks."""

    ids: Column
    accounts: Accounts
    stored: StoredDays
    events: dict[int, EventRule]
    closed: dict[str, int]
    suspended: list[Suspended]
    locked: Locked | None = None  # what was not known before

    @classmethod
    def of(
        cls,
        ids: Column,
        accounts: Accounts,
        stored: StoredDays,
        answers: Iterable[list[tuple[Any, ...]]],
        locked: Locked | None = None,
    ) -> "Read":
        """From what was known before, and the answers to EVENTS and CLOSED."""
        events, closed = answers
        closed_days, suspended = rows.closed_and_suspended(closed)
        rules = {code: EventRule(*rule) for code, *rule in events}
        return cls(ids, accounts, stored, rules, closed_days, suspended, locked)

    def books(self, refs: Mapping[AccountRef, int]) -> dict[AccountRef, AccountBook]:
        """Those of these accounts that are there, as ``fold`` wants them, without their days."""
        locked, accounts, made = self.locked, self.accounts, dict[AccountRef, AccountBook]()
        if not refs or locked is None:
            return made
        read = dict(zip(locked.read.tolist(), zip(locked.statuses, locked.ceilings, strict=True), strict=True))
        for ref, n in refs.items():
            if accounts.found[n]:
                sums = [money(column[n]) for column in (accounts.debit, accounts.credit, accounts.pending)]
                floor = money(accounts.floor[n]) if accounts.floored[n] else None
                status, ceiling = read.get(n, _PLAIN)
                limits = status, floor, Decimal(ceiling) if ceiling else None
                made[ref] = AccountBook(pg_binary.uuid_of(self.ids[n]), ref, *limits, sums[0], sums[1], sums[2])
        return made

    def days_of(self, refs: Mapping[AccountRef, int], *, today: date) -> dict[AccountRef, list[StoredDay]]:
        """The stored days of these accounts, oldest first."""
        by_place: dict[int, list[StoredDay]] = {n: [] for n in refs.values()}
        last, (days, ids) = today.toordinal(), self.stored
        for n in np.flatnonzero(np.isin(days.place, list(by_place))).tolist():
            row_id, ordinal = pg_binary.uuid_of(ids[n]).hex, last - int(days.slot[n])
            by_place[int(days.place[n])].append(StoredDay(row_id, ordinal, money(days.debit[n]), money(days.credit[n])))
        return {ref: by_place[n] for ref, n in refs.items()}


_PLAIN = ("ACTIVE", "")  # what is known of an account's last batch was plain: Note [Known accounts]


def days_of(slots: Column, today: date) -> list[date]:
    """The days so many days before today; there are a few of them."""
    days = [today - timedelta(days=slot) for slot in range(int(slots.max(initial=0)) + 1)]
    return [days[slot] for slot in slots.tolist()]


class Question(NamedTuple):
    """Which accounts to lock, and since when their days are wanted: arrays as text."""

    keys: list[str]
    numbers: pg_binary.IntegerArray  # by which the answer names them
    head: list[str]  # of the few accounts that are locked first: Note [Convoy] in rows.py
    branches: str
    codes: str

    @classmethod
    def of(cls, gathered: Gathered) -> "Question":
        """Ask for all accounts of a batch."""
        refs = list(gathered.places)
        return cls(
            keys_of(refs),
            up_to(len(refs)),
            rows.columns(nsmallest(rows.CONVOY_HEAD, refs), 3) if len(refs) >= rows.CONVOY_ACCOUNTS_MIN else [],
            array_text(list({ref.branch for ref in refs})),
            array_text(list(gathered.codes)),
        )


def up_to(count: int) -> pg_binary.IntegerArray:
    """0, 1, … The planner takes an array for short and looks rows up; a series it takes for long."""
    return pg_binary.IntegerArray(np.arange(count))


def keys_of(refs: Iterable[AccountRef]) -> list[str]:
    """Keys of accounts as arrays: nothing in a key is to be escaped."""
    return ['{"' + '","'.join(column) + '"}' for column in zip(*refs, strict=True)]


class Sums(NamedTuple):
    """The parameters of WRITE_SUMS: of accounts, of days that are stored, of new ones. Rows of accounts, new, stored."""

    accounts: list[Any]
    stored: list[Any]
    new: list[Any]
    new_ids: Column
    counts: tuple[int, int, int]

    @classmethod
    def of(cls, gathered: Gathered, read: Read, left: Left, *, today: date) -> "Sums":
        """What the lines left behind."""
        lines = gathered.lines
        of_accounts = (left.debit, left.credit, read.accounts.pending[left.account])
        totals = (left.day_debit, left.day_credit, left.day_debits, left.day_credits)
        old = left.stored
        new_ids = pg_binary.uuids([uuid7() for _ in range(len(left.new))])
        return cls(
            [pg_binary.UuidArray(read.ids[left.account]), *_numerics(*of_accounts)],
            [
                pg_binary.UuidArray(read.stored.ids[left.day_row[old]]),
                *_numerics(*(column[old] for column in totals)),
                pg_binary.UuidArray(pg_binary.uuids([lines[n].tracekey for n in left.day_last[old].tolist()])),
            ],
            _new_days(gathered, left, totals, new_ids, today=today),
            new_ids,
            (len(left.account), len(left.new), len(old)),
        )

    def write(self, *, now: datetime, work: Work) -> int:
        """Write them in one statement, behind the accounts' locks. The version that the accounts have now."""
        pg_binary.register(connection.connection)
        values = [now, *self.accounts, now, *self.stored, now, now, *self.new]
        return self.version(rows.fetch_hot(WRITE_SUMS, values, work=work)[0])

    def version(self, answer: Sequence[Any]) -> int:
        """The version that the accounts have now, if all was written."""
        version = self.version_if_unchanged(answer)
        if version is None:
            raise RuntimeError(f"The ledger wrote {answer[:3]} rows: somebody changed accounts or days without their lock.")
        return version

    def if_unchanged(self, seen: Column, *, now: datetime) -> tuple[str, list[Any]]:
        """The statement that takes the locks and writes them, if all accounts have these versions."""
        pg_binary.register(connection.connection)
        accounts, count = [*self.accounts, pg_binary.XidArray(seen)], self.counts[0]
        return WRITE_SUMS_IF_UNCHANGED, [now, *accounts, now, *self.stored, count, now, now, *self.new, count]

    def version_if_unchanged(self, answer: Sequence[Any]) -> int | None:
        """From its answer: the version that the accounts have now, or None if not all was written."""
        *written, version = answer
        return version if tuple(written) == self.counts else None


def _new_days(gathered: Gathered, left: Left, totals: Sequence[Column], ids: Column, *, today: date) -> list[Any]:
    new = left.new
    if not len(new):
        return ["{}"] * 11
    refs, lines = list(gathered.places), gathered.lines
    keys = zip(*[refs[n] for n in left.day_account[new].tolist()], strict=True)
    return [
        pg_binary.UuidArray(ids),
        *(array_text(column) for column in keys),
        array_text(days_of(left.day_slot[new], today)),
        *(array_text([money(cents) for cents in column[new].tolist()]) for column in totals),
        *(array_text([lines[n].tracekey for n in column[new].tolist()]) for column in (left.day_first, left.day_last)),
    ]


def _numerics(*columns: Column) -> list[Any]:
    made = pg_binary.numerics(np.concatenate(columns)).reshape(len(columns), -1)
    return [pg_binary.NumericArray(column) for column in made]
