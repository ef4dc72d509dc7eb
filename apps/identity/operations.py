"""Verbs on accounts and their secrets."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.identity.credentials import digest_of, new_secret, random_base62
from apps.identity.models import CODE, SCOPE, SCOPES_MAX, Account, Secret

SECRETS_LIVE_MAX = 10  # enough for any change-over; more is a leak in somebody's script


class AccountExists(DomainError):
    """There is an account with this code already."""

    code = "R703"


class UnknownAccount(DomainError):
    """There is no such account."""

    code, status = "R704", 404


class InvalidAccount(DomainError):
    """The account's code or one of its scopes is malformed."""

    code, status = "R705", 422


class TooManySecrets(DomainError):
    """The account has the largest number of live secrets: revoke one first."""

    code = "R706"


class UnknownSecret(DomainError):
    """The account has no such secret."""

    code, status = "R707", 404


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """An account, as values."""

    account_id: str
    name: str
    active: bool
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSecret:
    """A new secret. This is the only moment at which its text exists with us; it is kept out of every repr."""

    account_id: str
    prefix: str
    secret: str = field(repr=False)
    expires_at: datetime | None


def account(account_id: str) -> AccountView:
    """The account with this code. Raises UnknownAccount."""
    row = Account.objects.filter(code=account_id).first()
    if row is None:
        raise UnknownAccount
    return AccountView(account_id=row.code, name=row.name, active=row.active, scopes=frozenset(row.scopes))


@transaction_required
def create_account(*, name: str, scopes: Iterable[str], now: datetime, code: str | None = None) -> AccountView:
    """Open an account, without a secret yet. Raises AccountExists or InvalidAccount."""
    account_id = code or f"acc_{random_base62(16)}"
    wanted = sorted(set(scopes))
    if not CODE.fullmatch(account_id):
        raise InvalidAccount("A code is acc_ and 3 to 40 letters or digits.", field="code")
    if len(wanted) > SCOPES_MAX or not all(SCOPE.fullmatch(scope) for scope in wanted):
        raise InvalidAccount("A scope looks like payments:write.", field="scopes")
    _, created = Account.objects.get_or_create(
        code=account_id, defaults={"name": name, "scopes": wanted, "created_at": now}
    )
    if not created:
        raise AccountExists
    return AccountView(account_id=account_id, name=name, active=True, scopes=frozenset(wanted))


def scopes_of(codes: Iterable[str]) -> dict[str, frozenset[str]]:
    """What those of these accounts may do that may call at all: the others are blocked, or unknown."""
    rows = Account.objects.filter(code__in=list(codes), active=True).values_list("code", "scopes")
    return {code: frozenset(scopes) for code, scopes in rows}


@transaction_required
def issue_secret(*, account_id: str, now: datetime, expires_at: datetime | None = None) -> IssuedSecret:
    """Give the account one more secret; the others go on living. Not safe to repeat: each call makes a new one.

    Raises UnknownAccount or TooManySecrets.
    """
    account = _locked(account_id)
    live = Secret.objects.filter(account=account, revoked_at__isnull=True).exclude(expires_at__lte=now)
    if live.count() >= SECRETS_LIVE_MAX:
        raise TooManySecrets
    secret, prefix = new_secret()
    Secret.objects.create(account=account, prefix=prefix, digest=digest_of(secret), created_at=now, expires_at=expires_at)
    return IssuedSecret(account_id=account_id, prefix=prefix, secret=secret, expires_at=expires_at)


@transaction_required
def revoke_secret(*, account_id: str, prefix: str, now: datetime) -> None:
    """End a secret at once. Safe to repeat: the first moment stays. Raises UnknownSecret."""
    mine = Secret.objects.filter(account_id=account_id, prefix=prefix)
    if not mine.filter(revoked_at__isnull=True).update(revoked_at=now) and not mine.exists():
        raise UnknownSecret


def _locked(account_id: str) -> Account:
    # Two secrets issued at once would both count the same live ones.
    account = Account.objects.select_for_update().filter(code=account_id).first()
    if account is None:
        raise UnknownAccount
    return account
