"""Dead letters are found: by what they are, why they were buried and where they came from, oldest first."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.messaging import envelope
from apps.messaging.corrections import Correction
from apps.messaging.dead_letters import (
    UNREADABLE,
    Wanted,
    bury_unreadable,
    count,
    error_topics,
    find,
    is_dead_letter,
    read,
    replays_of,
)
from apps.messaging.envelope import Meta
from apps.messaging.models import DeadLetterReplay, Message, Pending, Redelivery
from apps.messaging.outbox import publish_raw
from apps.messaging.overview import messages_now, messages_of
from apps.messaging.redelivery import ATTEMPTS_MAX, redeliver
from apps.messaging.relay import relay_all
from apps.messaging.replay import Because, replay
from apps.messaging.transports.base import IncomingRecord
from tests.integration.messaging.letters import Refusal, bury, give, record, replayed
from tests.integration.messaging.world import ERROR_TOPIC, TOPIC, Note, Reader, all_is_due, dead_letters

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def readers() -> Any:
    """Two groups that read the topic."""
    made = [Reader("g"), Reader("h")]
    yield made
    for one in made:
        one.close()


def found(**fields: Any) -> list[UUID]:
    return list(find(Wanted(**fields)).values_list("pk", flat=True))


class TestFind:
    def test_gives_them_in_the_order_of_their_burial_whatever_their_ids(self) -> None:
        ids = [bury(n) for n in range(5)]
        # Ids of one millisecond have no order.
        row = Message.objects.get(pk=ids[4])
        Message.objects.filter(pk=ids[4]).delete()
        row.message_id = UUID(int=ids[0].int - 1)
        row.save(force_insert=True)
        assert found() == [*ids[:4], row.message_id]

    def test_by_group_schema_code_and_words_of_the_reason(self) -> None:
        one = bury(1)
        two = bury(2, group="h", error=Refusal("Sold OUT"))
        raw = record(3, value=b"nonsense")
        give(raw)
        (unreadable,) = found(schema=UNREADABLE)
        assert found(group="h") == [two]
        assert found(group="g") == [one, unreadable]
        assert found(schema=Note.schema) == [one, two]
        assert found(code="R999") == [one, two]
        assert found(code="R601") == [unreadable]
        assert found(reason_contains="sold out") == [two]
        assert found(reason_contains="100%") == []

    def test_by_no_code_means_errors_without_one(self) -> None:
        bury(1)
        coded = bury(2, error=RuntimeError("nope"))
        assert found(code="") == [coded]
        assert len(found()) == 2

    def test_by_the_topic_they_came_from_or_its_error_topic(self) -> None:
        one = bury(1)
        assert found(topic=TOPIC) == found(topic=ERROR_TOPIC) == [one]
        assert found(topic="tests.post.office.in") == [], "another one with the same .error"
        assert found(topic="other.post.office.event") == []

    def test_by_the_letters_id_and_by_that_of_the_original(self) -> None:
        message = record(1)
        letter, other = bury(message), bury(2)
        original = UUID(read(Message.objects.get(pk=letter)).original_id)
        assert found(ids=(letter,)) == found(ids=(original,)) == [letter]
        assert found(ids=(original, other)) == [letter, other]
        assert found(ids=(uuid4(),)) == []

    def test_by_the_business_transaction(self) -> None:
        one = bury(record(1, global_id="run-1"))
        bury(record(2, global_id="run-2"))
        assert found(global_id="run-1") == [one]

    def test_by_the_time_of_burial(self) -> None:
        one = bury(1)
        at = _time_of(one)
        assert found(since=at, until=at + timedelta(seconds=1)) == [one]
        assert found(since=at + timedelta(milliseconds=1)) == []
        assert found(until=at) == []

    def test_leaves_out_what_was_replayed_unless_that_was_before_a_moment(self) -> None:
        one, two = bury(1), bury(2)
        at = replayed(one).replayed_at
        assert found() == [two]
        assert found(replayed_before=at) == [two]
        assert found(replayed_before=at + timedelta(seconds=1)) == [one, two]

    def test_leaves_out_what_others_publish_on_the_same_topic(self) -> None:
        for meta in (
            {},
            {"error": "broken"},
            {"error": {"reason": "theirs"}},
            {"error": {"group": "g"}},
            {"error": {"topic": TOPIC}},
        ):
            with transaction.atomic():
                full = {"message-id": str(uuid7()), "schema": "other.thing.v1", **meta}
                publish_raw(topic=ERROR_TOPIC, key="k", meta=full, body={})
        assert found() == found(group="g") == found(topic=ERROR_TOPIC) == []
        assert not any(is_dead_letter(row) for row in dead_letters())

    def test_reads_only_topics_that_somebody_reads_unless_told_otherwise(self, readers: list[Reader]) -> None:
        one = bury(1)
        assert ERROR_TOPIC in error_topics()
        for reader in readers:
            reader.close()
        assert found() == []
        assert found(topic=TOPIC) == [one]


class TestCount:
    def test_is_exact_up_to_a_limit(self) -> None:
        for n in range(4):
            bury(n)
        assert count(Wanted(), rows_max=4) == 4
        assert count(Wanted(), rows_max=3) == 4, "one more says: more"
        assert count(Wanted(), rows_max=2) == 3
        assert count(Wanted(group="h"), rows_max=3) == 0


class TestRead:
    def test_says_what_was_buried_why_and_where_from(self) -> None:
        message = record(7, offset=41, global_id="run-1")
        letter = read(Message.objects.get(pk=bury(message, error=Refusal("never"))))
        assert (letter.topic, letter.partition, letter.offset, letter.group) == (TOPIC, 0, 41, "g")
        assert (letter.code, letter.reason, letter.attempts) == ("R999", "Refusal: never", 1)
        assert (letter.key, letter.schema, letter.body) == ("k", Note.schema, {"n": 7, "key": "k"})
        assert letter.meta["global-id"] == "run-1"

    def test_of_no_envelope_has_no_original(self) -> None:
        for _ in range(2):  # the consumer dies before it has told the broker, and reads it again
            record = IncomingRecord(TOPIC, 2, 5, "k", b"\xff")
            bury_unreadable(record, group="g", error=Refusal("what?"), now=timezone.now())
        (found,) = dead_letters()
        letter = read(found)
        assert (letter.original_id, letter.schema, letter.body) == ("", UNREADABLE, {"raw": "\\xff", "bytes": 1})
        assert (letter.partition, letter.offset) == (2, 5)


class TestHeaders:
    def test_an_error_without_a_code_has_no_header_of_it(self) -> None:
        payload = envelope.encode({"error": {"code": "", "reason": "é\n", "offset": 0}}, {}).decode()
        assert envelope.error_headers(payload) == (("error-reason", "é\n"), ("error-offset", "0"))


class TestOverview:
    def test_counts_those_that_nobody_has_replayed(self) -> None:
        one, _two = bury(1), bury(2)
        now = timezone.now()
        assert messages_now(now=now).dead == 2
        replayed(one)
        assert messages_now(now=now).dead == 1
        assert messages_now(now=now + timedelta(hours=25)).dead == 0

    def test_a_replayed_letter_of_a_run_is_called_so(self) -> None:
        run = uuid4()
        one, two = (bury(record(n, global_id=str(run))) for n in (1, 2))
        replayed(one)
        now = timezone.now()
        states = messages_of(run, since=now - timedelta(minutes=1), until=now)
        assert {state.message_id: state.state for state in states} == {one: "PENDING", two: "PENDING"}
        relay_all()
        states = messages_of(run, since=now - timedelta(minutes=1), until=now)
        assert {state.message_id: state.state for state in states} == {one: "REPLAYED", two: "DEAD"}

    def test_replays_of_a_letter_come_last_first(self) -> None:
        one = bury(1)
        first, second = replayed(one), replayed(one, number=2)
        assert list(replays_of(one)) == [second, first]
        assert DeadLetterReplay.objects.count() == 2


def _time_of(message_id: UUID) -> datetime:
    return datetime.fromtimestamp((message_id.int >> 80) / 1000, UTC)


class TestAMetaOfAnyForm:
    """Others write envelopes, too: whatever can be read can be buried."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("schema", 5),
            ("schema", {"a": 1}),
            ("schema", ["x", 1]),
            ("schema", None),
            ("global-id", 7),
            ("global-id", ["a"]),
            ("global-id", {"a": 1}),
            ("trace", 7),
            ("trace", {"a": [1]}),
            ("trace", True),
        ],
    )
    def test_is_buried(self, name: str, value: Any) -> None:
        self._is_buried(name, value)

    @pytest.mark.parametrize("name", ["schema", "global-id", "trace", "reply-to"])
    def test_and_of_any_length(self, name: str) -> None:
        self._is_buried(name, random.Random(1).randbytes(100_000).hex())
        relay_all()
        assert not Pending.objects.exists()

    def _is_buried(self, name: str, value: Any) -> None:
        meta = {**Meta(message_id=uuid4(), schema=Note.schema).to_json(), name: value}
        one = record(value=envelope.encode(meta, {"n": "no number"}))
        give(one)
        for _ in range(ATTEMPTS_MAX):
            all_is_due()
            redeliver(group="g", now=timezone.now())
        assert not Redelivery.objects.exists()
        (letter,) = dead_letters()
        assert letter.meta[name] == value
        assert replay_all(found()) in (0, 1)


def replay_all(letters: list[UUID]) -> int:
    because = Because(by="t", reason="it is right now", now=timezone.now())
    return sum(replay(letters, Correction(values=[(("body", "n"), 1)]), because))
