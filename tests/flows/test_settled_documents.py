"""A document that its run has left behind is sent later, or its number voided: a person decides."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.common.clock import uuid7
from apps.common.errors import NotFound
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import Document, DocumentEvent, NumberRange
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.public import RunningSandbox
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxVoidedRange
from apps.orders import public as orders
from apps.orders.models import Order
from apps.saga import public as saga
from apps.saga import triage
from apps.saga.models import Run
from config import demo
from tests import shop
from tests.saga_driver import finish, work
from tests.trials import leave_behind

AUTHORISE = "NFeAutorizacao4"
REASON = "It was passed over at night."


@pytest.fixture(autouse=True)
def own_time(running_sandbox: RunningSandbox) -> Iterator[None]:
    yield
    running_sandbox.set_clock()
    running_sandbox.faults.clear()


def settle(order_id: UUID, how: orders.Settle) -> Run:
    run_id = orders.settle_document(order_id=order_id, settle=how, reason=REASON, by="user:ana", now=timezone.now())
    return finish(run_id)


def skipped(order_id: UUID | str) -> UUID:
    """Its run was tried, and an operator passed over the step that sends."""
    run = work(shop.run_of(order_id).pk)
    with transaction.atomic():
        skip = triage.wanted(triage.Action.SKIP)
        triage.apply(run.pk, skip, reason="they wait", by="user:ana", now=timezone.now(), seen="")
    assert finish(run.pk).status == "COMPLETED"
    return UUID(str(order_id))


def refused(sandbox: RunningSandbox) -> UUID:
    sandbox.set_clock(lambda: timezone.now() + timedelta(minutes=10))
    order_id = skipped(shop.post_order(Client(), shop.by_balance()).json()["id"])
    sandbox.set_clock()
    assert Document.objects.get().state == "REJECTED"
    return order_id


class TestSend:
    def test_signs_what_was_refused_anew_under_its_number(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        order_id = refused(running_sandbox)
        number = Document.objects.get().number
        assert settle(order_id, orders.Settle.SEND).status == "COMPLETED"
        document = Document.objects.get()
        assert (document.state, document.number, SandboxDocument.objects.get().number) == ("AUTHORISED", number, number)
        again = DocumentEvent.objects.get(fact="SIGNED_AGAIN")
        assert (again.actor, again.reason) == ("user:ana", REASON)

    def test_records_what_the_authority_has_already(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        running_sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        order_id = skipped(shop.post_order(Client(), shop.by_balance()).json()["id"])
        assert Document.objects.get().state == "UNKNOWN"
        assert settle(order_id, orders.Settle.SEND).status == "COMPLETED"
        assert Document.objects.get().state == "AUTHORISED"
        assert SandboxDocument.objects.count() == 1

    def test_is_refused_for_an_order_that_was_not_sold(self, opened: demo.Demo) -> None:
        order_id = leave_behind()
        Order.objects.update(status="CANCELLED")
        with pytest.raises(orders.OrderNotSold):
            settle(order_id, orders.Settle.SEND)
        assert settle(order_id, orders.Settle.VOID).status == "COMPLETED"
        assert Document.objects.get().state == "NUMBER_VOIDED"


class TestRenumber:
    def test_sends_it_under_the_next_number_when_its_own_is_another_documents(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        """A restored backup: the authority knows number 1, our books have forgotten it."""
        shop.post_order(Client(), shop.by_balance())
        finish(Run.objects.get().pk)
        Document.objects.update(series=889)
        NumberRange.objects.update(next_number=1)
        order_id = skipped(shop.post_order(Client(), shop.by_balance()).json()["id"])
        left = orders.left_behind(order_id=order_id, now=timezone.now())
        assert left.preview is not None
        assert (left.document.refusal_code, left.preview.taken_number) == ("539", 1)
        assert settle(order_id, orders.Settle.RENUMBER).status == "COMPLETED"
        assert sorted(SandboxDocument.objects.values_list("number", flat=True)) == [1, 2]
        assert Document.objects.get(order_id=order_id).number == 2


class TestVoid:
    def test_leaves_no_gap(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        order_id = refused(running_sandbox)
        assert settle(order_id, orders.Settle.VOID).status == "COMPLETED"
        document = Document.objects.get()
        assert (document.state, SandboxVoidedRange.objects.get().first) == ("NUMBER_VOIDED", document.number)
        asked = DocumentEvent.objects.get(fact="UNDO_ASKED")
        assert (asked.actor, asked.reason) == ("user:ana", REASON)

    def test_cancels_what_the_authority_has_already(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        running_sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        order_id = skipped(shop.post_order(Client(), shop.by_balance()).json()["id"])
        assert settle(order_id, orders.Settle.VOID).status == "COMPLETED"
        assert Document.objects.get().state == "CANCELLED"


class TestNothingToSettle:
    def test_is_a_document_whose_run_is_not_over(self, opened: demo.Demo, running_sandbox: RunningSandbox) -> None:
        running_sandbox.set_clock(lambda: timezone.now() + timedelta(minutes=10))
        order_id = UUID(shop.post_order(Client(), shop.by_balance()).json()["id"])
        run = work(shop.run_of(order_id).pk)
        assert run.status == "STUCK"
        with pytest.raises(orders.NothingToSettle, match="not over"):
            settle(order_id, orders.Settle.SEND)
        assert orders.left_behind(order_id=order_id, now=timezone.now()).run_id == run.pk

    def test_is_an_order_without_such_a_document(self, opened: demo.Demo) -> None:
        order_id = leave_behind()
        settle(order_id, orders.Settle.SEND)
        for looked in (orders.settle_document, orders.left_behind):
            more = {"settle": orders.Settle.SEND, "reason": REASON, "by": "a"} if looked is orders.settle_document else {}
            with pytest.raises(orders.NothingToSettle):
                looked(order_id=order_id, now=timezone.now(), **more)
            with pytest.raises(NotFound):
                looked(order_id=uuid7(), now=timezone.now(), **more)

    def test_twice_at_once_is_refused(self, opened: demo.Demo) -> None:
        order_id = leave_behind()
        values = {"order_id": order_id, "settle": orders.Settle.SEND, "reason": REASON, "by": "user:ana"}
        orders.settle_document(**values, now=timezone.now())
        with pytest.raises(saga.KeyHeld):
            orders.settle_document(**values, now=timezone.now())

    def test_is_a_document_that_a_return_has_voided(self, opened: demo.Demo) -> None:
        order_id = leave_behind()
        assert finish(UUID(shop.post_return(Client(), order_id).json()["runId"])).status == "COMPLETED"
        assert journal.read(f"{Document.objects.get().step_key}").state == "NUMBER_VOIDED"
        with pytest.raises(orders.NothingToSettle):
            settle(order_id, orders.Settle.SEND)
        assert fiscal.unsettled_of_order(order_id) is None


class TestThePage:
    def test_asks_what_and_why_and_begins_a_run(
        self, opened: demo.Demo, running_sandbox: RunningSandbox, admin_client: Client
    ) -> None:
        order_id = refused(running_sandbox)
        page = reverse("admin:backoffice_order_document", args=[order_id])
        shown = admin_client.get(page).content.decode()
        assert "ide/dhEmi" not in shown or "704" in shown
        assert "Its number is voided" in shown
        assert admin_client.post(page, {"settle": "burn", "reason": REASON}).status_code == 422
        assert admin_client.post(page, {"settle": "send", "reason": ""}).status_code == 422
        answer = admin_client.post(page, {"settle": "send", "reason": REASON})
        run = Run.objects.get(use_case="orders.document")
        assert answer["Location"] == reverse("admin:backoffice_run", args=[run.pk])
        assert finish(run.pk).status == "COMPLETED"
        assert admin_client.get(page)["Location"] == reverse("admin:orders_order_change", args=[order_id])
        assert admin_client.post(page, {"settle": "send", "reason": REASON}).status_code == 302
        assert Run.objects.filter(use_case="orders.document").count() == 1

    def test_leads_on_to_a_run_that_is_not_over(
        self, opened: demo.Demo, running_sandbox: RunningSandbox, admin_client: Client
    ) -> None:
        running_sandbox.set_clock(lambda: timezone.now() + timedelta(minutes=10))
        order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
        run = work(shop.run_of(order_id).pk)
        answer = admin_client.get(reverse("admin:backoffice_order_document", args=[order_id]))
        assert answer["Location"] == reverse("admin:backoffice_run_retry", args=[run.pk])

    def test_is_for_those_who_may_act(self, opened: demo.Demo, client: Client) -> None:
        order_id = leave_behind()
        answer = client.get(reverse("admin:backoffice_order_document", args=[order_id]))
        assert answer.status_code in (302, 403)
        assert not Run.objects.filter(use_case="orders.document").exists()

    def test_knows_no_other_order(self, opened: demo.Demo, admin_client: Client) -> None:
        page = reverse("admin:backoffice_order_document", args=[uuid7()])
        assert admin_client.get(page).status_code == 404
        assert admin_client.post(page, {"settle": "send", "reason": REASON}).status_code == 404
