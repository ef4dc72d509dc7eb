"""Lists of runs: what each condition finds, that pages neither lose nor repeat a run, and that totals are true."""

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.errors import InvalidRequest
from apps.common.pagination import encode_cursor
from apps.saga import engine, search
from apps.saga.attributes import Attribute, InvalidAttribute
from apps.saga.definition import PIVOT, Definition
from apps.saga.filters import Filter, InvalidCondition, UnknownAttribute, UnknownState, amount_condition, condition
from apps.saga.models import Run, RunStatus
from apps.saga.pauses import UnknownUseCase
from apps.saga.queries import find_run, run_state
from apps.saga.search import FoundRuns, TooWide, find_runs
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import SEARCHED, TOY, begin, registered, toy
from tests.saga_driver import finish, let_time_pass, work

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVERYTHING = (
    *SEARCHED,
    Attribute("pieces", int),
    Attribute("gift", bool),
    Attribute("due", date),
    Attribute("seen", datetime),
    Attribute("payment", str, from_step="b", key="answer"),
)
_ids = itertools.count(uuid7().int, 1 << 80)  # a millisecond apart: within one, ids have no order
LIVE = {"due_at": NOW + timedelta(seconds=5)}


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_toy(story: Story) -> Iterator[Definition]:
    bank, shop = call(story, "b"), ask(story, "c")
    type(bank).partner, type(shop).partner = "bank", "shop"
    made = toy(local(story, "a"), bank, shop, local(story, "d", PIVOT), story=story, attributes=EVERYTHING)
    with registered(made):
        yield made


def row(**values: Any) -> Run:
    """A run, completed unless it says otherwise."""
    given: dict[str, Any] = {
        "id": UUID(int=next(_ids)),
        "global_id": uuid4(),
        "use_case": TOY,
        "version": 1,
        "subject_id": uuid4(),
        "business_key": "key",
        "status": "COMPLETED",
        "cursor": 4,
        "started_at": NOW - timedelta(seconds=5),
        **values,
    }
    if given["status"] in ("COMPLETED", "COMPENSATED"):
        given.setdefault("finished_at", NOW)
    return Run.objects.create(**given)


def stuck(**values: Any) -> Run:
    return row(**{"status": "STUCK", "cursor": 3, "failed_step": "d", "error_code": "R999", **values})


def found(limit: int = 50, cursor: str | None = None, **wanted: Any) -> FoundRuns:
    return find_runs(Filter(**wanted), limit=limit, cursor=cursor, now=NOW)


def ids(**wanted: Any) -> list[UUID]:
    page = found(**wanted)
    assert page.total == len(page.rows), "all of them are on one page"
    return [each.run_id for each in page.rows]


@pytest.mark.django_db
class TestStates:
    def test_in_error_is_whatever_is_not_over_and_in_trouble(self) -> None:
        row(status="COMPENSATED", cursor=0, failed_step="b", error_code="R302")
        row(), row(status="RUNNING", cursor=1, **LIVE)
        retrying = row(status="RUNNING", cursor=1, failed_step="b", error_code="ConnectionError", **LIVE)
        undoing = row(status="COMPENSATING", cursor=1, failed_step="c", error_code="R998", **LIVE)
        last = stuck()
        assert ids(state="in_error", use_case=TOY) == [last.pk, undoing.pk, retrying.pk]

    def test_stuck_waiting_held_live_and_open(self) -> None:
        row()
        waits = row(status="WAITING", cursor=2, **LIVE)
        called = row(status="RUNNING", cursor=1, token=uuid4(), lease_until=NOW, **LIVE)
        held = row(status="RUNNING", cursor=1, held_by=uuid4(), held_at=NOW)
        last = stuck()
        assert ids(state="stuck") == [last.pk]
        assert ids(state="waiting") == [called.pk, waits.pk]
        assert ids(state="held") == [held.pk]
        assert ids(state="live") == [held.pk, called.pk, waits.pk]
        assert ids(state="open") == [last.pk, held.pk, called.pk, waits.pk]

    def test_slow_and_late_are_measured_against_the_sla_of_the_runs_own_version(self, story: Story) -> None:
        row(status="WAITING", cursor=2, started_at=NOW - timedelta(seconds=10), **LIVE)
        slow = row(status="WAITING", cursor=2, started_at=NOW - timedelta(seconds=11), **LIVE)
        late = stuck(started_at=NOW - timedelta(seconds=61))
        row(started_at=NOW - timedelta(hours=1))
        patient = toy(local(story, "a"), story=story, version=2, sla=None)
        with registered(patient):
            row(version=2, status="RUNNING", cursor=0, started_at=NOW - timedelta(days=1), **LIVE)
            assert ids(state="slow") == [late.pk, slow.pk]
            assert ids(state="late") == [late.pk]
            assert ids(state="late", use_case=TOY) == [late.pk]
        standings = {each.run_id: each.promise and each.promise.standing for each in found(state="slow").rows}
        assert standings == {slow.pk: "slow", late.pk: "late"}

    def test_nobody_is_late_where_nothing_was_promised(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story, use_case="test.free", sla=None)):
            row(use_case="test.free", status="RUNNING", cursor=0, started_at=NOW - timedelta(days=1), **LIVE)
            page = found(state="late", use_case="test.free")
        assert (page.rows, page.total, page.amount) == ((), 0, 0)


@pytest.mark.django_db
class TestConditions:
    def test_step_is_where_it_failed_or_is(self) -> None:
        failed = stuck(failed_step="b", cursor=0)
        at_it = row(status="RUNNING", cursor=1, **LIVE)
        undone = row(status="COMPENSATED", cursor=0, failed_step="b", error_code="R1")
        row(status="RUNNING", cursor=2, **LIVE), row()
        assert ids(step="b") == [undone.pk, at_it.pk, failed.pk]
        assert ids(step="b", state="in_error") == [failed.pk]
        assert ids(step="nowhere") == []

    def test_waiting_for_whom(self) -> None:
        asked = row(status="WAITING", cursor=2, **LIVE)
        called = row(status="RUNNING", cursor=1, token=uuid4(), lease_until=NOW, **LIVE)
        undoing = row(status="COMPENSATING", cursor=1, failed_step="d", error_code="R1", **LIVE)
        row(status="RUNNING", cursor=1, **LIVE)  # its turn has not come
        row(status="COMPENSATING", cursor=1, failed_step="d", error_code="R1", held_by=uuid4(), held_at=NOW)
        assert ids(waiting_for="shop") == [asked.pk]
        assert ids(waiting_for="bank", use_case=TOY) == [undoing.pk, called.pk]
        assert ids(waiting_for="nobody") == []

    def test_age_code_version_status_and_keys(self) -> None:
        old = stuck(started_at=NOW - timedelta(days=2), error_code="R111", business_key="order 7", idempotency_key="k7")
        new = stuck(version=2)
        day = NOW - timedelta(days=1)
        assert ids(started_before=day) == ids(error_code="R111") == ids(version=1) == [old.pk]
        assert ids(started_from=day) == ids(version=2) == [new.pk]
        assert ids(business_key="order 7") == ids(idempotency_key="k7") == [old.pk]
        assert ids(global_id=old.global_id) == ids(subject_id=old.subject_id) == ids(run_id=old.pk) == [old.pk]
        assert ids(statuses=("STUCK", "COMPLETED")) == [new.pk, old.pk]
        assert ids(statuses=("COMPLETED",)) == []
        assert ids(error_code="R111", version=2) == [], "all conditions, not any"

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("customer=ana", {"customer": "ana"}),
            ("customer=a=b>=c", {"customer": "a=b>=c"}),
            ("amount=10.5", {"amount": "10.50"}),
            ("pieces=3", {"pieces": 3}),
            ("gift=true", {"gift": True}),
            ("due=2026-05-04", {"due": "2026-05-04"}),
            ("seen=2026-05-04T09:00:00-03:00", {"seen": "2026-05-04T12:00:00.000000Z"}),
        ],
    )
    def test_an_attribute_is_equal(self, text: str, kept: dict[str, Any]) -> None:
        wanted = row(attributes={**kept, "payment": "x"})
        row(attributes={"customer": "10.50", "pieces": 4, "gift": False}), row()
        assert ids(conditions=(condition(text),)) == [wanted.pk]

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("amount", ["-1.00", "2.00", "10.00", "10.01"]),
            ("pieces", [-1, 2, 10, 11]),
            ("due", ["2025-12-31", "2026-01-01", "2026-01-02", "2026-02-01"]),
            ("seen", [f"2026-01-0{n}T00:00:00.000000Z" for n in range(1, 5)]),
        ],
    )
    def test_an_attribute_is_at_least_or_at_most(self, name: str, values: list[Any]) -> None:
        runs = [row(attributes={name: value}).pk for value in values]
        row(attributes={name: {"not": "a value"}}), row(attributes={name: "no number"}), row(attributes={"other": 1})
        numbers = name in ("amount", "pieces")
        at_least = ids(conditions=(condition(f"{name}>={values[2]}"),))
        assert [run for run in reversed(at_least) if run in runs] == runs[2:]
        assert not numbers or len(at_least) == 2, "what is no number is never compared with one"
        at_most = ids(conditions=(condition(f"{name}<={values[1]}"),))
        assert [run for run in reversed(at_most) if run in runs] == runs[:2]

    def test_an_amount_is_compared_as_a_number_and_summed(self) -> None:
        small, large = stuck(attributes={"amount": "9.99"}), stuck(attributes={"amount": "1000.01"})
        stuck()
        assert ids(conditions=(amount_condition(">=", Decimal(10)),)) == [large.pk]
        assert ids(conditions=(amount_condition("<=", Decimal("9.990")),)) == [small.pk]
        page = found(state="stuck")
        assert (page.total, page.amount) == (3, Decimal("1010.00"))
        assert [each.amount for each in page.rows] == [None, Decimal("1000.01"), Decimal("9.99")]

    @pytest.mark.parametrize(
        ("text", "refusal"),
        [
            ("nothing", InvalidCondition),
            ("customer>5", InvalidCondition),
            ("customer>=ana", InvalidCondition),
            ("gift>=true", InvalidCondition),
            ("amount=ten", InvalidCondition),
            ("pieces=1.5", InvalidCondition),
            ("due=2026-02-30", InvalidCondition),
            ("seen=2026-02-03T00:00:00", InvalidCondition),
            ("customer=a\x00b", InvalidCondition),
            ("Customer=ana", InvalidCondition),
            ("unknown=5", UnknownAttribute),
        ],
    )
    def test_a_condition_that_makes_no_sense_is_refused(self, text: str, refusal: type) -> None:
        with pytest.raises(refusal):
            condition(text)

    def test_an_attribute_of_another_use_case_is_unknown_here(self, story: Story) -> None:
        with registered(toy(local(story, "a"), story=story, use_case="test.bare", attributes=())):
            assert condition("customer=ana").value == "ana"
            with pytest.raises(UnknownAttribute, match=r"test\.bare has no search attribute customer"):
                condition("customer=ana", use_case="test.bare")

    def test_unknown_words_are_refused(self) -> None:
        for wanted in ({"state": "sleepy"}, {"statuses": ("SLEEPY",)}):
            with pytest.raises(UnknownState):
                found(**wanted)
        with pytest.raises(UnknownUseCase):
            found(use_case="test.nowhere")

    def test_a_use_case_that_was_can_still_be_asked_for(self) -> None:
        gone = row(use_case="test.gone", version=3, status="RUNNING", cursor=1, **LIVE)
        (told,) = found(use_case="test.gone").rows
        assert (told.run_id, told.step, told.promise) == (gone.pk, "", None)
        assert told.wait is not None


@pytest.mark.django_db
class TestPages:
    def all_pages(self, limit: int, **wanted: Any) -> list[UUID]:
        seen: list[UUID] = []
        cursor = None
        for _ in range(100):
            page = found(limit=limit, cursor=cursor, **wanted)
            seen += [each.run_id for each in page.rows]
            assert len(page.rows) <= limit
            if page.next_cursor is None:
                return seen
            assert len(page.rows) == limit, "only the last page is short"
            cursor = page.next_cursor
        raise AssertionError("the pages never end")

    @pytest.mark.parametrize("total_max", [0, 10_000], ids=["many", "few"])
    @pytest.mark.parametrize("limit", [1, 3, 7, 8])
    def test_hold_every_run_once_newest_first(self, monkeypatch: pytest.MonkeyPatch, total_max: int, limit: int) -> None:
        monkeypatch.setattr(search, "TOTAL_MAX", total_max)
        runs = [stuck().pk for _ in range(7)]
        row()
        assert self.all_pages(limit, state="stuck") == list(reversed(runs))

    @pytest.mark.parametrize("total_max", [0, 10_000], ids=["many", "few"])
    def test_are_the_same_on_both_roads(self, monkeypatch: pytest.MonkeyPatch, total_max: int) -> None:
        monkeypatch.setattr(search, "TOTAL_MAX", total_max)
        chance = random.Random(5)
        runs = [row(attributes={"amount": f"{chance.randrange(100)}.00"}) for _ in range(40)]
        wanted = [run.pk for run in reversed(runs) if Decimal(run.attributes["amount"]) >= 50]
        conditions = (amount_condition(">=", Decimal(50)),)
        assert self.all_pages(4, conditions=conditions, use_case=TOY) == wanted

    @pytest.mark.parametrize("limit", [1, 3, 7, 8])
    @pytest.mark.parametrize("total_max", [0, 2, 5, 6, 10_000])
    def test_of_a_use_case_alone_hold_its_runs_once_newest_first(
        self, monkeypatch: pytest.MonkeyPatch, total_max: int, limit: int
    ) -> None:
        """Its count stops before a page, within it, behind it, or not at all."""
        monkeypatch.setattr(search, "TOTAL_MAX", total_max)
        runs = [row().pk for _ in range(7)]
        for neighbour in (f"{TOY}.", TOY[:-1], f"{TOY}a"):
            row(use_case=neighbour)
        assert self.all_pages(limit, use_case=TOY) == list(reversed(runs))

    def test_the_amount_of_too_many_runs_of_a_use_case_is_that_of_the_newest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "TOTAL_MAX", 1)
        for amount in ("1.00", "10.00", "100.00"):
            row(attributes={"amount": amount})
        assert found(use_case=TOY).amount == Decimal("110.00")

    def test_do_not_slip_when_runs_are_added_meanwhile(self) -> None:
        runs = [stuck().pk for _ in range(4)]
        first = found(limit=2, state="stuck")
        stuck()
        second = found(limit=2, state="stuck", cursor=first.next_cursor)
        assert [each.run_id for each in (*first.rows, *second.rows)] == list(reversed(runs))
        assert second.next_cursor is None
        assert second.total == 5, "of the whole question"

    def test_a_total_is_exact_as_far_as_it_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search, "TOTAL_MAX", 3)
        for expected in ("1", "2", "3", "3+", "3+"):
            stuck(attributes={"amount": "1.00"})
            page = found(state="stuck", limit=2)
            assert page.total_text == expected
            assert page.total_is_exact == (not expected.endswith("+"))
            assert len(page.rows) == min(int(expected[0]), 2)

    def test_a_total_reads_as_people_write_it(self) -> None:
        page = found()
        told = {total: FoundRuns(**{**_fields(page), "total": total}).total_text for total in (0, 999, 1284, 10_000)}
        assert told == {0: "0", 999: "999", 1284: "1,284", 10_000: "10,000"}
        assert FoundRuns(**{**_fields(page), "total": 10_000, "total_is_exact": False}).total_text == "10,000+"

    @pytest.mark.parametrize("cursor", ["", "nonsense", encode_cursor("no id"), encode_cursor(5), encode_cursor("a", "b")])
    def test_a_cursor_that_is_not_ours_is_refused(self, cursor: str) -> None:
        with pytest.raises(InvalidRequest):
            found(cursor=cursor)

    def test_a_question_that_reads_too_much_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slow = f"{search._FEW.rstrip()} WHERE pg_sleep(20) IS NOT NULL"
        monkeypatch.setattr(search, "_FEW", slow)
        monkeypatch.setattr(search, "QUERY_TIME_MAX", timedelta(milliseconds=20))
        row()
        with pytest.raises(TooWide):
            found()
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone()[0] == "0", "the next statement has its time again"

    def test_the_limit_ends_with_the_question(self) -> None:
        found()
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone()[0] == "0"


def _fields(page: FoundRuns) -> dict[str, Any]:
    return {"rows": page.rows, "next_cursor": None, "total": 0, "total_is_exact": True, "amount": page.amount}


@pytest.mark.django_db
class TestWaits:
    @pytest.mark.parametrize(
        ("values", "kind", "whom", "until"),
        [
            ({"status": "WAITING", "cursor": 2, **LIVE}, "answer", "shop", LIVE["due_at"]),
            ({"status": "RUNNING", "cursor": 1, "token": uuid4(), "lease_until": NOW, **LIVE}, "call", "bank", NOW),
            (
                {"status": "RUNNING", "cursor": 1, "failed_step": "b", "error_code": "E", **LIVE},
                "retry",
                "bank",
                LIVE["due_at"],
            ),
            ({"status": "COMPENSATING", "cursor": 1, "error_code": "E", **LIVE}, "undo", "bank", LIVE["due_at"]),
            ({"status": "RUNNING", "cursor": 0, **LIVE}, "worker", "a worker", None),
            (
                {"status": "RUNNING", "cursor": 1, "held_by": uuid4(), "held_at": NOW},
                "pause",
                "whoever lifts the pause",
                None,
            ),
            ({"status": "STUCK", "cursor": 3, "error_code": "E"}, "person", "tests", None),
        ],
    )
    def test_say_for_whom_and_until_when(
        self, values: dict[str, Any], kind: str, whom: str, until: datetime | None
    ) -> None:
        row(**values)
        (told,) = found().rows
        assert told.wait is not None
        assert (told.wait.kind, told.wait.whom, told.wait.until) == (kind, whom, until)
        assert told.step == "abcd"[values["cursor"]]

    def test_a_run_that_is_over_waits_for_nobody(self) -> None:
        row()
        (told,) = found().rows
        assert (told.wait, told.step) == (None, "")
        assert told.promise is not None
        assert told.promise.standing == "within"


@pytest.mark.django_db(transaction=True)
class TestOfRealRuns:
    def test_are_found_by_what_they_began_with_and_found_out(self, made: Definition) -> None:
        run_id = begin(made, data={"customer": "ana", "amount": "10.5", "pieces": 2, "gift": True, "due": "2026-05-04"})
        before = {"customer": "ana", "amount": "10.50", "pieces": 2, "gift": True, "due": "2026-05-04"}
        assert Run.objects.get(pk=run_id).attributes == before
        work(run_id)
        assert Run.objects.get(pk=run_id).attributes == {**before, "payment": "b"}
        assert [each.run_id for each in found(conditions=(condition("payment=b"),)).rows] == [run_id]

    def test_a_head_that_is_rolled_back_leaves_no_attribute(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        declared = (Attribute("by", str, from_step="a"),)
        back = toy(local(story, "a"), local(story, "b"), story=story, use_case="test.back", attributes=declared)
        with registered(back):
            run_id = begin(back, inline_ms=10_000)
            assert Run.objects.get(pk=run_id).attributes == {}
            again = begin(back, inline_ms=10_000)
            assert Run.objects.get(pk=again).attributes == {"by": "a"}

    def test_trouble_is_visible_while_it_is_retried_and_gone_when_it_is_over(self, story: Story, made: Definition) -> None:
        story.plan["call b"] = [RuntimeError("away")]
        run_id = begin(made)
        work(run_id)
        (told,) = find_runs(Filter(state="in_error"), limit=5, now=timezone.now()).rows
        assert (told.status, told.failed_step, told.error_code) == ("RUNNING", "b", "RuntimeError")
        let_time_pass(run_id)
        work(run_id)
        answer(run_id, 2)
        run = finish(run_id)
        assert (run.status, run.failed_step, run.error_code, run.error_detail) == (RunStatus.COMPLETED, "", "", "")

    def test_are_known_by_every_key(self, made: Definition) -> None:
        key, order = "req-7", uuid4()
        with transaction.atomic():
            run_id = engine.start(
                made, subject_id=order, business_key="order 7", data={}, now=timezone.now(), idempotency_key=key
            )
        run = Run.objects.get(pk=run_id)
        for each in (run_id, run.global_id, order, "order 7", key):
            state = find_run(str(each))
            assert state is not None
            assert state.run_id == run_id, each
        newer = begin(made, key="order 7")
        state = find_run("order 7")
        assert state is not None
        assert state.run_id == newer, "the newest"
        for unknown in ("", "nobody", "a\x00b", str(uuid4())):
            assert find_run(unknown) is None
        other = begin(made, key=str(run_id))
        state = run_state(run_id)
        assert state is not None
        assert (state.run_id, other != run_id) == (run_id, True), "a run's own id comes first"

    def test_a_wrong_value_at_the_start_is_a_bug_of_the_caller(self, made: Definition) -> None:
        with pytest.raises(InvalidAttribute):
            begin(made, data={"amount": "a lot"})
        assert not Run.objects.exists()
