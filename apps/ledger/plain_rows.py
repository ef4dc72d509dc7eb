"""What plain lines read and write, in columns. See Note [Plain lines] in ``plain.py``, and Note [Fences] in ``rows.py``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NamedTuple
from uuid import UUID

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
from apps.ledger.plain_known import Files, StoredDays
from apps.ledger.rules import AccountRef
from apps.ledger.writes import WRITE_SUMS, WRITE_SUMS_AND_TELL, WRITE_SUMS_IF_UNCHANGED

# As rows.LOCK and rows.DAYS, but in one row each: the driver makes an object for every value of every row. Of an account
# whose version was seen before only its place is told: Note [Known accounts] in plain_known.py. The last two are the files
# in which accounts and days stand, and will stand until the commit: both tables are named, so they are locked first.
LOCK = """
SELECT string_agg(int4send(n), ''), string_agg(tidsend(place), ''), string_agg(int4send(n), '') FILTER (WHERE changed),
    string_agg(status, ',') FILTER (WHERE changed), string_agg(coalesce(maxbalance::text, ''), ',') FILTER (WHERE changed),
    string_agg((status = 'ACTIVE' AND maxbalance IS NULL)::int::text, ',') FILTER (WHERE changed),
    string_agg((minbalance IS NOT NULL)::int::text, ',') FILTER (WHERE changed),
    string_agg(coalesce(minbalance, 0.00)::text, ',') FILTER (WHERE changed),
    string_agg(posteddebit::text, ',') FILTER (WHERE changed), string_agg(postedcredit::text, ',') FILTER (WHERE changed),
    string_agg(pendingdebit::text, ',') FILTER (WHERE changed), pg_relation_filenode('ledger_account')::bigint,
    CASE WHEN count(*) < 0 THEN (SELECT 0 FROM ledger_balance LIMIT 1)
        ELSE pg_relation_filenode('ledger_balance')::bigint END
FROM (
    SELECT a.ctid AS place, a.status, a.minbalance, a.maxbalance, a.posteddebit, a.postedcredit, a.pendingdebit,
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
SELECT string_agg((n - 1)::text, ','), string_agg(ctid, ','), string_agg((%s::date - dateref)::text, ','),
    string_agg(totaldebit::text, ','), string_agg(totalcredit::text, ',')
FROM ({rows.DAYS}) found
"""  # noqa: S608 - a constant


@dataclass(slots=True)
class Locked:
    """Accounts behind their locks: whether and where they stand. What was ``read`` of some, as the server wrote it."""

    found: Column
    rows: Column
    read: Column  # places
    statuses: Sequence[str]
    ceilings: Sequence[str]
    columns: list[Column]
    files: Files

    @classmethod
    def of(cls, answer: Sequence[Any], *, count: int) -> "Locked":
        """From the answer to LOCK. Raises OverflowError for sums that do not fit."""
        number, place, read, statuses, ceilings, plain_ones, floored, *sums, of_accounts, of_days = answer
        there = pg_binary.values(number, pg_binary.INTEGER)
        found, stand = np.zeros(count, np.bool_), np.zeros(count, pg_binary.TID)
        found[there], stand[there] = True, pg_binary.values(place, pg_binary.TID)
        columns = [pg_binary.whole_numbers(text) for text in (plain_ones, floored, *sums)]
        where = pg_binary.values(read, pg_binary.INTEGER)
        files = of_accounts, of_days
        return cls(found, stand, where, pg_binary.texts(statuses), pg_binary.texts(ceilings), columns, files)

    @classmethod
    def known(cls, stand: Column) -> "Locked":
        """Accounts of which all was known, so that nothing was read."""
        return cls(np.ones(len(stand), np.bool_), stand, np.zeros(0, np.int64), [], [], [], (0, 0))


def stored_days(answer: Sequence[Any], places: Column) -> StoredDays:
    """From the answer to DAYS for these places of the question. Raises OverflowError for sums that do not fit."""
    asked, found, *columns = answer
    slot, debit, credit = map(pg_binary.whole_numbers, columns)
    return StoredDays(Days(places[pg_binary.whole_numbers(asked)], slot, debit, credit), pg_binary.tids_of_texts(found))


@dataclass(slots=True)
class Read:
    """What a batch knows behind its locks."""

    locked: Locked
    accounts: Accounts
    stored: StoredDays
    events: dict[int, EventRule]
    closed: dict[str, int]
    suspended: list[Suspended]

    @classmethod
    def of(
        cls,
        locked: Locked,
        accounts: Accounts,
        stored: StoredDays,
        events: Iterable[Sequence[Any]],
        closed: Iterable[tuple[Any, ...]],
    ) -> "Read":
        """From the server's answers, and what was known before."""
        closed_days, suspended = rows.closed_and_suspended(closed)
        rules = {code: EventRule(*rule) for code, *rule in events}
        return cls(locked, accounts, stored, rules, closed_days, suspended)

    def books(self, refs: Mapping[AccountRef, int]) -> dict[AccountRef, AccountBook]:
        """Those of these accounts that are there, as ``fold`` wants them, without their days."""
        if not refs:
            return {}
        locked, accounts, made = self.locked, self.accounts, {}
        read = dict(zip(locked.read.tolist(), zip(locked.statuses, locked.ceilings, strict=True), strict=True))
        for ref, n in refs.items():
            if accounts.found[n]:
                sums = [money(column[n]) for column in (accounts.debit, accounts.credit, accounts.pending)]
                floor = money(accounts.floor[n]) if accounts.floored[n] else None
                status, ceiling = read.get(n, _PLAIN)
                limits = status, floor, Decimal(ceiling) if ceiling else None
                made[ref] = AccountBook(None, pg_binary.tid_text(locked.rows[n]), ref, *limits, sums[0], sums[1], sums[2])
        return made

    def days_of(self, refs: Mapping[AccountRef, int], *, today: date) -> dict[AccountRef, list[StoredDay]]:
        """The stored days of these accounts, oldest first."""
        by_place: dict[int, list[StoredDay]] = {n: [] for n in refs.values()}
        last, (days, stand) = today.toordinal(), self.stored
        for n in np.flatnonzero(np.isin(days.place, list(by_place))).tolist():
            row, ordinal = pg_binary.tid_text(stand[n]), last - int(days.slot[n])
            by_place[int(days.place[n])].append(StoredDay(row, ordinal, money(days.debit[n]), money(days.credit[n])))
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


class Told(NamedTuple):
    """What has been written: the accounts' version; which accounts, stored and new days stand where."""

    version: int
    accounts: tuple[Column, Column]
    stored: tuple[Column, Column]
    new: tuple[Column, Column]  # by their ids

    @classmethod
    def of(cls, answer: Sequence[Any]) -> "Told":
        """From the end of an answer that tells."""
        version, account, account_place, stored, stored_place, new, new_place = answer
        integers, places = pg_binary.INTEGER, pg_binary.TID
        return cls(
            version,
            (pg_binary.values(account, integers), pg_binary.values(account_place, places)),
            (pg_binary.values(stored, integers), pg_binary.values(stored_place, places)),
            (pg_binary.values(new, pg_binary.UUID), pg_binary.values(new_place, places)),
        )


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
        new_ids = [uuid7() for _ in range(len(left.new))]
        return cls(
            [pg_binary.TidArray(read.locked.rows[left.account]), *_numerics(*of_accounts)],
            [
                pg_binary.TidArray(read.stored.rows[left.day_row[old]]),
                *_numerics(*(column[old] for column in totals)),
                pg_binary.UuidArray(pg_binary.uuids([lines[n].tracekey for n in left.day_last[old].tolist()])),
                up_to(len(old)),
            ],
            _new_days(gathered, left, totals, new_ids, today=today),
            pg_binary.uuids(new_ids),
            (len(left.account), len(left.new), len(old)),
        )

    def write(self, *, now: datetime, work: Work, tell: bool) -> Told | None:
        """Write them in one statement, behind the accounts' locks. What is it to ``tell``?"""
        pg_binary.register(connection.connection)
        numbers = [up_to(self.counts[0])] if tell else []
        values = [now, *self.accounts, *numbers, now, *self.stored, now, now, *self.new]
        statement = WRITE_SUMS_AND_TELL if tell else WRITE_SUMS
        accounts, new, stored, *told = rows.fetch_hot(statement, values, work=work)[0]
        if (accounts, new, stored) != self.counts:
            raise RuntimeError(
                f"The ledger wrote {accounts}, {new} and {stored} rows of accounts, new days and stored ones: somebody "
                "changed them without their lock."
            )
        return Told.of(told) if tell else None

    def if_unchanged(self, seen: Column, *, now: datetime) -> tuple[str, list[Any]]:
        """The statement that takes the locks and writes them, if all accounts have these versions."""
        pg_binary.register(connection.connection)
        count = self.counts[0]
        accounts = [*self.accounts, up_to(count), pg_binary.XidArray(seen)]
        return WRITE_SUMS_IF_UNCHANGED, [now, *accounts, now, *self.stored, count, now, now, *self.new, count]

    def told(self, answer: Sequence[Any], files: Files) -> Told | None:
        """From its answer: what it has written. None if it has not written all, or written it in other files."""
        *written, of_accounts, of_days = answer[:5]
        return Told.of(answer[5:]) if (tuple(written), (of_accounts, of_days)) == (self.counts, files) else None


def _new_days(gathered: Gathered, left: Left, totals: Sequence[Column], ids: Sequence[UUID], *, today: date) -> list[Any]:
    new = left.new
    if not len(new):
        return ["{}"] * 11
    refs, lines = list(gathered.places), gathered.lines
    keys = zip(*[refs[n] for n in left.day_account[new].tolist()], strict=True)
    return [
        array_text(ids),
        *(array_text(column) for column in keys),
        array_text(days_of(left.day_slot[new], today)),
        *(array_text([money(cents) for cents in column[new].tolist()]) for column in totals),
        *(array_text([lines[n].tracekey for n in column[new].tolist()]) for column in (left.day_first, left.day_last)),
    ]


def _numerics(*columns: Column) -> list[Any]:
    made = pg_binary.numerics(np.concatenate(columns)).reshape(len(columns), -1)
    return [pg_binary.NumericArray(column) for column in made]
