"""Versions: a run finishes on the one it began with, or moves to a newer one by the mapping, and by nothing else."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from apps.common.errors import InvalidRequest
from apps.saga import engine, pauses
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.definition import Run as RunView
from apps.saga.engine import Resumed
from apps.saga.models import LIVE, Audit, Run, RunStatus, Step
from apps.saga.triage import retry
from apps.saga.versions import Moved, NoMapping, UnknownVersion, move
from tests.integration.messaging.world import together
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)
MAPPING = {1: {"a": "a", "b": "b2", "c": "c"}}


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="old")
def the_old_version(story: Story) -> Definition:
    return toy(local(story, "a"), call(story, "b"), local(story, "c", PIVOT), story=story)


@pytest.fixture(name="new")
def the_new_version(story: Story) -> Definition:
    """It renames b, and puts two steps after it."""
    steps = (
        local(story, "a"),
        call(story, "b2"),
        ask(story, "check"),
        local(story, "c", PIVOT),
        local(story, "d", RETRIABLE),
    )
    return toy(*steps, story=story, version=2, migrates_from=MAPPING)


@pytest.fixture(autouse=True)
def both_are_registered(old: Definition, new: Definition) -> Iterator[None]:
    with registered(old, new):
        yield


def moved(*, dry_run: bool = False, **other: Any) -> list[Moved]:
    given = {"older": 1, "newer": 2, "reason": REASON, "by": "user:chief", "now": timezone.now(), **other}
    return list(move(TOY, dry_run=dry_run, **given))


def refusals() -> list[str]:
    return [each.refusal for each in moved()]


class TestOldRuns:
    def test_finish_on_their_own_code(self, story: Story, old: Definition, new: Definition) -> None:
        first, second = begin(old), begin(new)
        assert finish(first).status == RunStatus.COMPLETED
        assert story.told == ["do a", "prepare b", "call b", "record b", "do c"]
        assert (Run.objects.get(pk=first).version, Run.objects.get(pk=second).version) == (1, 2)

    def test_are_undone_on_their_own_code(self, story: Story, old: Definition) -> None:
        story.plan["do c"] = [Refusal("no")]
        assert finish(begin(old)).status == RunStatus.COMPENSATED
        assert [line for line in story.told if line.startswith("undo ")] == ["undo b", "undo a"]


class TestMove:
    def test_goes_on_with_the_steps_of_the_newer_version(self, story: Story, old: Definition) -> None:
        run_id = begin(old)
        engine.advance(run_id)
        assert [each.refusal for each in moved()] == [""]
        rows = Step.objects.filter(run_id=run_id).order_by("position").values_list("name", "status", "shape")
        assert list(rows) == [
            ("a", "DONE", "local"),
            ("b2", "PENDING", "call"),
            ("check", "PENDING", "ask"),
            ("c", "PENDING", "local"),
            ("d", "PENDING", "local"),
        ]
        work(run_id)
        assert answer(run_id, 2) is Resumed.ACCEPTED
        run = finish(run_id)
        assert (run.status, run.version) == (RunStatus.COMPLETED, 2)
        assert story.told == ["do a", "prepare b2", "call b2", "record b2", "ask check", "answer check", "do c", "do d"]

    def test_undoes_with_the_newer_version_what_the_older_one_did(self, story: Story, old: Definition) -> None:
        story.plan["do c"] = [Refusal("no")]
        run_id = begin(old)
        engine.advance(run_id)
        engine.advance(run_id)
        moved()
        work(run_id)
        answer(run_id, 2)
        assert finish(run_id).status == RunStatus.COMPENSATED
        assert [line for line in story.told if line.startswith("undo ")] == ["undo check", "undo b2", "undo a"]

    def test_keeps_the_keys_that_were_given_out(self, story: Story, old: Definition, new: Definition) -> None:
        seen: list[tuple[str, UUID, UUID, dict[str, Any]]] = []
        step: Any = new.steps[1]
        original = step.did_it_happen

        def look(run: RunView) -> Any:
            seen.append((run.step_key, run.tracekey, run.tracekey_of("a"), dict(run.outputs)))
            return original(run)

        step.did_it_happen = look
        step.reads = {"a": {"by": str}}
        story.plan["call b"] = [RuntimeError("away")]
        run_id = begin(old)
        engine.advance(run_id)
        engine.advance(run_id)
        moved()
        let_time_pass(run_id)
        work(run_id)
        began_as_b = uuid5(run_id, "b")
        assert seen == [(f"{run_id}:1", began_as_b, uuid5(run_id, "a"), {"a": {"by": "a"}})]
        assert Run.objects.get(pk=run_id).renamed == {"b2": "b"}

    def test_an_answer_finds_the_step_that_asked(self, story: Story) -> None:
        older = toy(ask(story, "q"), story=story, use_case="test.asks")
        newer = toy(
            ask(story, "q2"),
            local(story, "z"),
            story=story,
            use_case="test.asks",
            version=2,
            migrates_from={1: {"q": "q2"}},
        )
        with registered(older, newer):
            run_id = begin(older, inline_ms=10_000)
            (outcome,) = move(
                "test.asks", older=1, newer=2, reason=REASON, by="user:chief", now=timezone.now(), dry_run=False
            )
            assert (outcome.status, outcome.refusal) == ("WAITING", "")
            assert answer(run_id, 0) is Resumed.ACCEPTED
            assert finish(run_id).status == RunStatus.COMPLETED
        assert story.told == ["ask q", "answer q2", "do z"]

    def test_a_stuck_run_goes_on_in_the_newer_version(self, story: Story, old: Definition) -> None:
        story.plan["undo b"] = [RuntimeError("no way back")] * 3
        steps = (local(story, "p", PIVOT), local(story, "r", RETRIABLE))
        older = toy(*steps, story=story, use_case="test.stuck")
        better = (local(story, "p", PIVOT), local(story, "r2", RETRIABLE))
        newer = toy(*better, story=story, use_case="test.stuck", version=2, migrates_from={1: {"p": "p", "r": "r2"}})
        story.plan["do r"] = [RuntimeError("a bug")] * 8
        with registered(older, newer):
            run_id = begin(older)
            assert finish(run_id).status == RunStatus.STUCK
            list(move("test.stuck", older=1, newer=2, reason=REASON, by="x", now=timezone.now(), dry_run=False))
            assert Run.objects.get(pk=run_id).failed_step == "r2"
            retry(run_id, now=timezone.now())
            assert finish(run_id).status == RunStatus.COMPLETED
        assert story.told[-1] == "do r2"

    def test_a_held_run_stays_held(self, story: Story, old: Definition) -> None:
        run_id = begin(old)
        pauses.pause(TOY, "b", reason=REASON, by="user:chief", now=timezone.now())
        made = work(run_id).held_by
        assert made is not None
        moved()
        assert Run.objects.get(pk=run_id).held_by == made
        pauses.lift(TOY, "b", reason=REASON, by="user:chief", now=timezone.now())
        assert Run.objects.get(pk=run_id).held_by is None

    def test_twice_moves_once(self, old: Definition) -> None:
        begin(old)
        assert len(moved()) == 1
        assert moved() == []
        assert Audit.objects.count() == 1

    def test_is_written_down_for_every_run(self, old: Definition) -> None:
        run_id = begin(old)
        moved()
        row = Audit.objects.get()
        assert (row.action, row.run_id, row.actor, row.reason) == ("migrate", run_id, "user:chief", REASON)
        assert row.detail == {"from": 1, "to": 2}

    def test_a_dry_run_changes_nothing(self, old: Definition) -> None:
        run_id = begin(old)
        engine.advance(run_id)
        before = list(Step.objects.order_by("position").values()), Run.objects.values().get()
        assert [(each.run_id, each.refusal) for each in moved(dry_run=True)] == [(run_id, "")]
        assert (list(Step.objects.order_by("position").values()), Run.objects.values().get()) == before
        assert not Audit.objects.exists()

    def test_looks_at_so_many_runs_as_it_is_told(self, old: Definition) -> None:
        first = sorted(begin(old) for _ in range(3))  # ids of one millisecond have no order of their own
        assert [each.run_id for each in moved(runs_max=2)] == first[:2]
        assert [each.run_id for each in moved(runs_max=2)] == first[2:]


class TestStays:
    def test_a_run_that_would_skip_a_step(self, story: Story, old: Definition) -> None:
        run_id = begin(old)
        for _ in range(2):
            engine.advance(run_id)
        story.plan["do c"] = [RuntimeError("a bug")]
        engine.advance(run_id)
        assert refusals() == ["it has begun c, which does not stand at the same place in version 2"]
        let_time_pass(run_id)
        run = finish(run_id)
        assert (run.status, run.version) == (RunStatus.COMPLETED, 1)

    def test_a_run_that_is_undoing(self, story: Story, old: Definition) -> None:
        story.plan["do c"] = [Refusal("no")]
        story.plan["undo b"] = [RuntimeError("away")]
        run_id = begin(old)
        work(run_id)
        assert refusals() == ["it is over, or undoing: it finishes on its own version"]
        assert finish(run_id).status == RunStatus.COMPENSATED

    def test_a_run_that_is_stuck_on_the_way_back(self, story: Story, old: Definition) -> None:
        story.plan["do c"] = [Refusal("no")]
        story.plan["undo b"] = [RuntimeError("away")] * 3
        assert finish(begin(old)).status == RunStatus.STUCK
        assert refusals() == ["it is over, or undoing: it finishes on its own version"]

    def test_a_run_whose_worker_talks_to_a_partner(self, story: Story) -> None:
        told: list[str] = []
        older = toy(call(story, "b", during=lambda: told.extend(_move_now())), story=story, use_case="test.busy")
        newer = toy(call(story, "b"), story=story, use_case="test.busy", version=2, migrates_from={1: {"b": "b"}})

        def _move_now() -> list[str]:
            found = move("test.busy", older=1, newer=2, reason=REASON, by="x", now=timezone.now(), dry_run=False)
            return [each.refusal for each in found]

        with registered(older, newer):
            run_id = begin(older)
            assert finish(run_id).status == RunStatus.COMPLETED
        assert told == ["a worker talks to a partner for it: try again later"]

    def test_a_run_that_a_worker_has_locked(self, old: Definition) -> None:
        told: list[str] = []
        run_id = begin(old)
        with transaction.atomic():
            Run.objects.select_for_update(no_key=True).get(pk=run_id)
            together(lambda: told.extend(refusals()))
        assert told == ["a worker is at it: try again later"]

    def test_a_run_that_would_need_keys_which_it_does_not_hold(self, story: Story) -> None:
        """Another run of the newer version may hold them."""
        steps = (local(story, "a"), local(story, "b"))
        terms: dict[str, Any] = {"story": story, "use_case": "test.keys"}
        older = toy(*steps, locks=lambda data: data["own"], **terms)
        newer = toy(
            *steps,
            version=2,
            migrates_from={1: {"a": "a", "b": "b"}},
            locks=lambda data: [*data["own"], *data["more"]],
            **terms,
        )
        with registered(older, newer):
            stays = begin(older, data={"own": ["x"], "more": ["z"]})
            odd = begin(older, data={"own": ["y"]})
            moves = begin(older, data={"own": ["z"], "more": []})
            found = list(move("test.keys", older=1, newer=2, reason=REASON, by="t", now=timezone.now(), dry_run=False))
            assert {each.run_id: bool(each.refusal) for each in found} == {stays: True, odd: True, moves: False}
            assert "keys" in found[0].refusal
            assert finish(moves).status == finish(stays).status == RunStatus.COMPLETED

    def test_finished_runs_are_not_looked_at(self, old: Definition) -> None:
        finish(begin(old))
        assert moved() == []

    @pytest.mark.parametrize(
        ("other", "refusal"),
        [
            ({"newer": 9}, UnknownVersion),
            ({"older": 2, "newer": 1}, NoMapping),
            ({"older": 9}, NoMapping),
            ({"reason": "no"}, InvalidRequest),
        ],
    )
    def test_everybody_when_the_request_is_wrong(self, old: Definition, other: dict[str, Any], refusal: type) -> None:
        begin(old)
        with pytest.raises(refusal):
            moved(**other)
        assert not Run.objects.filter(version=2).exists()

    def test_everybody_when_the_mapping_is_unsound(self, story: Story) -> None:
        older = toy(local(story, "a"), story=story, use_case="test.bad")
        newer = toy(call(story, "a"), story=story, use_case="test.bad", version=2, migrates_from={1: {"a": "a"}})
        with registered(older, newer), pytest.raises(NoMapping):
            move("test.bad", older=1, newer=2, reason=REASON, by="x", now=timezone.now(), dry_run=False)

    def test_everybody_of_an_unknown_use_case(self) -> None:
        with pytest.raises(pauses.UnknownUseCase):
            move("test.nowhere", older=1, newer=2, reason=REASON, by="x", now=timezone.now(), dry_run=False)


class TestRaces:
    @pytest.mark.parametrize("seed", range(2))
    def test_workers_go_on_while_runs_move(self, story: Story, old: Definition, seed: int) -> None:
        over = threading.Event()

        def chief() -> None:
            for _ in range(10 + seed):
                moved()
            over.set()

        def worker() -> None:
            while not over.is_set() or Run.objects.filter(status__in=LIVE).exists():
                for run_id, status in Run.objects.filter(status__in=LIVE).values_list("pk", "status"):
                    engine.advance(run_id)
                    if status == RunStatus.WAITING:
                        answer(run_id, 2)

        for _ in range(8):
            begin(old)
        together(chief, worker, worker)
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.COMPLETED}
        assert story.told.count("do a") == story.told.count("do c") == 8
        assert story.told.count("record b") + story.told.count("record b2") == 8
        newer = Run.objects.filter(version=2).count()
        assert story.told.count("answer check") == story.told.count("do d") == newer
        for run in Run.objects.all():
            assert Step.objects.filter(run_id=run.pk).count() == (5 if run.version == 2 else 3)


class TestCommand:
    def test_tells_what_becomes_of_every_run(self, old: Definition, capsys: pytest.CaptureFixture[str]) -> None:
        run_id = begin(old, key="order 7")
        call_command("saga_migrate", TOY, "--from=1", "--to=2", f"--reason={REASON}", "--dry-run")
        assert capsys.readouterr().out == f"{run_id}  order 7  RUNNING  would move\n1 would move, 0 stayed.\n"
        call_command("saga_migrate", TOY, "--from=1", "--to=2", f"--reason={REASON}")
        assert capsys.readouterr().out.endswith("1 moved, 0 stayed.\n")
        assert Audit.objects.get().actor.startswith("command:saga_migrate")

    def test_says_why_not(self) -> None:
        with pytest.raises(CommandError, match="R516"):
            call_command("saga_migrate", TOY, "--from=1", "--to=9", f"--reason={REASON}")
