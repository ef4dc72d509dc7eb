"""An action on runs that is asked for with an Idempotency-Key: one key, one action, one answer."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common.transactions import transaction
from apps.idempotency import public as idempotency
from apps.saga import bulk
from apps.saga.bulk_state import ActionState, action_state
from apps.saga.selection import Selection
from apps.saga.triage import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """Whose request, under which key. ``body``: as it came, for the key's fingerprint."""

    account_id: str
    key: str
    route: str
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The action that was written now, and the hold on its key."""

    action_id: UUID
    begun: idempotency.Begun


@transaction
def request_once(
    which: Selection,
    what: Wanted,
    *,
    once: Repeatable,
    tell: Callable[[ActionState], Any],
    reason: str,
    by: str,
    now: datetime,
    expected: str = "",
    runs_max: int | None = None,
) -> Asked | idempotency.Replay:
    """As ``bulk.request``, and safe to repeat: the key is in the commit that writes the action.

    ``tell`` gives the answer's body, as JSON, of what is true at this commit; who carries the action on stores a better one
    (``idempotency.complete``). Raises what ``bulk.ask`` and ``idempotency.begin`` raise; then nothing was written.
    """
    begun = idempotency.begin(account_id=once.account_id, key=once.key, route=once.route, body=once.body, now=now)
    if isinstance(begun, idempotency.Replay):
        return begun
    action_id = bulk.ask(which, what, reason=reason, by=by, now=now, expected=expected, runs_max=runs_max)
    idempotency.provisional(begun, status=202, body=tell(action_state(action_id)), headers={})
    return Asked(action_id=action_id, begun=begun)
