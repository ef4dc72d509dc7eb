"""The message log's days."""

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.messaging import partitions
from apps.messaging.models import Message, Pending
from apps.messaging.partitions import DAYS_AHEAD, LOG, days, first_message_id, maintain
from tests.integration.messaging.world import THREADS_S_MAX, post, published, together

pytestmark = pytest.mark.django_db(transaction=True)


def home_of(message: Message) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM messaging_message WHERE id = %s", [message.pk])
        return str(cursor.fetchone()[0])


def drop_all_days() -> None:
    with connection.cursor() as cursor:
        for day in days():
            cursor.execute(f"DROP TABLE messaging_message_{day:%Y%m%d}")


@pytest.fixture(autouse=True)
def days_again() -> Any:
    """A test may drop days; the next one finds those that a new database has."""
    yield
    Message.objects.all().delete()
    maintain(now=timezone.now())


class TestOpening:
    def test_opens_today_and_the_days_ahead(self) -> None:
        drop_all_days()
        now = datetime(2031, 3, 30, 23, 59, tzinfo=UTC)
        maintain(now=now)
        assert days() == [date(2031, 3, 30) + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)]
        maintain(now=now)
        drop_all_days()

    def test_a_message_lies_in_its_day(self) -> None:
        maintain(now=timezone.now())
        post(1)
        assert home_of(Message.objects.get()) == f"messaging_message_{timezone.now().astimezone(UTC):%Y%m%d}"

    def test_a_message_without_a_day_is_taken_and_moves_when_its_day_is_opened(self) -> None:
        drop_all_days()
        post(1, 2)
        assert {home_of(row) for row in Message.objects.all()} == {"messaging_message_default"}
        maintain(now=timezone.now())
        assert {home_of(row) for row in Message.objects.all()} == {
            f"messaging_message_{timezone.now().astimezone(UTC):%Y%m%d}"
        }
        assert published() == [1, 2]

    def test_two_that_open_at_once_do_not_disturb_each_other(self) -> None:
        drop_all_days()
        now = timezone.now()
        together(lambda: maintain(now=now), lambda: maintain(now=now))
        assert len(days()) == DAYS_AHEAD + 1

    def test_gives_up_when_the_log_is_locked_and_tries_again_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "50ms")
        drop_all_days()
        locked, tried = threading.Event(), threading.Event()

        def reader() -> None:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("LOCK TABLE messaging_message_default IN ACCESS SHARE MODE")
                locked.set()
                assert tried.wait(THREADS_S_MAX)

        def opener() -> None:
            assert locked.wait(THREADS_S_MAX)
            maintain(now=timezone.now())
            tried.set()

        together(reader, opener)
        assert days() == []
        maintain(now=timezone.now())
        assert len(days()) == DAYS_AHEAD + 1


class TestDropping:
    @pytest.fixture
    def old(self, settings: Any) -> datetime:
        """A day that is too old, with one message in it."""
        settings.MESSAGE_LOG_DAYS = 30
        moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
        partitions._open(moment.date())
        Message.objects.create(
            message_id=first_message_id(moment), topic="a.b.c.event", key="k", schema="s", payload="{}", created_at=moment
        )
        return moment

    def test_drops_whole_days_that_are_too_old(self, old: datetime) -> None:
        maintain(now=old + timedelta(days=30))
        assert old.date() in days(), "not yet"
        maintain(now=old + timedelta(days=31))
        assert old.date() not in days()
        assert not Message.objects.exists()

    def test_drops_days_too_that_nobody_opened_in_time(self, old: datetime) -> None:
        LOG.drop(old.date())
        for days_later in (0, 1):  # the task that opens days did not run for weeks
            moment = old + timedelta(days=days_later)
            Message.objects.create(
                message_id=first_message_id(moment),
                topic="a.b.c.event",
                key="k",
                schema="s",
                payload="{}",
                created_at=moment,
            )
        for days_later, left in ((30, 2), (31, 1), (32, 0)):
            for _ in range(2):
                maintain(now=old + timedelta(days=days_later))
            assert Message.objects.count() == left

    def test_keeps_everything_for_ever_when_told_so(self, old: datetime, settings: Any) -> None:
        settings.MESSAGE_LOG_DAYS = 0
        maintain(now=old + timedelta(days=4000))
        assert old.date() in days()

    def test_keeps_a_day_with_a_message_that_was_not_sent(self, old: datetime, caplog: pytest.LogCaptureFixture) -> None:
        row = Message.objects.get()
        Pending.objects.create(
            seq=row.seq, message_id=row.pk, topic=row.topic, key=row.key, bucket=0, due_at=row.created_at
        )
        maintain(now=old + timedelta(days=31))
        assert old.date() in days()
        assert "not sent" in caplog.text
