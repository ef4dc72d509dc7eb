"""The tax authority is away for hours: orders go on with receipts that are handed out first, and delivered later."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client
from django.test.utils import override_settings
from django.urls import reverse
from django.utils import timezone

from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import Document
from apps.fiscal_docs.public import RunningSandbox
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxVoidedRange
from apps.orders import public as orders
from apps.saga import pauses, triage
from apps.saga import public as saga
from apps.saga.control_models import Pause
from apps.saga.models import Run, Step
from config import demo
from tests import shop
from tests.saga_driver import finish, let_time_pass, work
from tests.trials import NOWHERE

DELIVERY = "orders.document.delivery"
REASON = "Sem comunicacao com a SEFAZ autorizadora."
PAID = pytest.mark.parametrize("pay", [shop.by_balance(), shop.body()], ids=["balance", "card"])


@pytest.fixture(autouse=True)
def own_time(running_sandbox: RunningSandbox) -> Iterator[None]:
    yield
    running_sandbox.set_clock()
    running_sandbox.faults.clear()


def enter() -> None:
    orders.enter_contingency(reason=REASON, by="user:ana", now=timezone.now())


def leave() -> None:
    orders.leave_contingency(reason="It is back.", by="user:ana", now=timezone.now())


def bought(pay: dict[str, Any]) -> UUID:
    """An order while nobody answers at the authority."""
    with override_settings(FISCAL_AUTHORITY_URL=NOWHERE):
        order_id = UUID(shop.post_order(Client(), pay).json()["id"])
        assert finish(Run.objects.get(subject_id=order_id, use_case__startswith="orders.purchase").pk).status == "COMPLETED"
    return order_id


def delivery(order_id: UUID) -> Run:
    return Run.objects.get(subject_id=order_id, use_case=DELIVERY)


class TestWhileTheAuthorityIsAway:
    @PAID
    def test_orders_are_completed_and_delivered_when_it_is_back(self, opened: demo.Demo, pay: dict[str, Any]) -> None:
        enter()
        order_id = bought(pay)
        assert Document.objects.get().state == "OFFLINE"
        assert shop.order(order_id).status == "COMPLETED"
        run = delivery(order_id)
        let_time_pass(run.pk)
        assert work(run.pk).status in ("RUNNING", "PENDING", "WAITING")  # a pause holds it
        assert Step.objects.get(run=run).attempts == 0
        leave()
        assert finish(run.pk).status == "COMPLETED"
        document = Document.objects.get()
        assert (document.state, document.emission_type) == ("AUTHORISED", "9")
        assert SandboxDocument.objects.get().access_key == document.access_key

    @PAID
    def test_an_order_that_could_not_be_sent_goes_on_when_it_is_switched_on(
        self, opened: demo.Demo, pay: dict[str, Any]
    ) -> None:
        """The breaker holds it back; the switch lets it go, and nobody has to be asked about it."""
        with override_settings(FISCAL_AUTHORITY_URL=NOWHERE):
            order_id = shop.post_order(Client(), pay).json()["id"]
            run = work(shop.run_of(order_id).pk)
            number = Document.objects.get().number
            with transaction.atomic():
                kind = Pause.Kind.BREAKER
                pauses.insert(run.use_case, run.at_step, kind, reason="away", by="breaker", now=timezone.now())
            pauses.forget()
            let_time_pass(run.pk)
            assert work(run.pk).held_by is not None
            enter()
            run = finish(run.pk)
        assert run.status == "COMPLETED"
        assert (Document.objects.get().state, Document.objects.get().number) == ("OFFLINE", number)
        leave()
        assert finish(delivery(UUID(order_id)).pk).status == "COMPLETED"
        assert (SandboxDocument.objects.get().number, Document.objects.get().state) == (number, "AUTHORISED")

    def test_without_the_switch_an_order_by_card_is_undone(self, opened: demo.Demo) -> None:
        """What happens by itself: a document is not handed out before somebody says so."""
        with override_settings(FISCAL_AUTHORITY_URL=NOWHERE):
            order_id = shop.post_order(Client(), shop.body()).json()["id"]
            run = shop.run_of(order_id)
            while work(run.pk).status == "RUNNING":
                let_time_pass(run.pk)
        assert shop.order(order_id).status != "COMPLETED"

    def test_every_order_has_a_number_of_its_own_without_a_gap(self, opened: demo.Demo) -> None:
        first = UUID(shop.post_order(Client(), shop.by_balance()).json()["id"])
        finish(shop.run_of(first).pk)
        enter()
        handed_out = [bought(shop.by_balance()) for _ in range(3)]
        leave()
        for order_id in handed_out:
            assert finish(delivery(order_id).pk).status == "COMPLETED"
        assert sorted(SandboxDocument.objects.values_list("number", flat=True)) == [1, 2, 3, 4]

    def test_a_purchase_that_is_undone_takes_the_receipt_back(self, opened: demo.Demo) -> None:
        """The card is refused at the capture, after the receipt was made: its number is voided, nothing is delivered."""
        enter()
        order_id = shop.post_order(Client(), shop.by_card(opened.capture_refused_card_token)).json()["id"]
        purchase = Run.objects.get(subject_id=order_id, use_case="orders.purchase.card")
        assert finish(purchase.pk).status == "COMPENSATED"
        leave()
        assert finish(delivery(UUID(order_id)).pk).status == "COMPLETED"
        assert Document.objects.get().state == "NUMBER_VOIDED"
        assert (SandboxVoidedRange.objects.count(), SandboxDocument.objects.count()) == (1, 0)

    def test_a_return_takes_the_receipt_back(self, opened: demo.Demo) -> None:
        enter()
        order_id = bought(shop.by_balance())
        assert finish(UUID(shop.post_return(Client(), order_id).json()["runId"])).status == "COMPLETED"
        leave()
        assert finish(delivery(order_id).pk).status == "COMPLETED"
        assert Document.objects.get().state == "NUMBER_VOIDED"
        assert not SandboxDocument.objects.exists()


class TestTheSwitch:
    def test_pauses_the_delivery_and_lets_it_go(self, opened: demo.Demo) -> None:
        enter()
        (pause,) = saga.pauses(DELIVERY)
        assert (pause.reason, pause.paused_by) == (REASON, "user:ana")
        with pytest.raises(fiscal.AlreadyInContingency):
            enter()
        leave()
        assert saga.pauses(DELIVERY) == ()
        with pytest.raises(fiscal.NotInContingency):
            leave()

    def test_does_not_undo_an_order_because_its_delivery_is_refused(self, opened: demo.Demo) -> None:
        """Somebody has new runs of the delivery refused: the receipt is left to be settled."""
        enter()
        saga.lift_pause(DELIVERY, reason="by hand", by="user:bob", now=timezone.now())
        saga.pause(DELIVERY, reason="by hand", by="user:bob", now=timezone.now(), refuses=True)
        order_id = bought(shop.body())
        assert not Run.objects.filter(use_case=DELIVERY).exists()
        assert Document.objects.get().state == "OFFLINE"
        assert orders.left_behind(order_id=order_id, now=timezone.now()).run_id is None

    def test_does_what_is_left_when_it_was_done_in_half(self, opened: demo.Demo) -> None:
        """Whoever paused, or let go, the delivery by hand."""
        saga.pause(DELIVERY, reason="by hand", by="user:bob", now=timezone.now())
        enter()
        saga.lift_pause(DELIVERY, reason="by hand", by="user:bob", now=timezone.now())
        leave()
        assert fiscal.contingency() is None


class TestThePage:
    def test_switches_it_with_a_reason_and_says_so_everywhere(self, opened: demo.Demo, admin_client: Client) -> None:
        page = reverse("admin:backoffice_contingency")
        assert "Contingency is off." in admin_client.get(page).content.decode()
        for reason in ("", "too short"):
            assert admin_client.post(page, {"switch": "on", "reason": reason}).status_code == 422
        assert fiscal.contingency() is None
        assert admin_client.post(page, {"switch": "on", "reason": REASON}).status_code == 302
        for shown in (page, reverse("admin:index"), reverse("admin:orders_order_changelist")):
            assert "Contingency since" in admin_client.get(shown).content.decode(), shown
        assert "Contingency is on" in admin_client.get(reverse("admin:index")).content.decode()
        assert admin_client.post(page, {"switch": "on", "reason": REASON}).status_code == 302
        assert len(fiscal.contingencies()) == 1
        assert admin_client.post(page, {"switch": "off", "reason": "It is back."}).status_code == 302
        assert "Contingency since" not in admin_client.get(page).content.decode()

    def test_is_for_those_who_may(self, opened: demo.Demo, client: Client) -> None:
        page = reverse("admin:backoffice_contingency")
        clerk = User.objects.create_user("clerk", password="x", is_staff=True)
        client.force_login(clerk)
        assert client.get(page).status_code == 403
        clerk.user_permissions.add(Permission.objects.get(codename="view_document"))
        assert "you lack the permission" in client.get(page).content.decode()
        assert client.post(page, {"switch": "on", "reason": REASON}).status_code == 403
        assert fiscal.contingency() is None
        clerk.user_permissions.add(Permission.objects.get(codename="change_contingency"))
        assert client.post(page, {"switch": "on", "reason": REASON}).status_code == 302
        assert fiscal.contingency() is not None


class TestAWaitingOrder:
    def test_that_was_sent_before_is_not_handed_out_but_asked_about(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        from apps.fiscal_docs.sandbox.faults import Action, Fault

        running_sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service="NFeAutorizacao4"))
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        run = work(shop.run_of(order_id).pk)
        assert Document.objects.get().state == "UNKNOWN"
        enter()
        assert finish(run.pk).status == "COMPLETED"
        assert (Document.objects.get().state, Document.objects.get().emission_type) == ("AUTHORISED", "1")
        assert SandboxDocument.objects.count() == 1


class TestADeliveryThatWasClosed:
    def test_leaves_its_document_to_be_settled(self, opened: demo.Demo) -> None:
        enter()
        order_id = bought(shop.by_balance())
        run = delivery(order_id)
        assert orders.left_behind(order_id=order_id, now=timezone.now()).run_id == run.pk
        leave()
        with override_settings(FISCAL_AUTHORITY_URL=NOWHERE):
            run = work(run.pk)
        with transaction.atomic():
            skip = saga.wanted(saga.Action.SKIP)
            triage.apply(run.pk, skip, reason="by hand", by="user:ana", now=timezone.now(), seen="")
        assert finish(run.pk).status == "COMPLETED"
        assert Document.objects.get().state == "OFFLINE"
        assert orders.left_behind(order_id=order_id, now=timezone.now()).run_id is None
        settling = orders.settle_document(
            order_id=order_id, settle=orders.Settle.SEND, reason="It was closed.", by="user:ana", now=timezone.now()
        )
        assert finish(settling).status == "COMPLETED"
        assert (Document.objects.get().state, Document.objects.get().emission_type) == ("AUTHORISED", "9")


class TestADeliveryThatIsRefused:
    def test_waits_for_a_person_and_is_corrected(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        enter()
        order_id = bought(shop.by_balance())
        leave()
        running_sandbox.set_clock(lambda: timezone.now() - timedelta(minutes=10))  # from its future: 703
        run = work(delivery(order_id).pk)
        assert (run.status, run.error_code) == ("STUCK", "R407")
        running_sandbox.set_clock()
        asked = saga.request_action(
            saga.Selection(run_ids=(run.pk,)), saga.wanted(saga.Action.RETRY), reason="Their clock.", by="user:ana",
            now=timezone.now(),
        )  # fmt: skip
        saga.work_on_action(asked, now=timezone.now())
        assert finish(run.pk).status == "COMPLETED"
        assert Document.objects.get().state == "AUTHORISED"
