"""Triage in a real Chromium: groups, the dry run, the reason, the number typed, the bar that moves, the second person."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import expect

from apps.saga import bulk, incidents
from apps.saga.incidents import Occurred
from apps.saga.models import Audit, BulkAction, Run, RunStatus, Step, StepStatus
from tests import factories
from tests.browser.conftest import PASSWORD, OpenPage, each_look, each_size
from tests.browser.test_pages import assert_no_sideways_scroll, shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
TRIAGE = "/admin/triage/"
BOTH_SIZES = pytest.mark.parametrize("size", ["wide", "phone"])
TIMED_OUT = ("post_sale", "R204", "processor timed out")
REFUSED = ("confirm_order", "R412", "SEFAZ-SP 778, NCM not in table")


def stuck(trouble: tuple[str, str, str], *, runs: int, amount: str = "486.00") -> list[Run]:
    """Runs that are stuck in the same way."""
    step, code, detail = trouble
    position = [name for name, _, _ in factories.CARD_STEPS].index(step)
    made = []
    for _ in range(runs):
        run = factories.stuck_run(now=timezone.now())
        run.failed_step, run.error_code, run.error_detail = step, code, detail
        run.attributes, run.cursor = {"amount": amount}, position
        run.save()
        Step.objects.filter(run_id=run.pk, position__lt=position).update(status=StepStatus.DONE)
        Step.objects.filter(run_id=run.pk, position=position).update(status=StepStatus.FAILED, attempts=8)
        made.append(run)
    return made


def occurred(trouble: tuple[str, str, str], *, minutes_ago: int, times: int) -> None:
    step, code, detail = trouble
    at = timezone.now() - timedelta(minutes=minutes_ago)
    each = Occurred(
        use_case="orders.purchase.card", step=step, error_code=code, error_class="technical", detail=detail, at=at
    )
    with transaction.atomic():
        for _ in range(times):
            incidents.append([each])


@pytest.fixture
def groups(transactional_db: None) -> dict[str, list[Run]]:
    made = {"timed out": stuck(TIMED_OUT, runs=7), "refused": stuck(REFUSED, runs=2, amount="95.00")}
    for minutes, times in ((1, 20), (6, 14), (11, 9), (16, 4), (31, 1)):
        occurred(TIMED_OUT, minutes_ago=minutes, times=times)
    for minutes, times in ((75, 6), (60, 4), (45, 3), (40, 2)):
        occurred(REFUSED, minutes_ago=minutes, times=times)
    incidents.fold()
    incidents.adopt()
    return made


class TestList:
    def test_says_what_broke_and_what_it_is_worth(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        page = open_page()
        page.goto(TRIAGE)
        for look in each_look(page, "wide", "phone"):
            expect(page.get_by_role("heading", name="2 groups, 9 runs, R$ 3,592.00 at risk")).to_be_visible()
            first = page.locator(".bo-g").first
            expect(first.get_by_role("heading", name="Processor timed out R204")).to_be_visible()
            expect(first).to_contain_text("growing")
            expect(first.get_by_role("radio")).to_be_checked()
            expect(page.locator(".bo-g").nth(1)).to_contain_text("ended")
            shoot(page, f"triage_{look}")
            assert_no_sideways_scroll(page)

    def test_is_calm_when_nothing_broke(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto(TRIAGE)
        expect(page.get_by_role("heading", name="No group is open.")).to_be_visible()
        shoot(page, "triage_calm")

    def test_shows_a_new_error_within_a_second_and_keeps_what_is_marked(
        self, open_page: OpenPage, groups: dict[str, list[Run]]
    ) -> None:
        page = open_page()
        page.goto(TRIAGE)
        page.get_by_role("radio", name="SEFAZ-SP 778, NCM not in table").check()
        stuck(("post_sale", "OSError", "the line went dead"), runs=1)
        occurred(("post_sale", "OSError", "the line went dead"), minutes_ago=0, times=1)
        expect(page.get_by_role("heading", name="3 groups, 10 runs")).to_be_visible()
        expect(page.get_by_role("radio", name="SEFAZ-SP 778, NCM not in table")).to_be_checked()

    def test_finds_a_group(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        page = open_page()
        page.goto(TRIAGE)
        page.get_by_label("Use case, step or code").fill("r412")
        page.get_by_role("button", name="Find").click()
        expect(page.locator(".bo-g")).to_have_count(1)
        expect(page.locator(".bo-g")).to_contain_text("NCM not in table")


class TestJourney:
    @BOTH_SIZES
    def test_group_dry_run_reason_number_bar_outcomes(
        self, open_page: OpenPage, groups: dict[str, list[Run]], size: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = open_page(size=size)
        page.goto(TRIAGE)
        page.get_by_role("link", name="Processor timed out").click()
        expect(page.get_by_role("heading", name="Processor timed out")).to_be_visible()
        shoot(page, f"triage_group_{size}")
        assert_no_sideways_scroll(page)
        page.get_by_role("link", name="Retry 7…").click()
        expect(page.locator(".bo-out")).to_contain_text("tries post sale again")
        expect(page.get_by_text("The cause is still there.")).to_be_visible()
        expect(page.get_by_role("radio", name="1 first, then ask me")).to_be_checked()
        shoot(page, f"triage_dry_run_{size}")
        assert_no_sideways_scroll(page)
        page.get_by_role("radio", name="all 7").check()
        page.get_by_label("Reason, kept in the audit log").fill("Acquirer says route B is open, ticket 88-4120.")
        page.get_by_label("For all of them").fill("7")
        monkeypatch.setattr(bulk, "INLINE_RUNS", 0)  # as with a large group: in the background
        monkeypatch.setattr("apps.saga.public.INLINE_RUNS", 0)
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(page.get_by_role("heading", name="7 runs to go.")).to_be_visible()
        shoot(page, f"triage_running_{size}")
        action = BulkAction.objects.get()
        bulk.work(action.pk, now=timezone.now(), items_max=3)
        expect(page.get_by_role("heading", name="4 runs to go.")).to_be_visible()
        shoot(page, f"triage_progress_{size}")
        Run.objects.filter(pk=groups["timed out"][6].pk).update(error_code="R999")
        bulk.work(action.pk, now=timezone.now())
        expect(page.get_by_role("heading", name="Done.")).to_be_visible()
        expect(page.locator("[data-live-pill]")).to_have_text("Finished")
        page.get_by_role("link", name="Left alone 1").click()
        expect(page.locator("#action-items tbody tr")).to_have_count(1)
        expect(page.locator("#action-items")).to_contain_text("R542")
        shoot(page, f"triage_done_{size}")
        assert_no_sideways_scroll(page)
        assert Audit.objects.filter(action="retry", actor="user:chief").count() == 6

    def test_one_first_changes_one(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        page = open_page()
        page.goto(TRIAGE)
        page.get_by_role("button", name="Retry…").click()
        page.get_by_label("Reason, kept in the audit log").fill("let us see whether it helps")
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(page.get_by_role("heading", name="Done.")).to_be_visible()
        assert Run.objects.filter(status=RunStatus.RUNNING).count() == 1

    def test_one_first_then_asks(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        page = open_page()
        page.goto(TRIAGE)
        page.get_by_role("button", name="Retry…").click()
        page.get_by_label("Reason, kept in the audit log").fill("let us see whether it helps")
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(page.get_by_text("The run now")).to_be_visible()
        tried = Run.objects.get(status=RunStatus.RUNNING)
        expect(page.locator("#action-head").get_by_text("Running")).to_be_visible()
        Run.objects.filter(pk=tried.pk).update(status=RunStatus.COMPLETED, finished_at=timezone.now(), due_at=None)
        expect(page.locator("#action-head").get_by_text("Completed")).to_be_visible()
        for size in each_size(page, "phone", "desktop"):
            assert_no_sideways_scroll(page)
            shoot(page, f"triage_first_{size}")
        page.get_by_role("link", name="Retry the rest…").click()
        expect(page.get_by_role("heading", name="Retry 6 runs", level=2)).to_be_visible()

    def test_of_one_run_with_another_input(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        run = groups["refused"][0]
        page = open_page()
        page.goto(f"/admin/triage/act/?action=retry&run={run.pk}")
        page.get_by_text("With another input").click()
        page.get_by_label("What changes").fill('{"note": "corrected"}')
        page.get_by_label("Reason, kept in the audit log").fill("the NCM was mistyped")
        shoot(page, "triage_edit")
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(page.get_by_role("heading", name="Done.")).to_be_visible()
        assert Run.objects.get(pk=run.pk).data["note"] == "corrected"

    def test_of_something_old_changes_nothing(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        run = groups["refused"][0]
        page = open_page()
        page.goto(f"/admin/triage/act/?action=handle&run={run.pk}")
        Step.objects.filter(run_id=run.pk, position=run.cursor).update(attempts=9)
        page.get_by_label("Reason, kept in the audit log").fill("done by hand in the portal")
        page.get_by_role("button", name="Close by hand", exact=True).click()
        expect(page.get_by_text("Nothing done: The run has moved on")).to_be_visible()
        assert Run.objects.get(pk=run.pk).status == RunStatus.STUCK


class TestFourEyes:
    def test_a_second_person_approves(self, open_page: OpenPage, groups: dict[str, list[Run]], settings: Any) -> None:
        settings.SAGA_FOUR_EYES = ["3000.00"]
        User.objects.create_superuser("finance", password=PASSWORD)
        page = open_page()
        page.goto(TRIAGE)
        page.get_by_role("button", name="Retry…").click()
        expect(page.get_by_text("A second person must approve it.")).to_be_visible()
        page.get_by_role("radio", name="all 7").check()
        page.get_by_label("For all of them").fill("7")
        page.get_by_label("Reason, kept in the audit log").fill("route B is open")
        shoot(page, "triage_four_eyes")
        page.get_by_role("button", name="Ask for approval").click()
        expect(page.get_by_role("heading", name="It waits for a second person.")).to_be_visible()
        expect(page.get_by_text("Approve: not what you asked for yourself")).to_be_visible()
        assert Run.objects.filter(status=RunStatus.RUNNING).count() == 0
        other = open_page(login=False)
        other.goto("/admin/login/?next=/admin/triage/?tab=approvals")
        other.fill("input[name=username]", "finance")
        other.fill("input[name=password]", PASSWORD)
        other.press("input[name=password]", "Enter")
        other.get_by_label("Wait for a second person").get_by_role("link", name="Retry 7 runs").click()
        shoot(other, "triage_approve")
        other.get_by_role("button", name="Approve: Retry 7 runs").click()
        expect(other.get_by_role("heading", name="Done.")).to_be_visible()
        expect(page.get_by_role("heading", name="Done.")).to_be_visible()
        assert Run.objects.filter(status=RunStatus.RUNNING).count() == 7


class TestWithoutScripts:
    def test_is_whole(self, open_page: OpenPage, groups: dict[str, list[Run]]) -> None:
        scripted = open_page()
        page = open_page(script=False, login=False)
        page.context.add_cookies(scripted.context.cookies())  # type: ignore[arg-type]
        html = page.goto(TRIAGE)
        assert html is not None
        text = html.text()
        for words in ("2 groups, 9 runs", "Processor timed out", "Undo all…", 'name="incident"'):
            assert words in text
        group = incidents.incident_id("orders.purchase.card", *TIMED_OUT[:2])
        html = page.goto(f"/admin/triage/act/?incident={group}&action=compensate")
        assert html is not None
        assert "The run has passed its pivot" in html.text()
        assert "Nothing would be done." in html.text()
