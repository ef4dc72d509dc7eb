"""Resets: a failed run goes forward again from a step, where that is safe, and under new keys where it was undone."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from apps.common.errors import NotFound, UnknownOutcome
from apps.fiscal_docs.public import RunningSandbox
from apps.ledger import public as ledger
from apps.orders.sagas import money
from apps.saga import engine
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Hooks, LocalStep, Revise, Run
from apps.saga.models import Audit, Step
from apps.saga.models import Run as RunRow
from apps.saga.pauses import UnknownStep
from apps.saga.resets import NotFailed, NotReopened, UnsafeReset, reset
from apps.saga.session import Session
from config import demo
from tests import shop
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import REASON, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def again(run_id: UUID, to_step: str, **options: Any) -> None:
    reset(run_id, **{"to_step": to_step, "reason": REASON, "by": "tests", "now": timezone.now(), **options})


class Reopens(Hooks):
    def reopens(self, run: Run, *, step: str) -> bool:
        return True


class Keyed(LocalStep):
    """Keeps the keys that it was given."""

    kind = COMPENSABLE

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.keys: list[tuple[str, UUID]] = []

    def handle(self, run: Run) -> dict[str, Any]:
        self.keys.append((run.step_key, run.tracekey))
        return {"by": self.name}

    def compensate(self, run: Run) -> None:
        self.keys.append((run.step_key, run.tracekey))


def with_hooks(made: Definition, hooks: Hooks) -> Definition:
    import dataclasses

    return dataclasses.replace(made, hooks=hooks)


class TestStuck:
    def test_goes_forward_from_the_step_that_failed(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with registered(made := toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
            run_id = begin(made, inline_ms=10_000)
            assert finish(run_id).status == "STUCK"
            again(run_id, "b")
            assert finish(run_id).status == "COMPLETED"
        assert story.told == ["do a", "do b", "stuck at b: R999", "do b"]
        (row,) = Audit.objects.filter(action="reset")
        assert (row.run_id, row.step, row.detail["was"], row.detail["failed_step"]) == (run_id, "b", "STUCK", "b")
        assert list(Step.objects.order_by("position").values_list("redone", flat=True)) == [0, 0]

    def test_does_nothing_that_is_done_a_second_time(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with registered(made := toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
            run_id = begin(made, inline_ms=10_000)
            finish(run_id)
            with pytest.raises(UnsafeReset, match="a is DONE: it would be done twice"):
                again(run_id, "a")
        assert RunRow.objects.get(pk=run_id).status == "STUCK"

    def test_guesses_no_outcome(self, story: Story) -> None:
        story.plan["call a"] = [UnknownOutcome("a dead line")] * 10
        with registered(made := toy(call(story, "a", PIVOT), story=story)):
            run_id = begin(made)
            assert finish(run_id).status == "STUCK"
            with pytest.raises(UnsafeReset, match="a is UNKNOWN"):
                again(run_id, "a")

    def test_does_not_go_forward_over_an_undo_that_failed(self, story: Story) -> None:
        story.plan["undo a"] = [Refusal("no")]
        story.plan["do c"] = [Refusal("no")]
        with registered(made := toy(call(story, "a"), call(story, "b"), local(story, "c", PIVOT), story=story)):
            run_id = begin(made)
            assert finish(run_id).status == "STUCK"
            with pytest.raises(UnsafeReset, match="a, which comes before, is UNDOING"):
                again(run_id, "b")
            with pytest.raises(UnsafeReset, match="a is UNDOING"):
                again(run_id, "a")


class TestUndone:
    def test_begins_anew_under_new_keys(self, story: Story) -> None:
        keyed = Keyed("a")
        story.plan["do c"] = [Refusal("no")]
        made = with_hooks(toy(keyed, ask(story, "b"), local(story, "c", PIVOT), story=story), Reopens())
        with registered(made):
            run_id = begin(made, inline_ms=10_000)
            answer(run_id, 1)
            assert finish(run_id).status == "COMPENSATED"
            again(run_id, "a")
            run = RunRow.objects.get(pk=run_id)
            assert (run.status, run.cursor, run.error_code, run.finished_at) == ("RUNNING", 0, "", None)
            engine.advance(run_id)
            assert self._answer(f"{run_id}:1") is engine.Resumed.LATE, "an answer to what was undone"
            assert self._answer(f"{run_id}:1~1") is engine.Resumed.ACCEPTED
            assert finish(run_id).status == "COMPLETED"
        first, undone, second = keyed.keys
        assert first == undone
        assert second[0] == f"{run_id}:0~1"
        assert second[1] != first[1]
        assert list(Step.objects.order_by("position").values_list("name", "redone")) == [("a", 1), ("b", 1), ("c", 0)]

    @staticmethod
    def _answer(key: str) -> engine.Resumed:
        with transaction.atomic():
            return engine.resume(step_key=key, answer={}, now=timezone.now())

    def test_can_be_undone_again(self, story: Story) -> None:
        keyed = Keyed("a")
        story.plan["do c"] = [Refusal("no"), Refusal("no")]
        made = with_hooks(toy(keyed, call(story, "b"), local(story, "c", PIVOT), story=story), Reopens())
        with registered(made):
            run_id = begin(made)
            assert finish(run_id).status == "COMPENSATED"
            again(run_id, "a")
            assert finish(run_id).status == "COMPENSATED"
        assert [key for key, _ in keyed.keys] == [f"{run_id}:0"] * 2 + [f"{run_id}:0~1"] * 2

    def test_may_choose_other_steps_under_keys_that_no_step_had(self, story: Story) -> None:
        """What stands at a place now is not what was undone there: neither its attempts nor its keys are."""
        c, lists = Keyed("c"), [("b", "c", "d"), ("c", "d"), ("b", "c")]

        class Choose(Keyed):
            def handle(self, run: Run) -> Revise:
                return Revise(None, lists.pop(0))

        story.plan["do d"] = [Refusal("no"), Refusal("no")]
        steps = (Choose("choose"), call(story, "b"), c, call(story, "e"), local(story, "d", PIVOT))
        with registered(made := with_hooks(toy(*steps, story=story), Reopens())):
            run_id = begin(made)
            for _ in range(2):
                assert finish(run_id).status == "COMPENSATED"
                again(run_id, "choose")
            assert finish(run_id).status == "COMPLETED"
        done = list(dict.fromkeys(c.keys))
        assert [key.partition("~")[0] for key, _ in done] == [f"{run_id}:2", f"{run_id}:1", f"{run_id}:2"]
        assert len({key for key, _ in done}) == len({tracekey for _, tracekey in done}) == 3
        assert story.told.count("call b") == 2

    def test_stays_undone_unless_its_use_case_says_how_it_begins_again(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with registered(made := toy(call(story, "a"), local(story, "b", PIVOT), story=story)):
            run_id = begin(made)
            assert finish(run_id).status == "COMPENSATED"
            with pytest.raises(NotReopened):
                again(run_id, "a")
        run = RunRow.objects.get(pk=run_id)
        assert (run.status, run.error_code) == ("COMPENSATED", "R999")
        assert set(Step.objects.values_list("redone", flat=True)) == {0}
        assert not Audit.objects.filter(action="reset").exists()

    def test_begins_nowhere_but_at_the_first_step_that_is_undone(self, story: Story) -> None:
        story.plan["do b"] = [Refusal("no")]
        with registered(made := with_hooks(toy(call(story, "a"), local(story, "b", PIVOT), story=story), Reopens())):
            run_id = begin(made)
            finish(run_id)
            with pytest.raises(UnsafeReset, match="a, which comes before, is UNDONE"):
                again(run_id, "b")


class TestTheShop:
    @pytest.fixture
    def opened(self, running_sandbox: RunningSandbox) -> demo.Demo:
        return shop.open_shop()

    def test_sells_after_all_what_the_customer_could_not_pay_at_first(self, opened: demo.Demo) -> None:
        order_id = shop.post_order(Client(), shop.by_balance(amount=1500)).json()["id"]
        run_id = shop.run_of(order_id).pk
        assert finish(run_id).status == "COMPENSATED"
        assert shop.order(order_id).status == "PAYMENT_NOT_COMPLETED"
        now = timezone.now()
        with transaction.atomic():
            paid_in = ledger.Entry.transfer(
                tracekey=uuid4(),
                debit=money.card_clearing_account(),
                credit=shop.CUSTOMER_ACCOUNT,
                amount=ledger.balance(shop.CUSTOMER_ACCOUNT).posted,
                eventcode=money.EVENT_CARD_SALE,
            )
            ledger.post(paid_in, now=now)
        again(run_id, "reserve_tickets")
        assert shop.order(order_id).status == "PENDING"
        assert finish(run_id).status == "COMPLETED"
        assert shop.order(order_id).status == "COMPLETED"
        assert shop.stock() == demo.STOCK - 1
        assert shop.check_balances() == []

    def test_reserves_again_what_was_put_back(self, opened: demo.Demo) -> None:
        order_id = shop.post_order(Client(), shop.by_card(opened.capture_refused_card_token)).json()["id"]
        run_id = shop.run_of(order_id).pk
        assert finish(run_id).status == "COMPENSATED"
        again(run_id, "reserve_tickets")
        assert finish(run_id).status == "COMPENSATED", "the card is still refused"
        shop.assert_clean_slate()


class TestRefused:
    @pytest.mark.parametrize("status", ["live", "completed"])
    def test_a_run_that_has_not_failed(self, story: Story, status: str) -> None:
        with registered(made := toy(local(story, "a", PIVOT), story=story)):
            run_id = begin(made, inline_ms=0 if status == "live" else 10_000)
            with pytest.raises(NotFailed):
                again(run_id, "a")

    def test_a_step_or_a_run_that_there_is_not(self, story: Story) -> None:
        with registered(made := toy(local(story, "a", PIVOT), story=story)), pytest.raises(UnknownStep):
            again(begin(made), "z")
        with pytest.raises(NotFound):
            again(uuid4(), "a")

    @pytest.mark.parametrize("key", ["1~", "1~x", "~1", "1~1~1", "1~-1", "1~" + "9" * 5000])
    def test_a_key_that_is_none(self, story: Story, key: str) -> None:
        with registered(made := toy(local(story, "a", PIVOT), story=story)):
            run_id = begin(made)
            with transaction.atomic():
                found = engine.resume(step_key=f"{run_id}:{key}", answer={}, now=timezone.now())
        assert found is engine.Resumed.UNKNOWN

    def test_keys_stay_what_they_were_for_steps_that_never_began_anew(self, story: Story) -> None:
        with registered(made := toy(local(story, "a", PIVOT), story=story)), transaction.atomic():
            run_id = engine.start(made, subject_id=uuid4(), business_key="k", data={}, now=timezone.now())
            session = Session.lock(run_id, now=timezone.now())
            assert session is not None
            assert session.view().step_key == f"{run_id}:0"
