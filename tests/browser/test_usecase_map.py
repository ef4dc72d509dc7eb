"""The map of a use case as a person meets it: what offends in words, the drawing, the table, and the way to the runs."""

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from apps.saga.models import Run
from tests import factories, worlds
from tests.browser.conftest import OpenPage, each_look
from tests.browser.test_pages import assert_no_sideways_scroll, shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PAGE = "/admin/use-cases/orders.purchase.card/"


@pytest.fixture
def evening(transactional_db: None) -> dict[str, Run]:
    return worlds.busy_evening(now=timezone.now())


class TestMap:
    def test_names_who_offends_and_who_waits(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        page = open_page()
        page.goto(PAGE)
        for look in each_look(page, "desktop", "phone"):
            expect(page.get_by_role("heading", name="Longest wait: issue_fiscal_doc")).to_be_visible()
            shoot(page, f"map_{look}")
            assert_no_sideways_scroll(page)

    def test_follows_the_runs(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto(PAGE)
        expect(page.get_by_role("heading", name="Nobody waits.")).to_be_visible()
        factories.stuck_run(now=timezone.now())
        expect(page.get_by_role("heading", name="Longest wait: post_sale")).to_be_visible()
        expect(page.get_by_role("link", name="post_sale, only retried: 1 here now")).to_be_visible()

    def test_costs_nothing_while_nothing_changes(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto(PAGE)
        with page.expect_response(lambda answer: "/live/" in answer.url and answer.status == 304):
            pass
        expect(page.locator("[data-live-pill]")).to_have_text("Live")
        expect(page.locator("[data-live-at]")).not_to_be_empty()

    def test_leads_from_a_number_to_its_runs(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        page = open_page()
        page.goto(PAGE)
        page.get_by_role("link", name="1 stuck").click()
        page.wait_for_url("**needs=stuck**")
        expect(page.get_by_role("link", name=evening["stuck"].business_key)).to_be_visible()
        shoot(page, "runs_behind_a_number")
        assert_no_sideways_scroll(page)

    def test_keeps_what_somebody_types_while_it_changes(self, open_page: OpenPage) -> None:
        page = open_page()
        page.goto(PAGE)
        page.get_by_label("Why", exact=True).fill("the processor repairs something")
        factories.stuck_run(now=timezone.now())
        expect(page.get_by_role("heading", name="Longest wait: post_sale")).to_be_visible()
        expect(page.get_by_label("Why", exact=True)).to_have_value("the processor repairs something")

    def test_is_whole_without_scripts(self, open_page: OpenPage, evening: dict[str, Run]) -> None:
        scripted = open_page()
        page = open_page(script=False, login=False)
        page.context.add_cookies(scripted.context.cookies())  # type: ignore[arg-type]  # what it gives is what it takes
        page.goto(f"{PAGE}?by=errors")
        expect(page.locator("#map-words h2").first).to_have_text("Offending step: issue_fiscal_doc")
        address = page.locator(".bo-tools a", has_text="24 h").get_attribute("href")
        page.goto(f"{PAGE}{address}")
        expect(page.locator(".bo-tools a[aria-current]")).to_have_text(["Errors", "24 h"])
