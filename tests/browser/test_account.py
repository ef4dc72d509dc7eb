"""The page of an account, its entries and a reversal as a person meets them."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import expect

from apps.common.clock import business_date
from apps.ledger import public as ledger
from tests.browser.conftest import PASSWORD, OpenPage, log_in
from tests.browser.test_accessibility import look
from tests.integration.ledger.conftest import ANA, BOB, LIMITED, line, money, move, open_bank, post
from tests.integration.ledger.test_reconciliation import damage

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PAGE = f"/admin/accounts/{ANA.branch}/{ANA.account}/{ANA.currency}/"


LABEL_HEIGHTS = """[...document.querySelectorAll('#result_list [data-label]')]
    .map((cell) => parseFloat(getComputedStyle(cell, '::before').height)).filter((height) => height > 0)"""


@pytest.fixture
def account(transactional_db: None) -> ledger.PostResult:
    """A month of postings, some dated back, two holds, and a last entry."""
    now = timezone.now()
    today = business_date(now)
    open_bank(now=now - timedelta(days=40))
    for days in range(35, 0, -1):
        at = now - timedelta(days=days)
        fund_at = {"dateref": today - timedelta(days=days)}
        post(fund_line(80 + days * 37 % 60, **fund_at), now=at)
        if days % 3:
            post(move(ANA, BOB, 60 + days * 13 % 40, description=f"Order {uuid4()}", **fund_at), now=at)
    post(move(ANA, BOB, "12.50", description="Fee, late", dateref=today - timedelta(days=2)), now=now)
    with transaction.atomic():
        ledger.hold(key="dispute 2026-118", branch=ANA.branch, account=ANA.account, amount=money(120), now=now)
        ledger.hold(
            key=f"{uuid4()}:1",
            branch=ANA.branch,
            account=ANA.account,
            amount=money("48.60"),
            expires_at=now + timedelta(minutes=15),
            now=now - timedelta(minutes=45),
        )
        ledger.set_limits(account=ANA, min_balance=money(-200), max_balance=None, now=now)
    return post(move(ANA, LIMITED, "33.00", description="Refund 003977"), now=now)


def fund_line(amount: int, **options: object) -> ledger.Entry:
    return line(ANA, "C", amount, description="Card sale", **options)


class TestAccount:
    def test_fits_and_is_readable_in_every_size_and_theme(self, open_page: OpenPage, account: ledger.PostResult) -> None:
        entry = f"/admin/entries/{account.tracekey}/"
        tabs = {f"account_{tab}": f"{PAGE}?tab={tab}" for tab in ("statement", "days", "holds")}
        page = open_page()
        wrong = []
        for name, address in {**tabs, "entry": entry, "reverse": f"{entry}reverse/"}.items():
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200, name
            wrong += look(page, name)
        assert wrong == []

    def test_a_list_on_a_phone_breaks_no_label(self, open_page: OpenPage, account: ledger.PostResult) -> None:
        damage("UPDATE ledger_posting_key SET state = 'TOMBSTONE'")
        assert ledger.run_check(kind="FULL", now=timezone.now()).differences
        page = open_page(size="phone")
        page.goto("/admin/ledger/difference/")
        heights = page.evaluate(LABEL_HEIGHTS)
        assert len(heights) > 10
        assert max(heights) == min(heights)

    def test_an_entry_is_found_and_taken_back(self, open_page: OpenPage, account: ledger.PostResult) -> None:
        page = open_page()
        page.goto(PAGE)
        page.get_by_label("Amount, trace key, or how a text begins").fill("33.00")
        page.get_by_role("button", name="Show").click()
        page.locator(".bo-stm a.bo-mono").click()
        page.get_by_role("link", name="Take back…").click()
        expect(page.get_by_role("heading", name="What would be posted")).to_be_visible()
        page.get_by_label("Reason, kept in the audit log").fill("refunded twice")
        page.get_by_role("button", name="Take back").dblclick()
        expect(page.get_by_text("Taken back: the lines are posted, dated today.")).to_be_visible()
        expect(page.get_by_text("Take back: it was taken back already")).to_be_visible()
        expect(page.get_by_text("refunded twice")).to_be_visible()
        assert ledger.balance(LIMITED).posted == money(0)

    def test_a_second_person_agrees(self, open_page: OpenPage, account: ledger.PostResult, settings: Any) -> None:
        settings.LEDGER_FOUR_EYES = money(0)
        User.objects.create_superuser("finance", password=PASSWORD)
        page = open_page()
        page.goto(f"/admin/entries/{account.tracekey}/reverse/")
        page.get_by_label("Reason, kept in the audit log").fill("refunded twice")
        wrong = look(page, "reverse_asked")
        page.get_by_role("button", name="Ask a second person").dblclick()
        expect(page.get_by_role("heading", name="Waits for a second person")).to_be_visible()
        expect(page.get_by_text("Agree: not to what you asked for yourself")).to_be_visible()
        wrong += look(page, "entry_asked")
        other = open_page(login=False)
        log_in(other, "finance")
        other.goto("/admin/approvals/")
        wrong += look(other, "approvals_reversal")
        other.get_by_role("link", name="refunded twice").click()
        wrong += look(other, "entry_to_agree")
        assert ledger.balance(LIMITED).posted == money(33)
        other.get_by_role("button", name="Agree and take back").dblclick()
        expect(other.get_by_text("Taken back: the lines are posted, dated today.")).to_be_visible()
        expect(other.get_by_text("Take back: it was taken back already")).to_be_visible()
        expect(other.get_by_text("agreed, and it was taken back")).to_be_visible()
        assert ledger.balance(LIMITED).posted == money(0)
        assert wrong == []
