"""Actions on many runs: frozen when asked for, done once each whatever dies or races, approved by another person."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections
from django.utils import timezone

from apps.common.errors import InvalidRequest
from apps.saga import bulk, incidents, selection, tasks, triage
from apps.saga.bulk import ApprovalExpired, NotWaiting, SamePerson, UnknownAction
from apps.saga.bulk_state import action_items, action_state, latest_actions
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.filters import Filter, UnknownState
from apps.saga.incidents import incident_id
from apps.saga.models import Audit, BulkAction, BulkItem, Run, RunStatus
from apps.saga.pauses import UnknownUseCase
from apps.saga.selection import NoRuns, Selection, TooManyRuns, UnknownIncident
from apps.saga.triage import Action, Stale, retry, wanted
from tests.integration.saga.test_engine import Refusal, Story, local
from tests.integration.saga.world import TOY, begin, registered, toy, until
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "route B is open since 22:12"
RETRY = wanted(Action.RETRY)
STUCK = incident_id(TOY, "e", "R999")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_journey(story: Story) -> Iterator[Definition]:
    made = toy(local(story, "a"), local(story, "d", PIVOT), local(story, "e", RETRIABLE), story=story)
    with registered(made):
        yield made


def stuck(story: Story, made: Definition, runs: int, amount: str = "10.00") -> list[UUID]:
    found = []
    for number in range(runs):
        story.plan["do e"] = [Refusal("no such account")]
        run_id = begin(made, key=f"toy {number}", data={"amount": amount})
        assert finish(run_id).status == RunStatus.STUCK
        found.append(run_id)
    return found


def ask(which: Selection | None = None, what: Any = RETRY, *, by: str = "user:chief", **more: Any) -> UUID:
    which = which or Selection(incident_id=STUCK)
    return bulk.request(which, what, reason=WHY, by=by, now=timezone.now(), **more)


def work(action_id: UUID) -> int:
    return bulk.work(action_id, now=timezone.now())


def settled(action_id: UUID) -> dict[str, int]:
    items, _ = action_items(action_id, limit=500)
    return dict(Counter(item.status for item in items))


def in_threads(count: int, what: Any) -> None:
    broken: list[BaseException] = []

    def one() -> None:
        try:
            what()
        except BaseException as error:
            broken.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []


class TestPreview:
    def test_tells_what_would_become_of_each_run_and_changes_nothing(self, story: Story, made: Definition) -> None:
        first, second, third = stuck(story, made, 3)
        retry(second, now=timezone.now())
        before = list(Run.objects.order_by("pk").values())
        dry = selection.preview(Selection(run_ids=(third, first, second)), RETRY, now=timezone.now())
        assert [(each.run_id, each.code, each.detail) for each in dry.outcomes] == [
            (first, "", "tries e again"),
            (second, "R501", "The run goes on by itself: it is running."),
            (third, "", "tries e again"),
        ]
        assert [(each.code, each.runs, each.amount) for each in dry.sums] == [
            ("", 2, Decimal("20.00")),
            ("R501", 1, Decimal("10.00")),
        ]
        assert (dry.amount, dry.needs_approval) == (Decimal("30.00"), False)
        assert list(Run.objects.order_by("pk").values()) == before
        assert not BulkAction.objects.exists()

    def test_reads_the_steps_of_many_runs_in_few_queries(
        self, story: Story, made: Definition, django_assert_max_num_queries: Any
    ) -> None:
        ids = stuck(story, made, 5)
        with django_assert_max_num_queries(4):
            selection.preview(Selection(run_ids=tuple(ids)), RETRY, now=timezone.now())

    def test_by_a_filter_means_what_is_not_over(self, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made, 1)
        finish(begin(made))
        for wanted_runs in (Filter(use_case=TOY), Filter(use_case=TOY, error_code="R999"), Filter(state="stuck")):
            dry = selection.preview(Selection(filter=wanted_runs), RETRY, now=timezone.now())
            assert [each.run_id for each in dry.outcomes] == [one]
        (over,) = selection.preview(Selection(filter=Filter(statuses=("COMPLETED",))), RETRY, now=timezone.now()).outcomes
        assert over.code == "R501"


class TestRequest:
    def test_freezes_the_runs_that_are_meant_now(self, story: Story, made: Definition) -> None:
        early = stuck(story, made, 2)
        action_id = ask()
        stuck(story, made, 1)
        assert work(action_id) == 2
        items, after = action_items(action_id, limit=10)
        assert ([item.run_id for item in items], after) == (early, None)
        assert Run.objects.filter(status=RunStatus.STUCK).count() == 1

    def test_writes_an_audit_row_a_run_with_reason_and_action(self, story: Story, made: Definition) -> None:
        ids = stuck(story, made, 2)
        action_id = ask()
        work(action_id)
        rows = list(Audit.objects.order_by("run_id"))
        assert [(row.run_id, row.actor, row.action, row.reason) for row in rows] == [
            (run_id, "user:chief", "retry", WHY) for run_id in ids
        ]
        assert {row.detail["action"] for row in rows} == {str(action_id)}

    def test_takes_only_the_first_ones_when_that_is_asked_for(self, story: Story, made: Definition) -> None:
        first, *_ = stuck(story, made, 3)
        action_id = ask(runs_max=1)
        assert [item.run_id for item in action_items(action_id, limit=9)[0]] == [first]

    def test_refuses_what_means_nothing_or_too_much(
        self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = stuck(story, made, 2)
        cases: list[tuple[type[Exception], Selection, dict[str, Any]]] = [
            (InvalidRequest, Selection(), {}),
            (InvalidRequest, Selection(run_ids=(one,), incident_id=STUCK), {}),
            (InvalidRequest, Selection(run_ids=(one, uuid4())), {}),
            (InvalidRequest, Selection(run_ids=(one, two)), {"expected": "=STUCK:2:1:0"}),
            (Stale, Selection(run_ids=(one,)), {"expected": "=STUCK:2:9:0"}),
            (UnknownIncident, Selection(incident_id=uuid4()), {}),
            (UnknownUseCase, Selection(filter=Filter(use_case="test.typo")), {}),
            (UnknownState, Selection(filter=Filter(state="odd")), {}),
            (NoRuns, Selection(filter=Filter(use_case=TOY, state="waiting")), {}),
        ]
        for error, which, more in cases:
            with pytest.raises(error):
                ask(which, **more)
        monkeypatch.setattr(selection, "RUNS_MAX", 1)
        with pytest.raises(TooManyRuns):
            ask()
        monkeypatch.undo()
        with pytest.raises(InvalidRequest):
            bulk.request(Selection(run_ids=(one,)), RETRY, reason="  ok ", by="user:a", now=timezone.now())
        assert not BulkAction.objects.exists()


class TestWork:
    def test_leaves_alone_what_has_moved_on_since(self, story: Story, made: Definition) -> None:
        one, two, three = stuck(story, made, 3)
        action_id = ask()
        retry(two, now=timezone.now())
        finish(two)
        Run.objects.filter(pk=three).update(version=9)
        work(action_id)
        items, _ = action_items(action_id, limit=10)
        assert [(item.run_id, item.status, item.code) for item in items] == [
            (one, "DONE", ""),
            (two, "REFUSED", "R542"),
            (three, "REFUSED", "R545"),
        ]
        state = action_state(action_id)
        assert (state.status, state.done, state.refused, state.pending) == ("DONE", 1, 2, 0)
        assert state.finished_at is not None

    def test_goes_on_when_one_run_breaks(self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
        one, _ = stuck(story, made, 2)
        action_id = ask()
        honest = triage.apply

        def apply(run_id: UUID, *args: Any, **more: Any) -> str:
            told = honest(run_id, *args, **more)
            if run_id == one:
                raise RuntimeError("a bug")
            return told

        monkeypatch.setattr(triage, "apply", apply)
        work(action_id)
        assert settled(action_id) == {"FAILED": 1, "DONE": 1}
        assert [run.status for run in Run.objects.order_by("pk")] == ["STUCK", "RUNNING"]
        assert Audit.objects.count() == 1, "what broke left nothing behind"

    def test_again_does_nothing_more(self, story: Story, made: Definition) -> None:
        stuck(story, made, 2)
        action_id = ask()
        assert (work(action_id), work(action_id)) == (2, 0)
        assert Audit.objects.count() == 2

    def test_by_many_workers_at_once_settles_each_run_once(
        self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stuck(story, made, 12)
        action_id = ask()
        monkeypatch.setattr(bulk, "LEASE", timedelta(0))  # so that nobody leaves it to another
        in_threads(4, lambda: work(action_id))
        work(action_id)
        assert settled(action_id) == {"DONE": 12}
        assert Audit.objects.count() == 12
        assert action_state(action_id).status == "DONE"

    def test_is_left_to_the_worker_who_is_at_it_until_that_one_is_gone(self, story: Story, made: Definition) -> None:
        stuck(story, made, 1)
        action_id = ask()
        now = timezone.now()
        BulkAction.objects.update(worked_until=now + bulk.LEASE)
        assert bulk.work(action_id, now=now) == 0
        assert bulk.go_on(now=now) == 0
        later = now + bulk.LEASE + timedelta(seconds=1)
        assert bulk.go_on(now=later) == 1
        assert bulk.work(action_id, now=later) == 1

    def test_in_chunks_by_the_task(self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
        stuck(story, made, 5)
        action_id = ask()
        woken: list[UUID] = []
        monkeypatch.setattr(bulk, "wake", woken.append)
        assert bulk.work(action_id, now=timezone.now(), items_max=2) == 2
        assert settled(action_id) == {"DONE": 2, "PENDING": 3}
        tasks.triage()
        assert woken == [action_id]
        while action_state(action_id).live:
            bulk.work(action_id, now=timezone.now(), items_max=2)
        assert settled(action_id) == {"DONE": 5}

    def test_survives_kill_9(self, story: Story, made: Definition, tmp_path: Path) -> None:
        """A process that is killed within the commit of its third run leaves two done and three untouched."""
        stuck(story, made, 5)
        action_id = ask()
        script = tmp_path / "worker.py"
        script.write_text(_WORKER.format(database=connection.settings_dict["NAME"], action=action_id, root=str(ROOT)))
        died = subprocess.run(
            [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        until(lambda: _open_transactions() == 0)
        assert settled(action_id) == {"DONE": 2, "PENDING": 3}
        assert Audit.objects.count() == 2
        assert Run.objects.filter(status=RunStatus.STUCK).count() == 3
        later = timezone.now() + bulk.LEASE
        assert bulk.go_on(now=later) == 1
        assert bulk.work(action_id, now=later) == 3
        assert settled(action_id) == {"DONE": 5}
        assert Audit.objects.count() == 5


_WORKER = """
import os, signal, sys
from uuid import UUID
sys.path.insert(0, {root!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from django.db import connections
connections["default"].settings_dict["NAME"] = {database!r}
connections["default"].settings_dict["OPTIONS"].pop("pool", None)
from django.utils import timezone
from apps.saga import bulk, definition, triage
from apps.saga.definition import Definition, LocalStep, PIVOT, RETRIABLE
names = [("a", definition.COMPENSABLE), ("d", PIVOT), ("e", RETRIABLE)]
steps = tuple(type("S", (LocalStep,), {{"name": n, "kind": k, "handle": lambda s, r: None, "compensate": lambda s, r: None}})() for n, k in names)
definition.register(Definition("test.toy", 1, steps))
honest, count = triage.apply, []
def apply(*args, **more):
    told = honest(*args, **more)
    count.append(1)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return told
triage.apply = apply
bulk.work(UUID("{action}"), now=timezone.now())
"""  # noqa: E501


def _open_transactions() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
        )
        found: int = cursor.fetchone()[0]
    return found


class TestCancel:
    def test_leaves_the_rest_as_it_is(self, story: Story, made: Definition) -> None:
        stuck(story, made, 3)
        action_id = ask()
        bulk.work(action_id, now=timezone.now(), items_max=1)
        assert bulk.cancel(action_id, reason="the cause persists", by="user:other", now=timezone.now()) == 2
        assert work(action_id) == 0
        state = action_state(action_id)
        assert (state.status, state.done, state.cancelled, state.cancelled_by) == ("CANCELLED", 1, 2, "user:other")
        with pytest.raises(NotWaiting):
            bulk.cancel(action_id, reason="the cause persists", by="user:other", now=timezone.now())

    def test_while_workers_are_at_it_nothing_is_done_afterwards(
        self, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stuck(story, made, 10)
        action_id = ask()
        monkeypatch.setattr(bulk, "LEASE", timedelta(0))
        left: list[int] = []
        lock = threading.Lock()

        def cancel_or_work() -> None:
            with lock:
                mine = not left
                if mine:
                    left.append(-1)
            if mine:
                until(lambda: BulkItem.objects.filter(status="DONE").exists())
                try:
                    left[0] = bulk.cancel(action_id, reason="stop it now", by="user:a", now=timezone.now())
                except NotWaiting:  # the workers were quicker
                    left[0] = 0
            else:
                work(action_id)

        in_threads(3, cancel_or_work)
        found = settled(action_id)
        assert found.get("PENDING", 0) == 0
        assert found.get("CANCELLED", 0) == left[0]
        assert found["DONE"] == Audit.objects.exclude(run_id=None).count() == 10 - left[0]


class TestFourEyes:
    @pytest.fixture(autouse=True)
    def two_people(self, settings: Any) -> None:
        settings.SAGA_FOUR_EYES = ["handle", "25.00"]

    def test_nothing_begins_before_another_person_approves(self, story: Story, made: Definition) -> None:
        stuck(story, made, 3)
        action_id = ask()
        assert (action_state(action_id).waits, work(action_id)) == (True, 0)
        assert [each.id for each in latest_actions(limit=5, waiting=True)] == [action_id]
        with pytest.raises(SamePerson):
            bulk.approve(action_id, by="user:chief", now=timezone.now())
        assert work(action_id) == 0
        bulk.approve(action_id, by="user:finance", now=timezone.now())
        assert work(action_id) == 3
        state = action_state(action_id)
        assert (state.status, state.asked_by, state.approved_by) == ("DONE", "user:chief", "user:finance")
        rows = list(Audit.objects.order_by("id").values_list("action", "actor"))
        assert rows[:2] == [("ask retry", "user:chief"), ("approve retry", "user:finance")]
        assert Audit.objects.filter(detail__approved_by="user:finance", run_id__isnull=False).count() == 3
        with pytest.raises(NotWaiting):
            bulk.approve(action_id, by="user:finance", now=timezone.now())

    def test_is_demanded_by_the_amount_or_by_the_action(self, story: Story, made: Definition) -> None:
        stuck(story, made, 2)
        assert not action_state(ask()).waits
        assert action_state(ask(what=wanted(Action.HANDLE))).waits
        assert selection.preview(Selection(incident_id=STUCK), wanted(Action.HANDLE), now=timezone.now()).needs_approval

    def test_runs_that_moved_on_while_it_waited_are_left_alone(self, story: Story, made: Definition) -> None:
        one, *_ = stuck(story, made, 3)
        action_id = ask()
        retry(one, now=timezone.now())
        finish(one)
        bulk.approve(action_id, by="user:finance", now=timezone.now())
        work(action_id)
        assert settled(action_id) == {"REFUSED": 1, "DONE": 2}

    def test_expires(self, story: Story, made: Definition) -> None:
        stuck(story, made, 3)
        action_id = ask()
        with pytest.raises(ApprovalExpired):
            bulk.approve(action_id, by="user:finance", now=timezone.now() + timedelta(hours=25))
        bulk.cancel(action_id, reason="too late by now", by="user:finance", now=timezone.now())
        assert settled(action_id) == {"CANCELLED": 3}

    def test_two_who_approve_at_once_begin_it_once(self, story: Story, made: Definition) -> None:
        stuck(story, made, 3)
        action_id = ask()
        refused: list[str] = []

        def approve() -> None:
            try:
                bulk.approve(action_id, by=f"user:{threading.get_ident()}", now=timezone.now())
            except NotWaiting as refusal:
                refused.append(refusal.code)

        in_threads(4, approve)
        assert refused == ["R551"] * 3
        assert Audit.objects.filter(action="approve retry").count() == 1


class TestHandle:
    def test_of_an_incident_closes_its_stuck_runs_and_handles_it(self, story: Story, made: Definition) -> None:
        stuck(story, made, 2)
        action_id = ask(what=wanted(Action.HANDLE))
        work(action_id)
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.HANDLED}
        found = incidents.incident(STUCK)
        assert found is not None
        assert (found.status, found.handled_by, found.handled_reason, found.runs) == ("HANDLED", "user:chief", WHY, 0)

    def test_works_for_an_incident_that_affects_nobody_any_more(self, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made, 1)
        retry(one, now=timezone.now())
        finish(one)
        with pytest.raises(NoRuns):
            ask()
        action_id = ask(what=wanted(Action.HANDLE))
        work(action_id)
        found = incidents.incident(STUCK)
        assert found is not None
        assert (found.status, action_state(action_id).status) == ("HANDLED", "DONE")


class TestQuestions:
    def test_pages_of_items_neither_lose_nor_repeat(self, story: Story, made: Definition) -> None:
        ids = stuck(story, made, 5)
        action_id = ask()
        met, after = [], None
        for _ in range(3):
            items, after = action_items(action_id, limit=2, after=after)
            met += [item.run_id for item in items]
        assert (met, after) == (ids, None)
        assert action_items(action_id, limit=2, status="DONE")[0] == ()

    def test_the_newest_actions_come_first(self, story: Story, made: Definition) -> None:
        stuck(story, made, 1)
        first, second = ask(), ask(Selection(run_ids=(Run.objects.get().pk,)))
        assert [each.id for each in latest_actions(limit=5)] == [second, first]
        assert [each.id for each in latest_actions(limit=5, incident_id=STUCK)] == [first]

    def test_an_unknown_action_is_refused(self) -> None:
        for question in (action_state, lambda one: bulk.approve(one, by="user:a", now=timezone.now())):
            with pytest.raises(UnknownAction):
                question(uuid4())
        assert work(uuid4()) == 0
