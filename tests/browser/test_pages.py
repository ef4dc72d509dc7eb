"""The pages as a person meets them: two sizes, two themes, with the keyboard, and without scripts."""

import os
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect
from pytest_django import Settings

from apps.payments.models import Payment
from apps.saga.models import Run, RunStatus
from tests import worlds
from tests.browser.conftest import OpenPage, each_look, each_size, log_in, wait_for_fonts
from tests.integration.payments import world

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

BOTH_SIZES = pytest.mark.parametrize("size", ["desktop", "phone"])
# Where to leave pictures for people to look at; nowhere by default.
SHOTS = os.environ.get("BROWSER_SHOTS", "")


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def assert_no_sideways_scroll(page: Page) -> None:
    wait_for_fonts(page)
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen, f"the page is {wide} wide on a screen of {seen}"


def assert_every_column_in_view(page: Page) -> None:
    """A table that scrolls within its card hides its columns as well as a page that does."""
    wait_for_fonts(page)
    beyond = page.evaluate(
        "[...document.querySelectorAll('th[scope=col], #result_list thead th')].filter((head) => head.offsetWidth > 0"
        " && head.getBoundingClientRect().right > document.documentElement.clientWidth).map((head) => head.innerText)"
    )
    assert beyond == []


def run_address(run: Run) -> str:
    return f"/admin/runs/{run.pk}/"


class TestHome:
    def test_says_what_needs_a_person(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto("/admin/")
        for look in each_look(page, "desktop", "phone"):
            expect(page.get_by_role("heading", name="1 thing needs you.")).to_be_visible()
            expect(page.get_by_role("link", name="Open runs")).to_be_visible()
            shoot(page, f"home_{look}")
            assert_no_sideways_scroll(page)

    def test_opens_the_rows_behind_what_needs_a_person(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto("/admin/")
        page.get_by_role("link", name="Open runs").click()
        expect(page.get_by_role("link", name=runs["stuck"].business_key)).to_be_visible()
        expect(page.get_by_role("link", name=runs["completed"].business_key)).to_have_count(0)

    def test_is_calm_when_nothing_is_wrong(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto("/admin/")
        expect(page.get_by_role("heading", name="Nothing needs you.")).to_be_visible()
        shoot(page, "home_calm")


class TestLists:
    @pytest.mark.parametrize("model", ["saga/run", "orders/order", "messaging/message", "orders/ticket"])
    def test_open_in_both_sizes(self, open_page: OpenPage, runs: dict[str, Run], model: str) -> None:
        page = open_page()
        page.goto(f"/admin/{model}/")
        for size in each_size(page, "desktop", "phone"):
            shoot(page, f"list_{model.replace('/', '_')}_{size}")
            assert_no_sideways_scroll(page)

    def test_a_run_is_reached_from_its_list(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page(dark=True)
        page.goto("/admin/saga/run/")
        expect(page.locator("html")).to_have_class("dark")
        shoot(page, "list_saga_run_dark")
        page.get_by_role("link", name=runs["undoing"].business_key).click()
        expect(page.get_by_role("heading", name="Timeline", exact=True)).to_be_visible()

    def test_runs_are_filtered_by_what_they_need(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto("/admin/saga/run/")
        page.locator("#changelist a", has_text="Filters").click()
        shoot(page, "list_saga_run_filters")
        page.locator("#changelist-filter").get_by_text("On the way").click()
        page.wait_for_url("**needs=live**")
        expect(page.get_by_role("link", name=runs["undoing"].business_key)).to_be_visible()
        expect(page.get_by_role("link", name=runs["stuck"].business_key)).to_have_count(0)

    def test_an_order_shows_its_items_and_leads_to_its_run(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto(f"/admin/orders/order/{runs['undoing'].subject_id}/change/")
        shoot(page, "order")
        page.get_by_role("link", name="Its timeline").click()
        expect(page.get_by_role("heading", name="Timeline", exact=True)).to_be_visible()


class TestRun:
    @pytest.mark.parametrize("which", ["undoing", "stuck", "completed"])
    def test_shows_its_timeline(self, open_page: OpenPage, runs: dict[str, Run], which: str) -> None:
        page = open_page()
        page.goto(run_address(runs[which]))
        for look in each_look(page, "desktop", "phone"):
            expect(page.get_by_role("img", name="Timeline of the run.")).to_be_visible()
            # Found and measured at once: a live page may put a newer drawing into its place at any moment.
            assert (
                page.evaluate("document.querySelector('svg[aria-label^=\"Timeline of\"]').getBoundingClientRect().height")
                > 150
            )
            shoot(page, f"run_{which}_{look}")
            assert_no_sideways_scroll(page)

    def test_folds_a_wait_of_two_days(self, open_page: OpenPage) -> None:
        run = worlds.two_days(now=timezone.now())
        page = open_page()
        page.goto(run_address(run))
        for look in each_look(page, "desktop", "phone"):
            expect(page.locator(".bo-gantt .break")).to_have_count(1)
            shoot(page, f"run_long_{look}")
            assert_no_sideways_scroll(page)

    def test_follows_the_run_while_it_is_live(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto(run_address(runs["undoing"]))
        expect(page.locator("[data-live-pill]")).to_have_text("Live")
        Run.objects.filter(pk=runs["undoing"].pk).update(status=RunStatus.STUCK, due_at=None)
        expect(page.locator("#run-head .bo-chip")).to_have_text("Stuck")
        expect(page.locator("[data-live-pill]")).to_have_text("Finished")

    def test_keeps_the_place_of_somebody_who_reads(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto(f"{run_address(runs['undoing'])}?tab=data")
        opened = page.locator("details:not([open]) > summary").first
        name = opened.inner_text()
        opened.click()
        page.evaluate("document.activeElement.blur()")
        with page.expect_response("**/live/**"):
            pass
        with page.expect_response("**/live/**"):
            pass
        expect(page.locator("details[open] > summary", has_text=name)).to_be_visible()

    def test_is_whole_without_scripts(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        scripted = open_page()
        page = open_page(script=False, login=False)
        page.context.add_cookies(scripted.context.cookies())  # type: ignore[arg-type]  # what it gives is what it takes
        html = page.goto(run_address(runs["undoing"]))
        assert html is not None
        text = html.text()
        for words in ("Undoing authorise payment", "The same timeline as a table", "Payment and document", "never begun"):
            assert words in text

    def test_the_keyboards_focus_is_seen(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto(run_address(runs["completed"]))
        page.locator(".bo-tabs a").first.focus()
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return [document.activeElement.textContent, s.outlineStyle, parseFloat(s.outlineWidth)] })()"
        )
        assert style[0].startswith("Messages")
        assert style[1] == "solid"
        assert style[2] >= 2


class TestRetry:
    @BOTH_SIZES
    def test_asks_why_before_it_does_anything(self, open_page: OpenPage, runs: dict[str, Run], size: str) -> None:
        page = open_page(size=size)
        page.goto(run_address(runs["stuck"]))
        page.get_by_role("link", name="Retry now…", exact=True).click()
        expect(page.get_by_role("heading", name="What would happen")).to_be_visible()
        shoot(page, f"retry_{size}")
        assert_no_sideways_scroll(page)
        page.get_by_label("Reason").fill("the lock is gone")
        page.get_by_role("button", name="Retry", exact=True).click()
        page.wait_for_url("**/triage/actions/**")
        page.goto(run_address(runs["stuck"]))
        expect(page.locator("#run-head .bo-chip")).to_have_text("Running")
        shoot(page, f"retried_{size}")


class TestCardTesting:
    def test_is_told_at_home(self, open_page: OpenPage, settings: Settings) -> None:
        settings.PAYMENTS_REFUSED_OF_ACCOUNT_MAX = 4
        for number in range(4):
            view = world.authorise(world.DECLINED, step_key=f"merchant:{number}", reply_to="", now=timezone.now())
            Payment.objects.filter(pk=view.id).update(state="REJECTED", error_code="card_declined")
        page = open_page()
        page.goto("/admin/")
        for size in each_size(page, "desktop", "phone"):
            expect(page.get_by_role("heading", name="4 card payments of acc_shop were refused")).to_be_visible()
            assert_no_sideways_scroll(page)
            shoot(page, f"card_testing_{size}")
        page.get_by_role("link", name="Open payments").click()
        expect(page.locator("#result_list tbody tr")).to_have_count(4)


class TestLogin:
    def test_a_stranger_meets_the_login(self, open_page: OpenPage) -> None:
        page = open_page(login=False)
        page.goto("/admin/")
        expect(page.locator("input[name=password]")).to_be_visible()
        shoot(page, "login")

    def test_says_when_to_try_again_to_whoever_has_failed_too_often(self, open_page: OpenPage, settings: Settings) -> None:
        settings.LOGIN_FAILURES_MAX = 1
        page = open_page(login=False)
        page.goto("/admin/login/?next=/admin/")
        for said in ("Please enter the correct username", "Too many failed logins. Try again in 15 minutes."):
            page.fill("input[name=username]", "chief")
            page.fill("input[name=password]", "wrong")
            page.press("input[name=password]", "Enter")
            expect(page.get_by_text(said)).to_be_visible()
        shoot(page, "login_limited")
        assert_no_sideways_scroll(page)

    def test_leads_home(self, open_page: OpenPage) -> None:
        page = open_page(login=False)
        log_in(page)
        expect(page.get_by_role("heading", name="Home")).to_be_visible()


class TestUseCases:
    def test_show_the_steps_and_the_switch(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto("/admin/use-cases/orders.purchase.card/")
        for look in each_look(page, "desktop", "phone"):
            expect(page.get_by_role("heading", name="It runs.")).to_be_visible()
            expect(page.locator("#map-drawing, #map-list").filter(visible=True)).to_have_count(1)
            shoot(page, f"usecase_{look}")
            assert_no_sideways_scroll(page)

    def test_are_paused_and_resumed_with_a_reason(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto("/admin/use-cases/")
        page.get_by_role("link", name="orders.purchase.card").click()
        page.get_by_label("What", exact=True).select_option("New runs: they wait")
        page.get_by_label("Why", exact=True).fill("the processor repairs something")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("heading", name="Paused: new runs wait.")).to_be_visible()
        shoot(page, "usecase_paused")
        assert_no_sideways_scroll(page)
        page.get_by_label("Why does it go on?").fill("they are ready")
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_role("heading", name="It runs.")).to_be_visible()

    def test_are_listed(self, open_page: OpenPage, runs: dict[str, Run]) -> None:
        page = open_page()
        page.goto("/admin/use-cases/")
        for size in each_size(page, "desktop", "phone"):
            expect(page.get_by_role("link", name="orders.purchase.balance")).to_be_visible()
            assert_every_column_in_view(page)
            shoot(page, f"usecases_{size}")
            assert_no_sideways_scroll(page)
