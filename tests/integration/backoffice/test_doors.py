"""Nobody is led where he is refused: a link to a page that he may not open is its text alone."""

import re
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from apps.backoffice.doors import OWN
from apps.fiscal_docs.models import Document
from apps.ledger.models import Account, Transaction
from apps.payments.models import Payment
from config import demo
from tests import shop
from tests.saga_driver import finish

ARGUMENTS = {"backoffice_account": ["0001", "000000001", "BRL"], "backoffice_use_case": ["orders.purchase.card"]}
WITHOUT = ("backoffice_triage", "backoffice_use_cases", "backoffice_contingency")
OURS = re.compile(r'href="(/admin/[^"?#]*)')
# What the shell links to for everybody.
SHELL = re.compile(r"/admin/(password_change/|logout/|jsi18n/)?")


def somebody_with(*names: str) -> Client:
    """Staff with these permissions and no other."""
    user = User.objects.create_user(f"user{uuid4().hex[:8]}", password="a long one", is_staff=True)
    for name in names:
        app, _, codename = name.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.django_db
class TestOwnPages:
    @pytest.mark.parametrize("page", OWN)
    def test_ask_for_what_their_links_ask_for(self, page: str) -> None:
        args = ARGUMENTS.get(page, [] if page in WITHOUT else [uuid4()])
        where = reverse(f"admin:{page}", args=args)
        assert somebody_with(OWN[page]).get(where).status_code in (200, 302, 404)
        others = sorted({*OWN.values()} - {OWN[page]})
        assert somebody_with(*others).get(where).status_code == 403


def links_of(client: Client, page: str) -> set[str]:
    """Where a page leads, without the shell around it, which is for everybody."""
    answer = client.get(page)
    assert answer.status_code == 200, page
    return {found for found in OURS.findall(answer.content.decode()) if not SHELL.fullmatch(found)}


class TestLinks:
    def test_of_every_page_open_for_whoever_sees_that_page_alone(self, opened: demo.Demo, chief: Client) -> None:
        """Pages that join what several apps know, each seen by somebody with the one permission of it."""
        order = shop.post_order(Client()).json()["id"]
        run = shop.run_of(order)
        assert finish(run.pk).status == "COMPLETED"
        account = Account.objects.get(account=Transaction.objects.order_by("seq").values_list("account", flat=True)[0])
        entry = Transaction.objects.values_list("tracekey", flat=True).order_by("-seq")[0]
        pages = {
            "orders.view_order": reverse("admin:orders_order_change", args=[order]),
            "payments.view_payment": reverse("admin:payments_payment_change", args=[Payment.objects.get().pk]),
            "fiscal_docs.view_document": reverse("admin:fiscal_docs_document_change", args=[Document.objects.get().pk]),
            "saga.view_run": reverse("admin:backoffice_run", args=[run.pk]),
            "ledger.view_transaction": reverse("admin:backoffice_entry", args=[entry]),
            "ledger.view_account": reverse(
                "admin:backoffice_account", args=[account.branch_id, account.account, account.currency]
            ),
            "messaging.view_message": reverse("admin:messaging_message_changelist"),
            "customers.view_customer": reverse("admin:customers_customer_changelist"),
        }
        led_on: dict[str, int] = {}
        for permission, page in pages.items():
            viewer = somebody_with(permission)
            for page_seen in (page, reverse("admin:index")):
                found = links_of(viewer, page_seen)
                refused = sorted(link for link in found if viewer.get(link).status_code == 403)
                assert refused == [], f"{permission} at {page_seen}"
            led_on[permission] = len(links_of(chief, page)) - len(links_of(viewer, page))
        assert led_on["orders.view_order"] >= 4, "whoever may see all of it is led on"
        assert led_on["saga.view_run"] >= 4
