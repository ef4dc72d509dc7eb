"""The pages that fork a run and begin it again: nothing happens on GET, a reason is asked, a refusal is said."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.ledger.models import Transaction
from apps.saga import public as saga
from apps.saga.definition import PIVOT, RETRIABLE
from apps.saga.models import Audit, Run
from tests import factories, shop
from tests.integration.saga.test_engine import Refusal, Story, local
from tests.integration.saga.world import begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "would it work with the new terms?"


@pytest.fixture
def sold(transactional_db: None) -> Run:
    """An order that was paid from a balance: all its steps are local."""
    shop.open_shop()
    order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
    run = shop.run_of(order_id)
    finish(run.pk)
    return Run.objects.get(pk=run.pk)


@pytest.fixture
def stuck(transactional_db: None) -> Iterator[UUID]:
    """Stuck at its second step, which refused once."""
    story = Story()
    story.plan["do b"] = [Refusal("no")]
    with registered(made := toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
        run_id = begin(made, inline_ms=10_000)
        assert finish(run_id).status == "STUCK"
        yield run_id


def url(page: str, key: Any) -> str:
    return reverse(f"admin:backoffice_{page}", args=[key])


def expected(run_id: UUID) -> str:
    run = saga.run_state(run_id)
    assert run is not None
    return saga.token_of_state(run)


class TestDoors:
    def test_open_for_those_who_may_and_change_nothing(self, chief: Client, newcomer: Client, client: Client) -> None:
        runs = [factories.stuck_run(now=timezone.now()), factories.completed_run(now=timezone.now())]
        before = list(Run.objects.order_by("pk").values())
        for run in runs:
            for page in ("run_fork", "run_reset"):
                assert chief.get(url(page, run.pk)).status_code == 200
                assert newcomer.get(url(page, run.pk)).status_code == 403
                assert client.get(url(page, run.pk)).status_code == 302
                assert newcomer.post(url(page, run.pk), {"reason": WHY}).status_code == 403
                assert chief.get(url(page, runs[0].subject_id)).status_code == 404
        assert chief.get(url("fork", uuid4())).status_code == 404
        assert list(Run.objects.order_by("pk").values()) == before
        assert not Audit.objects.exists()

    def test_the_run_page_leads_to_them_or_says_why_not(self, chief: Client) -> None:
        stuck, live = factories.stuck_run(now=timezone.now()), factories.undoing_run(now=timezone.now())
        text = chief.get(url("run", stuck.pk)).content.decode()
        assert url("run_fork", stuck.pk) in text
        assert url("run_reset", stuck.pk) in text
        text = chief.get(url("run", live.pk)).content.decode()
        assert url("run_reset", live.pk) not in text
        assert "only what is stuck or undone begins again" in text


class TestFork:
    def test_tells_what_would_be_done_and_leaves_nothing(self, chief: Client, sold: Run) -> None:
        lines = list(Transaction.objects.order_by("pk").values())
        first = saga.run_state(sold.pk).steps[0].name  # type: ignore[union-attr]
        answer = chief.post(url("run_fork", sold.pk), {"step": first, "reason": WHY})
        (fork,) = saga.forks_of(sold.pk)
        assert answer.headers["Location"] == url("fork", fork.fork_id)
        assert (fork.made_by, fork.reason) == ("user:chief", WHY)
        page = chief.get(url("fork", fork.fork_id))
        assert [str(row["amount"]) for row in page.context["lines"]] == ["10.50", "10.50"]
        text = page.content.decode()
        assert "It would complete" in text
        assert "/admin/accounts/0001/000000001/BRL/" in text
        assert url("fork", fork.fork_id) in chief.get(url("run", sold.pk)).content.decode()
        assert list(Transaction.objects.order_by("pk").values()) == lines
        looker = User.objects.create_user("auditor", password="a long one", is_staff=True)
        looker.user_permissions.add(Permission.objects.get(codename="view_run"))
        client = Client()
        client.force_login(looker)
        assert client.get(url("fork", fork.fork_id)).status_code == 200
        assert client.get(url("run_fork", sold.pk)).status_code == 403

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"reason": "no"}, "Say it in a few words."),
            ({"step": "odd"}, "There is no such step."),
            ({"given": "{"}, "This is no JSON."),
            ({"given": "[]"}, "This is no JSON object."),
            ({"answers": '{"confirm_order": 1}'}, "An answer is a JSON object"),
            ({"answers": '{"confirm_order": {}}'}, "asks nobody"),
        ],
    )
    def test_a_mistake_is_shown_where_it_was_made(self, chief: Client, changes: dict[str, str], said: str) -> None:
        run = factories.completed_run(now=timezone.now())
        page = chief.post(url("run_fork", run.pk), {"step": "reserve_tickets", "reason": WHY, **changes})
        assert page.status_code == 422
        assert said in page.content.decode()
        assert not Audit.objects.exists()

    def test_of_a_run_that_goes_on_is_refused_in_words(self, chief: Client) -> None:
        run = factories.undoing_run(now=timezone.now())
        page = chief.post(url("run_fork", run.pk), {"step": "reserve_tickets", "reason": WHY}, follow=True)
        assert "Nothing was tried. R556" in page.content.decode()


class TestReset:
    def test_shows_what_each_step_would_come_to_and_does_it_once(self, chief: Client, stuck: UUID) -> None:
        page = chief.get(url("run_reset", stuck))
        assert [(each.step.name, each.code) for each in page.context["choices"]] == [("a", "R561"), ("b", "")]
        assert "it would be done twice" in page.content.decode()
        assert Run.objects.get(pk=stuck).status == "STUCK"
        form = {"step": "b", "reason": WHY, "expected": page.context["expected"]}
        for _ in range(2):  # a double click
            answer = chief.post(url("run_reset", stuck), form)
            assert answer.headers["Location"] == url("run", stuck)
        assert Run.objects.get(pk=stuck).status == "RUNNING"
        (note,) = Audit.objects.all()
        assert (note.action, note.actor, note.reason, note.step) == ("reset", "user:chief", WHY, "b")
        assert finish(stuck).status == "COMPLETED"

    def test_a_step_that_is_done_is_not_done_again(self, chief: Client, stuck: UUID) -> None:
        form = {"step": "a", "reason": WHY, "expected": expected(stuck)}
        page = chief.post(url("run_reset", stuck), form, follow=True)
        assert "Nothing done. R561" in page.content.decode()
        assert Run.objects.get(pk=stuck).status == "STUCK"

    def test_without_a_step_a_reason_or_a_fresh_look_changes_nothing(self, chief: Client, stuck: UUID) -> None:
        good = {"step": "b", "reason": WHY, "expected": expected(stuck)}
        for missing, status in (("step", 422), ("reason", 422), ("expected", 302)):
            page = chief.post(url("run_reset", stuck), {name: value for name, value in good.items() if name != missing})
            assert page.status_code == status
        assert Run.objects.get(pk=stuck).status == "STUCK"
        assert not Audit.objects.exists()
