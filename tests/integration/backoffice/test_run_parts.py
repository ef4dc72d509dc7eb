"""What stands beside a run's timeline: what can be done, its money, and who intervened."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.pages.run_actions import OFFERS, actions_of
from apps.backoffice.pages.run_money import Money, money_of
from apps.saga import public as saga
from apps.saga.audit import note
from apps.saga.models import Run
from config import demo
from tests import factories, shop
from tests.saga_driver import finish, work
from tests.worlds import two_days

pytestmark = pytest.mark.django_db(transaction=True)
DEEDS = {
    saga.Action.RETRY: "Retry now",
    saga.Action.COMPENSATE: "Undo it",
    saga.Action.SKIP: "Skip the step",
    saga.Action.HANDLE: "Close by hand",
}


def page(client: Client, run: Run, tab: str = "") -> str:
    """The page of a run, with plain spaces."""
    html = client.get(reverse("admin:backoffice_run", args=[run.pk]), {"tab": tab}).content.decode()
    return html.replace("\u00a0", " ")


def state(run: Run) -> saga.RunState:
    """The run as it is now."""
    found = saga.run_state(run.pk)
    assert found is not None
    return found


class TestActions:
    def test_of_a_stuck_run_are_open_to_whoever_may(self) -> None:
        run = factories.stuck_run(now=timezone.now())
        (retry, *_) = actions_of(state(run), may=lambda _: True)
        assert retry.href == reverse("admin:backoffice_run_retry", args=[run.pk])
        assert retry.closed == ""

    @pytest.mark.parametrize(
        ("made", "why"),
        [
            (factories.undoing_run, "not while it goes on by itself"),
            (factories.completed_run, "it is over"),
        ],
    )
    def test_that_are_not_possible_say_why(self, made: Callable[..., Run], why: str) -> None:
        (retry, *_) = actions_of(state(made(now=timezone.now())), may=lambda _: True)
        assert (retry.href, retry.closed) == ("", why)

    def test_that_somebody_may_not_do_say_so(self, newcomer: Client, chief: Client) -> None:
        run = factories.stuck_run(now=timezone.now())
        (retry, *_) = actions_of(state(run), may=lambda _: False)
        assert (retry.href, retry.closed) == ("", "you lack the permission")
        html = page(chief, run)
        assert "Retry now…" in html
        assert "If you retry now" in html

    def test_whose_pages_are_not_there_are_not_offered(self) -> None:
        run = factories.stuck_run(now=timezone.now())
        offered = {each.title for each in actions_of(state(run), may=lambda _: True)}
        assert "Retry now" in offered
        for offer in OFFERS:
            known = offer.page in _pages()
            assert (offer.title in offered) is known, offer.title

    def test_are_never_offered_when_the_run_is_over(self) -> None:
        over = state(factories.completed_run(now=timezone.now()))
        assert {offer.page for offer in OFFERS if not offer.closed(over)} == {"backoffice_run_fork"}

    @pytest.mark.parametrize("made", [factories.undoing_run, factories.stuck_run, factories.completed_run, two_days])
    def test_are_open_where_the_state_manager_would_do_them(self, made: Callable[..., Run]) -> None:
        run = made(now=timezone.now())
        offered = {each.title: each for each in actions_of(state(run), may=lambda _: True)}
        for action, title in DEEDS.items():
            dry = saga.preview(saga.Selection(run_ids=(run.pk,)), saga.wanted(action), now=timezone.now())
            would = not dry.outcomes[0].code
            assert bool(offered[title].href) is would, (action, offered[title].closed, dry.outcomes[0].detail)


class TestMoney:
    def bought(self, client: Client) -> Run:
        return shop.run_of(shop.post_order(client, shop.by_balance()).json()["id"])

    def money(self, run: Run) -> Money:
        return money_of(state(run))

    def test_shows_a_hold_and_then_what_it_became(self, opened: demo.Demo, client: Client, chief: Client) -> None:
        run = self.bought(client)
        while "hold_key" not in str([step.output for step in state(run).steps]):
            work(run.pk)
        assert finish(run.pk).status == "COMPLETED"
        hold, debit, credit = self.money(run).lines
        assert (hold.what, hold.state) == ("Hold", "POSTED")
        assert hold.held == debit.debit == credit.credit == Decimal("10.50")
        assert debit.account == f"{shop.CUSTOMER_ACCOUNT.branch} · {shop.CUSTOMER_ACCOUNT.account}"
        html = page(chief, run)
        assert "debits and credits agree" in html
        assert html.count("10.50") >= 3

    def test_of_a_run_that_touched_none_says_so(self, chief: Client) -> None:
        assert "Nothing held, nothing posted." in page(chief, factories.completed_run(now=timezone.now()))


class TestAudit:
    def test_tells_who_intervened_in_both_books(self, chief: Client) -> None:
        run = factories.stuck_run(now=timezone.now())
        saga_note(run)
        LogEntry.objects.create(
            user=User.objects.get(),
            content_type=ContentType.objects.get_for_model(Run),
            object_id=str(run.pk),
            action_flag=CHANGE,
            change_message="the lock is gone, CPF 390.533.447-05",
        )
        html = page(chief, run, "audit")
        assert "Audit 2" in html
        assert "the lock is gone" in html
        assert "390.533" not in html
        assert "command:saga_migrate" in html

    def test_is_empty_when_nobody_had_to(self, chief: Client) -> None:
        assert "Nobody intervened in this run." in page(chief, factories.completed_run(now=timezone.now()), "audit")
        assert User.objects.count() == 1


class TestBranches:
    def test_stand_on_the_page_of_the_whole_and_lead_back_to_it(self, chief: Client) -> None:
        now = timezone.now()
        whole, part = factories.stuck_run(now=now), factories.completed_run(now=now)
        Run.objects.filter(pk=part.pk).update(parent_id=whole.pk, parent_position=4, branch="northern stand")
        html = page(chief, whole)
        assert "northern stand" in html
        assert reverse("admin:backoffice_run", args=[part.pk]) in html
        assert reverse("admin:backoffice_run", args=[whole.pk]) in page(chief, part)

    def test_are_not_spoken_of_when_there_are_none(self, chief: Client) -> None:
        assert "Branches" not in page(chief, factories.completed_run(now=timezone.now()))


def saga_note(run: Run) -> None:
    """The state manager's own book."""
    from django.db import transaction

    with transaction.atomic():
        note(
            at=timezone.now(),
            actor="command:saga_migrate by root",
            action="migrate",
            use_case=run.use_case,
            reason="it moves to version 2",
            run_id=run.pk,
        )


def _pages() -> set[str | None]:
    from apps.backoffice.urls import page_urls

    return {each.name for each in page_urls()}
