"""The ledger's care in numbers. What they are called is in apps/observability/metrics.py."""

from collections.abc import Iterator

from django.utils import timezone

from apps.ledger.care_models import Check, Difference, Suspension
from apps.ledger.checks import last_whole, open_pass
from apps.observability import metrics
from apps.observability.metrics import Reading

COUNT_MAX = 10_000  # that there are very many is all that a graph needs to say


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("ledger", _rows, queries=True)


def _rows() -> Iterator[Reading]:
    now = timezone.now()
    for state in (Difference.State.OPEN, Difference.State.ACKNOWLEDGED):
        count = Difference.objects.filter(state=state)[:COUNT_MAX].count()
        yield Reading(metrics.LEDGER_DIFFERENCES, count, (state.value,))
    for kind in Check.Kind.values:
        last = last_whole(kind)
        if last and last.snapshot_at and last.ended_at:
            yield Reading(metrics.LEDGER_CHECK_AGE, (now - last.snapshot_at).total_seconds(), (kind,))
            yield Reading(metrics.LEDGER_CHECK_SECONDS, (last.ended_at - last.began_at).total_seconds(), (kind,))
        elif first := Check.objects.order_by("id").first():  # none came to its end in all the time that checks are made
            yield Reading(metrics.LEDGER_CHECK_AGE, (now - first.began_at).total_seconds(), (kind,))
    if running := open_pass():
        yield Reading(metrics.LEDGER_CHECK_PROGRESS, running.looked / max(running.expected, running.looked, 1))
        yield Reading(metrics.LEDGER_CHECK_TRIES, running.tries)
    if newest := Check.objects.filter(ended_at__isnull=False, failure="").order_by("-ended_at").first():
        yield Reading(metrics.LEDGER_UNPROVEN, newest.unproven)
    active = Suspension.objects.filter(lifted_at=None, until__gt=now)
    yield Reading(metrics.LEDGER_SUSPENSIONS, active[:COUNT_MAX].count())
