"""Messages that wait until somebody writes them together with rows of its own."""

from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connection, transaction

from apps.messaging import outbox, wakeup
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.models import Message, Pending
from apps.messaging.outbox import WITH_MESSAGES, Collected, collecting, publish, publish_many
from tests.integration.messaging.world import Note, published, rolled_back

pytestmark = pytest.mark.django_db


def say(*numbers: int, key: str = "k") -> None:
    for n in numbers:
        publish(Note(n=n), key=key)


def write(collected: Collected) -> int:
    """What an engine does: one statement for its own rows and the messages. How many messages there were."""
    values = collected.take()
    if not values:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(f"WITH {WITH_MESSAGES} SELECT count(*) FROM message_row", values)
        return int(cursor.fetchone()[0])


class TestCollecting:
    def test_writes_nothing_until_somebody_does(self) -> None:
        with transaction.atomic(), collecting() as collected:
            say(1)
            publish_many([(Note(n=2), "k"), (Note(n=3), "l")])
            assert not Message.objects.exists()
            assert write(collected) == 3
            assert write(collected) == 0, "they are taken once"
        assert published() == [1, 2, 3]
        pending = Pending.objects.order_by("seq").values_list("message_id", "topic", "key", "bucket")
        rows = Message.objects.order_by("seq").values_list("message_id", "topic", "key")
        assert list(pending) == [(*row, outbox.bucket_of(row[2])) for row in rows]

    def test_writes_the_same_rows_as_publish_alone(self) -> None:
        text = Note(n=1, key='ä"\\n\u2028{}')
        with transaction.atomic():
            publish(text, key="k", reply_to="r")
            with collecting() as collected:
                publish(text, key="k", reply_to="r")
                write(collected)
        alone, together = Message.objects.order_by("seq")
        assert together.body == alone.body
        assert (together.topic, together.schema, together.key) == (alone.topic, alone.schema, alone.key)
        assert together.payload.replace(str(together.pk), "") == alone.payload.replace(str(alone.pk), "")

    def test_forgets_what_was_published_in_a_savepoint_that_is_rolled_back(self) -> None:
        with transaction.atomic(), collecting() as collected:
            say(1)
            with transaction.atomic():
                say(2)
                with rolled_back():
                    say(3)
                say(4)
            with rolled_back(), transaction.atomic():
                say(5)
            say(6)
            write(collected)
        assert published() == [1, 2, 4, 6]

    def test_forgets_what_a_block_without_a_savepoint_published_before_it_broke(self) -> None:
        with transaction.atomic(), collecting() as collected:
            say(1)
            with suppress(ZeroDivisionError), transaction.atomic(), transaction.atomic(savepoint=False):
                say(2)
                raise ZeroDivisionError
            write(collected)
        assert published() == [1]

    def test_writes_at_the_end_what_nobody_took(self) -> None:
        with transaction.atomic():
            say(1)
            with collecting() as collected:
                say(2)
                write(collected)
                say(3)
            say(4)
        assert published() == [1, 2, 3, 4]

    def test_sends_nothing_of_a_block_that_raises(self) -> None:
        with transaction.atomic():
            with suppress(ZeroDivisionError), collecting():
                say(1)
                raise ZeroDivisionError
            say(2)
        assert published() == [2]

    def test_leaves_the_messages_of_an_inner_block_to_the_outer_one(self) -> None:
        with transaction.atomic(), collecting() as outer:
            say(1)
            with rolled_back(), collecting() as inner:
                say(2)
                assert write(inner) == 0
            with collecting() as inner:
                say(3)
                assert write(inner) == 0
            say(4)
            assert write(outer) == 3
        assert published() == [1, 3, 4]

    def test_refuses_a_message_when_it_is_published(self) -> None:
        with transaction.atomic(), collecting():
            with pytest.raises(InvalidMessage):
                say(1, key="")
            say(2)
        assert published() == [2]


@pytest.mark.django_db(transaction=True)
class TestCommitting:
    def test_wakes_the_relay_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ask = Mock()
        monkeypatch.setattr(wakeup, "_ask", ask)
        with transaction.atomic(), collecting() as collected:
            say(1, 2)
            write(collected)
            say(3)
        assert ask.call_count == 1

    def test_is_loud_when_a_message_is_forgotten(self) -> None:
        def forget() -> None:
            with transaction.atomic():
                token = outbox._is_collecting.set(True)
                say(1)
                outbox._is_collecting.reset(token)

        with pytest.raises(RuntimeError, match="without being written"):
            forget()

    def test_loses_everything_with_the_transaction(self) -> None:
        with rolled_back(), collecting() as collected:
            say(1)
            write(collected)
            say(2)
        assert published() == []
        with transaction.atomic():
            say(3)
        assert published() == [3]


def test_collecting_is_over_after_the_block(db: Any) -> None:
    with transaction.atomic():
        with collecting():
            pass
        say(1)
        assert published() == [1]
