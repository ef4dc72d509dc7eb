"""Owners of steps that are processes of their own: two at once, one that stalls, one that dies, releases that differ."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.models import Attempt, Run, Step
from tests.failures import forks, owners
from tests.failures.forks import Forked
from tests.failures.owners import GATE, VERSIONS, until
from tests.process import database_url
from tests.saga_driver import let_time_pass

pytestmark = [pytest.mark.process, pytest.mark.django_db(transaction=True)]

RUNS = 30

Start = Callable[..., Forked]


@pytest.fixture(autouse=True)
def _both_versions_are_known_here() -> Iterator[None]:
    """The test starts runs of both; which release finishes them is the processes' matter."""
    for made in VERSIONS.values():
        definitions.register(made)
    yield
    for made in VERSIONS.values():
        definitions._registry.pop((made.use_case, made.version))


@pytest.fixture(autouse=True)
def _wake_ups_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wake", "wake_soon", "wake_undo"):
        monkeypatch.setattr(f"apps.saga.chains.{name}", lambda *_: None)


@pytest.fixture(name="start")
def a_starter(tmp_path: Path) -> Iterator[Start]:
    """Start a process that owns steps, on this test's database."""
    url = database_url()
    started: list[Forked] = []

    def start(*words: str, versions: str = "1,2", stall: str = "") -> Forked:
        mine = {"DATABASE_URL": url, "LASTRO_EMBEDDED": "1", "DJANGO_SETTINGS_MODULE": "tests.settings"}
        owned = {"OWNERS_FOLDER": str(tmp_path), "OWNERS_VERSIONS": versions, "OWNERS_STALL": stall}
        said = tmp_path / f"owner-{len(started)}"
        started.append(forks.start(owners.main, list(words), environment=mine | owned, said=said))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def ended(process: Forked) -> str:
    """What a process said, when its work is done."""
    return process.ended()


def begin(version: int = 1) -> UUID:
    with transaction.atomic():
        return engine.start(VERSIONS[version], subject_id=uuid4(), business_key="owned", data={}, now=timezone.now())


def log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def effects(folder: Path) -> Counter[str]:
    return Counter(line for line in log(folder) if line.startswith("effect "))


class TestTwoWorkers:
    def test_each_step_takes_effect_once(self, start: Start, tmp_path: Path) -> None:
        runs = [begin() for _ in range(RUNS)]
        for process in [start("work"), start("work")]:
            ended(process)
        assert set(Run.objects.values_list("status", "stale_outcomes")) == {("COMPLETED", 0)}
        assert set(Step.objects.values_list("status", "attempts")) == {("DONE", 1)}
        told = Counter(log(tmp_path))
        assert set(told.values()) == {1}
        assert {line.split()[-1] for line in told} == {f"{run}:{position}" for run in runs for position in range(3)}
        workers = {row["by"] for row in Step.objects.filter(name="a").values_list("output", flat=True)}
        assert len(workers) <= 2


class TestStaleOwner:
    @pytest.mark.parametrize("stall", ["before", "after"])
    def test_changes_nothing_when_it_wakes_up_late(self, start: Start, tmp_path: Path, stall: str) -> None:
        run_id = begin()
        assert ended(start("advance", str(run_id))) == "moved"
        (tmp_path / GATE).touch()
        sleeper = start("advance", str(run_id), stall=stall)
        until((tmp_path / "in").exists, "the first owner talks")
        assert ended(start("advance", str(run_id))) == "parked", "its lease is not over"
        let_time_pass(run_id)
        ended(start("work"))
        assert Run.objects.get(pk=run_id).status == "COMPLETED"
        (tmp_path / GATE).unlink()
        assert ended(sleeper) == "parked"
        run = Run.objects.get(pk=run_id)
        assert (run.status, run.stale_outcomes, run.token) == ("COMPLETED", 1, None)
        assert effects(tmp_path) == {f"effect b {run_id}:1": 1}
        assert log(tmp_path).count(f"record b {run_id}:1") == 1
        outcomes = Attempt.objects.filter(run_id=run_id, position=1).order_by("number").values_list("outcome", flat=True)
        assert list(outcomes) == ["UNKNOWN", "DONE"]

    @pytest.mark.parametrize("stall", ["before", "after"])
    def test_that_was_killed_is_replaced(self, start: Start, tmp_path: Path, stall: str) -> None:
        run_id = begin()
        assert ended(start("advance", str(run_id))) == "moved"
        (tmp_path / GATE).touch()
        dead = start("advance", str(run_id), stall=stall)
        until((tmp_path / "in").exists, "the first owner talks")
        dead.kill()
        let_time_pass(run_id)
        ended(start("work"))
        assert Run.objects.get(pk=run_id).status == "COMPLETED"
        assert effects(tmp_path) == {f"effect b {run_id}:1": 1}
        calls = [line for line in log(tmp_path) if line.startswith("call ")]
        assert len(calls) == 1, "who died after the effect is not repeated: it is asked whether it happened"


class TestChangedDefinition:
    def test_runs_finish_on_the_code_with_which_they_began(self, start: Start, tmp_path: Path) -> None:
        """The old release has begun runs; the new one, which knows both versions, finishes them and begins others."""
        old = begin(1)
        assert ended(start("advance", str(old), versions="1")) == "moved"
        new = begin(2)
        for process in [start("work", versions="1,2"), start("work", versions="1,2")]:
            ended(process)
        assert set(Run.objects.values_list("version", "status")) == {(1, "COMPLETED"), (2, "COMPLETED")}
        assert [line.split()[1] for line in log(tmp_path) if str(old) in line and "effect" not in line] == [
            "a",
            "b",
            "b",
            "c",
        ]
        done = [line.split()[1] for line in log(tmp_path) if str(new) in line and "effect" not in line]
        assert done == ["a", "b2", "b2", "c", "d"]

    def test_an_old_release_leaves_the_runs_of_a_newer_one_alone(self, start: Start, tmp_path: Path) -> None:
        """While a deployment rolls, a worker of the old release is woken for a run that it does not know."""
        newer, older = begin(2), begin(1)
        before = Run.objects.get(pk=newer)
        assert ended(start("advance", str(newer), versions="1")) == "unknown definition"
        ended(start("work", versions="1"))
        after = Run.objects.get(pk=newer)
        assert (after.status, after.cursor, after.due_at) == (before.status, before.cursor, before.due_at)
        assert Run.objects.get(pk=older).status == "COMPLETED"
        assert {line.split()[-1].partition(":")[0] for line in log(tmp_path)} == {str(older)}
        ended(start("work", versions="1,2"))
        assert Run.objects.get(pk=newer).status == "COMPLETED"

    def test_a_stale_owner_of_the_old_release_meets_the_new_one(self, start: Start, tmp_path: Path) -> None:
        run_id = begin(1)
        assert ended(start("advance", str(run_id))) == "moved"
        (tmp_path / GATE).touch()
        old = start("advance", str(run_id), versions="1", stall="before")
        until((tmp_path / "in").exists, "the old release talks")
        let_time_pass(run_id)
        ended(start("work", versions="1,2"))
        (tmp_path / GATE).unlink()
        assert ended(old) == "parked"
        assert (Run.objects.get(pk=run_id).status, effects(tmp_path)) == ("COMPLETED", {f"effect b {run_id}:1": 1})


def test_the_toys_are_sound() -> None:
    assert [problem for made in owners.VERSIONS.values() for problem in made.problems()] == []
