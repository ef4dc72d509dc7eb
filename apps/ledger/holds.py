"""Pending debits: place, post, void, expire. A hold reduces what is available, ends once, and never draws overdraft."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from django.db import connection

from apps.common.clock import business_date, uuid7
from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.common.transactions import transaction_required
from apps.ledger import rows, suspensions
from apps.ledger.balances import AccountBook, InsufficientFunds
from apps.ledger.fold import AccountClosed, AccountFrozen, HoldEnded, UnknownAccount
from apps.ledger.postings import command_for, run_one
from apps.ledger.rules import (
    HOLD_KEY_CHARACTERS_MAX,
    ZERO,
    AccountRef,
    Balances,
    Entry,
    MalformedEntry,
    PostResult,
    check_account,
    check_amount,
    check_text,
)

# Holds ended by one call of expire_holds: their accounts stay locked until its commit.
EXPIRE_ROWS_MAX = 500

HoldStatus = Literal["OPEN", "POSTED", "VOIDED", "EXPIRED"]


class UnknownHold(DomainError):
    """There is no hold with this key."""

    code = "R113"


class HoldKeyReused(DomainError):
    """The key was already used for another hold."""

    code = "R115"


@dataclass(frozen=True, slots=True)
class HoldResult:
    """A hold, and its account's balances now. A tombstone (voided before it was placed) has no account and no amount."""

    id: UUID
    key: str
    status: HoldStatus
    account: AccountRef | None
    amount: Decimal | None
    expires_at: datetime | None
    tracekey: UUID | None  # of the entry that posted it
    balances: Balances | None


@dataclass(frozen=True, slots=True)
class _Stored:
    """A hold's row."""

    id: UUID
    status: HoldStatus
    account: AccountRef | None
    amount: Decimal | None
    expires_at: datetime | None
    tracekey: UUID | None


@transaction_required
def hold(
    *,
    key: str,
    branch: str,
    account: str,
    amount: Decimal,
    currency: str = CURRENCY,
    expires_at: datetime | None = None,
    now: datetime,
) -> HoldResult:
    """Reserve an amount on an account, until it is posted, voided or expires.

    Safe to repeat with the same key, account and amount. Raises InsufficientFunds when less is available (a credit limit
    does not count; an account without a floor may hold anything), HoldEnded when the key was voided or has expired,
    HoldKeyReused for another account or amount, UnknownAccount, AccountFrozen, LedgerSuspended.
    """
    ref, amount = AccountRef(branch, account, currency), check_amount(amount)
    _check_key(key)
    check_account(ref)
    book = suspensions.lock_to_write([ref], now=now).get(ref)
    refusal = _refusal(ref, book, amount)
    if book is not None and refusal is None:
        # From here on the hold must succeed, unless its key is taken.
        placed = _place(key, book, amount, expires_at, now=now)
        if placed is not None:
            return placed
    stored = _find(key)
    if stored is None and refusal is not None:
        raise refusal
    return _repeated(key, stored, ref, amount, book)


def _check_key(key: str) -> None:
    check_text("key", key, HOLD_KEY_CHARACTERS_MAX)
    if not key or "\n" in key:
        raise MalformedEntry("key is a text of one line.", field="key")


def _refusal(ref: AccountRef, book: AccountBook | None, amount: Decimal) -> DomainError | None:
    """What speaks against a new hold."""
    if book is None:
        return UnknownAccount(f"There is no account {'/'.join(ref)}.", field="account")
    if book.status == "CLOSED":
        return AccountClosed(f"Account {'/'.join(book.ref)} is closed.", field="account")
    if book.status != "ACTIVE":
        return AccountFrozen(f"Account {'/'.join(book.ref)} is frozen.", field="account")
    # The floor may be a credit limit; a hold never draws on it, so that voiding one can't leave a wrong debt behind.
    if book.min_balance is not None and book.available - amount < ZERO:
        return InsufficientFunds(f"Account {book.ref.branch}/{book.ref.account} has {book.available} available.")
    return None


# The hold and what its account has pending, if the key is free. The account is locked, so an absolute value is right.
_PLACE = """
WITH placed AS (
    INSERT INTO ledger_hold (id, key, status, branch, account, currency, amount, dateref, expiresat, createdat)
    VALUES (%s, %s, 'OPEN', %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING id
)
UPDATE ledger_account SET pendingdebit = %s, updatedat = %s FROM placed WHERE ledger_account.id = %s
RETURNING placed.id
"""


def _place(
    key: str, book: AccountBook, amount: Decimal, expires_at: datetime | None, *, now: datetime
) -> HoldResult | None:
    """Insert the hold. None: the key was taken, for another account or by a void that came first."""
    hold_id, ref, pending = uuid7(), book.ref, book.pending_debit + amount
    values = [hold_id, key, *ref, amount, business_date(now), expires_at, now, pending, now, book.id]
    if not rows.fetch_hot(_PLACE, values):
        return None
    book.pending_debit = pending
    balances = Balances(book.posted, book.pending_debit, book.available)
    return HoldResult(hold_id, key, "OPEN", ref, amount, expires_at, None, balances)


def _add_pending(book: AccountBook, amount: Decimal, *, now: datetime) -> None:
    book.pending_debit += amount
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ledger_account SET pendingdebit = %s, updatedat = %s WHERE id = %s",
            [book.pending_debit, now, book.id],
        )


def _repeated(key: str, stored: _Stored | None, ref: AccountRef, amount: Decimal, book: AccountBook | None) -> HoldResult:
    """The answer to a key that is in use."""
    if stored is None:
        raise RuntimeError("A hold's row vanished: holds are never deleted.")
    if stored.status in ("VOIDED", "EXPIRED"):
        raise HoldEnded(f"The hold is {stored.status}.", field="key")
    if (stored.account, stored.amount) != (ref, amount):
        raise HoldKeyReused(field="key")
    return _result(key, book)


_HOLD_COLUMNS = "id, status, branch, account, currency, amount, expiresat, tracekey"


def _stored(row: tuple[Any, ...]) -> _Stored:
    ref = AccountRef(row[2], row[3], row[4]) if row[2] is not None else None
    return _Stored(row[0], row[1], ref, row[5], row[6], row[7])


def _find(key: str) -> _Stored | None:
    found = rows.fetch_hot(f"SELECT {_HOLD_COLUMNS} FROM ledger_hold WHERE key = %s", [key])  # noqa: S608 - a constant
    return _stored(found[0]) if found else None


def _result(key: str, book: AccountBook | None) -> HoldResult:
    stored = _find(key)
    if stored is None:
        raise UnknownHold(field="key")
    balances = Balances(book.posted, book.pending_debit, book.available) if book else None
    return HoldResult(
        id=stored.id,
        key=key,
        status=stored.status,
        account=stored.account,
        amount=stored.amount,
        expires_at=stored.expires_at,
        tracekey=stored.tracekey,
        balances=balances,
    )


@transaction_required
def post_hold(
    *,
    key: str,
    tracekey: UUID,
    credit: AccountRef,
    eventcode: int,
    description: str,
    now: datetime,
    amount: Decimal | None = None,
) -> PostResult:
    """Turn a hold into an entry of two legs: its account pays its amount to ``credit``, dated today.

    ``amount``: a part of it; the rest is given back, for a hold ends once. Safe to repeat. Raises UnknownHold, HoldEnded
    when the hold was voided, has expired or was posted as another entry, TracekeyReused, MalformedEntry for more than was
    held, AccountFrozen and the refusals of an event. Never refused for lack of funds: they were reserved.
    """
    stored = _find(key)
    if stored is None:
        raise UnknownHold(field="key")
    if stored.account is None or stored.amount is None or stored.status in ("VOIDED", "EXPIRED"):
        raise HoldEnded(f"The hold is {stored.status}.", field="key")
    if stored.status == "POSTED" and stored.tracekey != tracekey:
        raise HoldEnded("The hold was posted under another tracekey.", field="tracekey")
    credit = AccountRef(*credit)
    part = stored.amount if amount is None else check_amount(amount)
    if part > stored.amount:
        raise MalformedEntry(f"{stored.amount} was held.", field="amount")
    entry = Entry.transfer(
        tracekey=tracekey,
        debit=stored.account,
        credit=credit,
        amount=part,
        eventcode=eventcode,
        description=description,
    )
    posting = run_one(command_for(entry, hold_id=stored.id, now=now), now=now)
    if not posting.replayed:
        _end_posted(stored.id, tracekey, credit, eventcode, part, now=now)
    return posting


_END_POSTED = """
UPDATE ledger_hold SET status = 'POSTED', endedat = %s, tracekey = %s, creditbranch = %s, creditaccount = %s,
    eventcode = %s, postedamount = %s
WHERE id = %s AND status = 'OPEN' RETURNING id
"""


def _end_posted(
    hold_id: UUID, tracekey: UUID, credit: AccountRef, eventcode: int, amount: Decimal, *, now: datetime
) -> None:
    ended = rows.fetch_hot(_END_POSTED, [now, tracekey, credit.branch, credit.account, eventcode, amount, hold_id])
    if not ended:
        raise RuntimeError("A hold ended without its account's lock.")


@transaction_required
def void_hold(*, key: str, now: datetime) -> HoldResult:
    """End a hold without a posting; what it reserved is available again.

    Safe to repeat. A hold that was never placed is refused from now on (a tombstone is left). A hold that expired stays
    EXPIRED. Raises HoldEnded when it was posted: take that back with ``reverse``.
    """
    _check_key(key)
    stored = _find(key) or _bury(key, now=now)
    if stored is None or stored.account is None:
        return _result(key, None)
    book = suspensions.lock_to_write([stored.account], now=now)[stored.account]
    ended = rows.fetch(
        "UPDATE ledger_hold SET status = 'VOIDED', endedat = %s WHERE id = %s AND status = 'OPEN' RETURNING amount",
        [now, stored.id],
    )
    if ended:
        _add_pending(book, -ended[0][0], now=now)
    result = _result(key, book)
    if result.status == "POSTED":
        raise HoldEnded("The hold was posted.", field="key")
    return result


def _bury(key: str, *, now: datetime) -> _Stored | None:
    """Leave a tombstone. A hold that was placed at this very moment is given back instead."""
    rows.fetch(
        "INSERT INTO ledger_hold (id, key, status, dateref, createdat, endedat) "
        "VALUES (%s, %s, 'VOIDED', %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING id",
        [uuid7(), key, business_date(now), now, now],
    )
    return _find(key)


_EXPIRE = """
UPDATE ledger_hold SET status = 'EXPIRED', endedat = %s
WHERE id = ANY(%s::uuid[]) AND status = 'OPEN' AND expiresat <= %s
RETURNING branch, account, currency, amount
"""


@transaction_required
def expire_holds(*, now: datetime, limit: int = EXPIRE_ROWS_MAX) -> int:
    """End holds whose time is over, at most ``limit``; how many. Safe to run anywhere, at any time, side by side."""
    due = rows.fetch(
        "SELECT id, branch, account, currency FROM ledger_hold h WHERE status = 'OPEN' AND expiresat <= %s "  # noqa: S608
        f"AND {rows.NOT_SUSPENDED.format('h')} ORDER BY expiresat LIMIT %s",
        [now, now, min(limit, EXPIRE_ROWS_MAX)],
    )
    if not due:
        return 0
    # Between the search and the lock a hold may have been posted or voided, so the update asks again.
    books, found = rows.lock_accounts({AccountRef(*row[1:]) for row in due}, now=now)
    # What was suspended meanwhile expires with a later call; until then nobody can post it either.
    suspended = suspensions.heed(books, found, now=now, wait_s=0)
    due = [row for row in due if AccountRef(*row[1:]) not in suspended]
    ended = rows.fetch(_EXPIRE, [now, [row[0] for row in due], now])
    freed: dict[AccountRef, Decimal] = {}
    for branch, account, currency, amount in ended:
        ref = AccountRef(branch, account, currency)
        freed[ref] = freed.get(ref, ZERO) + amount
    _free(books, freed, now=now)
    return len(ended)


def _free(books: dict[AccountRef, AccountBook], freed: dict[AccountRef, Decimal], *, now: datetime) -> None:
    ids = [books[ref].id for ref in freed]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ledger_account a SET pendingdebit = a.pendingdebit - k.amount, updatedat = %s "
            "FROM unnest(%s::uuid[], %s::numeric[]) AS k (id, amount) WHERE a.id = k.id",
            [now, ids, list(freed.values())],
        )
