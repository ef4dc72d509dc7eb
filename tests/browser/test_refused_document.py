"""A document that the authority refused, corrected by a person: from its page to the reason, and back."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.fiscal_docs.models import Document, Issuer
from apps.fiscal_docs.public import RunningSandbox
from apps.saga import triage
from apps.saga.models import Run
from tests import shop
from tests.browser.conftest import OpenPage
from tests.browser.test_accessibility import look
from tests.browser.test_pages import assert_no_sideways_scroll, shoot
from tests.saga_driver import finish, work

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def refused(transactional_db: None, running_sandbox: RunningSandbox) -> Iterator[Run]:
    """A paid order whose document was late (704); since then the company has another name."""
    shop.open_shop()
    running_sandbox.set_clock(lambda: timezone.now() + timedelta(minutes=10))
    order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
    run = work(shop.run_of(order_id).pk)
    running_sandbox.set_clock()
    Issuer.objects.update(name="BILHETERIA NOVA LTDA")
    yield run
    running_sandbox.set_clock()


def looked_at(page: Page, name: str) -> None:
    assert look(page, name) == []


class TestCorrect:
    def test_shows_what_would_be_signed_asks_why_and_sends_it_again(self, open_page: OpenPage, refused: Run) -> None:
        document = Document.objects.get()
        page = open_page()
        page.route("**/danfe", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        page.goto(f"/admin/fiscal_docs/document/{document.pk}/change/")
        looked_at(page, "refused_document")
        page.get_by_role("link", name="Correct and send again…").click()
        fields = page.get_by_role("table", name="Fields of the document that would be signed otherwise")
        expect(fields.get_by_role("rowheader")).to_have_text(["ide/dhEmi", "emit/xNome"])
        expect(fields).to_contain_text("BILHETERIA NOVA LTDA")
        looked_at(page, "refused_document_correct")
        page.get_by_label("Reason, kept in the audit log").fill("The company's name was mended.")
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_text("1 done").first).to_be_visible()
        assert finish(refused.pk).status == "COMPLETED"
        page.goto(f"/admin/fiscal_docs/document/{document.pk}/change/")
        events = page.get_by_role("table", name="What happened to this document")
        told = ["Numbered", "Signed", "Sent", "Refused", "Signed again", "Sent", "Authorised"]
        expect(events.locator(".bo-chip")).to_have_text(told)
        expect(events.locator("tr", has_text="Signed again")).to_contain_text("chief")
        expect(events.locator("tr", has_text="Signed again")).to_contain_text("The company's name was mended.")
        kept = page.get_by_role("table", name="What was signed and what was answered")
        expect(kept.get_by_role("link", name="signed document")).to_have_count(2)
        expect(kept).to_contain_text("emit/xNome")
        looked_at(page, "corrected_document")
        link = kept.get_by_role("link", name="answer of the authority").first.get_attribute("href")
        assert b"<cStat>704</cStat>" in page.request.get(link or "").body()

    def test_says_when_only_the_hour_would_be_another_one(self, open_page: OpenPage, refused: Run) -> None:
        Issuer.objects.update(name=demo_name())
        page = open_page(size="phone", dark=True)
        page.goto(f"/admin/triage/act/?action=retry&run={refused.pk}")
        expect(page.get_by_text("Only its hour of emission.")).to_be_visible()
        shoot(page, "refused_document_only_time_phone")
        assert_no_sideways_scroll(page)


class TestSettle:
    def test_is_asked_for_with_a_choice_and_a_reason(self, open_page: OpenPage, refused: Run) -> None:
        """An operator passed the step over, so its run is over."""
        with transaction.atomic():
            skip = triage.wanted(triage.Action.SKIP)
            triage.apply(refused.pk, skip, reason="they wait", by="user:ana", now=timezone.now(), seen="")
        assert finish(refused.pk).status == "COMPLETED"
        page = open_page()
        page.route("**/danfe", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        page.goto(f"/admin/fiscal_docs/document/{Document.objects.get().pk}/change/")
        page.get_by_role("link", name="Correct and send again…").click()
        expect(page.get_by_role("heading", name="Settle the fiscal document of an order", level=2)).to_be_visible()
        expect(page.get_by_role("radio", name="Sent")).to_be_checked()
        looked_at(page, "settle_document")
        page.get_by_label("Reason, kept with the document").fill("It was passed over at night.")
        page.get_by_role("button", name="Settle it").click()
        page.wait_for_url("**/admin/runs/*/")
        settling = Run.objects.get(use_case="orders.document")
        assert page.url.endswith(f"/admin/runs/{settling.pk}/")
        assert finish(settling.pk).status == "COMPLETED"
        assert Document.objects.get().state == "AUTHORISED"


def demo_name() -> str:
    from config import demo

    return demo.ISSUER_NAME
