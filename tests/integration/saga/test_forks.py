"""Forks: what a run would do once more, told and not done."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from apps.common.errors import InvalidRequest, NotFound
from apps.fiscal_docs.public import RunningSandbox
from apps.ledger.models import Transaction
from apps.messaging.models import Message, Pending
from apps.saga import forks, sandbox
from apps.saga.definition import PIVOT, RETRIABLE, Definition, LocalStep, Run
from apps.saga.fork_models import Fork
from apps.saga.forks import NeverReached, NotOver, fork
from apps.saga.models import Audit
from apps.saga.models import Run as RunRow
from apps.saga.pauses import UnknownStep
from apps.saga.sandbox import ForkTooSlow
from apps.saga.values import InvalidValues
from config import demo
from tests import shop
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import REASON, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def try_again(run_id: UUID, **options: Any) -> forks.ForkState:
    return fork(run_id, **{"reason": REASON, "by": "tests", "now": timezone.now(), **options})


def a_finished_run(made: Definition) -> UUID:
    run_id = begin(made, inline_ms=10_000, data={"customer": "ana", "amount": "10.5"})
    answer(run_id, 1, ok=True)
    assert finish(run_id).status == "COMPLETED"
    return run_id


def journey(story: Story) -> Definition:
    steps = (local(story, "a"), ask(story, "b"), call(story, "c"), local(story, "d", PIVOT), local(story, "e", RETRIABLE))
    return toy(*steps, story=story)


class TestWhatIsReal:
    def test_does_local_steps_and_takes_the_answers_that_the_run_got(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            story.told.clear()
            state = try_again(run_id)
        assert story.told == ["do a", "do d", "do e"], "nobody is asked, nobody is called"
        assert [(step.name, step.how, step.status) for step in state.steps] == [
            ("a", "run", "DONE"),
            ("b", "taken", "DONE"),
            ("c", "taken", "DONE"),
            ("d", "run", "DONE"),
            ("e", "run", "DONE"),
        ]
        assert state.steps[1].output == {"ok": True}
        assert (state.status, state.forked_from, state.edited) == ("COMPLETED", run_id, False)

    def test_begins_at_a_step_with_the_outputs_of_those_before(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            story.told.clear()
            state = try_again(run_id, from_step="d")
        assert story.told == ["do d", "do e"]
        assert [step.how for step in state.steps] == ["kept", "kept", "kept", "run", "run"]
        assert state.from_step == "d"

    def test_lets_an_operator_answer_for_the_other_side(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            story.told.clear()
            given = try_again(run_id, from_step="b", answers={"b": {"ok": False}, "c": {"answer": "mine"}})
            refused = try_again(run_id, from_step="b", answers={"b": {"refused": True}})
        assert story.told == ["answer b", "record c", "do d", "do e", "answer b"]
        assert [step.output for step in given.steps[1:3]] == [{"ok": False}, {"answer": "mine"}]
        assert (refused.status, refused.failed_step, refused.error_code) == ("REFUSED", "b", "R999")
        assert [step.status for step in refused.steps] == ["DONE", "REFUSED"]

    def test_marks_whom_nobody_asked(self, story: Story) -> None:
        story.plan["do a"] = [Refusal("no")]
        with registered(made := journey(story)):
            run_id = begin(made, inline_ms=10_000)
            assert RunRow.objects.get(pk=run_id).status == "COMPENSATED"
            state = try_again(run_id)
        assert [(step.how, step.status) for step in state.steps[:3]] == [
            ("run", "DONE"),
            ("not_asked", "NOT_ASKED"),
            ("not_asked", "NOT_ASKED"),
        ]
        assert state.status == "COMPLETED"

    def test_takes_an_edited_input(self, story: Story) -> None:
        seen: list[Any] = []

        class Looks(LocalStep):
            name, kind = "looks", PIVOT

            def handle(self, run: Run) -> None:
                seen.append((run.data, run.id, run.step_key))

        with registered(made := toy(Looks(), story=story)):
            run_id = begin(made, inline_ms=10_000, data={"amount": "10.5"})
            state = try_again(run_id, data={"amount": "11.00"})
        (real, tried) = seen
        assert (real[0], tried[0]) == ({"amount": "10.5"}, {"amount": "11.00"})
        assert tried[1] == state.fork_id != run_id
        assert tried[2] == f"{state.fork_id}:0", "it has keys of its own: the run's are used up"
        assert state.edited
        assert RunRow.objects.get(pk=run_id).data == {"amount": "10.5"}

    def test_tells_a_technical_error_and_stops(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            story.plan["do d"] = [RuntimeError("broken")]
            state = try_again(run_id)
        assert (state.status, state.failed_step, state.error_code) == ("FAILED", "d", "RuntimeError")
        assert len(state.steps) == 4


class TestTheShop:
    @pytest.fixture
    def opened(self, running_sandbox: RunningSandbox) -> demo.Demo:
        return shop.open_shop()

    def test_tells_what_a_purchase_would_post_and_publish_and_does_neither(self, opened: demo.Demo) -> None:
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        run_id = shop.run_of(order_id).pk
        assert finish(run_id).status == "COMPLETED"
        before = self._counts()
        state = try_again(run_id)
        assert self._counts() == before
        shop.assert_books_agree()
        assert state.status == "COMPLETED", state
        (debit, credit) = state.posted["lines"]
        assert (debit["debitcredit"], debit["amount"], credit["amount"]) == ("D", "10.50", "10.50")
        assert [hold["status"] for hold in state.posted["holds"]] == ["POSTED"]
        assert [step.how for step in state.steps].count("run") == len(state.steps) - 1

    def test_shows_what_would_be_refused_now(self, opened: demo.Demo) -> None:
        run_id = shop.run_of(shop.post_order(Client(), shop.by_balance(amount=600)).json()["id"]).pk
        assert finish(run_id).status == "COMPLETED"
        state = try_again(run_id)
        assert (state.status, state.failed_step, state.error_code) == ("REFUSED", "hold_amount", "R103")
        shop.assert_books_agree()

    @staticmethod
    def _counts() -> tuple[int, ...]:
        return (RunRow.objects.count(), Transaction.objects.count(), Message.objects.count(), Pending.objects.count())


class TestCountsNowhere:
    def test_is_no_run(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            state = try_again(run_id)
            assert RunRow.objects.count() == 1
            assert forks.forks_of(run_id) == (state,)
            assert forks.fork_state(state.fork_id) == state
        assert forks.fork_state(uuid4()) is None

    def test_is_written_down_as_an_intervention(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            state = try_again(run_id, from_step="d")
        (row,) = Audit.objects.filter(action="fork")
        assert (row.run_id, row.step, row.reason, row.actor) == (run_id, "d", REASON, "tests")
        assert row.detail["fork"] == str(state.fork_id)

    def test_is_forgotten_after_its_time(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            try_again(run_id)
        now = timezone.now()
        assert forks.forget_old(now=now + forks.KEPT_FOR - timedelta(minutes=1)) == 0
        assert forks.forget_old(now=now + forks.KEPT_FOR + timedelta(minutes=1)) == 1
        assert not Fork.objects.exists()


class TestRefused:
    def test_what_is_on_its_way(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = begin(made)
            with pytest.raises(NotOver):
                try_again(run_id)

    def test_a_step_that_the_run_never_reached(self, story: Story) -> None:
        story.plan["do a"] = [Refusal("no")]
        with registered(made := journey(story)):
            run_id = begin(made, inline_ms=10_000)
            with pytest.raises(NeverReached, match="a was not done"):
                try_again(run_id, from_step="d")

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"from_step": "z"}, UnknownStep),
            ({"data": {"amount": "much"}}, InvalidValues),
            ({"data": {"text": "\x00"}}, InvalidValues),
            ({"data": {"text": "x" * 70_000}}, InvalidValues),
            ({"data": {"float": 1.5}}, InvalidValues),
            ({"answers": {"a": {}}}, InvalidValues),
            ({"answers": {"z": {}}}, InvalidValues),
            ({"answers": {"b": "yes"}}, InvalidValues),
            ({"reason": "no"}, InvalidRequest),
        ],
    )
    def test_what_makes_no_sense(self, story: Story, options: dict[str, Any], error: type[Exception]) -> None:
        with registered(made := journey(story)):
            run_id = a_finished_run(made)
            with pytest.raises(error):
                try_again(run_id, **options)
        assert not Fork.objects.exists()

    def test_a_run_that_there_is_not(self) -> None:
        with pytest.raises(NotFound):
            try_again(uuid4())

    def test_what_takes_too_long(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "TIME_MAX", timedelta(milliseconds=200))

        class Sleeps(LocalStep):
            name, kind = "sleeps", PIVOT
            seconds = 0

            def handle(self, run: Run) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(%s)", [self.seconds])

        with registered(made := toy(step := Sleeps(), story=story)):
            run_id = begin(made, inline_ms=10_000)
            Sleeps.seconds = 30
            with pytest.raises(ForkTooSlow):
                try_again(run_id)
            assert step.seconds == 30
        assert not Fork.objects.exists()

    def test_inside_a_transaction(self, story: Story) -> None:
        from apps.common.transactions import TransactionMisuse

        with transaction.atomic(), pytest.raises(TransactionMisuse):
            try_again(uuid4())
