"""Runs share their wake-ups, and what is not local goes its own way."""

import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from apps.common.gathering import Gathering
from apps.saga import chains, engine, tasks, wakeups
from apps.saga.definition import PIVOT, RETRIABLE
from apps.saga.engine import Progress
from apps.saga.models import Run, RunStatus
from apps.saga.sweeper import sweep
from tests.integration.messaging.world import THREADS_S_MAX, rolled_back
from tests.integration.saga.test_engine import Refusal, Story, ask, begin, call, known, local
from tests.saga_driver import let_time_pass


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


class Post:
    """What was given to Celery, which may be slow or away."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.asked = threading.Semaphore(0)
        self.sent = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()
        self.is_away = False

    def delay(self, *, run_ids: list[str]) -> None:
        self.asked.release()
        assert self.open.wait(THREADS_S_MAX)
        self.messages.append(run_ids)
        self.sent.release()
        if self.is_away:
            raise ConnectionError("no broker")

    def wait(self) -> None:
        assert self.sent.acquire(timeout=THREADS_S_MAX)


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    made = Post()
    monkeypatch.setattr(tasks.advance, "delay", made.delay)
    # Ours, because the other tests' may still be busy with a broker that is not there.
    mine = Gathering(wakeups._send_all, name="tests", every_s=wakeups.SEND_EVERY_S, waiting_max=wakeups.WAITING_MAX)
    monkeypatch.setattr(wakeups, "_waker", mine)
    yield made
    made.open.set()


class TestWaker:
    def test_sends_the_first_one_alone_and_those_that_come_meanwhile_together(self, post: Post) -> None:
        runs = [uuid4() for _ in range(26)]
        wakeups.ask(runs[0])
        post.wait()
        assert post.asked.acquire(timeout=THREADS_S_MAX)
        post.open.clear()
        wakeups.ask(runs[1])
        assert post.asked.acquire(timeout=THREADS_S_MAX)
        for run_id in runs[2:]:  # while that one is being sent: nobody takes a part of them
            wakeups.ask(run_id)
        post.open.set()
        while sum(map(len, post.messages)) < len(runs):
            post.wait()
        assert [UUID(run_id) for message in post.messages for run_id in message] == runs
        assert post.messages[0] == [str(runs[0])]
        assert max(map(len, post.messages)) == wakeups.RUNS_MAX

    def test_goes_on_when_the_broker_was_away(self, post: Post, caplog: pytest.LogCaptureFixture) -> None:
        post.is_away = True
        wakeups.ask(uuid4())
        post.wait()
        post.is_away = False
        wakeups.ask(uuid4())
        post.wait()
        assert len(post.messages) == 2
        assert "could not be woken" in caplog.text

    def test_holds_no_more_than_it_may(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wakeups._waker, "waiting_max", 3)
        post.open.clear()
        runs = [uuid4() for _ in range(6)]
        wakeups.ask(runs[0])
        assert post.asked.acquire(timeout=THREADS_S_MAX)
        for run_id in runs[1:]:  # while it is being sent: nobody takes from what waits
            wakeups.ask(run_id)
        assert len(wakeups._waker._waiting) == 3
        post.open.set()
        post.wait()
        post.wait()
        assert post.messages == [[str(runs[0])], [str(run_id) for run_id in runs[1:4]]]


@pytest.mark.django_db(transaction=True)
class TestWhoIsWoken:
    @pytest.fixture(autouse=True)
    def _listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.soon: list[UUID] = []
        self.chained: list[tuple[UUID, int, int]] = []
        monkeypatch.setattr(chains, "wake_soon", self.soon.append)
        monkeypatch.setattr(chains, "wake", lambda *values: self.chained.append(values))

    def test_a_run_whose_next_step_is_local_shares_a_message(self, story: Story) -> None:
        with known(local(story, "a"), call(story, "b"), story=story) as toy:
            run_id = begin(toy)
        assert (self.soon, self.chained) == ([run_id], [])

    def test_a_run_whose_next_step_is_a_call_has_a_chain(self, story: Story) -> None:
        with known(local(story, "a"), call(story, "b"), local(story, "c"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
        assert (self.soon, self.chained) == ([], [(run_id, 1, 3)])

    def test_nobody_when_it_is_over_or_waits(self, story: Story) -> None:
        with known(local(story, "a"), story=story) as toy:
            begin(toy, inline_ms=10_000)
        with known(ask(story, "a"), story=story) as toy:
            begin(toy, inline_ms=10_000)
        assert (self.soon, self.chained) == ([], [])

    def test_nobody_when_the_start_is_rolled_back(self, story: Story) -> None:
        with known(local(story, "a"), story=story) as toy, rolled_back():
            engine.start(toy, subject_id=uuid4(), business_key="k", data={}, now=timezone.now())
        assert self.soon == []

    def test_the_sweeper_knows_the_difference_too(self, story: Story) -> None:
        with known(local(story, "a"), call(story, "b"), story=story) as toy:
            at_local, at_call = begin(toy), begin(toy, inline_ms=10_000)
            for run_id in (at_local, at_call):
                let_time_pass(run_id)
            self.soon.clear()
            self.chained.clear()
            assert sweep() == 2
        assert (self.soon, self.chained) == ([at_local], [(at_call, 1, 2)])


@pytest.mark.django_db(transaction=True)
class TestTask:
    def test_does_all_that_is_local_across_the_pivot(self, story: Story) -> None:
        with known(local(story, "a"), local(story, "b", PIVOT), local(story, "c", RETRIABLE), story=story) as toy:
            runs = [begin(toy) for _ in range(3)]
            tasks.advance(run_ids=[str(run_id) for run_id in runs])
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.COMPLETED}
        assert story.told == ["do a", "do b", "do c"] * 3

    def test_leaves_a_call_to_a_chain(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        chained: list[tuple[UUID, int, int]] = []
        with known(local(story, "a"), call(story, "b"), story=story) as toy:
            run_id = begin(toy)
            monkeypatch.setattr(chains, "wake", lambda *values: chained.append(values))
            tasks.advance(run_ids=[str(run_id)])
        assert story.told == ["do a"]
        assert chained == [(run_id, 1, 2)]
        assert Run.objects.get().token is None, "nobody owns the call yet"

    def test_leaves_an_undo_to_its_task(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        undone: list[UUID] = []
        story.plan["do c"] = [Refusal("no")]
        with known(local(story, "a"), call(story, "b"), local(story, "c"), story=story) as toy:
            run_id = begin(toy)
            for _ in range(2):
                assert engine.advance(run_id) is Progress.MOVED
            monkeypatch.setattr(chains, "wake_undo", undone.append)
            tasks.advance(run_ids=[str(run_id)])
        assert undone == [run_id]

    def test_a_run_that_breaks_does_not_disturb_the_others(self, story: Story, caplog: pytest.LogCaptureFixture) -> None:
        with known(local(story, "a"), story=story) as toy:
            broken, sound = begin(toy), begin(toy)
            Run.objects.filter(pk=broken).update(version=99)
            tasks.advance(run_ids=[str(broken), str(uuid4()), str(sound)])
        assert Run.objects.get(pk=sound).status == RunStatus.COMPLETED
        assert Run.objects.get(pk=broken).due_at is not None
        assert f"run {broken} could not go on" in caplog.text

    def test_writes_nothing_when_there_is_nothing_to_do(self, story: Story) -> None:
        with known(ask(story, "a"), story=story) as toy:
            run_id = begin(toy, inline_ms=10_000)
            version = version_of(run_id)
            tasks.advance(run_ids=[str(run_id)])
            assert version_of(run_id) == version
            let_time_pass(run_id)
            tasks.advance(run_ids=[str(run_id)])
            assert version_of(run_id) != version


def version_of(run_id: UUID) -> str:
    """Changes with every write of the row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmin::text FROM saga_run WHERE id = %s", [run_id])
        return str(cursor.fetchone()[0])
