"""What a person does about one run: what is allowed when, what it does, and that a refusal changes nothing."""

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.utils import timezone

from apps.common.errors import DomainError, NotFound
from apps.saga import engine, pauses, triage
from apps.saga.audit import interventions
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.edits import InvalidInput
from apps.saga.engine import Resumed
from apps.saga.hooks import HOOK_ATTEMPTS_MAX
from apps.saga.models import Attempt, AttemptOutcome, Audit, Run, RunStatus, Step
from apps.saga.triage import Action, NotRegistered, NotStuck, PastPivot, Stale, WrongState, wanted
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.test_failing import FailingHooks
from tests.integration.saga.world import begin, registered, toy
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "the partner is back"


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_journey(story: Story) -> Iterator[Definition]:
    made = toy(
        local(story, "a"), call(story, "b"), ask(story, "c"), local(story, "d", PIVOT), local(story, "e", RETRIABLE),
        story=story,
    )  # fmt: skip
    with registered(made):
        yield made


def do(run_id: UUID, action: Action, *, seen: str = "", **given: Any) -> str:
    with transaction.atomic():
        return triage.apply(run_id, wanted(action, **given), reason=WHY, by="user:chief", now=timezone.now(), seen=seen)


def would(run_id: UUID, action: Action, **given: Any) -> str:
    session = triage.peek(Run.objects.get(pk=run_id), list(Step.objects.order_by("position")), now=timezone.now())
    return triage.judge(session, wanted(action, **given))


def seen(run_id: UUID) -> str:
    return triage.token(
        triage.peek(Run.objects.get(pk=run_id), list(Step.objects.order_by("position")), now=timezone.now())
    )


def everything() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Run, Step, Audit)]


def stuck_at_e(story: Story, made: Definition, data: dict[str, Any] | None = None) -> UUID:
    story.plan["do e"] = [Refusal("no such account")]
    run_id = begin(made, data=data)
    work(run_id)
    answer(run_id, 2)
    assert finish(run_id).status == RunStatus.STUCK
    return run_id


def waiting_at_c(made: Definition) -> UUID:
    run_id = begin(made)
    assert work(run_id).status == RunStatus.WAITING
    return run_id


def retrying_at_b(story: Story, made: Definition) -> UUID:
    story.plan["call b"] = [OSError("refused")] * 3
    run_id = begin(made)
    work(run_id)
    assert Step.objects.get(position=1).retry_at is not None
    return run_id


class TestRetry:
    def test_lets_a_stuck_run_go_on_and_writes_the_audit(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        assert would(run_id, Action.RETRY) == do(run_id, Action.RETRY) == "tries e again"
        (row,) = interventions(run_id=run_id)
        assert (row.actor, row.action, row.step, row.reason) == ("user:chief", "retry", "e", WHY)
        assert (row.detail["was"], row.detail["code"]) == ("STUCK:4:1:0", "R999")
        assert finish(run_id).status == RunStatus.COMPLETED

    def test_does_not_wait_for_the_next_attempts_time(self, story: Story, made: Definition) -> None:
        run_id = retrying_at_b(story, made)
        assert would(run_id, Action.RETRY) == "asks whether b happened, and repeats it if not"
        do(run_id, Action.RETRY)
        assert Step.objects.get(position=1).attempts_forgiven == 1
        engine.advance(run_id)
        assert Step.objects.get(position=1).attempts == 2

    def test_twice_does_it_once(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        do(run_id, Action.RETRY)
        before = everything()
        with pytest.raises(NotStuck):
            do(run_id, Action.RETRY)
        assert everything() == before

    def test_refuses_a_state_that_is_not_the_one_seen(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        old = seen(run_id)
        do(run_id, Action.RETRY, seen=old)
        story.plan["do e"] = [Refusal("still none")]
        assert finish(run_id).status == RunStatus.STUCK
        before = everything()
        with pytest.raises(Stale):
            do(run_id, Action.RETRY, seen=old)
        assert everything() == before
        do(run_id, Action.RETRY, seen=seen(run_id))

    def test_refuses_what_goes_on_by_itself_or_is_over(self, story: Story, made: Definition) -> None:
        run_id = waiting_at_c(made)
        with pytest.raises(NotStuck):
            do(run_id, Action.RETRY)
        answer(run_id, 2)
        finish(run_id)
        with pytest.raises(NotStuck):
            would(run_id, Action.RETRY)

    def test_refuses_while_a_pause_holds_the_run(self, story: Story, made: Definition) -> None:
        run_id = retrying_at_b(story, made)
        pauses.pause("test.toy", "b", reason="repairs", by="user:chief", now=timezone.now())
        let_time_pass(run_id)
        work(run_id)
        assert Run.objects.get().held_by is not None
        with pytest.raises(WrongState):
            do(run_id, Action.RETRY)

    def test_refuses_while_a_worker_talks_to_the_partner(self, story: Story, made: Definition) -> None:
        found: list[Exception] = []

        def meanwhile() -> None:
            for action in (Action.RETRY, Action.COMPENSATE, Action.SKIP):
                with pytest.raises((WrongState, NotStuck)) as refused:
                    do(Run.objects.get().pk, action)
                found.append(refused.value)

        slow = toy(call(story, "x", during=meanwhile), story=story, use_case="test.slow")
        with registered(slow):
            finish(begin(slow))
        assert len(found) == 3

    def test_of_an_undo_tries_the_undo_again(self, story: Story, made: Definition) -> None:
        story.plan["undo b"] = [Refusal("closed")]
        run_id = waiting_at_c(made)
        answer(run_id, 2, refused=True)
        assert finish(run_id).status == RunStatus.STUCK
        assert do(run_id, Action.RETRY) == "tries to undo b again"
        assert finish(run_id).status == RunStatus.COMPENSATED

    def test_of_a_run_whose_hook_failed_calls_the_hook_alone(self, story: Story) -> None:
        story.plan["do z"] = [Refusal("sold out")]
        steps = (call(story, "y"), local(story, "z"))
        broken = Definition("test.hooks", 1, steps, hooks=FailingHooks(story, HOOK_ATTEMPTS_MAX))
        with registered(broken):
            run_id = begin(broken)
            assert finish(run_id).error_code == "R540"
            assert do(run_id, Action.RETRY) == "tells the end of the run again"
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert Run.objects.get().error_code == "R999"
        assert story.told[-1] == "compensated because z: R999", "for the cause that it had before"
        assert story.told.count("undo y") == 1


class TestEdit:
    def test_merges_the_input_and_keeps_the_old_value(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made, data={"amount": "10.00", "account": "1", "kept": {"a": 1, "b": 2}})
        told = do(run_id, Action.RETRY, patch={"account": "2", "kept": {"b": None}, "amount": Decimal("12.50")})
        assert told == "tries e again, with another account, amount, kept"
        run = Run.objects.get()
        assert run.data == {"amount": "12.50", "account": "2", "kept": {"a": 1}}
        assert run.attributes["amount"] == "12.50"
        detail = interventions(run_id=run_id)[0].detail
        assert detail["input_before"] == {"amount": "10.00", "account": "1", "kept": {"a": 1, "b": 2}}
        assert detail["input"] == {"account": "2", "kept": {"b": None}, "amount": "12.50"}
        assert finish(run_id).status == RunStatus.COMPLETED

    @pytest.mark.parametrize("patch", [{"amount": "many"}, {"amount": True}, {"customer": 7}, {"amount": None}])
    def test_refuses_what_the_use_case_cannot_be_found_by(self, story: Story, made: Definition, patch: Any) -> None:
        run_id = stuck_at_e(story, made, data={"amount": "10.00"})
        before = everything()
        with pytest.raises(InvalidInput):
            do(run_id, Action.RETRY, patch=patch)
        assert everything() == before


class TestCompensate:
    def test_turns_a_waiting_run_around_and_takes_back_what_may_have_happened(self, story: Story, made: Definition) -> None:
        run_id = waiting_at_c(made)
        assert do(run_id, Action.COMPENSATE) == "undoes c, b, a"
        assert finish(run_id).status == RunStatus.COMPENSATED
        assert [line for line in story.told if line.startswith("undo ")] == ["undo c", "undo b", "undo a"]
        assert story.told[-1] == "compensated because c: R546"

    def test_closes_the_question_that_nobody_waits_for_any_more(self, story: Story, made: Definition) -> None:
        run_id = waiting_at_c(made)
        do(run_id, Action.COMPENSATE)
        assert Attempt.objects.get(position=2, undo=False).outcome == AttemptOutcome.NO_ANSWER
        assert answer(run_id, 2) is Resumed.LATE

    def test_turns_a_held_run_around(self, story: Story, made: Definition) -> None:
        run_id = retrying_at_b(story, made)
        pauses.pause("test.toy", "b", reason="repairs", by="user:chief", now=timezone.now(), holds_undo=False)
        let_time_pass(run_id)
        work(run_id)
        assert Run.objects.get().held_by is not None
        do(run_id, Action.COMPENSATE)
        assert finish(run_id).status == RunStatus.COMPENSATED

    def test_keeps_the_cause_that_the_run_had(self, story: Story, made: Definition) -> None:
        run_id = retrying_at_b(story, made)
        do(run_id, Action.COMPENSATE)
        run = finish(run_id)
        assert (run.status, run.failed_step, run.error_code) == (RunStatus.COMPENSATED, "b", "OSError")
        assert "undo b" in story.told

    def test_never_goes_back_over_the_pivot(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        before = everything()
        with pytest.raises(PastPivot):
            do(run_id, Action.COMPENSATE)
        assert everything() == before

    def test_refuses_a_pivot_in_doubt(self, story: Story) -> None:
        doubtful = toy(local(story, "a"), ask(story, "p", PIVOT), story=story, use_case="test.doubt")
        with registered(doubtful):
            run_id = begin(doubtful)
            assert finish(run_id).status == RunStatus.STUCK
            with pytest.raises(PastPivot):
                do(run_id, Action.COMPENSATE)

    def test_refuses_what_undoes_already(self, story: Story, made: Definition) -> None:
        run_id = waiting_at_c(made)
        do(run_id, Action.COMPENSATE)
        with pytest.raises(WrongState):
            do(run_id, Action.COMPENSATE)


class TestSkip:
    def test_takes_the_step_as_done_with_the_given_output(self, story: Story, made: Definition) -> None:
        run_id = waiting_at_c(made)
        assert do(run_id, Action.SKIP, output={"ok": True}) == "takes c as done, with ok as its output"
        assert finish(run_id).status == RunStatus.COMPLETED
        assert Step.objects.get(position=2).output == {"ok": True}
        assert "answer c" not in story.told
        assert Attempt.objects.get(position=2).outcome == AttemptOutcome.NO_ANSWER

    def test_of_the_last_step_completes_the_run(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        do(run_id, Action.SKIP)
        run = Run.objects.get()
        assert (run.status, run.error_code) == (RunStatus.COMPLETED, "")

    def test_of_an_undo_takes_it_as_undone(self, story: Story, made: Definition) -> None:
        story.plan["undo b"] = [Refusal("closed")]
        run_id = waiting_at_c(made)
        answer(run_id, 2, refused=True)
        finish(run_id)
        with pytest.raises(WrongState):
            do(run_id, Action.SKIP, output={"a": 1})
        assert do(run_id, Action.SKIP) == "takes b as undone"
        assert finish(run_id).status == RunStatus.COMPENSATED
        assert story.told.count("undo b") == 1

    def test_refuses_a_step_with_which_nothing_is_wrong(self, story: Story, made: Definition) -> None:
        run_id = begin(made)
        with pytest.raises(WrongState):
            do(run_id, Action.SKIP)


class TestHandle:
    def test_closes_a_stuck_run_as_it_is(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        do(run_id, Action.HANDLE)
        run = Run.objects.get()
        assert (run.status, run.due_at) == (RunStatus.HANDLED, None)
        assert run.finished_at is not None
        for action in Action:
            with pytest.raises((NotStuck, WrongState)):
                do(run_id, action)

    def test_refuses_a_run_that_is_not_stuck(self, story: Story, made: Definition) -> None:
        with pytest.raises(NotStuck):
            do(waiting_at_c(made), Action.HANDLE)


class TestWanted:
    @pytest.mark.parametrize(
        ("action", "given"),
        [
            (Action.RETRY, {"patch": ["a"]}),
            (Action.RETRY, {"output": {}}),
            (Action.SKIP, {"patch": {}}),
            (Action.SKIP, {"output": "text"}),
            (Action.SKIP, {"output": {"a": "\x00"}}),
            (Action.SKIP, {"output": {"a": "\ud800"}}),
            (Action.SKIP, {"output": {"a": float("nan")}}),
            (Action.SKIP, {"output": {"a": "x" * 30_000}}),
            (Action.HANDLE, {"output": {}}),
        ],
    )
    def test_refuses_what_does_not_go_with_the_action(self, action: Action, given: Any) -> None:
        with pytest.raises(InvalidInput):
            wanted(action, **given)

    def test_refuses_what_is_nested_for_ever(self) -> None:
        deep: dict[str, Any] = {}
        for _ in range(5000):
            deep = {"a": deep}
        with pytest.raises(InvalidInput):
            wanted(Action.SKIP, output=deep)


class TestUnknown:
    def test_runs_and_versions_are_refused(self, story: Story, made: Definition) -> None:
        with pytest.raises(NotFound):
            do(UUID(int=7), Action.RETRY)
        run_id = stuck_at_e(story, made)
        Run.objects.update(version=9)
        with pytest.raises(NotRegistered):
            do(run_id, Action.RETRY)
        with pytest.raises(NotRegistered):
            would(run_id, Action.RETRY)


class TestRaces:
    def at_once(self, *deeds: Any) -> list[Any]:
        """Do them in threads that begin together; what each came to."""
        ready, came_to = threading.Barrier(len(deeds)), []

        def one(deed: Any) -> None:
            ready.wait(timeout=90)
            try:
                came_to.append(deed())
            except DomainError as refusal:
                came_to.append(refusal.code)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=one, args=(deed,)) for deed in deeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(came_to) == len(deeds)
        return came_to

    def test_of_people_who_retry_at_once_one_does_it(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        came_to = self.at_once(*[lambda: do(run_id, Action.RETRY)] * 4)
        assert sorted(came_to) == ["R501"] * 3 + ["tries e again"]
        assert Audit.objects.count() == 1
        assert finish(run_id).status == RunStatus.COMPLETED

    def test_of_people_who_want_different_things_one_is_refused(self, story: Story, made: Definition) -> None:
        run_id = stuck_at_e(story, made)
        token = seen(run_id)
        actions = (Action.RETRY, Action.SKIP, Action.HANDLE)
        came_to = self.at_once(*[lambda action=action: do(run_id, action, seen=token) for action in actions])
        assert came_to.count("R542") == 2
        assert Audit.objects.count() == 1

    @pytest.mark.parametrize("_again", range(3))
    def test_an_answer_and_a_person_never_both_decide(self, story: Story, made: Definition, _again: int) -> None:
        run_id = waiting_at_c(made)
        came_to = self.at_once(lambda: do(run_id, Action.COMPENSATE), lambda: answer(run_id, 2))
        run = finish(run_id)
        if Resumed.LATE in came_to:
            assert run.status == RunStatus.COMPENSATED
            assert "answer c" not in story.told
        else:  # the answer was first; the run went on, maybe over its pivot, before the person came
            assert came_to.count(Resumed.ACCEPTED) == 1
            assert run.status in (RunStatus.COMPLETED, RunStatus.COMPENSATED)
            assert ("undo c" in story.told) == (run.status == RunStatus.COMPENSATED)
