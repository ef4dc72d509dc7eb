"""publish(): a row of the caller's transaction, and nothing without it."""

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from apps.common.gathering import Gathering
from apps.common.transactions import TransactionMisuse
from apps.messaging import wakeup
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.envelope import ENVELOPE_BYTES_MAX, Meta
from apps.messaging.models import Message, Pending
from apps.messaging.outbox import BUCKETS, WITH_MESSAGES, bucket_of, collecting, publish, publish_many, publish_raw
from apps.messaging.relay import relay_all
from apps.observability import ids
from tests.integration.messaging.world import THREADS_S_MAX, TOPIC, Note, ScriptedTransport, post, published, rolled_back

pytestmark = pytest.mark.django_db


class TestPublish:
    def test_refuses_to_run_outside_a_transaction(self) -> None:
        with pytest.raises(TransactionMisuse, match="publish"):
            publish(Note(n=1), key="k")
        with pytest.raises(TransactionMisuse):
            publish_raw(topic=TOPIC, key="k", meta={}, body={})
        assert not Message.objects.exists()

    def test_sends_nothing_when_the_caller_rolls_back(self, broker: ScriptedTransport) -> None:
        with rolled_back():
            publish(Note(n=1), key="k")
        relay_all()
        assert broker.log == []
        assert not Message.objects.exists()
        assert not Pending.objects.exists()

    def test_sends_nothing_of_a_savepoint_that_is_rolled_back(self, broker: ScriptedTransport) -> None:
        with transaction.atomic():
            publish(Note(n=1), key="k")
            with rolled_back():
                publish(Note(n=2), key="k")
            publish(Note(n=3), key="k")
        relay_all()
        assert broker.numbers() == [1, 3]

    def test_writes_the_bound_ids_into_the_meta(self) -> None:
        with transaction.atomic(), ids.bound(global_id="g", steps="a,b", request_id="q"):
            publish(Note(n=1), key="k", reply_to="run:0")
        row = Message.objects.get()
        assert (row.meta["global-id"], row.meta["steps"], row.meta["trace"]) == ("g", ["a", "b"], "q")
        assert (row.meta["reply-to"], row.meta["schema"]) == ("run:0", Note.schema)
        assert UUID(row.meta["message-id"]) == row.message_id
        assert row.body == {"n": 1, "key": ""}

    def test_gives_every_message_its_own_id(self) -> None:
        post(1, 1, 1)
        assert Message.objects.values("message_id").distinct().count() == 3

    @pytest.mark.parametrize("key", ["", "k" * 201, "a\x00b", "\ud800"])
    def test_refuses_a_key_that_no_broker_could_carry(self, key: str) -> None:
        with transaction.atomic(), pytest.raises(InvalidMessage, match="key"):
            publish(Note(n=1), key=key)

    @pytest.mark.parametrize("text", ["x" * ENVELOPE_BYTES_MAX, "a\x00b", "\ud800"])
    def test_refuses_a_body_that_no_broker_could_carry(self, text: str) -> None:
        with transaction.atomic(), pytest.raises(InvalidMessage):
            publish(Note(n=1, key=text), key="k")
        with transaction.atomic():
            publish(Note(n=2), key="k")  # the transaction is still good
        assert published() == [2]


class TestPublishMany:
    def test_publishes_in_the_order_of_the_list(self, broker: ScriptedTransport, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.messaging.outbox.ROWS_MAX", 4)
        with transaction.atomic(), ids.bound(global_id="g"):
            publish_many([(Note(n=n, key='"{}\\,NULL ação'), f"k{n % 3}") for n in range(10)])
        relay_all()
        assert broker.numbers() == list(range(10))
        assert [record.key for record in broker.log] == [f"k{n % 3}" for n in range(10)]
        assert {(row.global_id, row.body["key"]) for row in Message.objects.all()} == {("g", '"{}\\,NULL ação')}

    def test_publishes_nothing_when_one_of_them_cannot_be_sent(self) -> None:
        with transaction.atomic(), pytest.raises(InvalidMessage):
            publish_many([(Note(n=1), "k"), (Note(n=2), "")])
        assert not Message.objects.exists()

    def test_takes_an_empty_list(self) -> None:
        with transaction.atomic():
            publish_many([])
        assert not Message.objects.exists()

    def test_an_answer_carries_the_ids_of_what_it_answers(self) -> None:
        to = Meta(message_id=uuid4(), schema="s", global_id="g", steps=("a",), trace="t", reply_to="run:1")
        with transaction.atomic(), ids.bound(global_id="mine"):
            publish_many([(Note(n=1), "k")], answering=[to])
        meta = Message.objects.get().meta
        assert (meta["global-id"], meta["steps"], meta["trace"], meta["reply-to"]) == ("g", ["a"], "t", "run:1")
        assert meta["message-id"] != str(to.message_id)


class TestBucket:
    def test_keeps_a_key_in_one_bucket(self) -> None:
        assert {bucket_of("order-1") for _ in range(100)} == {bucket_of("order-1")}
        assert {bucket_of(str(n)) for n in range(1000)} == set(range(BUCKETS))

    def test_is_the_same_in_every_release(self) -> None:
        # Two releases run side by side during a deployment: if they disagreed, one key would be in two hands.
        assert [bucket_of(key) for key in ("", "a", "order-1", "ação")] == [0, 3, 15, 1]


class Woken:
    """Counts the wake-ups, which come from another thread."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def wake(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, THREADS_S_MAX)


class TestWakeUp:
    @pytest.fixture
    def woken(self, monkeypatch: pytest.MonkeyPatch) -> Woken:
        made = Woken()
        monkeypatch.setattr("apps.messaging.tasks.relay.delay", made.wake)
        mine = Gathering(lambda _: wakeup.wake_relay(), name="tests", every_s=wakeup.WAKE_EVERY_S, waiting_max=1)
        monkeypatch.setattr(wakeup, "_waker", mine)
        return made

    def test_wakes_the_relay_once_however_many_it_publishes(
        self, woken: Woken, django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            for n in range(5):
                publish(Note(n=n), key="k")
        assert woken.wait_for(1)
        assert woken.count == 1

    def test_wakes_it_although_the_first_savepoint_was_rolled_back(
        self, woken: Woken, django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            with rolled_back():
                publish(Note(n=1), key="k")
            publish(Note(n=2), key="k")
        assert woken.wait_for(1)

    @pytest.mark.django_db(transaction=True)
    def test_commits_that_follow_each_other_quickly_share_a_wake_up(
        self, woken: Woken, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wakeup._waker, "every_s", 0.2)
        post(*range(50))
        assert woken.wait_for(2), "what came after the first wake-up is not forgotten"
        assert woken.count < 50

    def test_a_broker_of_celery_that_is_away_fails_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away() -> None:
            raise ConnectionError("nobody answers")

        monkeypatch.setattr("apps.messaging.tasks.relay.delay", away)
        publish_one = transaction.atomic()(lambda: publish(Note(n=1), key="k"))
        publish_one()
        wakeup.wake_relay()
        assert published() == [1]


class TestReadByDebezium:
    """The log is all there is: nothing waits for our relay, and nobody wakes it."""

    @pytest.fixture(autouse=True)
    def reader(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.OUTBOX_READER = "debezium"
        monkeypatch.setattr(wakeup, "relay_after_commit", lambda: pytest.fail("nobody relays"))

    def test_writes_the_log_alone(self) -> None:
        post(1)
        with transaction.atomic():
            publish_many([(Note(n=2), "k"), (Note(n=3), "l")])
        with transaction.atomic(), collecting() as collected:
            publish(Note(n=4), key="k")
            values = collected.take()
            with connection.cursor() as cursor:
                cursor.execute(f"WITH {WITH_MESSAGES} SELECT count(*) FROM message_row", values)
        assert published() == [1, 2, 3, 4]
        assert not Pending.objects.exists()
