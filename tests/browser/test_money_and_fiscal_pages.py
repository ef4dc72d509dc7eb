"""The pages of money and of fiscal documents as a person meets them: they fit, log nothing, and tell the truth."""

import html
import re
from dataclasses import dataclass
from decimal import Decimal
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db import transaction
from lxml import etree
from playwright.sync_api import Page, expect

from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs import queries
from apps.fiscal_docs.models import Document
from apps.ledger import public as ledger
from apps.ledger.models import Account
from apps.payments.models import Payment
from tests.browser.conftest import SIZES, OpenPage
from tests.browser.test_pages import assert_every_column_in_view, assert_no_sideways_scroll, shoot
from tests.factories import CPF
from tests.integration.fiscal_docs.conftest import CNPJ, found
from tests.integration.ledger.conftest import ANA, BOB, NOW, fund, money, move, open_bank, post
from tests.integration.payments import world
from tests.saga_driver import pump_messages

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

BUYER_IN_XML = f"<CPF>{CPF}</CPF>"
MASKED_IN_XML = f"<CPF>•••{CPF[6:9]}••</CPF>"


@pytest.fixture
def document(transactional_db: None, running_sandbox: fiscal.RunningSandbox) -> Document:
    """An authorised document that names its buyer."""
    company = found(CNPJ, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    company.issue("a", buyer_document=CPF, buyer_name="ANA SOUZA")
    return Document.objects.get()


@pytest.fixture
def payment(transactional_db: None) -> Payment:
    """A payment of an order, whose capture the bank refused."""
    shown = world.authorise(world.CAPTURE_REFUSED, order_ref=str(uuid4()))
    pump_messages()
    world.capture(shown.id)
    pump_messages()
    return Payment.objects.get()


@pytest.fixture
def account(transactional_db: None) -> Account:
    """100.00 came in, 10.00 went out, 20.00 are held."""
    open_bank()
    fund(ANA, 100)
    post(move(ANA, BOB, 10, description=f"Order {uuid4()}"))
    with transaction.atomic():
        ledger.hold(key="a hold", branch=ANA.branch, account=ANA.account, amount=money(20), now=NOW)
    return Account.objects.get(account=ANA.account)


@dataclass(frozen=True)
class Rows:
    """What the pages show."""

    document: Document
    payment: Payment
    account: Account

    @property
    def addresses(self) -> dict[str, str]:
        """Pages by the name of their picture."""
        return {
            "documents": "/admin/fiscal_docs/document/",
            "document": f"/admin/fiscal_docs/document/{self.document.pk}/change/",
            "payment": f"/admin/payments/payment/{self.payment.pk}/change/",
            "account": f"/admin/ledger/account/{self.account.pk}/change/",
            "balances": "/admin/ledger/balance/",
        }


@pytest.fixture
def rows(document: Document, payment: Payment, account: Account) -> Rows:
    return Rows(document, payment, account)


def opened(open_page: OpenPage, *, dark: bool = False) -> Page:
    """A page whose frames stay empty: the browser's own PDF viewer asks for files of its own, which count as foreign."""
    page = open_page(dark=dark)
    page.route("**/danfe", lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
    return page


class TestEveryPage:
    def test_fits_both_screens_and_hides_card_and_cpf(self, open_page: OpenPage, rows: Rows) -> None:
        page = opened(open_page)
        for name, address in rows.addresses.items():
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200, name
            for size, (width, height) in SIZES.items():
                page.set_viewport_size({"width": width, "height": height})
                shoot(page, f"money_{name}_{size}")
                assert_no_sideways_scroll(page)
            text = html.unescape(page.content())
            assert CPF not in text, name
            assert world.CAPTURE_REFUSED not in text, name


class TestPayments:
    def test_show_every_column_also_of_a_refusal(self, open_page: OpenPage, payment: Payment) -> None:
        Payment.objects.update(
            account_id="acc_demofestival", order_ref="Invoice 1-1039", reply_to="", card_brand="mastercard", amount=2000
        )
        page = open_page()
        page.goto("/admin/payments/payment/")
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        assert_every_column_in_view(page)


class TestDocument:
    def test_shows_the_stored_xml_masked_and_what_happened(self, open_page: OpenPage, document: Document) -> None:
        stored = queries.legal_xml(document)
        assert stored is not None
        pretty = etree.tostring(etree.fromstring(stored), pretty_print=True, encoding="unicode")
        assert BUYER_IN_XML in pretty
        page = opened(open_page, dark=True)
        page.goto("/admin/fiscal_docs/document/")
        expect(page.locator("#result_list .bo-chip")).to_have_text("Authorised")
        page.get_by_role("link", name=str(document)).click()
        expect(page.get_by_role("heading", name="XML and PDF")).to_be_visible()
        seen = page.locator(".fiscal-archive pre").text_content()
        assert seen == pretty.replace(BUYER_IN_XML, MASKED_IN_XML)
        expect(page.get_by_text("Signature: valid")).to_be_visible()
        expect(page.get_by_role("heading", name=re.compile("^Authorised at"))).to_be_visible()
        events = page.locator("section", has=page.get_by_role("heading", name="What happened to it"))
        expect(events.locator(".bo-chip")).to_have_text(["Numbered", "Signed", "Sent", "Authorised"])

    def test_prints_a_pdf_without_the_whole_cpf(self, open_page: OpenPage, document: Document) -> None:
        page = opened(open_page)
        page.goto(f"/admin/fiscal_docs/document/{document.pk}/change/")
        link = page.get_by_role("link", name="PDF", exact=True).get_attribute("href")
        assert link is not None
        answer = page.request.get(link)
        assert answer.headers["content-type"] == "application/pdf"
        printed = answer.body()
        assert printed.startswith(b"%PDF")
        assert f"***.***.{CPF[6:9]}-**".encode() in printed
        assert f"{CPF[:3]}.{CPF[3:6]}".encode() not in printed
        framed = page.locator(".fiscal-archive iframe").get_attribute("src")
        assert framed is not None
        assert framed.startswith(link)


class TestPayment:
    def test_tells_what_was_asked_and_answered(self, open_page: OpenPage, payment: Payment) -> None:
        page = opened(open_page)
        page.goto(f"/admin/payments/payment/{payment.pk}/change/")
        asked = page.get_by_role("table", name="What was asked of the processor")
        expect(asked.locator(".bo-chip")).to_have_text(["Approved", "Refused"])
        expect(asked).to_contain_text("capture_refused")
        expect(page.get_by_role("link", name="Its timeline")).to_have_attribute(
            "href", f"/admin/runs/{payment.reply_to.partition(':')[0]}/"
        )
        expect(page.locator(f'a[href="/admin/orders/order/{payment.order_ref}/change/"]')).to_be_visible()

    def test_tells_of_refunds_with_their_reason_and_state(self, open_page: OpenPage, transactional_db: None) -> None:
        client, payment_id = world.captured()
        for body in ({"amount": 4, "reason": "Two tickets were not used."}, {"amount": 1, "reason": "x" * 200}):
            client.post(f"/payments/{payment_id}/refunds", body, format="json")
            if body["amount"] == 4:
                pump_messages()
        page = opened(open_page)
        page.goto(f"/admin/payments/payment/{payment_id}/change/")
        asked = page.get_by_role("table", name="What was asked of the processor")
        expect(asked.locator(".bo-chip")).to_have_text(["Approved", "Approved", "Approved", "Waiting"])
        expect(asked).to_contain_text("“Two tickets were not used.”")
        expect(page.get_by_text("A refund of R$ 1.00 waits for the processor’s answer.")).to_be_visible()
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            shoot(page, f"money_refund_{size}")
            assert_no_sideways_scroll(page)


class TestAccount:
    def test_is_reached_from_the_list_and_says_what_is_posted_held_and_available(
        self, open_page: OpenPage, account: Account
    ) -> None:
        page = opened(open_page)
        page.goto(f"/admin/ledger/account/?q={account.branch_id}/{account.account}")
        page.get_by_role("link", name=f"{account.branch_id} · {account.account}").click()
        expect(page.locator(".bo-bal b")).to_have_count(3)
        numbers = page.locator(".bo-bal b").all_inner_texts()
        assert [Decimal(re.sub(r"[^0-9.]", "", each)) for each in numbers] == [money(90), money(20), money(70)]
        expect(page.get_by_role("region", name="Open holds")).to_contain_text("a hold")
