"""The engine on toy journeys: what happens to a run whatever its steps do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError, UnknownOutcome
from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.definition import (
    COMPENSABLE,
    PIVOT,
    RETRIABLE,
    AskStep,
    CallStep,
    Definition,
    Hooks,
    Kind,
    LocalStep,
    Run,
)
from apps.saga.engine import Progress, Resumed
from apps.saga.models import Attempt, RunStatus, Step
from apps.saga.models import Run as RunRow
from apps.saga.sweeper import sweep
from apps.saga.triage import NotStuck, retry
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)


class Refusal(DomainError):
    """No."""

    code = "R999"


class Story:
    """What the steps did, and what they shall do next."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.plan: dict[str, list[Exception]] = {}
        self.happened: set[str] = set()

    def tell(self, what: str) -> None:
        self.told.append(what)
        if self.plan.get(what):
            raise self.plan[what].pop(0)


def local(story: Story, name: str, kind: Kind = COMPENSABLE) -> LocalStep:
    class Local(LocalStep):
        def handle(self, run: Run) -> dict[str, Any] | None:
            story.tell(f"do {name}")
            return {"by": name}

        def compensate(self, run: Run) -> None:
            story.tell(f"undo {name}")

    Local.name, Local.kind = name, kind  # type: ignore[misc]
    return Local()


def ask(story: Story, name: str, kind: Kind = COMPENSABLE, *, undo_waits: bool = False) -> AskStep:
    class Ask(AskStep):
        attempts_max = 3

        def ask(self, run: Run) -> None:
            story.tell(f"ask {name}")

        def on_answer(self, run: Run, answer: dict[str, Any]) -> dict[str, Any] | None:
            story.tell(f"answer {name}")
            if answer.get("refused"):
                raise Refusal("they refused")
            return dict(answer)

        def ask_undo(self, run: Run) -> bool:
            story.tell(f"undo {name}")
            return undo_waits

        def on_undo_answer(self, run: Run, answer: dict[str, Any]) -> None:
            story.tell(f"undone {name}")

    Ask.name, Ask.kind = name, kind  # type: ignore[misc]
    return Ask()


def call(story: Story, name: str, kind: Kind = COMPENSABLE, *, during: Callable[[], None] = lambda: None) -> CallStep:
    class Call(CallStep):
        attempts_max = 3
        undo_attempts_max = 3

        def prepare(self, run: Run) -> None:
            story.tell(f"prepare {name}")

        def call(self, run: Run) -> dict[str, Any]:
            during()
            story.tell(f"call {name}")
            return {"answer": name}

        def did_it_happen(self, run: Run) -> dict[str, Any] | None:
            story.tell(f"ask whether {name}")
            return {"answer": name} if name in story.happened else None

        def record(self, run: Run, outcome: dict[str, Any]) -> dict[str, Any] | None:
            story.tell(f"record {name}")
            return outcome

        def undo_prepare(self, run: Run) -> bool:
            return True

        def undo_call(self, run: Run) -> dict[str, Any]:
            story.tell(f"undo {name}")
            return {}

        def undo_record(self, run: Run, outcome: dict[str, Any]) -> None:
            story.tell(f"undone {name}")

    Call.name, Call.kind = name, kind  # type: ignore[misc]
    return Call()


class TellingHooks(Hooks):
    def __init__(self, story: Story) -> None:
        self._story = story

    def on_compensated(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        self._story.tell(f"compensated because {failed_step}: {code}")

    def on_stuck(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        self._story.tell(f"stuck at {failed_step}: {code}")


@pytest.fixture
def story() -> Story:
    return Story()


@contextmanager
def known(*steps: Any, story: Story) -> Iterator[Definition]:
    definition = Definition("test.toy", 1, tuple(steps), hooks=TellingHooks(story))
    definitions.register(definition)
    try:
        yield definition
    finally:
        definitions._registry.pop(("test.toy", 1))


def begin(definition: Definition, *, inline_ms: int = 0) -> UUID:
    with transaction.atomic():
        return engine.start(
            definition,
            subject_id=uuid4(),
            business_key="toy",
            data={},
            now=timezone.now(),
            run_inline_for_ms=inline_ms,
        )


def answer(run_id: UUID, position: int, **body: Any) -> Resumed:
    with transaction.atomic():
        return engine.resume(step_key=f"{run_id}:{position}", answer=body, now=timezone.now())


class TestForward:
    def test_does_local_steps_in_order_and_completes(self, story: Story) -> None:
        with known(local(story, "a"), local(story, "b", PIVOT), local(story, "c", RETRIABLE), story=story) as toy:
            run = finish(begin(toy))
        assert run.status == RunStatus.COMPLETED
        assert run.due_at is None
        assert story.told == ["do a", "do b", "do c"]
        assert list(Step.objects.order_by("position").values_list("status", "attempts")) == [("DONE", 1)] * 3

    def test_runs_the_head_in_the_callers_commit_up_to_the_pivot(self, story: Story) -> None:
        with known(local(story, "a"), local(story, "b", PIVOT), local(story, "c", RETRIABLE), story=story) as toy:
            run = RunRow.objects.get(pk=begin(toy, inline_ms=10_000))
            assert (run.status, run.cursor, story.told) == (RunStatus.RUNNING, 2, ["do a", "do b"])
            assert finish(run.pk).status == RunStatus.COMPLETED

    def test_parks_at_an_ask_and_goes_on_with_the_answer(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), local(story, "c", RETRIABLE), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            run = RunRow.objects.get(pk=run_id)
            assert run.status == RunStatus.WAITING
            assert run.due_at == Step.objects.get(run=run, position=1).waiting_until
            assert answer(run_id, 1, ok=True) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPLETED
        assert Step.objects.get(run=run, position=1).output == {"ok": True}

    def test_makes_a_call_between_two_transactions(self, story: Story) -> None:
        with known(local(story, "a"), call(story, "b"), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPLETED
        assert story.told == ["do a", "prepare b", "call b", "record b"]

    def test_keeps_the_steps_that_worked_when_a_later_one_breaks(self, story: Story) -> None:
        story.plan["do b"] = [RuntimeError("broken")]
        with known(local(story, "a"), local(story, "b"), story=story) as toy:
            run = RunRow.objects.get(pk=begin(toy, inline_ms=10_000))
            rows = list(Step.objects.order_by("position").values_list("status", "attempts"))
            assert (run.cursor, rows) == (1, [("DONE", 1), ("FAILED", 1)])
            assert work(run.pk).cursor == 1, "it must not be tried again before its time"
            let_time_pass(run.pk)
            assert finish(run.pk).status == RunStatus.COMPLETED
        assert Step.objects.get(position=1).attempts == 2

    def test_asks_whether_it_happened_before_it_calls_again(self, story: Story) -> None:
        story.plan["call b"] = [UnknownOutcome("the line went dead")]
        story.happened.add("b")
        with known(call(story, "b"), story=story) as toy:
            assert finish(begin(toy)).status == RunStatus.COMPLETED
        assert story.told == ["prepare b", "call b", "prepare b", "ask whether b", "record b"]


class TestBack:
    def test_rolls_the_head_back_instead_of_compensating(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("sold out")]
        with known(local(story, "a"), local(story, "b"), story=story) as toy:
            run = RunRow.objects.get(pk=begin(toy, inline_ms=10_000))
        assert (run.status, run.error_code, run.failed_step) == (RunStatus.COMPENSATED, "R999", "b")
        assert story.told == ["do a", "do b", "compensated because b: R999"]
        assert list(Step.objects.order_by("position").values_list("status", flat=True)) == ["ROLLED_BACK", "FAILED"]

    def test_undoes_what_was_done_in_reverse_order(self, story: Story) -> None:
        steps = (local(story, "a"), call(story, "b"), ask(story, "c"), call(story, "d"), local(story, "e", PIVOT))
        story.plan["do e"] = [Refusal("no")]
        with known(*steps, story=story) as toy:
            run_id = begin(toy)
            work(run_id)
            answer(run_id, 2)
            run = finish(run_id)
        assert run.status == RunStatus.COMPENSATED
        undone = [line for line in story.told if line.startswith("undo ")]
        assert undone == ["undo d", "undo c", "undo b", "undo a"]

    def test_includes_a_step_whose_outcome_is_unknown(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            run = finish(begin(toy))
        assert run.status == RunStatus.COMPENSATED
        assert story.told == ["do a", "ask b", "ask b", "ask b", "undo b", "undo a", "compensated because b: NoAnswer"]

    def test_waits_for_the_answer_to_an_undo(self, story: Story) -> None:
        with known(ask(story, "a", undo_waits=True), local(story, "b"), story=story) as toy:
            story.plan["do b"] = [Refusal("no")]
            run_id = begin(toy)
            work(run_id)
            answer(run_id, 0)
            assert work(run_id).status == RunStatus.COMPENSATING
            with transaction.atomic():
                assert engine.resume(step_key=f"{run_id}:0:undo", answer={}, now=timezone.now()) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert "undone a" in story.told

    def test_tries_an_undo_again_and_is_stuck_when_it_never_works(self, story: Story) -> None:
        story.plan["undo a"] = [RuntimeError("no way back")] * 100
        story.plan["do b"] = [Refusal("no")]
        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run = finish(begin(toy))
        assert (run.status, run.due_at) == (RunStatus.STUCK, None)
        assert story.told.count("undo a") == 3
        assert story.told[-1] == "stuck at a: RuntimeError"

    def test_is_stuck_when_the_answer_to_the_pivot_never_comes(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b", PIVOT), story=story) as toy:
            run = finish(begin(toy))
        assert run.status == RunStatus.STUCK
        assert "undo a" not in story.told

    def test_never_goes_back_after_the_pivot(self, story: Story) -> None:
        story.plan["do c"] = [Refusal("no")]
        with known(local(story, "a"), local(story, "b", PIVOT), local(story, "c", RETRIABLE), story=story) as toy:
            run = finish(begin(toy))
        assert run.status == RunStatus.STUCK
        assert not [line for line in story.told if line.startswith("undo")]


class TestOwners:
    def test_a_stale_owner_changes_nothing(self, story: Story) -> None:
        run_id = UUID(int=0)
        stalled: list[bool] = []

        def stall() -> None:
            if not stalled:
                stalled.append(True)
                let_time_pass(run_id)  # the lease is over while the first owner talks
                engine.advance(run_id)

        with known(call(story, "a", during=stall), story=story) as toy:
            run_id = begin(toy)
            engine.advance(run_id)
        run = RunRow.objects.get(pk=run_id)
        assert (run.status, run.stale_outcomes) == (RunStatus.COMPLETED, 1)
        assert story.told.count("record a") == 1
        assert "ask whether a" in story.told

    def test_a_second_owner_leaves_a_call_alone_while_the_lease_lasts(self, story: Story) -> None:
        seen: list[Progress] = []
        run_id = UUID(int=0)

        def look() -> None:
            seen.append(engine.advance(run_id))

        with known(call(story, "a", during=look), story=story) as toy:
            run_id = begin(toy)
            engine.advance(run_id)
        assert seen == [Progress.PARKED]
        assert story.told.count("call a") == 1

    def test_gives_up_a_call_whose_owners_keep_dying(self, story: Story) -> None:
        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        with known(local(story, "a"), call(story, "b", during=die), story=story) as toy:
            run_id = begin(toy)
            engine.advance(run_id)
            for _ in range(3):
                with pytest.raises(Killed):
                    engine.advance(run_id)
                let_time_pass(run_id)
            run = finish(run_id)
        assert run.status == RunStatus.COMPENSATED
        assert story.told[-3:] == ["undone b", "undo a", "compensated because b: UnknownOutcome"]


class TestResume:
    def test_refuses_and_counts_a_late_answer(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            assert answer(run_id, 0) is Resumed.ACCEPTED
            assert answer(run_id, 0) is Resumed.LATE
        assert RunRow.objects.get(pk=run_id).late_answers == 1
        assert story.told.count("answer a") == 1

    def test_takes_the_answer_to_the_first_question_while_the_second_is_due(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            let_time_pass(run_id)
            engine.advance(run_id)
            assert Step.objects.get(run_id=run_id).status == "UNKNOWN"
            assert answer(run_id, 0) is Resumed.ACCEPTED

    def test_turns_around_when_the_answer_is_a_refusal(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            answer(run_id, 1, refused=True)
            assert RunRow.objects.get(pk=run_id).status == RunStatus.COMPENSATING
            assert finish(run_id).status == RunStatus.COMPENSATED
        assert Attempt.objects.get(position=1).outcome == "REFUSED"

    def test_does_not_know_foreign_keys(self) -> None:
        for key in ("", "nonsense", f"{uuid4()}:0", f"{uuid4()}:x", "a:b:c"):
            with transaction.atomic():
                assert engine.resume(step_key=key, answer={}, now=timezone.now()) is Resumed.UNKNOWN

    def test_refuses_a_step_that_the_run_does_not_have(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            assert answer(run_id, 99) is Resumed.LATE


class TestSweep:
    def test_wakes_only_what_is_due(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        woken: list[UUID] = []
        monkeypatch.setattr("apps.saga.chains.wake_soon", woken.append)
        with known(ask(story, "a"), story=story) as toy:
            waiting, due = begin(toy, inline_ms=10_000), begin(toy, inline_ms=10_000)
            let_time_pass(due)
            woken.clear()
            assert sweep() == 1
            assert woken == [due]
            assert sweep() == 0, "a run that was just woken is not woken again at once"
            assert sweep(now=timezone.now() + timedelta(seconds=16)) == 1
        assert waiting not in woken

    def test_counts_a_run_that_nobody_woke_and_no_planned_moment(self, story: Story) -> None:
        with known(local(story, "a"), ask(story, "b"), local(story, "c"), story=story) as toy:
            handed_over, asked = begin(toy), begin(toy, inline_ms=10_000)
            sweep(now=timezone.now() + timedelta(seconds=31))
            assert _rescues(handed_over, asked) == [1, 0], "one was not taken up, the other's answer is late"
            sweep(now=timezone.now() + timedelta(seconds=62))
            assert _rescues(handed_over, asked) == [2, 1], "both were woken, and nobody came"

    def test_does_not_count_a_retry(self, story: Story) -> None:
        story.plan["do a"] = [RuntimeError("not now")]
        with known(local(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            assert sweep(now=timezone.now() + timedelta(seconds=10)) == 1
            assert _rescues(run_id) == [0]


def _rescues(*run_ids: UUID) -> list[int]:
    return [RunRow.objects.get(pk=run_id).rescues for run_id in run_ids]


class TestRetryByHand:
    def test_lets_a_stuck_run_go_forward(self, story: Story) -> None:
        story.plan["do b"] = [RuntimeError("broken")] * 8
        with known(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story) as toy:
            run = finish(begin(toy))
            assert run.status == RunStatus.STUCK
            retry(run.pk, now=timezone.now())
            assert finish(run.pk).status == RunStatus.COMPLETED
        assert Step.objects.get(position=1).attempts == 9

    def test_lets_a_stuck_run_go_back(self, story: Story) -> None:
        story.plan["undo a"] = [RuntimeError("no way back")] * 3
        story.plan["do b"] = [Refusal("no")]
        with known(call(story, "a"), local(story, "b"), story=story) as toy:
            run = finish(begin(toy))
            assert run.status == RunStatus.STUCK
            retry(run.pk, now=timezone.now())
            assert finish(run.pk).status == RunStatus.COMPENSATED

    def test_asks_whether_it_happened_before_it_calls_again(self, story: Story) -> None:
        story.plan["call a"] = [UnknownOutcome("lost")] * 3
        with known(call(story, "a", RETRIABLE), story=story) as toy:
            run = finish(begin(toy))
            story.told.clear()
            retry(run.pk, now=timezone.now())
            finish(run.pk)
        assert story.told[:2] == ["prepare a", "ask whether a"]

    def test_refuses_a_run_that_is_not_stuck(self, story: Story) -> None:
        with known(local(story, "a"), story=story) as toy:
            run = finish(begin(toy))
            with pytest.raises(NotStuck):
                retry(run.pk, now=timezone.now())


class TestDefinition:
    def test_reports_what_is_wrong(self, story: Story) -> None:
        class NoWayBack(LocalStep):
            name, kind = "oneway", COMPENSABLE

            def handle(self, run: Run) -> None:
                return None

        wrong_order = Definition("x", 1, (local(story, "a", PIVOT), local(story, "b")))
        assert "compensable*" in wrong_order.problems()[0]
        assert Definition("x", 1, (NoWayBack(),)).problems() == ["compensable step oneway has no compensate"]
        assert Definition("x", 1, ()).problems() == ["it has no steps"]
        twice = Definition("x", 1, (local(story, "a"), local(story, "a")))
        assert twice.problems() == ["step a appears twice"]
        two_pivots = Definition("x", 1, (local(story, "a", PIVOT), local(story, "b", PIVOT)))
        assert two_pivots.problems()

    def test_is_checked_by_manage_check(self, story: Story) -> None:
        with known(local(story, "a", PIVOT), local(story, "b"), story=story):
            found = definitions.check_definitions()
        assert [error.id for error in found] == ["saga.E001"]
