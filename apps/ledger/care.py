"""What of the ledger's care needs a person."""

from dataclasses import dataclass
from datetime import datetime

from apps.ledger import checks, suspensions
from apps.ledger.care_models import Difference
from apps.ledger.chain_models import Patrol
from apps.ledger.checks import PassView

COUNT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class CareNow:
    """What of the ledger's care needs a person."""

    differences: int  # that nobody has acknowledged; counted up to COUNT_MAX
    since: datetime | None  # the oldest of them
    suspensions: int
    suspended_since: datetime | None
    unchecked_since: datetime | None  # the whole ledger was last proven then, which is too long ago
    running: PassView | None  # then: the full check that has not ended
    damage: str  # of the chain of hashes, in words; empty when its patrol has found none


def care_now(*, now: datetime) -> CareNow:
    """Open differences, suspensions that hold now, a full check that takes too long, and a chain that is damaged."""
    open_ = Difference.objects.filter(state=Difference.State.OPEN)
    active = suspensions.suspended(now=now)
    since = checks.whole_since()
    late = since is not None and now - since > checks.OVERDUE
    return CareNow(
        differences=open_[:COUNT_MAX].count(),
        since=open_.order_by("first_seen").values_list("first_seen", flat=True).first(),
        suspensions=len(active),
        suspended_since=active[0].since if active else None,
        unchecked_since=since if late else None,
        running=checks.open_pass() if late else None,
        damage=_damage(),
    )


def _damage() -> str:
    patrol = Patrol.objects.filter(id=1).first()
    if patrol is None or not (patrol.damages or patrol.damages_before):
        return ""
    return patrol.damage or "a block is not what was hashed"
