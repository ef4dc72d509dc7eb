"""What is done is forgotten after its time, and not before."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.common.clock import uuid7
from apps.messaging import retention
from apps.messaging.models import Inbox, LocalRecord
from apps.messaging.retention import INBOX_KEPT_FOR, LOCAL_RECORDS_KEPT_FOR, forget

pytestmark = pytest.mark.django_db(transaction=True)


def _inbox(age: timedelta) -> None:
    Inbox.objects.create(group="g", message_id=uuid7(), handled_at=timezone.now() - age)


def _record(age: timedelta, offset: int) -> None:
    LocalRecord.objects.create(
        topic="a.b.c.in", partition=0, offset=offset, key="k", value=b"{}", appended_at=timezone.now() - age
    )


class TestInbox:
    def test_knows_every_message_that_a_broker_may_still_have(self, settings: Any) -> None:
        longest = max(days for kind, days in settings.TOPIC_RETENTION_DAYS.items() if kind != "error")
        assert timedelta(days=longest + 7) <= INBOX_KEPT_FOR  # Kafka deletes whole segments, and one lasts a week


class TestForget:
    def test_deletes_what_is_too_old_and_keeps_the_rest(self) -> None:
        minute = timedelta(minutes=1)
        for age in (INBOX_KEPT_FOR + minute, INBOX_KEPT_FOR - minute):
            _inbox(age)
        for offset, age in enumerate((LOCAL_RECORDS_KEPT_FOR + minute, LOCAL_RECORDS_KEPT_FOR - minute)):
            _record(age, offset)
        assert forget(now=timezone.now()) == 2
        assert Inbox.objects.count() == 1
        assert list(LocalRecord.objects.values_list("offset", flat=True)) == [1]
        assert forget(now=timezone.now()) == 0

    def test_works_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "ROWS_MAX", 2)
        for _ in range(5):
            _inbox(INBOX_KEPT_FOR * 2)
        assert forget(now=timezone.now()) == 5
