"""What a person may do about runs that wait for a person, or for runs of their own."""

from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from apps.saga import engine, triage
from apps.saga.definition import RETRIABLE
from apps.saga.models import Approval, Run, RunStatus
from apps.saga.triage import Action, WrongState, wanted
from tests.integration.saga.hints import Hints
from tests.integration.saga.test_approvals import question
from tests.integration.saga.test_children import child_of, sub, wrapped
from tests.integration.saga.test_engine import Refusal, Story, call, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import registered, toy

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="hints", autouse=True)
def some_hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    hints = Hints()
    hints.patch(monkeypatch)
    return hints


def do(run_id: UUID, action: Action, **given: Any) -> str:
    with transaction.atomic():
        what = wanted(action, **given)
        return triage.apply(run_id, what, reason="somebody asked", by="user:chief", now=timezone.now())


class TestApproval:
    def test_is_never_decided_by_skipping_it(self, story: Story) -> None:
        made = toy(local(story, "a"), question(story), local(story, "b"), story=story)
        with registered(made):
            run_id = begin(made, now=timezone.now())
            with pytest.raises(WrongState):
                do(run_id, Action.SKIP, output={"approved": True})
        assert Approval.objects.get().status == "OPEN"
        assert Run.objects.get().status == RunStatus.WAITING

    def test_is_closed_when_the_run_is_turned_around(self, story: Story, hints: Hints) -> None:
        made = toy(local(story, "a"), question(story), local(story, "b"), story=story)
        with registered(made):
            run_id = begin(made, now=timezone.now())
            do(run_id, Action.COMPENSATE)
            hints.work_off()
        assert Approval.objects.get().status == "CLOSED"
        assert Run.objects.get().status == RunStatus.COMPENSATED
        assert story.told[-2:] == ["undo a", "compensated because ok: R546"]


class TestBranch:
    def test_is_not_closed_by_hand_because_another_run_waits_for_it(self, story: Story, hints: Hints) -> None:
        story.plan["undo x"] = [Refusal("closed")]
        story.plan["do y"] = [Refusal("no")]
        child = toy(call(story, "x"), local(story, "y"), story=story, use_case="test.child")
        made = toy(sub(child), local(story, "b"), story=story)
        with registered(child, made):
            run_id = begin(made, now=timezone.now())
            hints.work_off()
            branch = child_of(run_id)
            assert branch.status == RunStatus.STUCK
            with pytest.raises(WrongState):
                do(branch.pk, Action.HANDLE)
            with pytest.raises(WrongState):
                do(run_id, Action.SKIP)
            do(branch.pk, Action.SKIP)
            hints.work_off()
        assert Run.objects.get(pk=branch.pk).status == RunStatus.COMPENSATED
        assert Run.objects.get(pk=run_id).status == RunStatus.COMPENSATED

    def test_is_closed_by_hand_when_the_other_run_is_over(self, story: Story, hints: Hints) -> None:
        """One branch was undone before it began, so its parent got stuck and was closed; the other one is stuck alone."""
        story.plan["do x"] = [Refusal("no")]
        made = toy(wrapped(local(story, "x", RETRIABLE), local(story, "y", RETRIABLE), kind=RETRIABLE), story=story)
        with registered(made):
            run_id = begin(made, now=timezone.now())
            engine.advance(run_id)
            stuck, undone = child_of(run_id, "x"), child_of(run_id, "y")
            do(undone.pk, Action.COMPENSATE)
            hints.work_off()
            assert Run.objects.get(pk=run_id).status == Run.objects.get(pk=stuck.pk).status == RunStatus.STUCK
            with pytest.raises(WrongState):
                do(stuck.pk, Action.HANDLE)
            do(run_id, Action.HANDLE)
            do(stuck.pk, Action.HANDLE)
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.HANDLED, RunStatus.COMPENSATED}
