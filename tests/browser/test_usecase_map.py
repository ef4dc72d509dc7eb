"""The map of a use case as a person meets it: what offends in words, the drawing, the table, and the way to the runs."""

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from apps.saga.models import Run
from tests import worlds
from tests.browser.conftest import OpenPage
from tests.browser.test_pages import BOTH_SIZES, THEMES, assert_no_sideways_scroll, shoot

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PAGE = "/admin/use-cases/orders.purchase.card/"


@pytest.fixture
def evening(transactional_db: None) -> dict[str, Run]:
    return worlds.busy_evening(now=timezone.now())


class TestMap:
    @THEMES
    @BOTH_SIZES
    def test_names_who_offends_and_who_waits(
        self, open_page: OpenPage, evening: dict[str, Run], size: str, dark: bool
    ) -> None:
        page = open_page(size=size, dark=dark)
        page.goto(PAGE)
        expect(page.get_by_role("heading", name="Longest wait: issue_fiscal_doc")).to_be_visible()
        shoot(page, f"map_{size}_{'dark' if dark else 'light'}")
        assert_no_sideways_scroll(page)
