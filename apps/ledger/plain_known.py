"""What a stream knows of accounts from its batches before. Pure: numpy, no database.

Note [Known accounts]
    Whoever changes an account, its days or its lines owns the account's lock and updates the account's row in the same
    transaction: Note [Fences] in ``rows.py``. So if, behind the lock, the row's version is still the one that our last
    batch wrote, nothing of the account has changed since, and its days need not be read again. A version is told by the
    row's ``xmin``, the transaction that wrote it.

    What is known ends with its connection (another server may give a transaction's number again) and with its day.

Note [Foreseen]
    So a batch of accounts of which all is known can be decided before anybody is asked. Its sums are written if all of the
    accounts still have the versions that were seen: that statement takes the locks, in key order, says whether the
    decision was right, and writes what the locks are for. It touches no day before it has all accounts, for a day's row is
    locked by an account's owner alone. Events, closed days and suspensions are read behind it, as behind any lock. If
    anything is not as it was foreseen, the batch goes back to its savepoint and is posted in the ordinary way.

    What is not known is looked up before that, without locks: accounts and days in one snapshot, so the version tells for
    both, however it came to be known. An account with a day ahead of today, a status or a ceiling is left to the ordinary
    way. Being wrong costs a third of a batch's time, so a stream that was does not foresee the next batch, then the next
    three, seven, and so on.
"""

from collections.abc import Callable, Collection
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from apps.common import pg_binary
from apps.common.pg_binary import Column
from apps.ledger.plain import Accounts, Days
from apps.ledger.rules import BACKDATE_DAYS_MAX, AccountRef

SLOTS = BACKDATE_DAYS_MAX + 1
_ACCOUNTS_MAX = 100_000  # half a kilobyte each
_WARY_MAX = 63  # batches
_MANY = 4  # one in so many


def is_much(changed: int, known: int) -> bool:
    """Do so many changes, of so many accounts, tell that somebody else is at work on the same accounts?"""
    return changed > known // _MANY


class StoredDays(NamedTuple):
    """Days of accounts, oldest first, and their rows' ids."""

    days: Days
    ids: Column

    @classmethod
    def of(cls, stored: "list[StoredDays]") -> "StoredDays":
        """All of them."""
        if len(stored) == 1:
            return stored[0]
        days = Days(*(np.concatenate(columns) for columns in zip(*[some.days for some in stored], strict=True)))
        return cls(days, np.concatenate([some.ids for some in stored]))

    def where(self, wanted: Column) -> "StoredDays":
        """Some of them."""
        return StoredDays(Days(*(column[wanted] for column in self.days)), self.ids[wanted])


class Known:
    """Accounts in columns. An account keeps its place in them; ``version`` 0: nothing is known of it."""

    def __init__(self, today: date) -> None:
        self.today = today
        self._places: dict[AccountRef, int] = {}
        self._unsettled: Callable[[], None] | None = None
        self._connection: object = None
        self._wary = self._for_longer = 0
        self._room = 0
        self._columns: list[Column] = []
        self._grow()

    def _grow(self) -> None:
        """Room for all accounts that have a place."""
        if self._room >= len(self._places) > 0:
            return
        room = max(len(self._places), 2 * self._room)
        of_one: list[Any] = [np.uint32, np.uint32, pg_binary.UUID, *[np.int64] * 4, np.bool_, np.bool_]
        of_days: list[Any] = [np.bool_, pg_binary.UUID, np.int64, np.int64]
        columns: list[Column] = [np.zeros(room, kind) for kind in of_one]
        columns += [np.zeros((room, SLOTS), kind) for kind in of_days]
        for column, before in zip(columns, self._columns, strict=False):
            column[: self._room] = before
        self._room, self._columns = room, columns
        self.version, self._before, self.ids, *columns = columns
        self.debit, self.credit, self.pending, self.floor, self.plain, self.floored, *columns = columns
        self.day_there, self.day_ids, self.day_debit, self.day_credit = columns

    @property
    def is_full(self) -> bool:
        """Is it time to begin anew?"""
        return len(self._places) > _ACCOUNTS_MAX

    def places(self, refs: Collection[AccountRef]) -> Column:
        """Where these accounts are."""
        places = self._places
        found = np.array([places.setdefault(ref, len(places)) for ref in refs], np.int64)
        self._grow()
        return found

    def settle_later(self, settle: Callable[[], None]) -> None:
        """A batch is committed, and has something to add by ``keep`` before the next one asks."""
        self._unsettled = settle

    def settle(self) -> None:
        """Add it now."""
        settle, self._unsettled = self._unsettled, None
        if settle:
            settle()

    def versions(self, at: Column, connection: object) -> Column:
        """Of these accounts, as far as they are known on this connection."""
        self.settle()
        if connection is not self._connection:
            self._connection = connection
            self.version[:] = 0
        return self.version[at]

    def others_had_a_turn(self) -> None:
        """Much has changed since the last batch, and little will from now on: Note [Turns] in stream_turns.py."""
        self.settle()
        self._before[:], self.version[:] = self.version, 0
        self._wary = self._for_longer = 0

    def changed_meanwhile(self, at: Column, versions: Column) -> bool:
        """Of these accounts, which have these versions: have many been changed while others had their turn?"""
        before, self._before[at] = self._before[at], 0
        return is_much(int(np.count_nonzero((before > 0) & (before != versions))), int(np.count_nonzero(before)))

    def foresees(self) -> bool:
        """May a batch be decided by what is known? Not for some time after that was wrong."""
        if self._wary:
            self._wary -= 1
            return False
        return True

    def foresaw(self, *, right: bool) -> None:
        """Was it right? Note [Foreseen]."""
        self._for_longer = self._for_longer // 2 if right else min(2 * self._for_longer + 1, _WARY_MAX)
        self._wary = 0 if right else self._for_longer

    @property
    def _of_accounts(self) -> tuple[Column, ...]:
        """In the order of Accounts."""
        return self.plain, self.floored, self.floor, self.debit, self.credit, self.pending

    def take(self, at: Column, ids: Column, columns: list[Column]) -> None:
        """What was read of accounts, in the order of Accounts, without their days."""
        self.ids[at] = ids
        for column, values in zip(self._of_accounts, columns, strict=True):
            column[at] = values

    def take_days(self, at: Column, read: Column, stored: StoredDays) -> None:
        """The days of the accounts that were read, whose places in the question are ``read``: all of their window."""
        self.day_there[at[read]] = False
        days, ids = stored.where((stored.days.slot >= 0) & (stored.days.slot < SLOTS))
        self.keep_days((at[days.place], days.slot), ids, days.debit, days.credit)

    def accounts(self, at: Column, found: Column) -> Accounts:
        """These accounts, of which some were found."""
        return Accounts(found, *(column[at] for column in self._of_accounts))

    def days(self, at: Column, places: Column, since: Column) -> StoredDays:
        """The days of those of these accounts whose places in the question are given, since a slot of each."""
        at = at[places]
        n, slot = np.nonzero(self.day_there[at][:, ::-1] & (np.arange(SLOTS)[::-1] <= since[places][:, None]))
        cells = at[n], SLOTS - 1 - slot
        return StoredDays(Days(places[n], cells[1], self.day_debit[cells], self.day_credit[cells]), self.day_ids[cells])

    def forget(self, at: Column) -> None:
        """Somebody may change these accounts."""
        self.version[at] = 0

    def remember(self, at: Column, versions: Column) -> None:
        """What is known of these accounts is that of these versions."""
        self.version[at] = versions

    def keep(self, at: Column, version: int, debit: Column, credit: Column) -> None:
        """What a committed batch has written of accounts, whose days are known."""
        self.version[at], self.debit[at], self.credit[at] = version, debit, credit

    def keep_days(self, cells: tuple[Column, Column], ids: Column, debit: Column, credit: Column) -> None:
        """Days by account and slot: their rows' ids, and their totals."""
        self.day_there[cells], self.day_ids[cells] = True, ids
        self.day_debit[cells], self.day_credit[cells] = debit, credit
