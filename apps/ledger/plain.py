"""Plain lines of a large batch, decided as columns instead of one after the other. Pure: numpy, no database.

Note [Plain lines]
    Most lines of a large batch are entries of one line, on accounts on which nothing but a floor can refuse them. For these
    the engine's answer needs no loop: accounts are independent of each other, and if no day of an account falls below its
    floor when all its lines are taken in order, then none of them is refused. So they are decided at once, by running sums
    over columns. As soon as anything of an account is not plain (a leg of a larger entry, a group, a hold that ends, a
    status, a ceiling, a closed day, a line that its floor refuses), all its lines go to ``fold.py``, which looks at each.
    It decides the same in all cases: that is what tests compare.

    Amounts are cents in 64 bits. An account or a batch that could fill them is not plain.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from apps.common.pg_binary import Column, whole_numbers
from apps.ledger.commands import Command, EventRule
from apps.ledger.rules import DEBIT, AccountRef, CheckedLeg, Side, first_day

CENT = Decimal("0.01")
CENTS_MAX = 1 << 61  # of an account's sums, its floor, and of all lines together


def money(cents: Any) -> Decimal:
    """An amount from one of numpy's numbers."""
    return int(cents) * CENT


class Accounts(NamedTuple):
    """Locked accounts by their place in the question; sums and floors in cents."""

    found: Column  # is it there, and no deferred one?
    plain: Column  # active, and without a ceiling
    floored: Column
    floor: Column
    debit: Column
    credit: Column
    pending: Column


class Days(NamedTuple):
    """Stored days of these accounts; ``slot``: how many days before today."""

    place: Column
    slot: Column
    debit: Column
    credit: Column


@dataclass(slots=True)
class Gathered:
    """A batch's commands by what they are, and the accounts of all.

    Lines stand by account, each account's in the order of the batch: running sums need it, and the server finds the places
    of neighbours in its index with half the effort.
    """

    lines: list[Command]  # of one leg each
    others: list[Command]
    places: dict[AccountRef, int]
    place: Column  # of each line: its account
    slot: Column
    since: Column  # of each account: the slot of its earliest day
    codes: set[int]
    sides: set[tuple[int, Side]]  # of the lines, with their events
    odd: Column  # of each account: do others touch it?


def gather(commands: Sequence[Command], *, today: date) -> Generator[None, None, Gathered]:
    """Find the lines that may be plain among commands that are well formed, in steps."""
    first = first_day(today)
    slots = {day: (today - day).days for day in {command.dateref for command in commands} if first <= day <= today}
    lines = [command for command in commands if command.is_line and command.dateref in slots]
    if len({command.key for command in commands}) < len(commands):  # whose second one is a repeat, or refused
        counts = Counter([command.key for command in commands])
        lines = [command for command in lines if counts[command.key] == 1]
    others: list[Command] = []
    if len(lines) < len(commands):
        known = set(map(id, lines))
        others = [command for command in commands if id(command) not in known]
    places: dict[AccountRef, int] = {}
    legs = [command.legs[0] for command in lines]
    yield
    place = np.array([places.setdefault(leg[0], len(places)) for leg in legs], np.int64)
    yield
    slot = np.array([slots[command.dateref] for command in lines], np.int64)
    sides = {(leg[3], leg[2]) for leg in legs}
    codes = {code for code, _ in sides}
    line_places, touched = len(places), []
    for command in others:
        if command.dateref not in slots:
            continue  # it will be refused, and must not make us read its days
        for leg in command.legs:
            touched.append((places.setdefault(leg.account, len(places)), slots[command.dateref]))
            codes.add(leg.eventcode)
    since, odd = np.zeros(len(places), np.int64), np.zeros(len(places), bool)
    np.maximum.at(since, place, slot)
    odd[line_places:] = True
    for number, earliest in touched:
        odd[number] = True
        since[number] = max(since[number], earliest)
    yield
    # In the order of their keys, as the server finds them.
    order = sorted(places)
    places_now = np.array([places[ref] for ref in order], np.int64)
    rank = np.empty(len(order), np.int64)
    rank[places_now] = np.arange(len(order))
    places = {ref: n for n, ref in enumerate(order)}
    place = rank[place]
    by_account = np.argsort(place, kind="stable")
    lines = [lines[n] for n in by_account.tolist()]
    place, slot = place[by_account], slot[by_account]
    return Gathered(lines, others, places, place, slot, since[places_now], codes, sides, odd[places_now])


@dataclass(slots=True)
class Added:
    """What lines add if all of them are taken, which is known before their accounts are.

    Columns of lines: ``posted`` (so far, of the account), ``nets`` (so far, by slots), ``later`` (by slots: days before the
    line's). Of accounts, by slots: ``debits``, ``credits``, whether a line is ``there``, the first one there, and the last
    one there or before it, which changes the day's row.
    """

    cents: Column
    is_debit: Column
    posted: Column
    nets: Column
    later: Column
    debits: Column
    credits: Column
    there: Column
    first: Column
    last: Column

    @classmethod
    def of(cls, gathered: Gathered, legs: Sequence[CheckedLeg]) -> Generator[None, None, "Added"]:
        """In steps."""
        place, slot, each = gathered.place, gathered.slot, np.arange(len(legs))
        cents = whole_numbers(",".join([str(leg[1]) for leg in legs]) if legs else None)
        is_debit = np.array([leg[2] == DEBIT for leg in legs], bool)
        yield
        shape = len(gathered.places), int(slot.max(initial=0)) + 1
        signed, own = np.where(is_debit, -cents, cents), np.zeros((len(legs), shape[1]), np.int64)
        own[each, slot] = signed
        nets = _running(own, place)
        yield
        cell, count = place * shape[1] + slot, shape[0] * shape[1]
        debits, credits = np.zeros(count, np.int64), np.zeros(count, np.int64)
        np.add.at(debits, cell[is_debit], cents[is_debit])
        np.add.at(credits, cell[~is_debit], cents[~is_debit])
        first, last = np.full(count, len(legs), np.int64), np.full(count, -1, np.int64)
        np.minimum.at(first, cell, each)
        np.maximum.at(last, cell, each)
        return cls(
            cents,
            is_debit,
            posted=_running(signed, place),
            nets=nets,
            later=np.arange(shape[1]) > slot[:, None],
            debits=debits.reshape(shape),
            credits=credits.reshape(shape),
            there=(last >= 0).reshape(shape),
            first=first.reshape(shape),
            last=np.maximum.accumulate(last.reshape(shape)[:, ::-1], axis=1)[:, ::-1],
        )


def odd_accounts(gathered: Gathered, events: Mapping[int, EventRule], closed: Mapping[str, int], *, today: date) -> Column:
    """Accounts that have a line whose event or day refuses it. ``closed``: of a branch, its last closed day's ordinal."""
    odd = np.zeros(len(gathered.places), bool)
    refused = {(code, side) for code, side in gathered.sides if not _allows(events.get(code), side)}
    if refused:
        legs = [command.legs[0] for command in gathered.lines]
        odd[gathered.place[[(leg[3], leg[2]) in refused for leg in legs]]] = True
    if closed:
        last = today.toordinal()
        open_slots = np.array([last - closed.get(ref.branch, 0) for ref in gathered.places], np.int64)
        odd |= gathered.since >= open_slots
    return odd


def _allows(event: EventRule | None, side: Side) -> bool:
    return event is not None and event.active and (event.allow_debit if side == DEBIT else event.allow_credit)


@dataclass(slots=True)
class Folded:
    """Lines that were posted, in order: ``index`` (into Gathered.lines), ``posted``, ``day``, ``net`` (see the table).

    What they leave behind is worked out when it is asked for: ``left``.
    """

    index: Column
    posted: Column
    day: Column
    net: Column
    left: Callable[[], "Left"]


@dataclass(slots=True)
class Left:
    """What accounts and days are behind the lines that were posted.

    Columns of accounts that changed: ``account`` (place), ``debit``, ``credit``. Of their days: ``day_account``,
    ``day_slot``, totals, accumulated sums, ``day_row`` (into Days, -1: new), the first line of a new one and the last that
    changed it (into Gathered.lines). ``stored`` and ``new``: which of the days have a row, and which have none.
    """

    account: Column
    debit: Column
    credit: Column
    day_account: Column
    day_slot: Column
    day_row: Column
    day_debit: Column
    day_credit: Column
    day_debits: Column
    day_credits: Column
    day_first: Column
    day_last: Column
    stored: Column
    new: Column


class _Tables(NamedTuple):
    """Days of accounts, by slots: their totals, and where in Days their row stands (-1: nowhere)."""

    debits: Column
    credits: Column
    rows: Column


def fold(gathered: Gathered, added: Added, accounts: Accounts, days: Days, *, odd: Column) -> Folded:
    """Decide what is plain; ``odd`` gets the accounts that are not, whose lines are left."""
    odd |= gathered.odd | ~accounts.found | ~accounts.plain
    for column in (accounts.debit, accounts.credit, accounts.pending, np.abs(accounts.floor)):
        odd |= column > CENTS_MAX
    if added.cents.sum(dtype=np.float64) > CENTS_MAX:
        odd[:] = True
    # Of an account with a floor and something held it would have to be known since when.
    odd |= accounts.floored & (accounts.pending > 0) & (gathered.since > 0)
    odd[days.place[days.slot < 0]] = True  # a clock is ahead: today is not the account's last day
    tables, place = _tables(days, added.there.shape), gathered.place
    posted, day, net, least = _balances(gathered, added, accounts, tables)
    below = added.is_debit & accounts.floored[place] & (least - accounts.pending[place] < accounts.floor[place])
    odd[place[below]] = True
    index = np.flatnonzero(~odd[place])
    return Folded(index, posted[index], day[index], net[index], lambda: _left(added, accounts, tables, odd=odd))


def _tables(days: Days, shape: tuple[int, ...]) -> _Tables:
    tables = _Tables(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64))
    known = np.flatnonzero((days.slot >= 0) & (days.slot < shape[1]))
    cells = days.place[known], days.slot[known]
    tables.debits[cells], tables.credits[cells], tables.rows[cells] = days.debit[known], days.credit[known], known
    return tables


def _balances(
    gathered: Gathered, added: Added, accounts: Accounts, tables: _Tables
) -> tuple[Column, Column, Column, Column]:
    """Behind each line: the account's balance, its day's, its day's net alone, and the least from its day on.

    If all lines are taken. See Note [Slots] in ``balances.py``.
    """
    posted = (accounts.credit - accounts.debit)[gathered.place] + added.posted
    nets = (tables.credits - tables.debits)[gathered.place] + added.nets
    if nets.shape[1] == 1:
        return posted, posted, nets[:, 0], posted
    ends = posted[:, None] - (np.cumsum(nets, axis=1) - nets)
    own = np.arange(len(posted)), gathered.slot
    return posted, ends[own], nets[own], np.where(added.later, np.iinfo(np.int64).max, ends).min(axis=1)


def _running(values: Column, groups: Column) -> Column:
    """Running sums, from each group's first value on. Groups stand together."""
    if not len(values):
        return values
    sums = np.cumsum(values, axis=0)
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    before = sums[starts] - values[starts]
    running: Column = sums - np.repeat(before, np.diff(np.r_[starts, len(values)]), axis=0)
    return running


def _left(added: Added, accounts: Accounts, tables: _Tables, *, odd: Column) -> Left:
    """Of the accounts that are not odd, and of all their days with a row from the earliest line's on."""
    taken = (added.last >= 0) & ~odd[:, None]
    cells = np.nonzero(taken & ((tables.rows >= 0) | added.there))
    changed = np.flatnonzero(taken[:, 0])
    debits, credits = tables.debits + added.debits, tables.credits + added.credits
    debit, credit = accounts.debit + added.debits.sum(axis=1), accounts.credit + added.credits.sum(axis=1)
    day_row = tables.rows[cells]
    return Left(
        account=changed,
        debit=debit[changed],
        credit=credit[changed],
        day_account=cells[0],
        day_slot=cells[1],
        day_row=day_row,
        day_debit=debits[cells],
        day_credit=credits[cells],
        day_debits=(debit[:, None] - np.cumsum(debits, axis=1) + debits)[cells],
        day_credits=(credit[:, None] - np.cumsum(credits, axis=1) + credits)[cells],
        day_first=added.first[cells],
        day_last=added.last[cells],
        stored=np.flatnonzero(day_row >= 0),
        new=np.flatnonzero(day_row < 0),
    )
