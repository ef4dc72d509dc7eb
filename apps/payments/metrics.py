"""Payments in numbers. What they are called is in apps/observability/metrics.py."""

from collections import Counter
from collections.abc import Iterator

from django.utils import timezone

from apps.observability import metrics
from apps.observability.metrics import Reading
from apps.payments import card_testing
from apps.payments.models import PaymentOperation
from apps.payments.operations import ANSWER_OVERDUE

COUNT_MAX = 10_000  # that there are very many is all that a graph needs to say


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("payments", _rows, queries=True)


def _rows() -> Iterator[Reading]:
    now = timezone.now()
    yield Reading(metrics.PAYMENTS_LIMITED, len(card_testing.limited_accounts(now=now)))
    # Through the index on what is open: answers come in milliseconds, so it is short.
    waiting = PaymentOperation.objects.filter(
        status=PaymentOperation.Status.REQUESTED, requested_at__lt=now - ANSWER_OVERDUE
    )
    counted = Counter(waiting.values_list("kind", flat=True)[:COUNT_MAX])
    for kind in PaymentOperation.Kind.values:
        yield Reading(metrics.PAYMENTS_UNANSWERED, counted[kind], (kind,))
