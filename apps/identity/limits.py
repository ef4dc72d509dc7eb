"""Failed logins are counted, and who has too many has to wait: rows, so that all processes know the same.

Note [Nobody locks others out]
What is counted is what failed. At the API an address is: secrets hold 256 random bits, so many addresses guess no better
than one, and an account is never closed. A secret goes on working from the addresses that used it lately, whoever else
fails there.

At the back office people choose the passwords, so a name is counted, too, from wherever it is tried; which would let
anybody close anybody's name. Therefore a browser that somebody has logged in with is known again (a signed cookie), and its
attempts are counted by themselves: whoever has a known device is not concerned by what strangers do.
"""

import hmac
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core import signing
from django.db import connection
from django.db.models import F
from django.utils.encoding import force_bytes

from apps.common.errors import TooManyRequests
from apps.common.transactions import transaction
from apps.identity.models import FailedLogin

logger = logging.getLogger(__name__)

API, WEB, NAME, DEVICE = "api", "web", "name", "device"  # how a key begins: what it counts
DEVICE_KNOWN = timedelta(days=180)  # a device that nobody has logged in with for so long is a stranger again
FORGET_ROWS_MAX = 1_000  # one batch: a short transaction
_SALT = "lastro.device"


def too_many(*, until: datetime, now: datetime) -> TooManyRequests:
    """The refusal of whoever has to wait until then."""
    wait_s = max(int((until - now).total_seconds()), 1)
    return TooManyRequests("Too many failed logins from here: wait, then try again.", retry_after_s=wait_s)


def most(key: str) -> int:
    """How many failures a key may have."""
    by_address = key.startswith((f"{API} ", f"{WEB} "))
    return settings.LOGIN_FAILURES_OF_ADDRESS_MAX if by_address else settings.LOGIN_FAILURES_MAX


def check(keys: Sequence[str], *, now: datetime) -> None:
    """Raises TooManyRequests while one of these has failed too often. Writes nothing."""
    for row in FailedLogin.objects.filter(key__in=keys, until__gt=now):
        if row.failures >= most(row.key):
            raise too_many(until=row.until, now=now)


# In the order of the keys: two attempts that share some wait for each other, and never both.
_COUNT = """
INSERT INTO identity_failedlogin AS f (key, failures, until)
SELECT k, 1, %(until)s FROM unnest(%(keys)s::text[]) AS k ORDER BY k
ON CONFLICT (key) DO UPDATE SET
    failures = CASE WHEN f.until > %(now)s THEN f.failures + 1 ELSE 1 END,
    until = CASE WHEN f.until > %(now)s THEN f.until ELSE excluded.until END
RETURNING key, failures, until
"""


@transaction
def count(keys: Sequence[str], *, now: datetime) -> list[tuple[str, int, datetime]]:
    """Count a failure, or an attempt that may become one, for each of these. What is counted is committed at once.

    For each key how many there are now, and until when they count.
    """
    until = now + timedelta(seconds=settings.LOGIN_FAILURES_WINDOW_S)
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"keys": sorted(keys), "until": until, "now": now})
        counted: list[tuple[str, int, datetime]] = cursor.fetchall()
    for key, failures, _ in counted:
        if failures == most(key):
            # A name or device is a digest here: people type passwords where a name is asked for.
            logger.warning("failed logins reached their limit: %s", key)
    return counted


# --- The back office ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to log in: counted before the password is looked at, so that many at once are no more than the limit."""

    name: str
    keys: tuple[str, ...]
    on_known_device: bool


def begin(name: str, *, address: str, device: str, now: datetime) -> Attempt:
    """Count an attempt to log in under a name. ``device``: what ``succeed`` gave the browser, or anything.

    Raises TooManyRequests. Then nothing is counted, save for those of many at once: who waits does not make others wait.
    """
    mine = _device(name, device)
    keys = (f"{DEVICE} {mine}",) if mine else (f"{WEB} {address}", f"{NAME} {_digest(name)}")
    check(keys, now=now)
    for key, failures, until in count(keys, now=now):  # others may have come between the look and the count
        if failures > most(key):
            raise too_many(until=until, now=now)
    return Attempt(name, keys, on_known_device=bool(mine))


def pass_over(attempt: Attempt) -> None:
    """Nobody has looked at its password: no failure of the name's. At its address it counts, for that has to end."""
    _give_back([key for key in attempt.keys if not key.startswith(f"{WEB} ")])


@transaction
def _give_back(keys: Sequence[str]) -> None:
    rows = FailedLogin.objects.filter(key__in=keys, failures__gt=0)
    mine = [row.pk for row in rows.select_for_update().order_by("key")]  # the order in which they are counted
    FailedLogin.objects.filter(pk__in=mine).update(failures=F("failures") - 1)


def succeed(attempt: Attempt) -> str:
    """It was no failure. Gives what makes the browser known; earlier failures stay counted."""
    _give_back(attempt.keys)
    return signing.dumps([_digest(attempt.name), secrets.token_hex(16)], salt=_SALT)


def _device(name: str, device: str) -> str:
    """The device's own number when it is known for this name, else nothing."""
    try:
        owner, number = signing.loads(device, salt=_SALT, max_age=DEVICE_KNOWN)
    except (signing.BadSignature, ValueError):
        return ""
    return str(number) if hmac.compare_digest(str(owner), _digest(name)) else ""


def _digest(name: str) -> str:
    return hmac.digest(force_bytes(settings.SECRET_KEY), f"lastro.login {name}".encode(), "sha256").hex()


# --- Care ---------------------------------------------------------------------------------------------------------------
@transaction
def forget(*, now: datetime) -> int:
    """Forget what is over, at most FORGET_ROWS_MAX. Gives the number of rows deleted."""
    # One that is just counted again is passed over: whoever waits for nobody waits in no circle.
    old = FailedLogin.objects.filter(until__lt=now).order_by("until").select_for_update(skip_locked=True)
    return FailedLogin.objects.filter(pk__in=[row.pk for row in old[:FORGET_ROWS_MAX]]).delete()[0]
