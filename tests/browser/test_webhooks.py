"""Webhooks as support meets them: an endpoint that fails, what it answered, and deliver again."""

from collections.abc import Iterator

import pytest
from django.contrib.admin.models import LogEntry
from playwright.sync_api import expect

from apps.webhooks import endpoints
from apps.webhooks.models import Delivery
from tests.browser.conftest import OpenPage, each_look
from tests.browser.test_accessibility import AXE, RUN_AXE, look
from tests.browser.test_pages import assert_every_column_in_view, assert_no_sideways_scroll, shoot
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver, receiving
from tests.integration.webhooks.world import NOW, happen, register, send_all

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LIST = "/admin/webhooks/delivery/"
LONG = "?token_of_the_shop=" + "a" * 180


@pytest.fixture
def given_up(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Delivery]:
    """A merchant with three endpoints: well, failing with a delivery that was given up, disabled."""
    monkeypatch.setattr("apps.webhooks.wakeup._ask", lambda _endpoints: None)
    with receiving() as receiver:
        yield _story(receiver)


def _story(receiver: Receiver) -> Delivery:
    well = register(receiver.url)
    failing = register(f"{receiver.url}&{LONG}")
    off = register("http://localhost:9/old")
    (event_id,) = happen(event_type="payment.captured")
    send_all(well.endpoint.id)
    receiver.usual, receiver.body = 503, b'{"error": "the shop is closed", "hint": "<b>come back</b>"}'
    send_all(failing.endpoint.id)
    endpoints.change(account_id=world.ACCOUNT, endpoint_id=off.endpoint.id, enabled=False, now=NOW)
    happen(3)
    send_all(well.endpoint.id)
    row = Delivery.objects.get(event__id=event_id, endpoint_id=failing.endpoint.id)
    Delivery.objects.filter(pk=row.pk).update(state="FAILED", finished_at=NOW)
    return row


class TestEveryPage:
    def test_fits_the_screen(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page()
        pages = {
            "endpoints": "/admin/webhooks/endpoint/",
            "endpoint": f"/admin/webhooks/endpoint/{given_up.endpoint_id}/change/",
            "deliveries": LIST,
            "delivery": f"{LIST}{given_up.pk}/change/",
        }
        for name, address in pages.items():
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200, name
            for look_of_it in each_look(page, "desktop", "phone"):
                shoot(page, f"webhooks_{name}_{look_of_it}")
                assert_no_sideways_scroll(page)

    def test_shows_every_column_of_the_lists(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page()
        for address in ("/admin/webhooks/endpoint/", LIST):
            page.goto(address)
            assert_every_column_in_view(page)

    def test_has_names_labels_structure_and_contrast(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page(size="wide")
        page.goto(f"{LIST}{given_up.pk}/change/")
        wrong = look(page, "webhooks_delivery")
        page.get_by_role("button", name="Deliver again…").click()
        expect(page.get_by_role("heading", name="1 delivery to send again")).to_be_visible()
        wrong += look(page, "webhooks_redeliver")
        for address in ("/admin/webhooks/endpoint/", LIST):
            page.goto(address)
            page.evaluate(AXE)
            wrong += page.evaluate(RUN_AXE)
        assert wrong == []


class TestDeliverAgain:
    def test_from_the_page_of_a_delivery(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page()
        page.goto(f"{LIST}?state=FAILED")
        page.locator("#result_list a", has_text=str(given_up.pk)[:8]).click()
        expect(page.get_by_role("heading", name="payment.captured was given up.")).to_be_visible()
        attempts = page.get_by_role("table", name="Attempts")
        expect(attempts).to_contain_text("It answered 503.")
        expect(attempts).to_contain_text("<b>come back</b>")
        page.get_by_role("button", name="Deliver again…").click()
        expect(page.get_by_role("heading", name="1 delivery to send again")).to_be_visible()
        shoot(page, "webhooks_redeliver")
        assert_no_sideways_scroll(page)
        page.get_by_label("Why").fill("the shop is open again")
        page.get_by_role("button", name="Deliver again", exact=True).click()
        expect(page.get_by_text("1 on its way again.")).to_be_visible()
        assert Delivery.objects.get(pk=given_up.pk).state == "PENDING"
        assert "the shop is open again" in LogEntry.objects.get().change_message

    def test_from_the_list(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page()
        page.goto(LIST)
        page.locator(f"input.action-select[value='{given_up.pk}']").check()
        page.get_by_role("combobox").select_option("Deliver again…")
        page.get_by_role("button", name="Run").click()
        page.get_by_label("Why").fill("the shop is open again")
        page.get_by_role("button", name="Deliver again", exact=True).click()
        expect(page.get_by_text("1 on its way again.")).to_be_visible()


class TestMenu:
    def test_leads_to_both_lists(self, open_page: OpenPage, given_up: Delivery) -> None:
        page = open_page()
        page.goto("/admin/")
        for name, address in (("Webhook endpoints", "endpoint"), ("Webhook deliveries", "delivery")):
            expect(page.get_by_role("link", name=name)).to_have_attribute("href", f"/admin/webhooks/{address}/")
