"""The switch of contingency as a person meets it: what it does, a reason, and a label on every page while it is on."""

import pytest
from django.test import Client
from playwright.sync_api import expect

from apps.fiscal_docs.models import Document
from apps.fiscal_docs.public import RunningSandbox
from apps.saga.models import Run
from tests import shop
from tests.browser.conftest import OpenPage
from tests.browser.test_accessibility import look
from tests.saga_driver import finish

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

REASON = "Sem comunicacao com a SEFAZ autorizadora."


class TestTheSwitch:
    def test_is_on_after_a_reason_and_delivers_when_it_is_off(
        self, open_page: OpenPage, running_sandbox: RunningSandbox
    ) -> None:
        shop.open_shop()
        page = open_page()
        page.goto("/admin/contingency/")
        expect(page.get_by_role("heading", name="Contingency is off.")).to_be_visible()
        assert look(page, "contingency_off") == []
        page.get_by_label("Reason, 15 to 255 characters").fill(REASON)
        page.get_by_role("button", name="Switch it on").click()
        expect(page.get_by_role("heading", name="Contingency is on since")).to_be_visible()
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        assert finish(Run.objects.get(use_case="orders.purchase.balance").pk).status == "COMPLETED"
        page.route("**/danfe", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        document = f"/admin/fiscal_docs/document/{Document.objects.get().pk}/change/"
        for name, address in {"contingency": "/admin/contingency/", "home": "/admin/", "handed_out": document}.items():
            page.goto(address)
            expect(page.get_by_text("Contingency since").first).to_be_visible()
            assert look(page, f"contingency_{name}") == []
        expect(page.get_by_role("heading", name="Handed out in contingency")).to_be_visible()
        page.goto("/admin/contingency/")
        page.get_by_label("Why is it over?").fill("It is back.")
        page.get_by_role("button", name="Switch it off").click()
        expect(page.get_by_role("heading", name="Contingency is off.")).to_be_visible()
        delivery = Run.objects.get(subject_id=order_id, use_case="orders.document.delivery")
        assert finish(delivery.pk).status == "COMPLETED"
        assert Document.objects.get().state == "AUTHORISED"
