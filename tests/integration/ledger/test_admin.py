import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference
from apps.ledger.models import Account, Balance, Hold, Transaction
from tests.integration.ledger.conftest import ANA, ANY, BOB, NOW, fund, money, move, post

pytestmark = pytest.mark.usefixtures("bank")

MODELS = [
    "event",
    "branch",
    "account",
    "transaction",
    "balance",
    "hold",
    "check",
    "difference",
    "suspension",
    "block",
    "month",
]


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

    def test_show_accounts_in_every_status(self, admin: Client) -> None:
        with transaction.atomic():
            ledger.open_account(branch="0001", account="gone", now=NOW)
            ledger.close_account(account=ledger.AccountRef("0001", "gone"), now=NOW)
            ledger.set_frozen(account=BOB, frozen=True, now=NOW)
        text = page(admin, "account")
        assert all(word in text for word in ("Active", "Frozen", "Closed"))
        assert "gone" in page(admin, "account", status__exact="CLOSED")

    def test_show_what_is_posted_held_and_available(self, admin: Client) -> None:
        text = page(admin, "account", q="000000001")
        for amount in ("70.00", "20.00", "50.00"):
            assert amount in text

    def test_mask_a_card_number_and_a_cpf_in_a_description(self, admin: Client) -> None:
        told = "card 4242 4242 4242 4242 of 390.533.447-05"
        post(move(ANA, BOB, 1, description=told))
        Account.objects.filter(account=ANA.account).update(description=told)
        for model in ("transaction", "account"):
            text = page(admin, model)
            assert ("4242 4242" in text, "390.533" in text, "card ****4242 of •••.•••.447" in text) == (False, False, True)

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


@pytest.fixture
def broken(admin: Client) -> Difference:
    """A difference that a check wrote down."""
    row = Check.objects.create(kind="FULL", began_at=NOW, snapshot_at=NOW, ended_at=NOW, accounts=3, differences=1)
    values = {"stored": money(11), "proven": money(10), "first_seen": NOW, "last_seen": NOW, "check_run": row}
    return Difference.objects.create(rule=RULE, branch=ANA.branch, account=ANA.account, currency="BRL", **values)


RULE = "an account's credits are the sum of its lines"
KEYS = "a tracekey is known exactly when it has lines"


class TestDifferences:
    def act(self, client: Client, row: Difference, **more: Any) -> Any:
        address = reverse("admin:ledger_difference_changelist")
        return client.post(address, {"action": "acknowledge", "_selected_action": str(row.pk), **more}, secure=True)

    def confirm(self, client: Client, row: Difference, reason: str, *, meanwhile: Callable[[], object] = int) -> Any:
        """What the page that asks for a reason sends."""
        asked = self.act(client, row).content.decode()
        meanwhile()
        return self.act(client, row, confirmed="1", reason=reason, seen=re.findall('name="seen" value="([^"]*)"', asked))

    def test_are_listed_by_state_rule_and_branch_and_lead_to_the_account(self, admin: Client, broken: Difference) -> None:
        account = Account.objects.get(account=ANA.account)
        assert reverse("admin:ledger_account_change", args=[account.pk]) in page(admin, "difference")
        for query, shown in (
            ({"state": "OPEN"}, 1),
            ({"state": "GONE"}, 0),
            ({"rule": RULE}, 1),
            ({"branch": "0001"}, 1),
            ({"branch": "2"}, 0),
            ({"q": f"0001/{ANA.account}"}, 1),
            ({"q": "0001/none"}, 0),
        ):
            answer = admin.get(reverse("admin:ledger_difference_changelist"), query, secure=True)
            assert len(answer.context["cl"].result_list) == shown, query
        for row in (broken, broken.check_run):
            address = reverse(f"admin:ledger_{row._meta.model_name}_change", args=[row.pk])
            assert admin.get(address, secure=True).status_code == 200
            assert admin.post(address, {}, secure=True).status_code == 403

    def test_are_acknowledged_with_a_reason_which_is_kept_and_logged(self, admin: Client, broken: Difference) -> None:
        asked = self.act(admin, broken)
        assert (asked.status_code, RULE in asked.content.decode().replace("&#x27;", "'")) == (200, True)
        assert self.confirm(admin, broken, "").status_code == 422
        assert self.confirm(admin, broken, "known since March").status_code == 302
        broken.refresh_from_db()
        assert (broken.state, broken.acknowledged_by, broken.reason) == ("ACKNOWLEDGED", "root", "known since March")
        assert "known since March" in LogEntry.objects.get().change_message

    def test_that_are_gone_need_nothing(self, admin: Client, broken: Difference) -> None:
        Difference.objects.update(state="GONE", gone_at=NOW)
        assert "Nothing to acknowledge" in self.act(admin, broken, confirmed="1", reason="whatever").content.decode()

    def test_are_acknowledged_as_somebody_saw_them(self, admin: Client, broken: Difference) -> None:
        def check_again() -> None:
            Difference.objects.update(stored=money(9_000))

        again = self.confirm(admin, broken, "eleven is known", meanwhile=check_again)
        assert (again.status_code, "other amounts now" in again.content.decode()) == (409, True)
        assert "eleven is known" in again.content.decode()
        broken.refresh_from_db()
        assert (broken.state, LogEntry.objects.count()) == ("OPEN", 0)
        assert self.confirm(admin, broken, "nine thousand are known").status_code == 302

    def test_say_whose_money_differs_and_what_is_no_money(self, admin: Client, broken: Difference) -> None:
        Difference.objects.update(currency="USD", stored=money(1_284))
        values = {"proven": 2, "first_seen": NOW, "last_seen": NOW, "check_run": broken.check_run}
        unknown = Difference.objects.create(rule=KEYS, tracekey=uuid7(), **values)
        for text in (page(admin, "difference"), self.act(admin, broken).content.decode()):
            assert "USD\u00a01,284.00" in text
            assert f"{ANA.account} USD" in text
        for text in (page(admin, "difference"), self.act(admin, unknown).content.decode()):
            assert "not known" in text
            assert "2 lines" in text

    def test_are_acknowledged_only_by_who_may(self, admin: Client, broken: Difference) -> None:
        looker = User.objects.create_user("looker", is_staff=True)
        looker.user_permissions.add(Permission.objects.get(codename="view_difference"))
        client = Client()
        client.force_login(looker)
        assert RULE.replace("'", "&#x27;") in page(client, "difference")
        self.act(client, broken, confirmed="1", reason="because I say so")
        broken.refresh_from_db()
        assert broken.state == "OPEN"


class TestSuspensions:
    def test_are_lifted_by_an_action_that_is_logged(self, admin: Client) -> None:
        with transaction.atomic():
            view = ledger.suspend(mode="REFUSE", reason="a look", by="ana", now=timezone.now())
        assert "a look" in page(admin, "suspension")
        chosen = {"action": "lift", "_selected_action": str(view.id)}
        admin.post(reverse("admin:ledger_suspension_changelist"), chosen, secure=True)
        assert ledger.suspended(now=timezone.now()) == []
        assert LogEntry.objects.get().change_message == "Lifted"
