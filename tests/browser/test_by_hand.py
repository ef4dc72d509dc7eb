"""A stuck order in a real Chromium: closed by hand, knowing what stays half done; skipped, with what is read later."""

import json

import pytest
from django.test import Client
from playwright.sync_api import expect

from apps.orders.models import Order
from apps.saga.models import Audit, Run, RunStatus, Step
from tests import shop
from tests.browser.conftest import OpenPage, each_size
from tests.browser.test_pages import assert_no_sideways_scroll, shoot
from tests.flows.test_by_hand import broken, each_step_commits
from tests.saga_driver import finish

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def stuck(transactional_db: None) -> Run:
    """Paid from the balance, and its fiscal document cannot be signed."""
    shop.open_shop()
    with broken("orders.purchase.balance", "sign_fiscal_doc"):
        run = finish(shop.run_of(shop.post_order(Client(), shop.by_balance()).json()["id"]).pk)
    assert run.status == RunStatus.STUCK
    return run


class TestClosing:
    def test_tells_what_stays_before_and_the_order_says_it_after(self, open_page: OpenPage, stuck: Run) -> None:
        page = open_page()
        page.goto(f"/admin/triage/act/?action=handle&run={stuck.pk}")
        stays = page.locator(".bo-note-warn")
        expect(stays).to_contain_text("Out of stock for this order, and not sold: 1 × day-one.")
        expect(stays).to_contain_text("Posted in the ledger as a sale: 10.50")
        expect(page.locator(".bo-out")).to_contain_text("stay done")
        instead = page.locator(".bo-note").filter(has_text="Instead of closing it")
        expect(instead.get_by_role("link")).to_have_text(["Skip the step", "Retry"])
        for size in each_size(page, "phone", "wide"):
            shoot(page, f"close_by_hand_{size}")
            assert_no_sideways_scroll(page)
        page.get_by_label("Reason, kept in the audit log").fill("The shop wrote a paper document, ticket 17.")
        page.get_by_role("button", name="Close by hand", exact=True).click()
        expect(page.get_by_role("heading", name="Done.")).to_be_visible()
        assert Order.objects.get().status == "HANDLED"
        assert len(Audit.objects.get(action="handle").detail["left"]) == 2
        page.goto("/admin/orders/order/?status__exact=HANDLED")
        expect(page.locator("#result_list")).to_contain_text("Closed by hand")
        page.goto(f"/admin/runs/{stuck.pk}/")
        expect(page.get_by_text("As it was left:")).to_be_visible()
        shoot(page, "closed_run")

    def test_offers_to_go_on_with_the_undo(self, open_page: OpenPage, transactional_db: None) -> None:
        shop.open_shop()
        balance = "orders.purchase.balance"
        with broken(balance, "hold_amount", undo=True), broken(balance, "post_hold"), each_step_commits():
            run = finish(shop.run_of(shop.post_order(Client(), shop.by_balance()).json()["id"]).pk)
        assert run.status == RunStatus.STUCK
        page = open_page()
        page.goto(f"/admin/triage/act/?action=handle&run={run.pk}")
        expect(page.locator(".bo-note-warn li")).to_have_text(
            ["Out of stock for this order, and not sold: 1 × day-one.", "Held on account 0001 000000001: 10.50."]
        )
        expect(page.locator(".bo-out")).to_contain_text("hold amount is not undone for certain")
        page.get_by_role("link", name="Skip the step").click()
        expect(page.locator(".bo-out")).to_contain_text("takes hold amount as undone")


class TestSkipping:
    def test_asks_for_what_later_steps_read(self, open_page: OpenPage, stuck: Run) -> None:
        page = open_page()
        page.goto(f"/admin/triage/act/?action=skip&run={stuck.pk}")
        expect(page.get_by_text("Later steps read its output.")).to_be_visible()
        expect(page.locator(".bo-note")).to_contain_text("document_key: text, for transmit fiscal doc")
        shoot(page, "skip_asks_for_output")
        for key, title in (("another's", "Nothing was done."), ("", "Done.")):  # there is none, so none is sent
            page.goto(f"/admin/triage/act/?action=skip&run={stuck.pk}")
            page.get_by_label("Reason, kept in the audit log").fill("It was signed by hand.")
            page.get_by_label("Output of the step").fill(json.dumps({"document_key": key}))
            page.get_by_role("button", name="Skip", exact=True).click()
            expect(page.get_by_role("heading", name=title)).to_be_visible()
        assert Step.objects.get(run_id=stuck.pk, name="sign_fiscal_doc").output == {"document_key": ""}
