"""The chain in numbers. What they are called is in apps/observability/metrics.py."""

from collections.abc import Iterator

from django.utils import timezone

from apps.ledger import chain
from apps.ledger.chain_models import Patrol
from apps.observability import metrics
from apps.observability.metrics import Reading


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("ledger_chain", _chain, queries=True)


def _chain() -> Iterator[Reading]:
    unchained, oldest = chain.waiting()
    yield Reading(metrics.LEDGER_UNCHAINED, unchained)
    age = (timezone.now() - oldest).total_seconds() if oldest else 0
    yield Reading(metrics.LEDGER_UNCHAINED_OLDEST, max(age, 0))
    patrol = Patrol.objects.filter(id=1).first()
    if patrol is not None:
        yield Reading(metrics.LEDGER_CHAIN_DAMAGES, max(patrol.damages, patrol.damages_before))
    if patrol is not None and patrol.ended_at is not None:
        yield Reading(metrics.LEDGER_CHAIN_PROVED_AGE, (timezone.now() - patrol.ended_at).total_seconds())
