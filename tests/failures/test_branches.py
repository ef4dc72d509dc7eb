"""The branches of a run on two real Celery workers, one of which ends as by a power cut in the middle of a call."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.models import Attempt, Run, Step
from config import worker
from tests.failures.owners import GATE, until
from tests.process import ROOT, database_url
from tests.saga_driver import let_time_pass

pytestmark = [
    pytest.mark.process,
    pytest.mark.xdist_group("process"),
    pytest.mark.django_db(transaction=True),
]

END_S = 150  # of a process that is told to end
Celery = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(name="branched", autouse=True)
def a_use_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[definitions.Definition]:
    """Known here, to begin a run; every wake-up of this process is lost, the sweeper's is the workers' first."""
    from tests.failures import branches

    for name in ("wake", "wake_soon", "wake_undo", "wake_group", "look"):
        monkeypatch.setattr(f"apps.saga.chains.{name}", lambda *_: None)
    for made in (branches.BRANCH, branches.WHOLE):
        definitions.register(made)
    yield branches.WHOLE
    for made in (branches.BRANCH, branches.WHOLE):
        definitions._registry.pop((made.use_case, made.version))


@pytest.fixture(name="celery")
def a_starter(tmp_path: Path) -> Iterator[Celery]:
    """Start a worker or the beat on this test's database, with the queue beside it as in a deployment on one server."""
    worker.install_pgmq(connection.settings_dict)
    url = database_url()
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, name: str = "beat") -> "subprocess.Popen[bytes]":
        mine = {"DATABASE_URL": url, "LASTRO_EMBEDDED": "1", "DJANGO_SETTINGS_MODULE": "config.settings"}
        owned = {"OWNERS_FOLDER": str(tmp_path), "OWNERS_NAME": name, "CELERY_BROKER_URL": "", "DATABASE_POOL_MAX": "4"}
        with (tmp_path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "celery", "-A", "tests.failures.branches", *words],
                cwd=ROOT,
                env={**os.environ, **mine, **owned},
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children end with it
            )
        started.append(process)
        return process

    yield start
    for process in started:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """kill -9 of it and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_S)


def test_a_killed_worker_leaves_its_branch_to_the_other(
    celery: Celery, branched: definitions.Definition, tmp_path: Path
) -> None:
    (tmp_path / GATE).touch()
    with transaction.atomic():
        run_id = engine.start(branched, subject_id=uuid4(), business_key="branched", data={}, now=timezone.now())
    let_time_pass(run_id)
    # One after the other: on PostgreSQL each worker makes its queue's trigger anew as it begins, and two at once deadlock;
    # now and then the loser did not come back in time.
    one = celery("worker", "-c", "1", "-Q", "saga", "-n", "one@%h", name="one")
    celery("beat")
    until(lambda: any(tmp_path.glob("in *")), "the first worker is in the call of a branch")
    celery("worker", "-c", "1", "-Q", "saga", "-n", "two@%h", name="two")
    owned = until(lambda: in_their_calls(tmp_path), "both workers are in the call of a branch")
    kill(one)
    (tmp_path / GATE).unlink()
    for branch in Run.objects.filter(parent_id=run_id).exclude(pk=owned["two"]):
        let_time_pass(branch.pk)  # its lease is over, or the wake-up that died with it
    until(lambda: Run.objects.get(pk=run_id).finished_at, "the run is over")

    branches = Run.objects.filter(parent_id=run_id)
    assert set(branches.values_list("branch", "status")) == {(f"b{number}", "COMPLETED") for number in range(4)}
    assert Run.objects.get(pk=run_id).status == "COMPLETED"
    told = Counter((tmp_path / "log").read_text().splitlines())
    assert set(told.values()) == {1}, "each step once, and each effect once"
    effects = {line.split()[-1] for line in told if line.startswith("effect ")}
    assert effects == {f"{branch}:1" for branch in branches.values_list("pk", flat=True)}
    assert [line.split()[1] for line in told if str(run_id) in line] == ["a", "c"]
    outcomes = Attempt.objects.filter(run_id=owned["one"], position=1).order_by("number")
    assert list(outcomes.values_list("outcome", flat=True)) == ["UNKNOWN", "DONE"]
    assert {step.output["by"] for step in Step.objects.filter(name="y")} == {"two"}


def in_their_calls(folder: Path) -> dict[str, UUID] | None:
    """Which worker is in the call of which run, when both are."""
    found = [path.name.split() for path in folder.glob("in *")]
    return {name: UUID(run_id) for _, name, run_id in found} if len(found) > 1 else None
