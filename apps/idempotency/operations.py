"""One Idempotency-Key: one effect, one answer.

Note [The key is part of the commit]
The key's row is inserted in the transaction that does the work, so the key exists if and only if the work does. A second
request with the same key waits at the unique index until the first one commits or rolls back, and then knows.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection
from django.db import transaction as django_transaction
from django.utils.encoding import force_bytes

from apps.common.clock import uuid7
from apps.common.errors import DomainError, MalformedJson
from apps.common.transactions import transaction, transaction_required
from apps.idempotency.models import IdempotencyKey

LEASE = timedelta(seconds=30)  # longer than any request may take
WAIT_MS_MAX = 5_000  # how long a repetition waits for the first request's commit before it is told to come back
KEPT_FOR = timedelta(days=7)  # published; longer than clients retry. A key that is forgotten too early charges twice.
PURGE_ROWS_MAX = 1_000  # one batch: a short transaction
KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


class IdempotencyInFlight(DomainError):
    """The first request with this Idempotency-Key is still running: wait, then repeat."""

    code, status, retryable = "R012", 409, True


class IdempotencyMismatch(DomainError):
    """This Idempotency-Key was used for another request. Use a new key."""

    code, status = "R013", 422

    def __init__(self, detail: str | None = None, *, field: str | None = "Idempotency-Key") -> None:
        super().__init__(detail, field=field)


class InvalidIdempotencyKey(DomainError):
    """An Idempotency-Key is 1 to 255 printable ASCII characters."""

    code, status = "R014", 400

    def __init__(self, detail: str | None = None, *, field: str | None = "Idempotency-Key") -> None:
        super().__init__(detail, field=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """This request is the first with its key, and holds the lease."""

    id: UUID
    lease_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The answer that the first request got; ``headers`` carry Idempotent-Replayed."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def _number(value: int | float | Decimal) -> str:
    """One text for one number: 10.5, 10.50 and 1.05e1 are the same. Never rounds, whatever the exponent."""
    sign, digits, exponent = Decimal(str(value)).as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant or not isinstance(exponent, int):
        return "0"
    return f"{'-' if sign else ''}{significant}e{exponent + len(text) - len(significant)}"


def _canonical(value: Any) -> Any:
    """The same value for bodies that mean the same: the order of an object's keys says nothing."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float | Decimal):
        return ["number", _number(value)]
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return ["list", *(_canonical(inner) for inner in value)]
    return str(value)


def _fingerprints(route: str, body: Any) -> list[bytes]:
    """The digest of a request under the current secret and those before it. Keyed: a body may hold a card number."""
    try:
        text = json.dumps([route, _canonical(body)], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except RecursionError:
        raise MalformedJson("The body is nested too deeply.") from None
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    # Each use of the secret has a key of its own.
    derived = [hmac.digest(force_bytes(key), b"lastro.idempotency", hashlib.sha256) for key in keys]
    return [hmac.digest(key, text.encode(), hashlib.sha256) for key in derived]


def check_key(key: str) -> str:
    """The key itself. Raises InvalidIdempotencyKey."""
    if not KEY.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


@transaction_required
def begin(*, account_id: str, key: str, route: str, body: Any, now: datetime) -> Begun | Replay:
    """Claim a key in the transaction of the work, before the work. ``route``: method and path; ``body``: the parsed JSON.

    A Replay is to be answered as it is, and nothing done. Raises InvalidIdempotencyKey, IdempotencyInFlight (the first
    request still runs) or IdempotencyMismatch (the key stood for another request).
    """
    fingerprints = _fingerprints(route, body)
    row = IdempotencyKey(
        account_id=account_id,
        key=check_key(key),
        route=route,
        fingerprint=fingerprints[0],
        lease_until=now + LEASE,
        created_at=now,
    )
    if _insert(row):
        return Begun(id=row.pk, lease_id=row.lease_id)
    known = IdempotencyKey.objects.select_for_update().filter(account_id=account_id, key=key).first()
    if known is None:  # Forgotten since the look before this one: asked for once more, it is a new key.
        raise IdempotencyInFlight
    if not any(hmac.compare_digest(bytes(known.fingerprint), one) for one in fingerprints):
        raise IdempotencyMismatch
    return _answer_or_take_over(known, now=now)


# One round trip: gives the old value and sets the new one, for this transaction alone.
_LOCK_TIMEOUT = (
    "SELECT old, set_config('lock_timeout', %s, true) FROM (SELECT current_setting('lock_timeout') AS old OFFSET 0) AS o"
)


def _insert(row: IdempotencyKey) -> bool:
    """Insert unless the key is there. Raises IdempotencyInFlight when its holder does not commit in time."""
    columns = (
        "id",
        "account_id",
        "key",
        "route",
        "fingerprint",
        "state",
        "headers",
        "lease_id",
        "lease_until",
        "created_at",
    )
    statement = f"""INSERT INTO idempotency_idempotencykey ({", ".join(columns)})
        VALUES ({", ".join(["%s"] * len(columns))}) ON CONFLICT (account_id, key) DO NOTHING"""  # noqa: S608  # names, no input
    values = {**{name: getattr(row, name) for name in columns}, "headers": "{}"}
    try:
        with django_transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_LOCK_TIMEOUT, [str(WAIT_MS_MAX)])
            before = cursor.fetchone()[0]
            cursor.execute(statement, [values[name] for name in columns])
            inserted: bool = cursor.rowcount == 1
            cursor.execute(_LOCK_TIMEOUT, [before])  # The caller's own statements wait as long as they did before.
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") == "55P03":  # lock_not_available
            raise IdempotencyInFlight from None
        raise
    return inserted


def _answer_or_take_over(known: IdempotencyKey, *, now: datetime) -> Begun | Replay:
    waiting = known.state == IdempotencyKey.State.IN_FLIGHT
    if waiting and known.lease_until > now:
        raise IdempotencyInFlight
    if known.status is not None:
        headers = {**known.headers, "Idempotent-Replayed": "true"}
        return Replay(status=known.status, body=known.body, headers=headers)
    # The key was committed without an answer, hence without any work: see Note [The key is part of the commit].
    known.lease_id, known.lease_until = uuid7(), now + LEASE
    known.save(update_fields=["lease_id", "lease_until"])
    return Begun(id=known.pk, lease_id=known.lease_id)


@transaction_required
def provisional(begun: Begun, *, status: int, body: Any, headers: Mapping[str, str]) -> None:
    """Store what is true at this commit as the answer, in case the process ends before a better one is known.

    It is replayed once the lease has ended. ``body`` is JSON and holds no card data.
    """
    _mine(begun).update(status=status, body=body, headers=dict(headers))


@transaction_required
def settle(begun: Begun, *, status: int, body: Any, headers: Mapping[str, str], now: datetime) -> None:
    """Store the final answer as a part of the caller's commit: it is replayed from that commit on.

    Safe to repeat. Does nothing when the lease passed to somebody else: then their answer counts.
    """
    _mine(begun).update(state=IdempotencyKey.State.DONE, status=status, body=body, headers=dict(headers), lease_until=now)


# The same as a commit of its own, for an answer that is found after the work's commit.
complete = transaction(settle)


def _mine(begun: Begun) -> Any:
    return IdempotencyKey.objects.filter(pk=begun.id, lease_id=begun.lease_id, state=IdempotencyKey.State.IN_FLIGHT)


@transaction
def purge(*, now: datetime) -> int:
    """Forget keys older than KEPT_FOR, at most PURGE_ROWS_MAX. Gives the number of rows deleted."""
    oldest = (
        IdempotencyKey.objects.filter(created_at__lt=now - KEPT_FOR).order_by("created_at").values("pk")[:PURGE_ROWS_MAX]
    )
    return IdempotencyKey.objects.filter(pk__in=list(oldest.values_list("pk", flat=True))).delete()[0]
