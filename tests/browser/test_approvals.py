"""The pages of approvals in a real Chromium: a question, its facts, two buttons and a reason."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from apps.saga.definition import COMPENSABLE, Definition, Run
from apps.saga.models import Run as RunRow
from apps.saga.shapes import ApprovalStep, Question, TimerStep
from tests.browser.conftest import OpenPage, each_theme, wait_for_fonts
from tests.browser.test_pages import BOTH_SIZES, assert_no_sideways_scroll, shoot
from tests.integration.saga.test_engine import Story, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import registered, toy

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


class Release(ApprovalStep):
    """Somebody releases a large refund."""

    name, kind = "release_refund", COMPENSABLE

    def ask(self, run: Run) -> Question:
        facts = {"customer": "Ana Souza", "amount": "R$ 12.450,00", "paid_at": "14 November", "reason": "never arrived"}
        return Question("Shall the whole amount be paid back?", facts)


class Wait(TimerStep):
    name, kind = "cooling_off", COMPENSABLE

    def until(self, run: Run) -> datetime:
        return run.now + timedelta(hours=1)


@pytest.fixture(name="made", autouse=True)
def a_refund() -> Iterator[Definition]:
    with registered(made := toy(local(Story(), "a"), Release(), Wait(), story=Story())):
        yield made


def ask(made: Definition) -> Any:
    return begin(made, now=timezone.now(), data={"amount": "12450.00"})


class TestApprovals:
    def test_tell_on_a_phone_until_when(self, open_page: OpenPage, made: Definition) -> None:
        ask(made)
        page = open_page(size="phone")
        page.goto("/admin/approvals/")
        wait_for_fonts(page)
        until = page.get_by_role("columnheader", name="Until").bounding_box()
        assert until is not None
        assert until["x"] + until["width"] <= page.evaluate("document.documentElement.clientWidth")
        shoot(page, "approvals_phone")

    @BOTH_SIZES
    def test_are_found_and_decided(self, open_page: OpenPage, made: Definition, size: str) -> None:
        run_id = ask(made)
        page = open_page(size=size)
        page.goto("/admin/approvals/")
        for theme in each_theme(page):
            shoot(page, f"approvals_{size}_{theme}")
            assert_no_sideways_scroll(page)
        page.get_by_role("link", name="Shall the whole amount be paid back?").click()
        expect(page.get_by_role("heading", name="You decide.")).to_be_visible()
        expect(page.get_by_text("never arrived")).to_be_visible()
        for theme in each_theme(page):
            shoot(page, f"approval_{size}_{theme}")
            assert_no_sideways_scroll(page)
        page.get_by_label("Why").fill("the parcel came back to us")
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_text("Approved: the run goes on.")).to_be_visible()
        expect(page.get_by_role("button", name="Approve")).to_have_count(0)
        for theme in each_theme(page):
            shoot(page, f"approved_{size}_{theme}")
        assert RunRow.objects.get(pk=run_id).status in ("RUNNING", "WAITING")

    def test_are_in_the_menu_and_may_be_refused(self, open_page: OpenPage, made: Definition) -> None:
        run_id = ask(made)
        page = open_page()
        page.goto("/admin/")
        page.get_by_role("link", name="Approvals").first.click()
        page.get_by_role("link", name="Shall the whole amount be paid back?").click()
        page.get_by_label("Why").fill("we have no proof of it")
        page.get_by_role("button", name="Refuse").click()
        expect(page.get_by_text("Refused: what was done is undone.")).to_be_visible()
        assert RunRow.objects.get(pk=run_id).status == "COMPENSATING"
