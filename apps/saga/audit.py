"""Who intervened and why: one row in the commit of the deed."""

import getpass
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common.errors import InvalidRequest
from apps.common.transactions import transaction_required
from apps.saga.models import Audit

REASON_CHARACTERS_LEAST = 5  # "test" explains nothing to whoever reads it in a year
REASON_CHARACTERS_MAX = 500
ACTOR_CHARACTERS_MAX = 200  # of the column


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """One row of the audit."""

    id: UUID
    at: datetime
    actor: str
    action: str
    use_case: str
    step: str
    run_id: UUID | None
    reason: str
    detail: dict[str, Any]


def command_actor(command: str) -> str:
    """Who acts when a command is typed: the login of the machine."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        login = "unknown"
    return f"command:{command} by {login}"[:ACTOR_CHARACTERS_MAX]


def check_reason(reason: str) -> str:
    """The reason without space around it. Raises InvalidRequest for one that says nothing, or too much."""
    text = reason.strip()
    if not REASON_CHARACTERS_LEAST <= len(text) <= REASON_CHARACTERS_MAX:
        raise InvalidRequest(
            f"Say why, in {REASON_CHARACTERS_LEAST} to {REASON_CHARACTERS_MAX} characters: the audit keeps it.",
            field="reason",
        )
    return text


@transaction_required
def note(
    *,
    at: datetime,
    actor: str,
    action: str,
    use_case: str,
    reason: str,
    step: str = "",
    run_id: UUID | None = None,
    detail: dict[str, Any] | None = None,
) -> UUID:
    """Write down an intervention: ``action`` is a word such as pause or migrate. Not safe to repeat."""
    row = Audit.objects.create(
        at=at, actor=actor, action=action, use_case=use_case, step=step, run_id=run_id, reason=reason, detail=detail or {}
    )
    return row.id


def interventions(*, use_case: str = "", run_id: UUID | None = None, rows_max: int = 50) -> tuple[Intervention, ...]:
    """The newest interventions, of a use case or on a run."""
    rows = Audit.objects.order_by("-id")
    rows = rows.filter(use_case=use_case) if use_case else rows
    rows = rows.filter(run_id=run_id) if run_id else rows
    return tuple(
        Intervention(
            id=row.id,
            at=row.at,
            actor=row.actor,
            action=row.action,
            use_case=row.use_case,
            step=row.step,
            run_id=row.run_id,
            reason=row.reason,
            detail=row.detail,
        )
        for row in rows[:rows_max]
    )
