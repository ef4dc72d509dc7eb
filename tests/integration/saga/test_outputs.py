"""What a step reads of the steps before it: declared, handed, and asked for from whoever writes an output by hand."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import adoption, triage
from apps.saga.definition import PIVOT, RETRIABLE, Definition, Hooks, Run, Step
from apps.saga.hooks import HookFailed
from apps.saga.models import Run as RunRow
from apps.saga.models import RunStatus
from apps.saga.reading import OutputNeeded, check
from apps.saga.triage import Action, wanted
from apps.saga.values import InvalidValues
from apps.saga.versions import move
from tests.integration.saga.test_engine import Refusal, Story, local
from tests.integration.saga.world import REASON, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "the partner is back"


def reading(step: Any, **reads: dict[str, type]) -> Any:
    """The step, which reads these."""
    type(step).reads = reads
    return step


def journey(story: Story, **terms: Any) -> Definition:
    """c reads what b left."""
    steps = (local(story, "a"), local(story, "b", PIVOT), reading(local(story, "c", RETRIABLE), b={"key": UUID}))
    return toy(*steps, story=story, **terms)


def act(run_id: UUID, action: Action, **given: Any) -> str:
    with transaction.atomic():
        return triage.apply(run_id, wanted(action, **given), reason=WHY, by="user:chief", now=timezone.now())


class TestDeclared:
    def test_a_read_of_what_does_not_come_before_is_wrong(self) -> None:
        story = Story()
        made = toy(reading(local(story, "a"), b={}), local(story, "b"), story=story)
        assert made.problems() == ["step a reads the output of b, which does not come before it"]

    def test_a_read_of_what_json_has_not_is_wrong(self) -> None:
        story = Story()
        made = toy(local(story, "a"), reading(local(story, "b"), a={"x": float}), story=story)
        assert made.problems() == ["step b reads x of a as a float, which no output holds"]

    def test_a_step_is_handed_its_reads_and_its_own_and_no_other(self) -> None:
        story, seen = Story(), []
        last = reading(local(story, "c", RETRIABLE), b={"by": str})
        original = last.handle
        last.handle = lambda run: (seen.append(dict(run.outputs)), original(run))[1]
        with registered(made := toy(local(story, "a"), local(story, "b"), last, story=story)):
            assert finish(begin(made)).status == RunStatus.COMPLETED
        assert seen == [{"b": {"by": "b"}}]


class TestTypes:
    @pytest.mark.parametrize(
        ("kind", "good", "bad"),
        [
            (str, "a", [1, {}]),
            (UUID, str(UUID(int=1)), ["a", 1, ""]),
            (int, 3, [3.0, "3", True]),
            (bool, False, [0, "false"]),
            (Decimal, "1.50", ["a", 1.5, "NaN"]),
            (date, date(2026, 1, 2).isoformat(), ["2026-13-01", 5]),
            (datetime, datetime(2026, 1, 2, tzinfo=UTC).isoformat(), ["2026-01-02T00:00:00", "x"]),
        ],
    )
    def test_are_looked_at(self, kind: type, good: Any, bad: list[Any]) -> None:
        steps: list[Step] = [reading(local(Story(), "later"), a={"x": kind})]
        check("a", {"x": good, "more": 1}, steps)
        for value in [*bad, None]:
            with pytest.raises(OutputNeeded):
                check("a", {"x": value}, steps)


class TestSkipping:
    def test_takes_nothing_but_what_is_read_later(self) -> None:
        story = Story()
        story.plan["do b"] = [RuntimeError("away")] * 3
        with registered(made := journey(story)):
            run_id = begin(made, inline_ms=1000)
            for given in (None, {"key": "no"}, {"other": 1}):
                with pytest.raises(OutputNeeded):
                    act(run_id, Action.SKIP, **({} if given is None else {"output": given}))
            act(run_id, Action.SKIP, output={"key": str(uuid4())})
            assert finish(run_id).status == RunStatus.COMPLETED

    def test_of_what_nobody_reads_needs_nothing(self) -> None:
        story = Story()
        story.plan["do c"] = [Refusal("no")]
        with registered(made := journey(story)):
            run_id = begin(made)
            assert finish(run_id).status == RunStatus.STUCK
            act(run_id, Action.SKIP)
            assert finish(run_id).status == RunStatus.COMPLETED


class TestTakingOver:
    def adopt(self, made: Definition, outputs: dict[str, Any]) -> adoption.Adopted:
        with transaction.atomic():
            return adoption.adopt(
                made, at_step="c", subject_id=uuid4(), business_key="k", data={}, outputs=outputs, reason=REASON, by="x",
                now=timezone.now(),
            )  # fmt: skip

    def test_asks_for_what_is_read_later(self) -> None:
        story = Story()
        with registered(made := journey(story)):
            with pytest.raises(InvalidValues, match=r"^c reads key \(UUID\) of b: give it among the outputs.$"):
                self.adopt(made, {"b": {"key": "none"}})
            assert not RunRow.objects.exists()
            assert finish(self.adopt(made, {"b": {"key": str(uuid4())}}).run_id).status == RunStatus.COMPLETED


class TestMoving:
    def test_leaves_a_run_whose_steps_have_not_left_what_the_newer_version_reads(self) -> None:
        story = Story()
        story.plan["do c"] = [Refusal("no")]
        older = toy(*(local(story, name, kind) for name, kind in (("a", PIVOT), ("c", RETRIABLE))), story=story)
        last = reading(local(story, "c", RETRIABLE), a={"key": UUID})
        newer = toy(local(story, "a", PIVOT), last, story=story, version=2, migrates_from={1: {"a": "a", "c": "c"}})
        with registered(older, newer):
            assert finish(begin(older)).status == RunStatus.STUCK
            (outcome,) = move(older.use_case, older=1, newer=2, reason=REASON, by="x", now=timezone.now(), dry_run=False)
        assert outcome.refusal.startswith("in version 2 c reads key (UUID) of a, which this run has not")
        assert RunRow.objects.get().version == 1


class Owner(Hooks):
    """An owner whose own rows are in trouble."""

    def left(self, run: Run) -> tuple[str, ...]:
        raise RuntimeError("away")

    def on_handled(self, run: Run, *, failed_step: str, code: str, detail: str) -> None:
        raise RuntimeError("away")


class TestClosing:
    def test_is_refused_when_the_owner_cannot_be_told(self) -> None:
        story = Story()
        story.plan["do b"] = [Refusal("no")]
        made = Definition("test.owned", 1, (local(story, "a", PIVOT), local(story, "b", RETRIABLE)), hooks=Owner())
        with registered(made):
            run_id = begin(made)
            assert finish(run_id).status == RunStatus.STUCK
            with pytest.raises(HookFailed, match="on_handled failed: RuntimeError: away"):
                act(run_id, Action.HANDLE)
            assert RunRow.objects.get().status == RunStatus.STUCK

    def test_tells_that_nobody_knows_what_stays(self) -> None:
        from apps.saga.selection import Selection, preview

        story = Story()
        story.plan["do b"] = [Refusal("no")]
        made = Definition("test.owned", 1, (local(story, "a", PIVOT), local(story, "b", RETRIABLE)), hooks=Owner())
        with registered(made):
            run_id = begin(made)
            finish(run_id)
            (outcome,) = preview(Selection(run_ids=(run_id,)), wanted(Action.HANDLE), now=timezone.now()).outcomes
        assert outcome.left == ("Nobody knows what else: RuntimeError when the use case was asked.",)
        assert outcome.detail == "closes the run as it is: a stays done"


def test_a_refusal_is_coded() -> None:
    assert issubclass(OutputNeeded, DomainError)
    assert (OutputNeeded.code, OutputNeeded.status) == ("R582", 409)
