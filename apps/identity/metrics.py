"""Failed logins in numbers. What they are called is in apps/observability/metrics.py."""

from collections import Counter
from collections.abc import Iterator

from django.utils import timezone

from apps.identity import limits
from apps.identity.models import FailedLogin
from apps.observability import metrics
from apps.observability.metrics import Reading

ROWS_MAX = 10_000  # of those that count now: more would be an attack, and the number says so already


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("identity", _limited, queries=True)


def _limited() -> Iterator[Reading]:
    rows = FailedLogin.objects.filter(until__gt=timezone.now()).order_by("-until")[:ROWS_MAX]
    limited = Counter(row.key.partition(" ")[0] for row in rows if row.failures >= limits.most(row.key))
    for what in (limits.API, limits.WEB, limits.NAME, limits.DEVICE):
        yield Reading(metrics.LOGINS_LIMITED, limited[what], (what,))
