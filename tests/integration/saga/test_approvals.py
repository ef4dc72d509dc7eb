"""A step that waits for a person: who may decide, until when, and what becomes of the run."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.saga import engine
from apps.saga.audit import interventions
from apps.saga.deciding import (
    AlreadyDecided,
    ApprovalOver,
    Decider,
    NotYours,
    approval,
    approvals_of,
    decide,
    find_approvals,
)
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, Run
from apps.saga.filters import Filter
from apps.saga.models import LIVE, Approval, Attempt, RunStatus, Step
from apps.saga.models import Run as RunRow
from apps.saga.queries import run_state
from apps.saga.search import find_runs
from apps.saga.shapes import STUCK, ApprovalStep, Decision, Question
from apps.saga.sweeper import sweep
from apps.saga.triage import retry
from tests.integration.messaging.world import together
from tests.integration.saga.hints import Hints, assert_whole, end
from tests.integration.saga.test_engine import Refusal, Story, ask, local
from tests.integration.saga.test_timers import begin, rows
from tests.integration.saga.world import registered, toy

pytestmark = pytest.mark.django_db(transaction=True)

BOSS = Decider("user:boss", frozenset({"group:bosses"}))
DEPUTY = Decider("user:deputy", frozenset({"group:deputies", "permission:x.y"}))
NOBODY = Decider("user:nobody", frozenset())
DAY = timedelta(days=1)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="hints", autouse=True)
def some_hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    hints = Hints()
    hints.patch(monkeypatch)
    return hints


def question(story: Story, name: str = "ok", kind: Kind = COMPENSABLE, **terms: Any) -> ApprovalStep:
    class Approve(ApprovalStep):
        deciders = ("group:bosses",)

        def ask(self, run: Run) -> Question:
            story.tell(f"ask {name}")
            return Question(f"Shall {run.business_key} go on?", {"amount": str(run.data.get("amount", "1.00"))})

        def on_decision(self, run: Run, decision: Decision) -> dict[str, Any] | None:
            story.tell(f"decided {name}")
            return super().on_decision(run, decision)

    Approve.name, Approve.kind = name, kind
    for term, value in terms.items():
        setattr(Approve, term, value)
    return Approve()


def said(approval_id: UUID, *, approve: bool = True, by: Decider = BOSS, now: datetime | None = None) -> Any:
    return decide(approval_id, approve=approve, by=by, reason="because I say so", now=now or timezone.now())


def only() -> Approval:
    return Approval.objects.get()


class TestDecide:
    def test_an_approval_lets_the_run_go_on(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), question(story), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            asked = only()
            assert (asked.question, asked.facts) == ("Shall toy go on?", [["amount", "1.00"]])
            assert (asked.status, asked.until, asked.run_id) == ("OPEN", now + timedelta(days=3), run_id)
            assert RunRow.objects.get(pk=run_id).due_at == asked.until
            told = said(asked.pk)
            assert (told.status, told.decided_by, told.reason) == ("APPROVED", "user:boss", "because I say so")
            hints.work_off()
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED
        assert story.told == ["do a", "ask ok", "decided ok", "do b"]
        output = Step.objects.get(run_id=run_id, position=1).output
        assert output == {"approved_by": "user:boss", "reason": "because I say so"}
        (row,) = interventions(run_id=run_id)
        assert (row.actor, row.action, row.step, row.reason) == ("user:boss", "approve", "ok", "because I say so")

    def test_a_refusal_turns_the_run_around(self, story: Story, hints: Hints) -> None:
        a_toy = toy(local(story, "a"), question(story), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            said(only().pk, approve=False)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        run = RunRow.objects.get(pk=run_id)
        assert (run.failed_step, run.error_code, run.error_detail) == ("ok", "R534", "user:boss: because I say so")
        assert rows(run_id) == [("a", "UNDONE"), ("ok", "FAILED"), ("b", "PENDING")]
        assert interventions(run_id=run_id)[0].action == "refuse"

    def test_may_be_the_pivot(self, story: Story, hints: Hints) -> None:
        a_toy = toy(local(story, "a"), question(story, kind=PIVOT), local(story, "b", RETRIABLE), story=story)
        with registered(a_toy):
            refused, approved = (begin(a_toy, now=timezone.now()) for _ in range(2))
            said(Approval.objects.get(run_id=refused).pk, approve=False)
            said(Approval.objects.get(run_id=approved).pk)
            assert end(hints, refused, approved) == [RunStatus.COMPENSATED, RunStatus.COMPLETED]

    def test_a_refusal_after_the_pivot_is_a_persons_case(self, story: Story) -> None:
        a_toy = toy(local(story, "a", PIVOT), question(story, kind=RETRIABLE), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            engine.advance(run_id)
            said(only().pk, approve=False)
            assert RunRow.objects.get(pk=run_id).status == RunStatus.STUCK
            retry(run_id, now=timezone.now())
            engine.advance(run_id)
            assert list(Approval.objects.order_by("id").values_list("status", flat=True)) == ["REFUSED", "OPEN"]
            said(Approval.objects.get(status="OPEN").pk)
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED

    def test_a_step_may_refuse_what_was_approved(self, story: Story, hints: Hints) -> None:
        story.plan["decided ok"] = [Refusal("too late for it")]
        a_toy = toy(local(story, "a"), question(story), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            said(only().pk)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert RunRow.objects.get(pk=run_id).error_code == "R999"

    def test_a_bug_in_the_step_decides_nothing(self, story: Story) -> None:
        story.plan["decided ok"] = [RuntimeError("a bug")]
        a_toy = toy(question(story), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            with pytest.raises(RuntimeError):
                said(only().pk)
            assert (only().status, interventions(run_id=run_id)) == ("OPEN", ())
            said(only().pk)
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED


class TestRefusals:
    def test_is_decided_once(self, story: Story) -> None:
        a_toy = toy(question(story), local(story, "b"), story=story)
        with registered(a_toy):
            begin(a_toy, now=timezone.now())
            said(only().pk)
            with pytest.raises(AlreadyDecided, match="user:boss has decided: approved"):
                said(only().pk, approve=False)

    def test_is_not_everybodys(self, story: Story) -> None:
        a_toy = toy(question(story), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            for by in (DEPUTY, NOBODY):
                with pytest.raises(NotYours, match="group:bosses"):
                    said(only().pk, by=by)
        assert (only().status, RunRow.objects.get(pk=run_id).status) == ("OPEN", RunStatus.WAITING)

    def test_wants_a_reason(self, story: Story) -> None:
        a_toy = toy(question(story), story=story)
        with registered(a_toy):
            begin(a_toy, now=timezone.now())
            with pytest.raises(InvalidRequest):
                decide(only().pk, approve=True, by=BOSS, reason=" ok ", now=timezone.now())

    def test_is_over_when_the_run_has_turned_around(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(question(story), story=story, deadline=DAY)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + DAY)
            with pytest.raises(ApprovalOver):
                said(only().pk)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
            assert (only().status, only().reason) == ("CLOSED", "R530"), "undoing the step closes it"
            with pytest.raises(ApprovalOver):
                said(only().pk)

    def test_does_not_know_foreign_ids(self) -> None:
        with pytest.raises(NotFound):
            said(uuid4())


class TestDeadline:
    def test_refuses_when_nobody_decides(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), question(story, decide_within=DAY), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            assert sweep(now=now + DAY) == 1
            engine.advance(run_id, now=now + DAY)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert (RunRow.objects.get(pk=run_id).error_code, only().status) == ("R535", "EXPIRED")
        assert story.told[-1] == "compensated because ok: R535"

    def test_passes_to_the_delegates_who_decide_instead(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(question(story, decide_within=DAY, delegates=("permission:x.y",), delegate_within=2 * DAY), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            with pytest.raises(NotYours):
                said(only().pk, by=DEPUTY)
            engine.advance(run_id, now=now + DAY)
            run = RunRow.objects.get(pk=run_id)
            assert (run.status, run.due_at, only().delegated_at) == (RunStatus.WAITING, now + 3 * DAY, now + DAY)
            with pytest.raises(NotYours):
                said(only().pk, by=BOSS)
            assert engine.advance(run_id, now=now + 2 * DAY) is engine.Progress.PARKED
            (found,) = find_runs(Filter(run_id=run_id), limit=5, now=now).rows
            assert found.wait is not None
            assert (found.wait.kind, found.wait.whom, found.wait.until) == ("approval", "permission:x.y", now + 3 * DAY)
            said(only().pk, by=DEPUTY)
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED

    def test_gives_up_when_the_delegates_do_not_decide_either(self, story: Story, hints: Hints) -> None:
        now = timezone.now()
        a_toy = toy(question(story, decide_within=DAY, delegates=("group:deputies",)), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + DAY)
            engine.advance(run_id, now=now + 2 * DAY)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]

    def test_is_stuck_where_that_is_said(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(local(story, "a"), question(story, decide_within=DAY, on_timeout=STUCK), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            engine.advance(run_id, now=now + DAY)
            assert RunRow.objects.get(pk=run_id).status == RunStatus.STUCK
            assert story.told[-1] == "stuck at ok: R535"
            retry(run_id, now=timezone.now())
            engine.advance(run_id)
            said(Approval.objects.get(status="OPEN").pk)
        assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPLETED


class TestFound:
    def test_those_that_are_mine_and_wait(self, story: Story) -> None:
        now = timezone.now()
        a_toy = toy(question(story, decide_within=DAY, delegates=("group:deputies",)), story=story)
        with registered(a_toy):
            first, second, third = (begin(a_toy, now=now) for _ in range(3))
            said(Approval.objects.get(run_id=first).pk)
            engine.advance(second, now=now + DAY)

            def runs(**wanted: Any) -> list[UUID]:
                return [row.run_id for row in find_approvals(limit=10, **wanted).rows]

            assert runs() == [third, second]
            assert runs(open_only=False) == [third, second, first]
            assert runs(may=BOSS) == [third]
            assert runs(may=DEPUTY) == [second]
            assert runs(may=NOBODY) == []
            assert (runs(use_case="test.toy"), runs(use_case="test.other")) == ([third, second], [])
            page = find_approvals(limit=1)
            assert (page.total, page.total_is_exact, [row.run_id for row in page.rows]) == (2, True, [third])
            assert page.next_cursor is not None
            assert [row.run_id for row in find_approvals(limit=1, cursor=page.next_cursor).rows] == [second]
            with pytest.raises(InvalidRequest):
                find_approvals(limit=1, cursor="nonsense")
            found = approvals_of(third)[0]
            assert approval(found.id) == found
            assert found.may(BOSS)
            state = run_state(third)
            assert state is not None
            assert state.steps[0].waiting_until == found.until

    def test_is_checked_by_manage_check(self, story: Story) -> None:
        wrong = question(story, deciders=("everybody",), on_timeout="shrug", decide_within=timedelta(0))
        told = Definition("x", 1, (wrong, question(story, "b", deciders=()))).problems()
        assert told == [
            "step ok: 'everybody' is neither group:…, permission:… nor scope:…",
            "step ok: it has a time to decide that is not positive",
            "step ok: on_timeout is neither refuse nor stuck",
            "step b: nobody may decide",
        ]


class TestRaces:
    @pytest.mark.parametrize("seed", range(4))
    def test_many_decide_and_the_deadline_passes(self, story: Story, hints: Hints, seed: int) -> None:
        found: list[str] = []
        chance = random.Random(seed)
        now = timezone.now()

        def try_to(approve: bool) -> None:
            try:
                said(only().pk, approve=approve)
                found.append("approved" if approve else "refused")
            except DomainError as refusal:
                found.append(refusal.code)

        a_toy = toy(local(story, "a"), question(story, decide_within=DAY), local(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=now)
            people: list[Callable[[], object]] = [partial(try_to, chance.random() < 0.5) for _ in range(5)]
            people.append(partial(engine.advance, run_id, now=now + DAY))
            chance.shuffle(people)
            together(*people)  # type: ignore[arg-type]
            status = end(hints, run_id)[0]
        decided = [word for word in found if word in ("approved", "refused")]
        assert len(decided) <= 1
        assert set(found) - set(decided) <= {"R531", "R532"}
        assert status == (RunStatus.COMPLETED if decided == ["approved"] else RunStatus.COMPENSATED)
        assert only().status == {"approved": "APPROVED", "refused": "REFUSED"}.get("".join(decided), "EXPIRED")
        assert Counter(story.told)["undo a"] == (0 if status == RunStatus.COMPLETED else 1)
        assert len(interventions(run_id=run_id)) == len(decided)
        assert not RunRow.objects.filter(status__in=LIVE).exists()
        assert Attempt.objects.filter(run_id=run_id, position=1, undo=False).count() == 1
        assert_whole()


class TestUndo:
    def test_an_approved_step_has_nothing_to_undo(self, story: Story, hints: Hints) -> None:
        a_toy = toy(question(story), ask(story, "b"), story=story)
        with registered(a_toy):
            run_id = begin(a_toy, now=timezone.now())
            said(only().pk)
            assert end(hints, run_id) == [RunStatus.COMPENSATED]
        assert (rows(run_id)[0], only().status) == (("ok", "UNDONE"), "APPROVED")
