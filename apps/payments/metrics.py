"""Payments in numbers. What they are called is in apps/observability/metrics.py."""

from collections.abc import Iterator

from django.utils import timezone

from apps.observability import metrics
from apps.observability.metrics import Reading
from apps.payments import card_testing


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("payments", _limited, queries=True)


def _limited() -> Iterator[Reading]:
    yield Reading(metrics.PAYMENTS_LIMITED, len(card_testing.limited_accounts(now=timezone.now())))
