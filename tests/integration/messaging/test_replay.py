"""Dead letters are sent again: once, in their order, corrected, and for the group that buried them alone."""

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.transactions import TransactionMisuse
from apps.messaging import envelope, replay
from apps.messaging.consumer import consume_once
from apps.messaging.contracts.payments import AuthoriseRequested
from apps.messaging.corrections import Correction, read_edit, read_value
from apps.messaging.dead_letters import Wanted, find
from apps.messaging.envelope import RECEIVED_BYTES_MAX, Meta
from apps.messaging.models import DeadLetterReplay, Inbox, Message, Pending, Redelivery
from apps.messaging.redelivery import redeliver
from apps.messaging.relay import relay_all
from apps.messaging.replay import Because, Prepared
from apps.messaging.transports import transport
from tests.integration.messaging.letters import Refusal, bury, give, record
from tests.integration.messaging.world import (
    THREADS_S_MAX,
    TOPIC,
    Note,
    Reader,
    all_is_due,
    dead_letters,
    post,
    together,
)

pytestmark = pytest.mark.django_db

NONE = Correction()


@pytest.fixture(autouse=True)
def g() -> Iterator[Reader]:
    """The group whose handler fails in bury()."""
    made = Reader("g")
    yield made
    made.close()


@pytest.fixture
def h() -> Iterator[Reader]:
    """Another group of the same topic."""
    made = Reader("h")
    yield made
    made.close()


def because(**fields: Any) -> Because:
    return Because(**{"by": "chief", "reason": "mended", "now": timezone.now(), **fields})


def chosen(**fields: Any) -> list[UUID]:
    return list(find(Wanted(**fields)).values_list("pk", flat=True))


def send(ids: Sequence[UUID] | None = None, correction: Correction = NONE, **fields: Any) -> int:
    return sum(replay.replay(chosen() if ids is None else ids, correction, because(**fields)))


def sent() -> list[Message]:
    """What was sent again, in the order in which it was published."""
    return list(Message.objects.filter(topic=TOPIC, pk__in=DeadLetterReplay.objects.values("pk")).order_by("seq"))


def arrive(*groups: str) -> None:
    """Relay, and let groups consume."""
    relay_all()
    for group in groups:
        member = transport().consumer(group=group, topics=[TOPIC])
        try:
            consume_once(member, group=group, timeout_s=0)
        finally:
            member.close()


def prepared(letter: UUID, correction: Correction = NONE) -> Prepared:
    (found,) = replay.prepare([letter], correction)
    return found


def setting(*texts: str) -> Correction:
    return Correction(values=[read_value(text) for text in texts])


class TestReplay:
    def test_goes_to_its_topic_as_a_new_message_with_the_ids_of_the_original(self) -> None:
        original = record(
            7,
            "kk",
            global_id="run-1",
            steps=("one", "two"),
            trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            reply_to="r-1",
        )
        letter = bury(original)
        assert send() == 1
        (row,) = sent()
        before = envelope.decode(original.value)
        assert (row.topic, row.key, row.schema, row.body) == (TOPIC, "kk", Note.schema, before["body"])
        new = {"message-id": str(row.pk), "replay-of": str(letter), "for-group": "g"}
        assert row.meta == {**before["meta"], **new}
        assert row.pk not in {letter, UUID(before["meta"]["message-id"])}
        assert (row.global_id, row.trace) == ("run-1", before["meta"]["trace"])

    def test_keeps_what_others_wrote_into_the_meta_and_the_body(self) -> None:
        meta = {**Meta(message_id=uuid4(), schema=Note.schema).to_json(), "newer": {"x": 1}}
        bury(record(value=envelope.encode(meta, {"n": 1, "newer": [1]})))
        send()
        (row,) = sent()
        assert row.meta["newer"] == {"x": 1}
        assert row.body == {"n": 1, "newer": [1]}

    def test_is_handled_by_the_group_that_buried_it(self, g: Reader) -> None:
        bury(1)
        send()
        arrive("g")
        assert g.numbers() == [1]
        assert not Redelivery.objects.exists()

    def test_is_handled_by_no_other_group(self, g: Reader, h: Reader) -> None:
        message = record(1)
        give(message, group="h")
        bury(message)
        send()
        post(2)
        arrive("g", "h")
        assert g.numbers() == [1, 2]
        assert h.numbers() == [1, 2], "once, the original"
        (row,) = sent()
        assert list(Inbox.objects.filter(message_id=row.pk).values_list("group", flat=True)) == ["g"]

    def test_is_passed_over_by_a_group_that_does_not_know_its_schema_or_whose_key_waits(self, h: Reader) -> None:
        h.failing[1] = [RuntimeError()]
        give(record(1, "k"), group="h")
        foreign = Meta(message_id=uuid4(), schema="nobody.knows.v1").to_json() | {"for-group": "g"}
        give(record(2, "k", value=envelope.encode(foreign, {})), group="h")
        give(record(3, "other", value=envelope.encode({**foreign, "message-id": str(uuid4())}, {})), group="h")
        all_is_due()
        redeliver(group="h", now=timezone.now())
        assert h.numbers() == [1]
        assert not Redelivery.objects.exists()
        assert dead_letters() == []

    def test_that_fails_again_is_a_dead_letter_again(self, g: Reader) -> None:
        first = bury(1)
        send()
        g.failing[1] = [Refusal("still")]
        arrive("g")
        (again,) = chosen()
        assert again != first
        row = Message.objects.get(pk=again)
        assert row.meta["error"]["message-id"] == str(sent()[0].pk)
        send()
        arrive("g")
        assert g.numbers() == [1]
        assert sent()[-1].meta["replay-of"] == str(again)
        assert "error" not in sent()[-1].meta

    def test_keeps_the_order_of_burial_over_batches(self, g: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 3)
        for n in range(10):
            bury(n, key="ab"[n % 2])
        assert list(replay.replay(chosen(), NONE, because())) == [3, 3, 3, 1]
        assert [row.body["n"] for row in sent()] == list(range(10))
        arrive("g")
        assert (g.numbers("a"), g.numbers("b")) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9])

    def test_keeps_who_when_and_why(self) -> None:
        letter = bury(1)
        at = timezone.now()
        send(now=at, by="ana", reason="the lock is gone", correction=setting("body.n=2"))
        row = DeadLetterReplay.objects.get()
        assert (row.dead_letter_id, row.number, row.group, row.topic) == (letter, 1, "g", TOPIC)
        assert (row.replayed_by, row.reason, row.replayed_at) == ("ana", "the lock is gone", at)
        assert row.corrected == ["body.n"]
        assert Pending.objects.filter(message_id=row.pk).exists()


class TestOnce:
    def test_the_second_time_nothing_is_sent(self) -> None:
        ids = [bury(1), bury(2)]
        assert send(ids) == 2
        assert send(ids) == 0
        assert len(sent()) == 2

    def test_again_when_told_to(self) -> None:
        letter = bury(1)
        send([letter])
        assert send([letter], replayed_before=timezone.now()) == 1
        assert list(DeadLetterReplay.objects.order_by("number").values_list("number", flat=True)) == [1, 2]

    def test_again_may_be_interrupted_and_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 2)
        ids = [bury(n) for n in range(5)]
        send(ids)
        began = timezone.now()
        assert next(replay.replay(ids, NONE, because(replayed_before=began, now=began))) == 2
        assert send(ids, replayed_before=began) == 3
        assert [row.body["n"] for row in sent()] == [*range(5), *range(5)]

    def test_after_an_interruption_it_goes_on_with_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 2)
        for n in range(5):
            bury(n)
        assert next(replay.replay(chosen(), NONE, because())) == 2
        assert send() == 3
        assert [row.body["n"] for row in sent()] == list(range(5))

    def test_the_row_and_the_message_are_one_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = [bury(1), bury(2)]
        published: list[str] = []
        real = replay.publish_raw

        def second_fails(**arguments: Any) -> None:
            published.append(arguments["topic"])
            if len(published) == 2:
                raise RuntimeError("killed")
            real(**arguments)

        monkeypatch.setattr(replay, "publish_raw", second_fails)
        with pytest.raises(RuntimeError, match="killed"):
            send(ids)
        assert not DeadLetterReplay.objects.exists()
        assert not Message.objects.filter(topic=TOPIC).exists()
        monkeypatch.undo()
        assert send(ids) == 2

    def test_a_letter_that_is_gone_is_left_out(self) -> None:
        gone, there = bury(1), bury(2)
        Message.objects.filter(pk=gone).delete()
        assert send([gone, there]) == 1

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("again", [False, True])
    def test_two_at_once_send_each_letter_once_and_in_order(self, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 2)
        ids = [bury(n) for n in range(9)]
        if again:
            send(ids)
        began = timezone.now() if again else None
        numbers: list[int] = []

        def run() -> None:
            numbers.append(send(ids, replayed_before=began))

        together(run, run, run)
        assert sum(numbers) == 9
        assert [row.body["n"] for row in sent()][-9:] == list(range(9))

    @pytest.mark.django_db(transaction=True)
    def test_who_comes_second_waits_for_the_first_ones_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        letter = bury(1)
        taken, asked = threading.Event(), threading.Event()
        real, numbers = replay.publish_raw, []

        def hold(**arguments: Any) -> None:
            taken.set()
            assert asked.wait(THREADS_S_MAX)
            real(**arguments)

        monkeypatch.setattr(replay, "publish_raw", hold)
        before = replay._take

        def look(drafts: Any, why: Any) -> Any:
            if taken.is_set():
                threading.Timer(0.2, asked.set).start()  # by then it waits at the row; later changes nothing
            return before(drafts, why)

        monkeypatch.setattr(replay, "_take", look)

        def second() -> None:
            assert taken.wait(THREADS_S_MAX)
            numbers.append(send([letter]))

        together(lambda: numbers.append(send([letter])), second)
        assert sorted(numbers) == [0, 1]
        assert len(sent()) == 1


class TestRefusals:
    def test_what_was_no_envelope_is_sent_only_with_one(self, g: Reader) -> None:
        give(record(5, value=b'{"n": 1'))
        (letter,) = chosen()
        refusal = prepared(letter).refusal
        assert refusal is not None
        assert (refusal.code, refusal.field) == ("R602", "meta.schema")
        assert prepared(letter, setting("body.n=1")).refusal is not None
        assert send() == 0
        assert send(correction=read_edit(b'{"meta": {"schema": "tests.note.v1"}, "body": {"n": 1}, "key": "a"}')) == 1
        arrive("g")
        assert g.seen == [("", 1)]
        (row,) = sent()
        assert (row.key, row.schema, row.meta["for-group"]) == ("a", Note.schema, "g")

    def test_a_body_that_breaks_its_contract_names_the_field(self) -> None:
        meta = Meta(message_id=uuid4(), schema=Note.schema).to_json()
        give(record(value=envelope.encode(meta, {"n": "one"})))
        (letter,) = chosen()
        for correction in (NONE, setting('body.n="two"')):
            refusal = prepared(letter, correction).refusal
            assert refusal is not None
            assert (refusal.code, refusal.field) == ("R601", "body.n")
            assert send(correction=correction) == 0
        assert send(correction=setting("body.n=1")) == 1

    def test_a_correction_that_nobody_would_read_names_the_field(self) -> None:
        letter = bury(1)
        refusal = prepared(letter, setting("body.m=2")).refusal
        assert refusal is not None
        assert (refusal.code, refusal.field) == ("R603", "body.m")

    @pytest.mark.parametrize("key", ["", "k" * 201, "a\\u0000b"])
    def test_a_key_that_cannot_be_sent(self, key: str) -> None:
        refusal = prepared(bury(1), setting(f'key="{key}"')).refusal
        assert refusal is not None
        assert (refusal.code, refusal.field) == ("R603", "key")

    def test_a_schema_of_another_topic(self) -> None:
        refusal = prepared(bury(1), setting(f'meta.schema="{AuthoriseRequested.schema}"')).refusal
        assert refusal is not None
        assert (refusal.code, refusal.field) == ("R603", "meta.schema")

    def test_a_schema_that_nobody_knows(self) -> None:
        refusal = prepared(bury(1), setting('meta.schema="nobody.knows.v1"')).refusal
        assert refusal is not None
        assert refusal.code == "R601"

    def test_a_group_that_handles_it_no_more(self, g: Reader, h: Reader) -> None:
        letter = bury(1)
        g.close()
        refusal = prepared(letter).refusal
        assert refusal is not None
        assert refusal.code == "R602"
        assert send([letter]) == 0

    @pytest.mark.parametrize("value", ['"\\u0000"', "1e999", '"\\ud800"', "[" * 40 + "]" * 40])
    def test_what_nobody_could_keep(self, value: str) -> None:
        refusal = prepared(bury(1), setting(f"body={value}")).refusal
        assert refusal is not None
        assert refusal.code == "R601"

    def test_what_no_consumer_would_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        letter = bury(1)
        size = len(
            envelope.encode(replay._meta(prepared(letter).letter, prepared(letter).draft, letter), {"n": 1, "key": ""})
        )
        room = RECEIVED_BYTES_MAX - size
        fits = Correction(of_the_one={"body": {"n": 1, "key": "x" * room}})
        assert prepared(letter, fits).refusal is None
        refusal = prepared(letter, Correction(of_the_one={"body": {"n": 1, "key": "x" * (room + 1)}})).refusal
        assert refusal is not None
        assert refusal.code == "R602"
        assert send(correction=fits) == 1
        relay_all()
        member = transport().consumer(group="g", topics=[TOPIC])
        assert consume_once(member, group="g", timeout_s=0) == 1
        member.close()
        assert Inbox.objects.filter(message_id=sent()[0].pk).exists()

    def test_hold_up_no_other_letter(self) -> None:
        give(record(5, value=b"nonsense"))
        bury(1)
        assert send() == 1


class TestCorrected:
    def test_body_is_what_the_handler_gets(self, g: Reader) -> None:
        letter = bury(1)
        found = prepared(letter, setting("body.n=2"))
        assert (found.refusal, found.corrected) == (None, ("body.n",))
        send(correction=setting("body.n=2"))
        arrive("g")
        assert g.numbers() == [2]
        assert Message.objects.get(pk=letter).body["n"] == 1, "the letter stays as it was"

    def test_letters_each_in_its_own_way(self) -> None:
        one, two = bury(1), bury(2)
        by_id = read_edit(f'{{"{one}": {{"body": {{"n": 10}}}}, "{two}": {{"key": "other"}}}}'.encode())
        send(correction=by_id)
        assert [(row.key, row.body["n"]) for row in sent()] == [("k", 10), ("other", 2)]
        places = dict(DeadLetterReplay.objects.values_list("dead_letter_id", "corrected"))
        assert places == {one: ["body.n", "body.key"], two: ["key"]}


def test_a_replay_is_part_of_no_other_commit() -> None:
    letter = bury(1)
    with transaction.atomic(), pytest.raises(TransactionMisuse):
        send([letter])


def test_a_replay_older_than_the_moment_is_sent_again_and_a_newer_one_is_not() -> None:
    letter = bury(1)
    at = timezone.now()
    send([letter], now=at)
    assert send([letter], replayed_before=at) == 0
    assert send([letter], replayed_before=at + timedelta(microseconds=1)) == 1
