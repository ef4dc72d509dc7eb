"""What a scraper is told of payments."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.observability import metrics
from apps.payments.models import PaymentOperation
from tests.integration.payments import world

pytestmark = pytest.mark.django_db


def told() -> dict[str, float]:
    return {one.labels[0]: one.value for one in metrics.readings() if one.gauge is metrics.PAYMENTS_UNANSWERED}


class TestUnanswered:
    def test_counts_what_waits_for_long_by_kind_and_says_zero_for_the_others(self) -> None:
        client, payment_id = world.captured(card=world.REFUND_ANSWER_LOST)
        client.post(f"/payments/{payment_id}/refunds", {}, format="json")
        assert told() == {"authorise": 0, "capture": 0, "void": 0, "refund": 0}
        PaymentOperation.objects.filter(kind="refund").update(requested_at=timezone.now() - timedelta(minutes=1))
        assert told()["refund"] == 1
        PaymentOperation.objects.filter(kind="refund").update(status="APPROVED", answered_at=timezone.now())
        assert told()["refund"] == 0
