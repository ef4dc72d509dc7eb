"""An order paid by card, from HTTP to the bus and back."""

from datetime import timedelta

from django.db import transaction
from django.test import Client
from django.utils import timezone

from apps.fiscal_docs import schemas, signature
from apps.fiscal_docs.models import BlobKind, Document
from apps.fiscal_docs.operations import journal
from apps.messaging.models import Message, Pending
from apps.orders.models import Order
from apps.payments.models import Payment
from apps.saga import engine
from apps.saga import public as saga
from apps.saga.models import Attempt, Step
from config import demo
from tests import shop
from tests.saga_driver import finish, let_time_pass, pump_messages, work


class TestPaid:
    def test_completes_the_seeds_order(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client)
        assert answer.status_code == 202
        order_id = answer.json()["id"]
        assert answer["Location"] == f"/orders/{order_id}"
        assert finish(shop.run_of(order_id).pk).status == "COMPLETED"

        seen = client.get(answer["Location"]).json()
        assert seen["status"] == "COMPLETED"
        assert [(step["name"], step["status"]) for step in seen["run"]["steps"]] == [
            ("reserve_tickets", "DONE"),
            ("authorise_payment", "DONE"),
            ("issue_fiscal_doc", "DONE"),
            ("capture_payment", "DONE"),
            ("post_sale", "DONE"),
            ("confirm_order", "DONE"),
        ]
        assert all(step["startedAt"] and step["finishedAt"] for step in seen["run"]["steps"])
        assert shop.stock() == demo.STOCK - 1
        shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")
        payment = Payment.objects.get()
        assert (payment.state, str(payment.captured_amount)) == ("CAPTURED", "10.50")
        shop.assert_nothing_left_over()

    def test_issues_a_document_that_the_official_schema_and_its_signature_accept(
        self, opened: demo.Demo, client: Client
    ) -> None:
        order_id = shop.post_order(client).json()["id"]
        finish(shop.run_of(order_id).pk)
        document = Document.objects.get()
        assert (document.state, str(document.total), str(document.order_id)) == ("AUTHORISED", "10.50", order_id)
        seen = client.get(f"/orders/{order_id}").json()
        assert seen["links"]["fiscalDocument"] == f"/fiscal-documents/{document.id}"
        xml = journal.content(document, BlobKind.PROC)
        assert xml is not None
        assert schemas.errors(xml, schemas.PROC_NFE) == []
        assert signature.verify(xml, tag="infNFe").ok

    def test_carries_one_global_id_through_every_message(self, opened: demo.Demo, client: Client) -> None:
        run = shop.run_of(shop.post_order(client).json()["id"])
        finish(run.pk)
        metas = [row.meta for row in Message.objects.all()]
        assert len(metas) >= 4
        assert {meta["global-id"] for meta in metas} == {str(run.global_id)}
        assert all(meta["steps"][0] == "reserve_tickets" for meta in metas)

    def test_retries_a_payment_request_whose_answer_is_lost(self, opened: demo.Demo, client: Client) -> None:
        run = shop.run_of(shop.post_order(client).json()["id"])
        engine.advance(run.pk)
        assert Pending.objects.all().delete()[0] > 0, "the request never reaches the processor"
        assert work(run.pk).status == "WAITING"
        assert finish(run.pk).status == "COMPLETED"
        outcomes = list(Attempt.objects.filter(position=1).order_by("number").values_list("outcome", flat=True))
        assert outcomes == ["NO_ANSWER", "ANSWERED"]
        assert Payment.objects.count() == 1
        shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")


class TestRefused:
    def test_undoes_everything_when_the_card_is_refused(self, opened: demo.Demo, client: Client) -> None:
        order_id = shop.post_order(client, shop.by_card(opened.refused_card_token)).json()["id"]
        assert finish(shop.run_of(order_id).pk).status == "COMPENSATED"
        seen = client.get(f"/orders/{order_id}").json()
        assert (seen["status"], seen["error"]["code"]) == ("PAYMENT_NOT_COMPLETED", "R215")
        assert [step["status"] for step in seen["run"]["steps"][:3]] == ["UNDONE", "FAILED", "PENDING"]
        shop.assert_clean_slate()

    def test_cancels_the_document_and_voids_the_payment_when_the_capture_is_refused(
        self, opened: demo.Demo, client: Client
    ) -> None:
        order_id = shop.post_order(client, shop.by_card(opened.capture_refused_card_token)).json()["id"]
        run = finish(shop.run_of(order_id).pk)
        assert (run.status, run.failed_step) == ("COMPENSATED", "capture_payment")
        assert shop.order(order_id).status == "PAYMENT_NOT_COMPLETED"
        assert Document.objects.get().state == "CANCELLED"
        assert Payment.objects.get().state == "VOIDED"
        undone = Step.objects.filter(run=run, undone_at__isnull=False).order_by("undone_at").values_list("name", flat=True)
        assert list(undone) == ["issue_fiscal_doc", "authorise_payment", "reserve_tickets"]
        shop.assert_clean_slate()

    def test_refuses_an_amount_over_the_processors_limit(self, opened: demo.Demo, client: Client) -> None:
        order_id = shop.post_order(client, shop.body(amount=1000.01)).json()["id"]
        finish(shop.run_of(order_id).pk)
        assert shop.order(order_id).status == "PAYMENT_NOT_COMPLETED"
        shop.assert_clean_slate()

    def test_counts_the_answer_that_comes_after_the_end(self, opened: demo.Demo, client: Client) -> None:
        run = shop.run_of(shop.post_order(client, shop.by_card(opened.refused_card_token)).json()["id"])
        finish(run.pk)
        with transaction.atomic():
            late = saga.resume(step_key=f"{run.pk}:1", answer={"status": "approved"}, now=timezone.now())
        assert late is saga.Resumed.LATE
        run.refresh_from_db()
        assert (run.status, run.late_answers) == ("COMPENSATED", 1)
        shop.assert_clean_slate()


class TestSoldOut:
    def test_is_rejected_in_the_answer_itself(self, opened: demo.Demo, client: Client) -> None:
        sold_out = [{"id": str(demo.SOLD_OUT_TICKET_ID), "name": "day-zero", "amount": 200, "quantity": 1}]
        answer = shop.post_order(client, shop.body(items=sold_out), Prefer="wait=5")
        assert (answer.status_code, answer.json()["status"]) == (201, "REJECTED")
        assert answer.json()["error"]["code"] == "R302"
        assert pump_messages() == 0, "nothing was asked of anybody"
        shop.assert_clean_slate()


class TestLateness:
    def test_gives_up_a_payment_that_nobody_answers_and_undoes_what_may_have_happened(
        self, opened: demo.Demo, client: Client
    ) -> None:
        run = shop.run_of(shop.post_order(client).json()["id"])
        for _ in range(8):  # four questions, each lost on its way, and four waits before the next
            Pending.objects.all().delete()
            let_time_pass(run.pk)
            engine.advance(run.pk)
        assert finish(run.pk).status == "COMPENSATED"
        order = Order.objects.get()
        assert (order.status, order.error_code) == ("PAYMENT_NOT_COMPLETED", "NoAnswer")
        shop.assert_clean_slate()
        assert order.finished_at is not None
        assert order.finished_at - order.created_at < timedelta(minutes=5)
