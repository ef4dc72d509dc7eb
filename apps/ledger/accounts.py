"""Branches, accounts and events: open, ensure, freeze."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.common.transactions import transaction_required
from apps.ledger.fold import UnknownAccount
from apps.ledger.models import Account, Branch, Event
from apps.ledger.rules import (
    DESCRIPTION_CHARACTERS_MAX,
    EVENT_CODE_MAX,
    ZERO,
    AccountRef,
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


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    """An account that is open; ``created`` tells whether this call opened it."""

    id: UUID
    ref: AccountRef
    min_balance: Decimal | None
    created: bool


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
    description: str = "",
    now: datetime,
) -> OpenedAccount:
    """Open an account with balance zero. ``min_balance``: 0 or negative (a credit limit); None is no floor.

    Safe to repeat with the same floor. Raises UnknownBranch, AccountExists.
    """
    ref = AccountRef(branch, account, currency)
    check_account(ref)
    check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
    floor = _floor(min_balance)
    if not Branch.objects.filter(branch=branch).exists():
        raise UnknownBranch(f"There is no branch {branch}.", field="branch")
    row, created = Account.objects.get_or_create(
        branch_id=branch,
        account=account,
        currency=currency,
        defaults={"min_balance": floor, "description": description, "created_at": now, "updated_at": now},
    )
    if row.min_balance != floor:
        raise AccountExists(f"It is open with the floor {row.min_balance}.", field="min_balance")
    return OpenedAccount(row.id, ref, floor, created)


def _floor(min_balance: Decimal | None) -> Decimal | None:
    if min_balance is None:
        return None
    if isinstance(min_balance, Decimal) and min_balance.is_finite() and min_balance > 0:
        raise MalformedEntry("min_balance is zero, negative or absent.", field="min_balance")
    return ZERO if min_balance == 0 else -check_amount(-min_balance)


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
    """Freeze an account (no postings, no holds) or thaw it. Safe to repeat. Raises UnknownAccount."""
    status = Account.Status.FROZEN if frozen else Account.Status.ACTIVE
    branch, name, currency = account
    # The update waits for the account's lock, so a batch that holds it ends before the account freezes.
    changed = Account.objects.filter(branch_id=branch, account=name, currency=currency).update(
        status=status, updated_at=now
    )
    if not changed:
        raise UnknownAccount(f"There is no account {'/'.join(account)}.", field="account")
