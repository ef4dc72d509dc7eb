"""The consumer: once per group, in order per key, and nothing is lost."""

import json
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.messaging import envelope
from apps.messaging.consumer import ConsumerThread, consume_once, deliver
from apps.messaging.contracts.base import InvalidMessage, Message
from apps.messaging.contracts.payments import CardResult
from apps.messaging.dead_letters import error_topic
from apps.messaging.envelope import ENVELOPE_BYTES_MAX, Meta
from apps.messaging.inbox import groups, handles
from apps.messaging.models import Inbox, Redelivery
from apps.messaging.outbox import publish
from apps.messaging.redelivery import ATTEMPTS_MAX, DELAY_MAX, delay, redeliver
from apps.messaging.relay import relay_all
from apps.messaging.transports import transport
from apps.messaging.transports.base import IncomingRecord
from apps.observability import ids
from tests.integration.messaging.world import (
    ERROR_TOPIC,
    THREADS_S_MAX,
    TOPIC,
    Note,
    Reader,
    all_is_due,
    dead_letters,
    leases_end,
    post,
    published,
    together,
)

pytestmark = pytest.mark.django_db

MakeReader = Callable[[str], Reader]


class NewerNote(Message):
    """What a later release sends; this one knows it too."""

    topic: ClassVar[str] = TOPIC
    schema: ClassVar[str] = "tests.note.v2"

    n: int
    key: str = ""
    colour: str = "red"


class Refusal(DomainError):
    """No."""

    code = "R999"


class Later(DomainError):
    """Not yet."""

    code, retryable = "R998", True


def record(
    n: int = 1, key: str = "k", *, value: bytes | None = None, message_id: Any = None, schema: str = ""
) -> IncomingRecord:
    meta = Meta(message_id=message_id or uuid4(), schema=schema or Note.schema).to_json()
    return IncomingRecord(
        TOPIC, 0, n, key, value if value is not None else envelope.encode(meta, {"n": n, "key": key.replace("\x00", "")})
    )


def give(*records: IncomingRecord, group: str = "g") -> None:
    for one in records:
        deliver(one, group=group, now=timezone.now())


def retry(group: str = "g") -> int:
    all_is_due()
    return redeliver(group=group, now=timezone.now())


def consume(group: str = "g") -> int:
    """Join the group, handle what is there, and leave."""
    member = transport().consumer(group=group, topics=[TOPIC])
    try:
        return consume_once(member, group=group, timeout_s=0)
    finally:
        member.close()


class TestInbox:
    def test_handles_a_message_id_once(self, reader: MakeReader) -> None:
        one = reader("g")
        message = record(1)
        give(message, message, message)
        assert one.numbers() == [1]

    def test_lets_every_group_handle_it(self, reader: MakeReader) -> None:
        one, two = reader("g"), reader("h")
        message = record(1)
        give(message, message, group="g")
        give(message, message, group="h")
        assert (one.numbers(), two.numbers()) == ([1], [1])
        assert set(Inbox.objects.values_list("group", flat=True)) == {"g", "h"}

    def test_passes_over_a_schema_that_the_group_does_not_handle(self, reader: MakeReader) -> None:
        one = reader("g")
        give(record(1, schema=CardResult.schema), record(2))
        assert one.numbers() == [2]
        assert not dead_letters()
        assert Inbox.objects.count() == 1

    def test_reads_a_newer_version_as_the_one_that_the_group_handles(self, reader: MakeReader) -> None:
        one = reader("g")
        give(record(1, schema=NewerNote.schema), record(2))
        assert one.numbers() == [1, 2]

    def test_buries_a_schema_that_nobody_knows(self, reader: MakeReader) -> None:
        one = reader("g")
        give(record(1, schema="tests.unheard.v1"), record(2))
        assert one.numbers() == [2]
        (letter,) = dead_letters()
        assert letter.meta["error"]["code"] == "R601"
        assert "tests.unheard.v1" in letter.meta["error"]["reason"]

    def test_binds_the_ids_of_the_message_around_the_handler(self, reader: MakeReader) -> None:
        one = reader("g")
        seen: list[dict[str, str]] = []
        one.before = lambda note: seen.append(ids.current())
        with transaction.atomic(), ids.bound(global_id="glob", trace="t"):
            publish(Note(n=1), key="k")
        relay_all()
        consume()
        assert (seen[0]["global_id"], seen[0]["trace"]) == ("glob", "t")
        assert one.metas[0].global_id == "glob"

    def test_keeps_the_effect_the_mark_and_the_answer_in_one_commit(self, reader: MakeReader) -> None:
        one = reader("g")

        def publish_then_fail(note: Note) -> None:
            publish(Note(n=note.n + 100), key="k")
            if len(one.seen) == 0 and not one.failing.get(0):
                one.failing[0] = [RuntimeError()]
                raise RuntimeError("after publishing")

        one.before = publish_then_fail
        give(record(1))
        assert published() == []
        assert not Inbox.objects.exists()
        retry()
        assert published() == [101]

    def test_refuses_two_handlers_for_one_schema(self, reader: MakeReader) -> None:
        reader("g")
        with pytest.raises(TypeError, match="twice"):

            @handles(Note, group="g")
            def second(_note: Note, _meta: Meta) -> None: ...

    def test_knows_the_topics_of_every_group(self, reader: MakeReader) -> None:
        reader("g")
        assert groups()["g"] == [TOPIC]


class TestFailing:
    def test_tries_again_and_keeps_the_order_of_the_key(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError("once"), RuntimeError("twice")]
        give(record(1), record(2), record(3))
        assert one.numbers() == []
        assert retry() == 1
        assert one.numbers() == [], "it failed again, and the others wait behind it"
        retry()
        assert one.numbers() == [1, 2, 3]
        assert not Redelivery.objects.exists()

    def test_lets_other_keys_go_on(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        give(record(1, "bad"), record(2, "good"), record(3, "bad"), record(4, "good"))
        assert one.numbers() == [2, 4]
        retry()
        assert one.numbers("bad") == [1, 3]

    def test_lets_other_groups_go_on(self, reader: MakeReader) -> None:
        one, two = reader("g"), reader("h")
        one.failing[1] = [RuntimeError()]
        message = record(1)
        give(message, group="g")
        give(message, group="h")
        assert (one.numbers(), two.numbers()) == ([], [1])

    def test_waits_longer_every_time(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()] * ATTEMPTS_MAX
        now = timezone.now()
        deliver(record(1), group="g", now=now)
        waits = []
        for _ in range(ATTEMPTS_MAX - 1):
            due = Redelivery.objects.get().due_at
            waits.append(due - now)
            assert redeliver(group="g", now=due - timedelta(milliseconds=1)) == 0
            now = due
            assert redeliver(group="g", now=now) == 1
        assert waits == sorted(waits)
        assert waits[-1] > 10 * waits[0]

    def test_has_a_longest_wait(self) -> None:
        assert delay(50) == DELAY_MAX

    def test_says_what_was_wrong_while_it_waits(self, reader: MakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
        # pytest-xdist cannot carry such a text home in a captured log.
        monkeypatch.setattr(logging.getLogger("apps.messaging.redelivery"), "disabled", True)
        one = reader("g")
        one.failing[1] = [RuntimeError("no\x00pe \ud800")]
        give(record(1))
        row = Redelivery.objects.get()
        assert (row.attempts, row.group, row.topic, row.key) == (1, "g", TOPIC, "k")
        assert row.error.startswith("RuntimeError: no")

    def test_a_failing_statement_of_a_handler_is_the_messages_fault(self, reader: MakeReader) -> None:
        one = reader("g")
        broken = [True]

        def wrong_sql(_note: Note) -> None:
            if broken.pop() if broken else False:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1 / 0")

        one.before = wrong_sql
        give(record(1))
        assert "division by zero" in Redelivery.objects.get().error
        retry()
        assert one.numbers() == [1]

    def test_a_database_that_is_away_is_nobodys_fault(self, reader: MakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
        one = reader("g")
        one.failing[1] = [DatabaseError("gone")]
        monkeypatch.setattr(connection, "is_usable", lambda: False)
        with pytest.raises(DatabaseError):
            give(record(1))
        assert not Redelivery.objects.exists()

    def test_a_copy_behind_its_original_is_dropped(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        first, second = record(1), record(2)
        give(first, second, first, second)
        retry()
        assert one.numbers() == [1, 2]
        assert not Redelivery.objects.exists()

    def test_handles_no_more_than_its_share_between_two_polls(
        self, reader: MakeReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.messaging.redelivery.REDELIVERIES_MAX", 2)
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        give(*(record(n) for n in range(1, 6)))
        assert retry() == 2
        assert one.numbers() == [1, 2]


class TestDeadLetters:
    def test_buries_after_the_last_attempt_with_the_reason(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError("nope")] * ATTEMPTS_MAX
        message = record(1)
        give(message, record(2))
        for _ in range(ATTEMPTS_MAX - 1):
            retry()
        assert one.numbers() == [2], "the next of the key goes on"
        (letter,) = dead_letters()
        original = json.loads(message.value)["meta"]["message-id"]
        assert letter.meta["error"] == {
            "code": "",
            "reason": "RuntimeError: nope",
            "group": "g",
            "topic": TOPIC,
            "partition": message.partition,
            "offset": message.offset,
            "attempts": ATTEMPTS_MAX,
            "message-id": original,
        }
        assert (letter.key, letter.body, letter.schema) == ("k", {"n": 1, "key": "k"}, Note.schema)
        assert str(letter.message_id) != original
        assert not Redelivery.objects.exists()

    def test_buries_a_refusal_at_once(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [Refusal("never")]
        give(record(1), record(2))
        (letter,) = dead_letters()
        assert (letter.meta["error"]["code"], letter.meta["error"]["attempts"]) == ("R999", 1)
        assert letter.meta["error"]["reason"] == "Refusal: never"
        assert one.numbers() == [2]

    def test_tries_a_retryable_refusal_again(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [Later()]
        give(record(1))
        assert not dead_letters()
        retry()
        assert one.numbers() == [1]

    def test_buries_a_body_that_breaks_its_contract_at_once(self, reader: MakeReader) -> None:
        reader("g")
        meta = Meta(message_id=uuid4(), schema=Note.schema).to_json()
        give(record(value=envelope.encode(meta, {"n": "one"})))
        (letter,) = dead_letters()
        assert letter.meta["error"]["code"] == InvalidMessage.code
        assert "n: expected" in letter.meta["error"]["reason"]

    def test_a_copy_of_what_was_buried_is_neither_handled_nor_buried_again(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [Refusal()]
        message = record(1)
        give(message, record(2), message)
        assert one.numbers() == [2]
        assert len(dead_letters()) == 1

    def test_does_not_bury_what_another_member_handled_meanwhile(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        message = record(1)
        give(message)
        Redelivery.objects.update(attempts=ATTEMPTS_MAX - 1)
        one.failing[1] = [RuntimeError()]
        # The former owner of the partition was slow, and got it done after all.
        one.before = lambda note: None
        Inbox.objects.create(
            group="g", message_id=json.loads(message.value)["meta"]["message-id"], handled_at=timezone.now()
        )
        retry()
        assert not dead_letters()
        assert not Redelivery.objects.exists()

    def test_two_groups_bury_the_same_message_each(self, reader: MakeReader) -> None:
        one, two = reader("g"), reader("h")
        one.failing[1], two.failing[1] = [Refusal()], [Refusal()]
        message = record(1)
        give(message, group="g")
        give(message, group="h")
        assert {letter.meta["error"]["group"] for letter in dead_letters()} == {"g", "h"}

    def test_buries_the_largest_message_that_can_be_published(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [Refusal("because " * 1000)]
        meta = Meta(message_id=uuid4(), schema=Note.schema).to_json()
        room = ENVELOPE_BYTES_MAX - len(envelope.encode(meta, {"n": 1, "key": ""}))
        give(record(value=envelope.encode(meta, {"n": 1, "key": "x" * room})))
        (letter,) = dead_letters()
        assert len(letter.body["key"]) == room
        assert relay_all().acknowledged == 1

    def test_is_named_after_its_topic(self) -> None:
        assert error_topic("payments.card.processor.in") == "payments.card.processor.error"
        assert error_topic(TOPIC) == ERROR_TOPIC


class TestUnreadable:
    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"nonsense",
            b"\xff\xfe\x00",
            b"[" * 100_000,
            b'{"meta": {}, "body": {}}',
            b'{"meta": {"message-id": "x", "schema": "a.b.v1"}, "body": {}}',
            b'{"meta": {"message-id": "0193", "schema": "a"}, "body": NaN}',
            b'{"meta": {"message-id": "urn:uuid:00000000-0000-0000-0000-000000000001", "schema": "a"}, "body": "\\u0000"}',
            b"\x00" * 500_000,
            b"\xff" * 1_000_000,
        ],
        ids=lambda value: value[:30],
    )
    def test_buries_it_and_goes_on(self, reader: MakeReader, value: bytes) -> None:
        one = reader("g")
        give(record(7, value=value), record(2))
        assert one.numbers() == [2]
        (letter,) = dead_letters()
        found = letter.meta["error"]
        assert (found["code"], found["group"], found["topic"], found["offset"]) == ("R601", "g", TOPIC, 7)
        assert letter.body["bytes"] == len(value)
        assert relay_all().acknowledged == 1, "the dead letter itself can be sent"

    @pytest.mark.parametrize("key", ["", "k" * 201, "a\x00b"])
    def test_buries_a_record_whose_key_could_not_be_kept(self, reader: MakeReader, key: str) -> None:
        one = reader("g")
        give(record(1, key), record(2))
        assert one.numbers() == [2]
        assert dead_letters()[0].key == "unreadable"

    def test_keeps_an_id_that_is_written_in_another_way(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        meta = Meta(message_id=uuid4(), schema=Note.schema).to_json()
        meta["message-id"] = f"urn:uuid:{meta['message-id']}"
        give(record(value=envelope.encode(meta, {"n": 1})))
        retry()
        assert one.numbers() == [1]


class TestCrash:
    def test_between_the_handlers_commit_and_the_offsets_handles_once(self, reader: MakeReader) -> None:
        one = reader("g")
        post(1, 2)
        relay_all()
        killed = transport().consumer(group="g", topics=[TOPIC])
        for found in killed.poll(records_max=100, timeout_s=0):
            deliver(found, group="g", now=timezone.now())  # and the process dies before it commits the offset
        assert one.numbers() == [1, 2]
        assert consume() == 0, "the dead member's lease lasts"
        leases_end()
        assert consume() == 2, "its records are read again"
        assert one.numbers() == [1, 2]

    def test_before_the_handlers_commit_handles_later(self, reader: MakeReader) -> None:
        class Killed(BaseException):
            pass

        one = reader("g")
        post(1)
        relay_all()
        one.failing[1] = [Killed()]  # type: ignore[list-item]
        with pytest.raises(Killed):
            consume()
        assert consume() == 1
        assert one.numbers() == [1]


@pytest.mark.django_db(transaction=True)
class TestConcurrently:
    def test_two_copies_at_once_are_handled_once(self, reader: MakeReader) -> None:
        one = reader("g")
        entered, both_began = threading.Event(), threading.Event()

        def hold(_note: Note) -> None:
            entered.set()
            both_began.wait(0.2)  # the other thread is by now at the inbox row, and waits for this commit

        one.before = hold
        message = record(1)

        def first() -> None:
            give(message)

        def second() -> None:
            assert entered.wait(THREADS_S_MAX)
            give(message)

        together(first, second)
        assert one.numbers() == [1]
        assert not Redelivery.objects.exists()

    def test_a_copy_is_handled_when_the_original_fails_meanwhile(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError()]
        message = record(1)
        together(lambda: give(message), lambda: give(message))
        retry()
        assert one.numbers() == [1]
        assert not Redelivery.objects.exists()

    def test_many_members_redeliver_one_key_in_order(self, reader: MakeReader) -> None:
        one = reader("g")
        for key in ("a", "b", "c"):
            one.failing[1] = [RuntimeError()]
            give(*(record(n, key) for n in range(1, 11)))
            one.failing.clear()
        all_is_due()

        def member() -> None:
            for _ in range(40):
                redeliver(group="g", now=timezone.now())

        together(member, member, member, member)
        assert {key: one.numbers(key) for key in ("a", "b", "c")} == {key: list(range(1, 11)) for key in ("a", "b", "c")}

    def test_a_member_that_is_at_one_key_holds_up_no_other(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[1] = [RuntimeError(), RuntimeError()]
        give(record(1, "slow"), record(1, "quick"))
        all_is_due()
        slow_began, quick_done = threading.Event(), threading.Event()

        def hold(note: Note) -> None:
            if note.key == "slow":
                slow_began.set()
                assert quick_done.wait(THREADS_S_MAX / 3), "the other member waits for this one"

        one.before = hold

        def another() -> None:
            assert slow_began.wait(THREADS_S_MAX / 3)
            redeliver(group="g", now=timezone.now())
            quick_done.set()

        together(lambda: redeliver(group="g", now=timezone.now()) and None, another)
        assert one.seen == [("quick", 1), ("slow", 1)]

    def test_fresh_messages_do_not_overtake_while_the_queue_is_being_worked_off(self, reader: MakeReader) -> None:
        one = reader("g")
        one.failing[0] = [RuntimeError()]
        give(record(0))
        all_is_due()
        handling, delivered = threading.Event(), threading.Event()

        def hold(note: Note) -> None:
            if note.n == 0:
                handling.set()
                assert delivered.wait(THREADS_S_MAX)

        one.before = hold

        def fresh() -> None:
            assert handling.wait(THREADS_S_MAX)
            give(record(1), record(2))
            delivered.set()

        together(lambda: redeliver(group="g", now=timezone.now()) and None, fresh)
        retry()
        assert one.numbers() == [0, 1, 2]


@pytest.mark.django_db(transaction=True)
class TestConsumerThread:
    def test_handles_what_comes_and_stops_cleanly(self, reader: MakeReader) -> None:
        one = reader("g")
        came, stop = threading.Event(), threading.Event()
        one.before = lambda note: came.set()
        thread = ConsumerThread("g", stop)
        thread.start()
        post(1)
        relay_all()
        assert came.wait(THREADS_S_MAX)
        stop.set()
        thread.join(THREADS_S_MAX)
        assert not thread.is_alive()
        assert one.numbers() == [1]
        # It has left the group: the next member reads at once.
        post(2)
        relay_all()
        assert consume() == 1

    def test_stops_between_two_messages_of_a_batch_and_loses_none(self, reader: MakeReader) -> None:
        one = reader("g")
        stop = threading.Event()
        one.before = lambda note: stop.set()
        post(1, 2, 3)
        relay_all()
        thread = ConsumerThread("g", stop)
        thread.start()
        thread.join(THREADS_S_MAX)
        assert one.numbers() == [1]
        consume()
        assert one.numbers() == [1, 2, 3]

    def test_outlives_a_database_that_was_away(self, reader: MakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
        one = reader("g")
        came, stop = threading.Event(), threading.Event()
        cut: list[bool] = [True, True]

        def lose_the_connection(_note: Note) -> None:
            if cut:
                cut.pop()
                connection.connection.close()
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            came.set()

        one.before = lose_the_connection
        monkeypatch.setattr(logging.getLogger("apps.messaging.consumer"), "disabled", True)
        thread = ConsumerThread("g", stop)
        thread.start()
        post(1)
        relay_all()
        assert came.wait(THREADS_S_MAX)
        stop.set()
        thread.join(THREADS_S_MAX)
        assert one.numbers() == [1]
        assert not Redelivery.objects.exists(), "no message is to blame"
