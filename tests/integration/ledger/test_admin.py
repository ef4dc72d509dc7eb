from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.models import Account, Balance, Hold, Transaction
from tests.integration.ledger.conftest import ANA, ANY, BOB, NOW, fund, money, move, post

pytestmark = pytest.mark.usefixtures("bank")

MODELS = ["event", "branch", "account", "transaction", "balance", "hold"]


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    fund(ANA, 100)
    post(move(ANA, BOB, 10))
    with transaction.atomic():
        for key in ("open", "posted"):
            ledger.hold(key=key, branch="0001", account=ANA.account, amount=money(20), now=NOW)
        ledger.post_hold(key="posted", tracekey=uuid7(), credit=BOB, eventcode=ANY, description="", now=NOW)
    return client


def page(client: Client, model: str, **query: Any) -> str:
    answer = client.get(reverse(f"admin:ledger_{model}_changelist"), query, secure=True)
    assert answer.status_code == 200
    return answer.content.decode()


class TestLists:
    @pytest.mark.parametrize("model", MODELS)
    def test_are_shown_and_offer_no_way_to_write(self, admin: Client, model: str) -> None:
        page(admin, model)
        assert admin.get(reverse(f"admin:ledger_{model}_add"), secure=True).status_code == 403

    def test_show_what_is_posted_held_and_available(self, admin: Client) -> None:
        text = page(admin, "account", q="000000001")
        for amount in ("70.00", "20.00", "50.00"):
            assert amount in text

    def test_link_an_account_to_its_transactions(self, admin: Client) -> None:
        query = {"branch__exact": "0001", "account__exact": ANA.account, "currency__exact": "BRL"}
        assert "branch__exact=0001&amp;account__exact=000000001&amp;currency__exact=BRL" in page(admin, "account")
        for model, rows in (("transaction", 3), ("balance", 1), ("hold", 2)):
            answer = admin.get(reverse(f"admin:ledger_{model}_changelist"), query, secure=True)
            assert len(answer.context["cl"].result_list) == rows

    def test_find_transactions_by_key_or_account(self, admin: Client) -> None:
        row = Transaction.objects.order_by("seq").last()
        for text, count in ((row.id, 1), (row.tracekey, 2), (f"0001/{BOB.account}", 2), ("nothing", 0)):
            answer = admin.get(reverse("admin:ledger_transaction_changelist"), {"q": str(text)}, secure=True)
            assert len(answer.context["cl"].result_list) == count
        assert len(Hold.objects.all()) == 2
        answer = admin.get(reverse("admin:ledger_hold_changelist"), {"q": "open"}, secure=True)
        assert len(answer.context["cl"].result_list) == 1


class TestPages:
    def test_show_one_row_and_refuse_to_change_it(self, admin: Client) -> None:
        for row in (Account.objects.get(account=ANA.account), Transaction.objects.first(), Balance.objects.first()):
            address = reverse(f"admin:ledger_{row._meta.model_name}_change", args=[row.pk])
            assert admin.get(address, secure=True, follow=True).status_code == 200
            assert admin.post(address, {}, secure=True).status_code == 403
            delete = reverse(f"admin:ledger_{row._meta.model_name}_delete", args=[row.pk])
            assert admin.post(delete, {"post": "yes"}, secure=True).status_code == 403
