"""The queue path on real PostgreSQL: what is asked for by message is posted, and answered by message, in one commit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import handlers, queue
from apps.ledger import public as ledger
from apps.ledger.models import Refusal, Transaction
from apps.ledger.public import BATCH_LINES_MAX, AccountRef, Entry
from apps.ledger.rules import ENTRY_LEGS_MAX
from apps.messaging.contracts.ledger import (
    POSTING_EVENT,
    POSTING_IN,
    PostedLeg,
    PostingDone,
    PostingRequested,
    RequestedLeg,
)
from apps.messaging.envelope import Meta, read_meta
from apps.messaging.models import Message
from apps.messaging.public import InvalidMessage, Received
from apps.observability import ids
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    NOW,
    TODAY,
    fund,
    leg,
    line,
    money,
    move,
    open_bank,
    post,
    posted,
)
from tests.integration.ledger.test_batch_differential import contents, entries, one_by_one

Request = Received[PostingRequested]


def requests(*asked: Entry, **bound: str) -> list[Request]:
    """The messages that ask for these entries, as they come off the wire."""
    before = Message.objects.filter(topic=POSTING_IN).count()
    with ids.bound(**bound), transaction.atomic():
        queue.request_postings(asked)
    rows = Message.objects.filter(topic=POSTING_IN).order_by("seq")[before:]
    return [Received(PostingRequested.from_body(row.body), read_meta(row.meta), row.key) for row in rows]


def answered() -> list[PostingDone]:
    return [PostingDone.from_body(row.body) for row in Message.objects.filter(topic=POSTING_EVENT).order_by("seq")]


def handle(received: Sequence[Request]) -> list[PostingDone]:
    """One call of the handler, as the consumer makes it, and the answers that it published."""
    before = len(answered())
    with transaction.atomic():
        queue.answer_requests(received, now=NOW)
    return answered()[before:]


def ask(*asked: Entry) -> list[PostingDone]:
    return handle(requests(*asked))


def message(*legs: RequestedLeg, tracekey: UUID | None = None) -> Request:
    """A request that no code of ours would have made."""
    asked = PostingRequested(tracekey=tracekey or uuid7(), legs=legs)
    return Received(asked, Meta(message_id=uuid7(), schema=asked.schema), "k")


def requested_leg(**changes: Any) -> RequestedLeg:
    values = {"branch": "0001", "account": ANA.account, "amount": money(1), "debitcredit": "C", "eventcode": ANY, **changes}
    return RequestedLeg(**values)


def codes(answers: Sequence[PostingDone]) -> list[str]:
    return [answer.code or answer.result for answer in answers]


@pytest.mark.usefixtures("bank")
class TestAnswer:
    def test_tells_the_lines_and_the_balances_under_the_key_of_the_request(self) -> None:
        fund(ANA, 100, dateref=TODAY - timedelta(days=1))
        entry = move(ANA, BOB, "30.5", description="pix", details={"origem": "app"})
        (answer,) = ask(entry)
        rows = {row.account: row for row in Transaction.objects.filter(tracekey=entry.tracekey)}
        expected = [
            PostedLeg(
                id=rows[ref.account].id,
                branch="0001",
                account=ref.account,
                currency="BRL",
                amount=money("30.5"),
                debitcredit=side,
                eventcode=ANY,
                dateref=TODAY,
                posted=balance,
                pending=money(0),
                available=balance,
                day=balance,
            )
            for ref, side, balance in ((ANA, "D", money("69.5")), (BOB, "C", money("30.5")))
        ]
        assert answer == PostingDone(tracekey=entry.tracekey, result="POSTED", lines=tuple(expected))
        assert rows[ANA.account].details == {"origem": "app"}
        assert Message.objects.get(topic=POSTING_EVENT).key == f"0001/{ANA.account}/BRL"

    def test_of_a_refusal_tells_the_code_and_the_others_go_on(self) -> None:
        rich, poor, unknown = line(ANA, "C", 5), line(BOB, "D", 1), line(AccountRef("0001", "nobody"), "C", 1)
        answers = ask(rich, poor, unknown, line(ANA, "D", 2))
        assert codes(answers) == ["POSTED", "R103", "R101", "POSTED"]
        assert (answers[1].retryable, answers[1].lines) == (True, ())
        assert "below its floor" in answers[1].reason
        assert (answers[2].retryable, answers[2].field) == (False, "account")
        assert (posted(ANA), posted(BOB)) == (3, 0)

    @pytest.mark.parametrize(
        ("legs", "code", "field"),
        [
            ([{"amount": money(0)}], "R110", "amount"),
            ([{"amount": money(-1)}], "R110", "amount"),
            ([{"debitcredit": "X"}], "R110", "debitcredit"),
            ([{"eventcode": 0}], "R110", "eventcode"),
            ([{"account": "a b"}], "R110", "account"),
            ([{"currency": "real"}], "R110", "currency"),
            ([{"description": "x" * 256}], "R110", "description"),
            ([{"details": "{"}], "R110", "details"),
            ([{"details": "[1]"}], "R110", "details"),
            ([{"details": '{"a": NaN}'}], "R110", "details"),
            ([{"details": '{"a": "\\u0000"}'}], "R110", "details"),
            ([{"details": "[" * 5_000}], "R110", "details"),
            ([{"details": json.dumps({"a": "x" * 16_400})}], "R110", "details"),
            ([{}, {"debitcredit": "D", "amount": money(2)}], "R111", "legs"),
            ([], "R110", "legs"),
            ([{}] * (ENTRY_LEGS_MAX + 1), "R110", "legs"),
            ([{}] * (BATCH_LINES_MAX + 1), "R110", "legs"),
        ],
        ids=[
            "zero",
            "negative",
            "no side",
            "no event",
            "a space in a key",
            "no currency",
            "a long text",
            "half an object",
            "a list",
            "NaN",
            "U+0000",
            "deep",
            "large",
            "unbalanced",
            "no leg",
            "too many legs",
            "more than a batch",
        ],
    )
    def test_is_also_given_to_what_is_malformed_but_names_its_tracekey(
        self, legs: list[dict[str, Any]], code: str, field: str
    ) -> None:
        wrong = message(*(requested_leg(**changes) for changes in legs))
        first, *rest = requests(line(ANA, "C", 1), line(ANA, "C", 2))
        answers = handle([first, wrong, *rest])
        assert codes(answers) == ["POSTED", code, "POSTED"]
        assert (answers[1].tracekey, answers[1].field) == (wrong.message.tracekey, field)
        assert posted(ANA) == 3

    def test_carries_the_ids_and_the_reply_key_of_its_own_request(self) -> None:
        one = requests(line(ANA, "C", 1), global_id="order-1", trace="t1", steps="a,b")
        two = requests(line(ANA, "C", 1), line(BOB, "C", 1), global_id="order-2", trace="t2")
        saga = [replace(asked, meta=replace(asked.meta, reply_to="run:3")) for asked in requests(line(ANA, "C", 1))]
        handle([*one, *two, *saga, *one])
        metas = [read_meta(row.meta) for row in Message.objects.filter(topic=POSTING_EVENT).order_by("seq")]
        assert [(meta.global_id, meta.trace, meta.steps, meta.reply_to) for meta in metas] == [
            ("order-1", "t1", ("a", "b"), ""),
            ("order-2", "t2", (), ""),
            ("order-2", "t2", (), ""),
            ("", "", (), "run:3"),
            ("order-1", "t1", ("a", "b"), ""),
        ]

    def test_comes_in_the_order_of_the_requests(self) -> None:
        asked = [line(ANA, "C", n) for n in range(1, 30)]
        assert [answer.tracekey for answer in ask(*asked)] == [entry.tracekey for entry in asked]

    def test_is_published_by_the_handler_that_the_consumer_calls(self) -> None:
        open_bank(timezone.now())
        with transaction.atomic():
            handlers.on_posting_requested(requests(line(ANA, "C", 1)))
        assert codes(answered()) == ["POSTED"]
        assert Transaction.objects.get().created_at >= timezone.now() - timedelta(minutes=5)


@pytest.mark.usefixtures("bank")
class TestRepeat:
    def test_gets_the_same_answer_and_has_no_second_effect(self) -> None:
        asked = requests(line(ANA, "C", 10), line(ANA, "D", 4), line(ANA, "D", 100))
        first = handle(asked)
        post(line(ANA, "C", 1))  # balances go on; the answer tells those of then
        again = handle(asked)
        assert again == [replace(answer, replayed=answer.result == "POSTED") for answer in first]
        assert codes(again) == ["POSTED", "POSTED", "R103"]
        assert posted(ANA) == 7

    def test_within_one_batch_is_the_same(self) -> None:
        asked = requests(line(ANA, "C", 10))
        first, again = handle([*asked, *asked])
        assert again == replace(first, replayed=True)
        assert posted(ANA) == 10

    def test_with_another_body_is_refused(self) -> None:
        entry = line(ANA, "C", 10)
        ask(entry)
        other = line(ANA, "C", 11, tracekey=entry.tracekey)
        answers = ask(other, line(ANA, "C", 1, tracekey=entry.tracekey))
        assert [(answer.code, answer.field) for answer in answers] == [("R107", "tracekey")] * 2
        assert posted(ANA) == 10

    def test_of_a_refused_entry_is_posted_when_it_has_become_possible(self) -> None:
        asked = requests(line(ANA, "D", 10))
        assert codes(handle(asked)) == ["R103"]
        fund(ANA, 10)
        assert codes(handle(asked)) == ["POSTED"]

    def test_over_http_is_a_repeat_of_the_queue_and_the_other_way_round(self) -> None:
        details = {"taxa": Decimal("1.10"), "ção": ["x", 1, None], "n": {"b": 1, "a": True}}
        by_queue, by_http = line(ANA, "C", 10, details=details), line(ANA, "C", 10, details=details)
        ask(by_queue)
        post(by_http)
        assert post(by_queue).replayed
        assert ask(by_http)[0].replayed
        assert posted(ANA) == 20


@pytest.mark.usefixtures("bank")
class TestRefusal:
    def test_is_found_by_its_tracekey_until_the_entry_is_posted(self) -> None:
        entry, unknown = line(ANA, "D", 10), uuid4()
        ask(entry)
        refused, nobody = ledger.outcomes([entry.tracekey, unknown])
        assert (refused.result, refused.code, refused.retryable) == ("REFUSED", "R103", True)
        assert (nobody.result, nobody.code, nobody.lines) == ("UNKNOWN", "", ())
        fund(ANA, 10)
        ask(entry)
        (found,) = ledger.outcomes([entry.tracekey])
        assert (found.result, found.code, found.lines[0].balances.posted) == ("POSTED", "", 0)

    def test_is_kept_with_its_latest_reason(self) -> None:
        entry = line(ANA, "D", 10)
        ask(entry)
        ask(replace(entry, dateref=TODAY + timedelta(days=1)), replace(entry, dateref=TODAY - timedelta(days=30)))
        (found,) = ledger.outcomes([entry.tracekey])
        assert (found.code, found.field, found.retryable) == ("R109", "dateref", False)
        assert "days before" in found.detail
        assert Refusal.objects.count() == 1

    def test_is_forgotten_after_its_time(self) -> None:
        old, young = line(ANA, "D", 10), line(ANA, "D", 20)
        ask(old, young)
        Refusal.objects.filter(tracekey=old.tracekey).update(refused_at=NOW - queue.REFUSALS_KEPT - timedelta(seconds=1))
        with transaction.atomic():
            assert queue.forget_refusals(now=NOW) == 1
        assert [found.result for found in ledger.outcomes([old.tracekey, young.tracekey])] == ["UNKNOWN", "REFUSED"]


@pytest.mark.usefixtures("bank")
class TestCommit:
    def test_takes_the_posting_back_when_its_answer_cannot_be_published(self) -> None:
        good, bad = requests(line(ANA, "C", 1), line(BOB, "C", 1))
        with pytest.raises(InvalidMessage), transaction.atomic():
            queue.answer_requests([good, replace(bad, key="")], now=NOW)
        assert not Transaction.objects.exists()
        assert answered() == []

    def test_takes_as_many_statements_for_many_as_for_few(self) -> None:
        counts = []
        for size in (200, 800):  # both are written by COPY
            asked = requests(*(line(ref, "C", 1) for ref in (ANA, BOB) * (size // 2)), line(CLEARING, "D", 1, eventcode=99))
            with CaptureQueriesContext(connection) as captured, transaction.atomic():
                queue.answer_requests(asked, now=NOW)
            counts.append(len(captured))
        assert counts[0] == counts[1] <= 11

    def test_holds_more_lines_than_one_batch_of_the_engine(self) -> None:
        legs = tuple(leg(CLEARING, side, 1) for side in "DC" * (ENTRY_LEGS_MAX // 2))
        many = BATCH_LINES_MAX // ENTRY_LEGS_MAX + 1
        answers = ask(*(Entry(tracekey=uuid7(), legs=legs) for _ in range(many)))
        assert codes(answers) == ["POSTED"] * many
        assert Transaction.objects.count() == many * ENTRY_LEGS_MAX > BATCH_LINES_MAX


@pytest.mark.django_db
class TestQueueEqualsSequence:
    @pytest.mark.parametrize("seed", range(10, 14))
    @pytest.mark.parametrize("sizes", [(120,), (1, 59, 60)])
    def test_leaves_the_same_rows_and_gives_the_same_answers(self, seed: int, sizes: tuple[int, ...]) -> None:
        def run(through: Any) -> tuple[list[str], dict[str, list[tuple[Any, ...]]]]:
            with transaction.atomic():
                open_bank()
                outcomes = [code or "POSTED" for code in through(entries(seed, 120))]
                found = contents()
                transaction.set_rollback(True)
            return outcomes, found

        def queued(all_entries: list[Entry]) -> list[str]:
            asked, start = requests(*all_entries), 0
            for size in sizes:
                handle(asked[start : start + size])
                start += size
            return codes(answered())

        expected, sequential = run(one_by_one)
        outcomes, batched = run(queued)
        assert outcomes == expected
        assert batched == sequential
        # The generator must reach what it is meant to reach.
        assert {"POSTED", "R101", "R103", "R107", "R109", "R110"} <= set(expected)


@pytest.mark.usefixtures("bank")
class TestWhileSuspended:
    def suspend(self, **options: Any) -> None:
        with transaction.atomic():
            ledger.suspend(reason="a look", by="ana", now=NOW, **{"mode": "REFUSE", **options})

    @pytest.mark.parametrize(
        ("scope", "waits"),
        [({}, True), ({"branch": "0001"}, False), ({"account": ANA}, False), ({"account": ANA, "mode": "WAIT"}, True)],
    )
    def test_a_request_is_not_answered_but_comes_again(
        self, scope: dict[str, Any], waits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.ledger.suspensions.WAIT_S", 0.0)
        self.suspend(**scope)
        with pytest.raises(ledger.LedgerSuspended) as refused:
            ask(line(BOB, "C", 1), line(ANA, "C", 1))
        assert (refused.value.passes, refused.value.stops_queue) == (True, waits)
        assert (answered(), Refusal.objects.count(), Transaction.objects.count()) == ([], 0, 0)

    def test_others_are_answered(self) -> None:
        self.suspend(account=ANA)
        assert codes(ask(line(BOB, "C", 1))) == ["POSTED"]
