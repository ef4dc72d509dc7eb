"""Recognise a caller by account and secret, in a time that says nothing about what was wrong.

A secret carries at least 128 random bits, so one SHA-256 is enough (a password hasher would cost 230 ms a request and
protect nothing: ASVS 5.0, 6.5.2), and the digest is compared without an early end.
"""

import hashlib
import hmac
import logging
import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from apps.common import prepared
from apps.common.errors import DomainError, Forbidden
from apps.identity import limits
from apps.identity.models import ADDRESSES_MAX, Secret

logger = logging.getLogger(__name__)

BASE62 = string.digits + string.ascii_letters
PREFIX_CHARACTERS = 12
SECRET_CHARACTERS = 43  # 43 base62 characters hold 256 bits
LAST_USED_PRECISION = timedelta(minutes=1)  # one UPDATE a minute and secret, not one a request

SECRET = re.compile(rf"(?:test|live)_([0-9A-Za-z]{{{PREFIX_CHARACTERS}}})_[0-9A-Za-z]{{{SECRET_CHARACTERS}}}")
_NO_PREFIX = "-"  # no row has it: base62 has no hyphen
_NO_DIGEST = bytes(32)  # nobody knows a text with this digest


class InvalidCredentials(DomainError):
    """The account or its secret is wrong."""

    code, status = "R701", 401


class MissingScope(Forbidden):
    """Your account lacks the scope for this."""

    code, status = "R702", 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent the request: ``request.user`` of every API view."""

    account_id: str
    name: str
    scopes: frozenset[str]
    is_authenticated: bool = True


def random_base62(length: int) -> str:
    """Characters from the operating system's generator: 5.95 bits each."""
    return "".join(secrets.choice(BASE62) for _ in range(length))


def digest_of(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> tuple[str, str]:
    """A fresh secret and its public prefix: ``<environment>_<prefix>_<256 random bits>``."""
    prefix = random_base62(PREFIX_CHARACTERS)
    environment = "test" if settings.EMBEDDED else "live"
    return f"{environment}_{prefix}_{random_base62(SECRET_CHARACTERS)}", prefix


class _Found(NamedTuple):
    """A secret and its account."""

    id: UUID
    digest: bytes
    revoked_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None
    addresses: list[str]
    account_id: str
    name: str
    active: bool
    scopes: list[str]
    waits_until: datetime | None


# Asked for by every request, so that what was revoked is refused at once: prepared, not remembered. Whether the address has
# to wait is told with it, so that this costs a good request no statement of its own.
_FIND = """
SELECT s.id, s.digest, s.revoked_at, s.expires_at, s.last_used_at, s.addresses, a.code, a.name, a.active, a.scopes,
    (SELECT f.until FROM identity_failedlogin f
     WHERE f.key = %(failing)s AND f.failures >= %(most)s AND f.until > %(now)s) AS waits_until
FROM identity_secret s JOIN identity_account a ON a.code = s.account_id WHERE s.prefix = %(prefix)s
"""


def authenticate(*, account_id: str, secret: str, address: str, now: datetime) -> Caller:
    """The caller behind an account and its secret, who calls from this address.

    Raises InvalidCredentials, the same for every cause, and counts the failure; or TooManyRequests, also for a right secret
    that was not used from there before: whoever tries stolen ones learns nothing. See Note [Nobody locks others out].
    """
    match = SECRET.fullmatch(secret)
    # A malformed secret and an unknown account take the same road: one look-up, one digest, one comparison.
    prefix = match[1] if match else _NO_PREFIX
    failing = f"{limits.API} {address}"
    values = {"prefix": prefix, "failing": failing, "most": limits.most(failing), "now": now}
    found = prepared.execute(_FIND, values).fetchone()
    row = _Found(*found) if found else None
    matches = hmac.compare_digest(row.digest if row else _NO_DIGEST, digest_of(secret))
    if row is not None and row.waits_until is not None and address not in row.addresses:
        raise limits.too_many(until=row.waits_until, now=now)
    if row is None or not matches or not _may_enter(row, account_id=account_id, now=now):
        limits.check([failing], now=now)
        logger.warning("credentials refused, prefix %s", prefix)  # The prefix is public, and its alphabet harmless.
        limits.count([failing], now=now)
        raise InvalidCredentials
    _note_use(row, address=address, now=now)
    return Caller(account_id=row.account_id, name=row.name, scopes=frozenset(row.scopes))


def _may_enter(row: _Found, *, account_id: str, now: datetime) -> bool:
    same_account = hmac.compare_digest(row.account_id.encode(), account_id.encode())
    lives = row.revoked_at is None and (row.expires_at is None or row.expires_at > now)
    return same_account and lives and row.active


def _note_use(row: _Found, *, address: str, now: datetime) -> None:
    """Remember the use, at most once a minute; the condition lets only one of many parallel requests write."""
    earliest = now - LAST_USED_PRECISION
    if row.last_used_at is None or row.last_used_at < earliest:
        known = [address, *(one for one in row.addresses if one != address)][:ADDRESSES_MAX]
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=earliest)
        Secret.objects.filter(stale, pk=row.id).update(last_used_at=now, addresses=known)


def require_scope(request: object, scope: str) -> Caller:
    """The caller of the request, who may do this. Raises InvalidCredentials (no caller) or MissingScope."""
    caller = getattr(request, "user", None)
    if not isinstance(caller, Caller):
        raise InvalidCredentials("Send the account and its secret (HTTP Basic).")
    if scope not in caller.scopes:
        raise MissingScope(f"It needs the scope {scope}.")
    return caller
