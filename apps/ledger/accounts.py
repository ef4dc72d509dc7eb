"""Branches, accounts and events: open, ensure, freeze."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.common.transactions import transaction_required
from apps.ledger import deferred as deferred_lines
from apps.ledger import rows
from apps.ledger.balances import AboveCeiling, InsufficientFunds
from apps.ledger.fold import AccountClosed, UnknownAccount
from apps.ledger.models import Account, Branch, Currency, Event
from apps.ledger.rules import (
    DESCRIPTION_CHARACTERS_MAX,
    EVENT_CODE_MAX,
    ZERO,
    AccountRef,
    DateRefused,
    MalformedEntry,
    check_account,
    check_amount,
    check_text,
)


class AccountExists(DomainError):
    """The account exists already, with another floor."""

    code = "R117"


class UnknownBranch(DomainError):
    """There is no such branch."""

    code = "R118"


class UnknownCurrency(DomainError):
    """There is no such currency, or it is not active."""

    code = "R124"


class AccountNotEmpty(DomainError):
    """The account holds money, or some is held on it: it can't be closed."""

    code = "R125"


# Those that a new database knows. Others are added in the catalogue.
CURRENCIES = {"BRL": "Brazilian real", "USD": "United States dollar", "EUR": "Euro"}


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """An account that is open; ``created`` tells whether this call opened it."""

    id: UUID
    ref: AccountRef
    min_balance: Decimal | None
    created: bool
    max_balance: Decimal | None = None
    deferred: bool = False


@transaction_required
def ensure_currencies(*, now: datetime) -> None:
    """Add the currencies that every database knows, unless they are there. Safe to repeat."""
    rows = [Currency(code=code, description=description, created_at=now) for code, description in CURRENCIES.items()]
    Currency.objects.bulk_create(rows, ignore_conflicts=True)


@transaction_required
def open_branch(*, branch: str, description: str = "", now: datetime) -> bool:
    """Open a branch unless it is open. Was it opened now? Safe to repeat; an existing description stays."""
    check_account(AccountRef(branch, "0"))
    check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
    # Two callers may open the same branch at once: the second one waits here and finds it.
    _, created = Branch.objects.get_or_create(branch=branch, defaults={"description": description, "created_at": now})
    return created


@transaction_required
def open_account(
    *,
    branch: str,
    account: str,
    currency: str = CURRENCY,
    min_balance: Decimal | None = ZERO,
    max_balance: Decimal | None = None,
    deferred: bool = False,
    description: str = "",
    now: datetime,
) -> OpenedAccount:
    """Open an account with balance zero. ``min_balance``: 0 or negative (a credit limit); None is no floor.

    ``deferred``, for good: postings take no lock on it, and it has neither floor nor ceiling nor holds; for accounts that
    everything posts to. Safe to repeat with the same floor, ceiling and kind. Raises UnknownBranch, UnknownCurrency,
    AccountExists.
    """
    ref = AccountRef(branch, account, currency)
    check_account(ref)
    check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
    floor, ceiling = _floor(min_balance), _ceiling(max_balance)
    if deferred and (floor is not None or ceiling is not None):
        raise MalformedEntry("A deferred account has neither floor nor ceiling.", field="deferred")
    # Who closes a day takes this row for itself, so no account appears in a branch while its day is being closed.
    if not rows.share_branch(branch):
        raise UnknownBranch(f"There is no branch {branch}.", field="branch")
    _check_currency(currency, now=now)
    row, created = Account.objects.get_or_create(
        branch_id=branch,
        account=account,
        currency=currency,
        defaults={
            "min_balance": floor,
            "max_balance": ceiling,
            "deferred": deferred,
            "description": description,
            "created_at": now,
            "updated_at": now,
        },
    )
    if row.min_balance != floor:
        raise AccountExists(f"It is open with the floor {row.min_balance}.", field="min_balance")
    if row.max_balance != ceiling or row.deferred != deferred:
        raise AccountExists(f"It is open with the ceiling {row.max_balance}, deferred: {row.deferred}.")
    return OpenedAccount(row.id, ref, floor, created, ceiling, deferred)


def _floor(min_balance: Decimal | None) -> Decimal | None:
    if min_balance is None:
        return None
    if isinstance(min_balance, Decimal) and min_balance.is_finite() and min_balance > 0:
        raise MalformedEntry("min_balance is zero, negative or absent.", field="min_balance")
    return ZERO if min_balance == 0 else -check_amount(-min_balance)


def _check_currency(code: str, *, now: datetime) -> None:
    row = Currency.objects.filter(code=code).first()
    if row is None and code in CURRENCIES:
        ensure_currencies(now=now)  # a database whose tables were emptied
    elif row is None or not row.active:
        raise UnknownCurrency(f"No account is opened in {code}.", field="currency")


def _ceiling(max_balance: Decimal | None) -> Decimal | None:
    if max_balance is None:
        return None
    return ZERO if max_balance == 0 else check_amount(max_balance)


@transaction_required
def ensure_event(
    *, code: int, description: str, allow_debit: bool = True, allow_credit: bool = True, now: datetime
) -> bool:
    """Add an event to the catalogue unless its code is there. Was it added now? Safe to repeat; an existing one stays."""
    if type(code) is not int or not 0 < code <= EVENT_CODE_MAX:
        raise MalformedEntry("code is a whole number above zero.", field="code")
    check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
    _, created = Event.objects.get_or_create(
        code=code,
        defaults={
            "description": description,
            "allow_debit": allow_debit,
            "allow_credit": allow_credit,
            "created_at": now,
        },
    )
    return created


@transaction_required
def set_frozen(*, account: AccountRef, frozen: bool, now: datetime) -> None:
    """Freeze an account (no postings, no holds) or thaw it. Safe to repeat. Raises UnknownAccount, AccountClosed."""
    row = _locked(account)
    if row.status == Account.Status.CLOSED:
        raise AccountClosed(f"Account {'/'.join(account)} is closed.", field="account")
    if row.deferred:
        rows.stop_deferred(account.branch)  # who posts to it does not lock the row
    row.status, row.updated_at = Account.Status.FROZEN if frozen else Account.Status.ACTIVE, now
    row.save(update_fields=["status", "updated_at"])


def _locked(account: AccountRef) -> Account:
    """The account's row, locked: a batch that holds it ends first."""
    branch, name, currency = account
    row = Account.objects.select_for_update(no_key=True).filter(branch_id=branch, account=name, currency=currency).first()
    if row is None:
        raise UnknownAccount(f"There is no account {'/'.join(account)}.", field="account")
    return row


@transaction_required
def set_limits(
    *, account: AccountRef, min_balance: Decimal | None, max_balance: Decimal | None = None, now: datetime
) -> None:
    """Give an account another floor (0, a negative credit limit, or None) and ceiling. Safe to repeat.

    Raises InsufficientFunds or AboveCeiling when what is on it now does not fit, UnknownAccount, MalformedEntry.
    """
    floor, ceiling = _floor(min_balance), _ceiling(max_balance)
    row = _locked(account)
    posted = row.posted_credit - row.posted_debit
    if row.deferred and (floor is not None or ceiling is not None):
        raise MalformedEntry("A deferred account has neither floor nor ceiling.", field="min_balance")
    if floor is not None and posted - row.pending_debit < floor:
        raise InsufficientFunds(f"Account {'/'.join(account)} has {posted - row.pending_debit} available.")
    if ceiling is not None and posted > ceiling:
        raise AboveCeiling(f"Account {'/'.join(account)} holds {posted}.")
    row.min_balance, row.max_balance, row.updated_at = floor, ceiling, now
    row.save(update_fields=["min_balance", "max_balance", "updated_at"])


@transaction_required
def close_account(*, account: AccountRef, now: datetime) -> None:
    """Close an empty account for good. Safe to repeat. Raises AccountNotEmpty, UnknownAccount."""
    row = _locked(account)
    if row.deferred:
        rows.stop_deferred(account.branch)
    held = row.pending_debit or (row.deferred and rows.has_deferred(account))
    if row.posted_credit != row.posted_debit or held:
        raise AccountNotEmpty(f"Account {'/'.join(account)} has {row.posted_credit - row.posted_debit}.", field="account")
    row.status, row.updated_at = Account.Status.CLOSED, now
    row.save(update_fields=["status", "updated_at"])


@transaction_required
def close_day(*, branch: str, day: date, now: datetime) -> bool:
    """Close a day and all before it in a branch: they take no posting any more. Was it open? Safe to repeat.

    Every account of the branch is locked until the commit, so whoever was posting into the day is done, and whoever comes
    next is refused. Raises UnknownBranch, DateRefused for a day that is not over.
    """
    if day >= business_date(now):
        raise DateRefused(f"{day} is not over.", field="day")
    # NO KEY: an account that is written twice in one transaction asks for its branch's key, with the account locked.
    row = Branch.objects.select_for_update(no_key=True).filter(branch=branch).first()
    if row is None:
        raise UnknownBranch(f"There is no branch {branch}.", field="branch")
    if row.closed_until is not None and row.closed_until >= day:
        return False
    rows.lock_branch(branch)
    rows.stop_deferred(branch)
    deferred_lines.roll_up_branch(branch, until=day, now=now)
    row.closed_until = day
    row.save(update_fields=["closed_until"])
    return True
