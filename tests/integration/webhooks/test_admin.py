"""The back office's pages of webhooks: everything to look at, no secret, and one action."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.webhooks import endpoints, signatures
from apps.webhooks.models import Delivery, Endpoint, Event
from tests.integration.payments.world import staff
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.world import NOW, delivery, happen, register, send_all

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "admin:webhooks_delivery_changelist"
REASON = "their server is well again"
QUERIES_MAX = 15  # of a list: it does not grow with its rows


def page(browser: Client, model: str, key: object) -> str:
    answer = browser.get(reverse(f"admin:webhooks_{model}_change", args=[key]))
    assert answer.status_code == 200
    return str(answer.content.decode())


def ask(browser: Client, *keys: object, confirmed: bool = False, reason: str = "") -> Any:
    fields: dict[str, Any] = {"action": "redeliver", "_selected_action": [str(key) for key in keys], "select_across": "0"}
    fields |= {"confirmed": "1", "reason": reason} if confirmed else {"index": "0"}
    return browser.post(reverse(LIST), fields)


class TestPages:
    def test_list_search_and_show_and_change_nothing(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        send_all(made.endpoint.id)
        browser = staff()
        for model, key in (("endpoint", made.endpoint.id), ("delivery", delivery(event_id).pk)):
            listed = reverse(f"admin:webhooks_{model}_changelist")
            for query in ("", str(key), str(key)[:8], world.ACCOUNT, "nobody"):
                assert browser.get(listed, {"q": query}).status_code == 200
            assert page(browser, model, key)
            assert browser.get(reverse(f"admin:webhooks_{model}_add")).status_code == 403
            for action in ("change", "delete"):
                address = reverse(f"admin:webhooks_{model}_{action}", args=[key])
                assert browser.post(address, {"post": "yes"}).status_code == 403

    def test_show_no_secret(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        endpoints.rotate(account_id=world.ACCOUNT, endpoint_id=made.endpoint.id, now=NOW)
        row, browser = Endpoint.objects.get(), staff()
        text = (
            page(browser, "endpoint", row.pk) + browser.get(reverse("admin:webhooks_endpoint_changelist")).content.decode()
        )
        secret = signatures.unseal(bytes(row.sealed_secret), endpoint_id=row.pk)
        for hidden in (
            made.secret,
            signatures.shown(secret),
            repr(bytes(row.sealed_secret)),
            bytes(row.sealed_secret).hex(),
        ):
            assert hidden not in text

    def test_show_what_a_stranger_answered_as_text(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        receiver.usual, receiver.body = 500, b"<script>alert(1)</script> 4242424242424242"
        send_all(made.endpoint.id)
        text = page(staff(), "delivery", delivery(event_id).pk)
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert(1)" not in text
        assert "4242424242424242" not in text
        assert "It answered 500." in text

    def test_find_a_delivery_by_what_it_is_about(self) -> None:
        register()
        (event_id, _) = happen(2)
        row, browser = delivery(event_id), staff()
        for key in (row.pk, event_id, row.event.object_id):
            found = browser.get(reverse(LIST), {"q": str(key)}).context["cl"].result_list
            assert [one.pk for one in found] == [row.pk]

    @pytest.mark.parametrize("state", ["well", "failing", "disabled", "deleted"])
    def test_filter_endpoints_by_how_they_are(self, state: str, receiver: Receiver) -> None:
        made = {name: register(f"{receiver.url}&{name}").endpoint.id for name in ("well", "failing", "disabled", "deleted")}
        endpoints.change(account_id=world.ACCOUNT, endpoint_id=made["disabled"], enabled=False, now=NOW)
        endpoints.delete(account_id=world.ACCOUNT, endpoint_id=made["deleted"], now=NOW)
        Endpoint.objects.filter(pk=made["failing"]).update(failing_since=NOW, failures=1)
        found = staff().get(reverse("admin:webhooks_endpoint_changelist"), {"state": state}).context["cl"].result_list
        assert [row.pk for row in found] == [made[state]]

    @pytest.mark.parametrize("what", ["object", "event"])
    def test_find_a_delivery_without_reading_the_others(self, what: str) -> None:
        """One question to three tables read all that was ever told: eight seconds for 400,000."""
        register()
        event = Event.objects.get(id=happen(60)[30])
        text = str({"object": event.object_id, "event": event.id}[what])
        rows = admin.site._registry[Delivery].by_key(text)
        statement, values = Delivery.objects.filter(rows).order_by("-id").query.sql_with_params()
        assert world.rows_read(statement, values, without="seqscan,indexscan,indexonlyscan") <= 1

    def test_ask_no_more_for_many_rows(self) -> None:
        register()
        happen(30)
        browser = staff()
        with CaptureQueriesContext(connection) as queries:
            browser.get(reverse(LIST))
        assert len(queries) <= QUERIES_MAX

    def test_are_for_those_who_may_look(self) -> None:
        browser = Client()
        browser.force_login(User.objects.create_user("nosy", password="a long one", is_staff=True))
        assert browser.get(reverse(LIST)).status_code == 403


class TestDeliverAgain:
    def test_asks_why_before_it_does_anything(self) -> None:
        register()
        (event_id,) = happen()
        Delivery.objects.update(state="FAILED", finished_at=NOW)
        answer = ask(staff(), delivery(event_id).pk)
        assert answer.status_code == 200
        assert "1 delivery to send again" in answer.content.decode()
        assert ask(staff_again(), delivery(event_id).pk, confirmed=True, reason="x").status_code == 422
        assert delivery(event_id).state == "FAILED"
        assert LogEntry.objects.count() == 0

    def test_sends_the_chosen_ones_and_keeps_who_and_why(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happened = happen(3)
        Delivery.objects.update(state="FAILED", finished_at=NOW, tries=10)
        ask(staff(), *(delivery(one).pk for one in happened[:2]), confirmed=True, reason=REASON)
        assert [delivery(one).state for one in happened] == ["PENDING", "PENDING", "FAILED"]
        entries = LogEntry.objects.order_by("pk")
        assert [entry.user.get_username() for entry in entries] == ["ops"] * 2
        assert all(REASON in entry.change_message for entry in entries)
        assert send_all(made.endpoint.id, now=NOW.replace(year=2100)) == 2

    def test_leaves_disabled_endpoints_alone(self) -> None:
        made = register()
        (event_id,) = happen()
        Delivery.objects.update(state="FAILED", finished_at=NOW)
        endpoints.change(account_id=world.ACCOUNT, endpoint_id=made.endpoint.id, enabled=False, now=NOW)
        answer = ask(staff(), delivery(event_id).pk, confirmed=True, reason=REASON)
        assert "Nothing to send again" in answer.content.decode()
        assert delivery(event_id).state == "FAILED"

    def test_takes_no_more_than_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.webhooks.admin.REDELIVERED_MAX", 1)
        register()
        happened = happen(2)
        Delivery.objects.update(state="FAILED", finished_at=NOW)
        assert ask(staff(), *(delivery(one).pk for one in happened), confirmed=True, reason=REASON).status_code == 302
        assert {delivery(one).state for one in happened} == {"FAILED"}

    def test_is_for_those_who_may(self) -> None:
        register()
        (event_id,) = happen()
        Delivery.objects.update(state="FAILED", finished_at=NOW)
        user = User.objects.create_user("viewer", password="a long one", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename="view_delivery"))
        browser = Client()
        browser.force_login(user)
        row = delivery(event_id)
        assert "Deliver again" not in page(browser, "delivery", row.pk)
        ask(browser, row.pk, confirmed=True, reason=REASON)
        assert delivery(event_id).state == "FAILED"
        user.user_permissions.set(Permission.objects.filter(codename__in=["view_delivery", "redeliver_delivery"]))
        browser.force_login(User.objects.get(pk=user.pk))
        assert "Deliver again" in page(browser, "delivery", row.pk)
        ask(browser, row.pk, confirmed=True, reason=REASON)
        assert delivery(event_id).state == "PENDING"


def staff_again() -> Client:
    """The same superuser in another browser."""
    browser = Client()
    browser.force_login(User.objects.get(username="ops"))
    return browser
