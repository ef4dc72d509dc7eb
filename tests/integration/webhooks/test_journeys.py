"""What merchants are told of real payments, orders, returns and documents, over our own topics."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.fiscal_docs.public import RunningSandbox
from apps.messaging.models import Inbox, Message
from apps.messaging.relay import relay_all
from apps.webhooks import listening
from apps.webhooks.catalogue import TYPES
from apps.webhooks.models import Delivery, Event
from config import demo
from tests import shop
from tests.integration.payments import world as payments_world
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.world import send_all
from tests.saga_driver import finish, pump_messages, server_world

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def own_topics() -> Any:
    with server_world():
        yield


@pytest.fixture
def opened(transactional_db: None, running_sandbox: RunningSandbox) -> demo.Demo:
    return shop.open_shop()


def told(account: str = demo.ACCOUNT_ID) -> list[str]:
    """The types of what happened, in their order."""
    return list(Event.objects.filter(account_id=account).order_by("sequence").values_list("type", flat=True))


def order(opened: demo.Demo, body: Any) -> str:
    basic = payments_world.basic(opened.account, opened.secret)
    answer = shop.post_order(Client(), body, Authorization=basic)
    assert answer.status_code in (201, 202), answer.content
    return str(answer.json()["id"])


class TestPayment:
    def test_of_a_merchant_is_told_until_it_is_captured(self, receiver: Receiver) -> None:
        client, account = payments_world.merchant(*world.SCOPES, code=world.ACCOUNT)
        made = world.register(receiver.url)
        card = {"number": payments_world.GOOD, "exp_month": 12, "exp_year": 2030, "cvv": "973"}
        answer = client.post("/payments", {"amount": "10.50", "card": card, "reference": "order-7"}, format="json")
        pump_messages()
        assert told(account) == ["payment.authorised", "payment.captured"]
        late = world.NOW.replace(year=2100)
        send_all(made.endpoint.id, now=late)
        bodies = [json.loads(one.body) for one in receiver.told]
        assert [body["data"]["payment_id"] for body in bodies] == [answer.json()["id"]] * 2
        assert bodies[1]["data"]["captured_amount"] == "10.50"
        for one in receiver.told:
            for never in (b"4242", b"visa", b"973"):
                assert never not in one.body

    def test_has_the_id_of_the_message_that_told_of_it(self) -> None:
        world.register(event_types=["payment.rejected"])
        with_id = payments_world.authorise(payments_world.DECLINED, account_id=world.ACCOUNT)
        pump_messages()
        event = Event.objects.get()
        assert event.object_id == with_id.id
        assert event.id in Message.objects.filter(topic="payments.card.payment.event").values_list("pk", flat=True)

    def test_is_told_once_however_often_its_message_comes(self) -> None:
        from tests.integration.messaging.world import again

        world.register()
        payments_world.authorise(account_id=world.ACCOUNT)
        pump_messages()
        before = Event.objects.count()
        for row in Message.objects.filter(topic="payments.card.payment.event"):
            again(row)
        relay_all()
        pump_messages()
        assert Event.objects.count() == before == Delivery.objects.count() > 0

    def test_of_another_account_is_nobodys_business(self) -> None:
        world.register()
        payments_world.authorise(account_id="acc_other")
        pump_messages()
        assert Event.objects.count() == 0
        assert Inbox.objects.filter(group="webhooks").exists()

    def test_of_nobody_who_listens_leaves_no_row(self) -> None:
        world.account()
        payments_world.authorise(account_id=world.ACCOUNT)
        pump_messages()
        assert Event.objects.count() == 0


class TestOrder:
    def test_by_balance_is_told_to_its_end(self, opened: demo.Demo) -> None:
        world.endpoints.register(
            account_id=opened.account, url=world.URL, event_types=list(TYPES), description="", now=world.NOW
        )
        order_id = order(opened, shop.by_balance())
        finish(shop.run_of(order_id).pk)
        assert told() == ["order.paid", "document.authorised", "order.completed"]
        ids = {str(event.data["order_id"]) for event in Event.objects.all()}
        assert ids == {order_id}
        shop.assert_nothing_left_over()

    def test_by_card_that_is_refused_is_told_with_why(self, opened: demo.Demo) -> None:
        world.endpoints.register(
            account_id=opened.account, url=world.URL, event_types=list(TYPES), description="", now=world.NOW
        )
        basic = {"payment": {"method": "card", "card_token": opened.refused_card_token}}
        order_id = order(opened, shop.body(**basic))
        finish(shop.run_of(order_id).pk)
        assert told() == ["payment.rejected", "order.payment_not_completed"]
        event = Event.objects.get(type="order.payment_not_completed")
        assert event.data["error_code"] == "R215"

    def test_that_is_given_back_is_told_by_all_that_it_is_made_of(self, opened: demo.Demo) -> None:
        order_id = order(opened, shop.by_balance())
        finish(shop.run_of(order_id).pk)
        world.endpoints.register(
            account_id=opened.account, url=world.URL, event_types=list(TYPES), description="", now=world.NOW
        )
        basic = payments_world.basic(opened.account, opened.secret)
        answer = shop.post_return(Client(), order_id, Authorization=basic)
        finish(answer.json()["runId"])
        assert told()[0] == "return.accepted"
        assert sorted(told()) == ["document.cancelled", "order.returned", "return.accepted", "return.completed"]

    def test_without_an_account_is_told_to_nobody(self, opened: demo.Demo) -> None:
        world.endpoints.register(
            account_id=opened.account, url=world.URL, event_types=list(TYPES), description="", now=world.NOW
        )
        answer = shop.post_order(Client(), shop.by_balance())
        finish(shop.run_of(answer.json()["id"]).pk)
        assert Event.objects.count() == 0
        topics = set(Message.objects.values_list("topic", flat=True))
        assert not topics & {"orders.purchase.order.event", "fiscal.documents.document.event"}

    def test_of_an_account_without_an_endpoint_publishes_nothing_more(self, opened: demo.Demo) -> None:
        order_id = order(opened, shop.by_balance())
        finish(shop.run_of(order_id).pk)
        topics = set(Message.objects.values_list("topic", flat=True))
        assert not topics & {"orders.purchase.order.event", "fiscal.documents.document.event"}


class TestListening:
    def test_is_asked_for_once_a_second_and_known_at_once_to_who_registers(self) -> None:
        world.account()
        assert not listening.listens(world.ACCOUNT)
        with CaptureQueriesContext(connection) as queries:
            assert not listening.listens(world.ACCOUNT)
            assert not listening.listens("")
        assert len(queries) == 0
        made = world.register()
        assert listening.listens(world.ACCOUNT)
        world.endpoints.delete(account_id=world.ACCOUNT, endpoint_id=made.endpoint.id, now=world.NOW)
        assert listening.listens(world.ACCOUNT), "for a second: what comes is consumed, and leaves no row"
        listening.forget(world.ACCOUNT)
        assert not listening.listens(world.ACCOUNT)

    def test_is_asked_again_when_the_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listening, "KNOWN_FOR_S", 0.0)
        world.account()
        assert not listening.listens(world.ACCOUNT)
        world.register()
        assert listening.listens(world.ACCOUNT)

    def test_remembers_only_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listening, "KNOWN_MAX", 3)
        for n in range(10):
            listening.listens(f"acc_{n}")
        assert len(listening._known) <= 3
