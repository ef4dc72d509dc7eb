"""Does anybody want to be told what happens to an account's orders and documents? Asked before a fact is published.

Note [Known listeners]
Most accounts have no endpoint, and a fact that is published, relayed and consumed for nobody costs a millisecond of the
processor. So a process remembers for KNOWN_FOR_S whether an account has endpoints, as it does for pauses. A new endpoint is
therefore told of what happens from a second after its registration; the process that registered it tells at once.
"""

import time

from apps.common import prepared

KNOWN_FOR_S = 1.0
KNOWN_MAX = 10_000  # accounts; then all are forgotten and asked for again

_ASK = "SELECT EXISTS (SELECT FROM webhooks_endpoint WHERE account_id = %(account_id)s AND deleted_at IS NULL)"
_known: dict[str, tuple[float, bool]] = {}


def listens(account_id: str) -> bool:
    """Has the account an endpoint? See Note [Known listeners]. Nobody's account has none."""
    if not account_id:
        return False
    until, found = _known.get(account_id, (0.0, False))
    if time.monotonic() < until:
        return found
    found = bool(prepared.execute(_ASK, {"account_id": account_id}).fetchone()[0])
    if len(_known) >= KNOWN_MAX:
        _known.clear()
    _known[account_id] = (time.monotonic() + KNOWN_FOR_S, found)
    return found


def forget(account_id: str | None = None) -> None:
    """Ask again next time: about this account, or about all."""
    if account_id is None:
        _known.clear()
    else:
        _known.pop(account_id, None)
