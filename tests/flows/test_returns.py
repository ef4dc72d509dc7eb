"""A completed order is given back: a small one by itself, a large one when a second person has said yes."""

import base64
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.fiscal_docs.models import Document
from apps.fiscal_docs.public import RunningSandbox
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent
from apps.identity import public as identity
from apps.ledger import public as ledger
from apps.orders.models import Order
from apps.orders.sagas.giving_back import ApproveReturn
from apps.payments import public as payments
from apps.saga import triage
from apps.saga.deciding import Decider, decide, find_approvals
from apps.saga.locks import locks_of
from apps.saga.models import Run, Step
from config import demo
from tests import shop
from tests.saga_driver import finish, let_time_pass, pump_messages, work
from tests.trials import LARGE

CHIEF = Decider("user:chief", frozenset({"permission:orders.approve_return"}))
DEPUTY = Decider("user:deputy", frozenset({"permission:saga.change_approval"}))


def bought(body: dict[str, Any], **headers: str) -> str:
    order_id = str(shop.post_order(Client(), body, **headers).json()["id"])
    assert finish(shop.run_of(order_id).pk).status == "COMPLETED"
    return order_id


def asked(order_id: str, **headers: str) -> UUID:
    """The run of a return that was asked for, when it waits or is over."""
    answer = shop.post_return(Client(), order_id, **headers)
    assert answer.status_code == 202, answer.content
    return work(UUID(answer.json()["runId"])).pk


def decided(*, approve: bool, by: Decider = CHIEF) -> None:
    (approval,) = find_approvals(limit=10, may=by).rows
    decide(approval.id, approve=approve, by=by, reason="as agreed", now=timezone.now())


def told(order_id: str) -> dict[str, Any]:
    """The latest return, as the API tells it."""
    found = Client().get(f"/orders/{order_id}/returns").json()["returns"][0]
    assert Client().get(found["links"]["self"]).json() == found
    return dict(found)


class TestSmall:
    def test_is_given_back_without_a_person(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance())
        run = finish(asked(order_id))
        steps = list(Step.objects.filter(run=run).order_by("position").values_list("name", flat=True))
        assert (run.status, steps) == ("COMPLETED", ["check_return", "accept_return", "give_back", "close_return"])
        shop.assert_returned()
        shop.assert_money(customer="1000.00", sales="0.00", clearing="0.00")
        found = told(order_id)
        assert (found["status"], found["amount"], found["fiscalDocument"]) == ("COMPLETED", "10.50", "CANCELLED")
        assert Client().get(f"/orders/{order_id}").json()["status"] == "RETURNED"
        assert locks_of(run.pk) == ()

    def test_tells_when_it_is_too_late_to_cancel_the_document(self, opened: demo.Demo) -> None:
        """A consumer's document can be cancelled for half an hour; the customer's right lasts for days."""
        order_id = bought(shop.by_balance())
        SandboxDocument.objects.update(received_at=timezone.now() - timedelta(hours=1))
        assert finish(asked(order_id)).status == "COMPLETED"
        assert (told(order_id)["fiscalDocument"], Document.objects.get().state) == ("RETURN_DOCUMENT_NEEDED", "AUTHORISED")
        shop.assert_money(customer="1000.00", sales="0.00", clearing="0.00")
        assert shop.stock() == demo.STOCK


class TestAnOrderWhoseDocumentIsInDoubt:
    @pytest.mark.parametrize(("lost", "left"), [("lose answer", "CANCELLED"), ("lose request", "NO_DOCUMENT")])
    def test_leaves_no_valid_document_at_the_authority(
        self, opened: demo.Demo, running_sandbox: RunningSandbox, lost: str, left: str
    ) -> None:
        """No answer came, and an operator passed the step over, so that the customer gets the tickets."""
        running_sandbox.faults.add(Fault(action=Action(lost), service="NFeAutorizacao4"))
        order_id = str(shop.post_order(Client(), shop.by_balance()).json()["id"])
        run = work(shop.run_of(order_id).pk)
        assert Document.objects.get().state == "UNKNOWN"
        with transaction.atomic():
            passed_over = triage.wanted(triage.Action.SKIP)
            triage.apply(run.pk, passed_over, reason="they wait", by="user:chief", now=timezone.now(), seen="")
        assert finish(run.pk).status == "COMPLETED"
        assert finish(asked(order_id)).status == "COMPLETED"
        assert (told(order_id)["fiscalDocument"], Document.objects.get().state) == (
            left,
            "CANCELLED" if left == "CANCELLED" else "NUMBER_VOIDED",
        )
        kept = SandboxDocument.objects.exclude(access_key__in=SandboxEvent.objects.values("access_key"))
        assert not kept.exists()


class TestLarge:
    def test_waits_for_a_yes_cools_off_and_goes_back_to_the_card(self, opened: demo.Demo) -> None:
        order_id = bought(shop.body(amount=LARGE))
        run_id = asked(order_id)
        (question,) = find_approvals(limit=10).rows
        assert (question.question, question.facts["Order"]) == ("Give back 250.00 BRL?", order_id)
        shop.assert_money(customer="1000.00", sales="250.00", clearing="-250.00")
        decided(approve=True)
        run = work(run_id)
        assert (run.status, run.at_step) == ("WAITING", "cool_off")
        assert finish(run_id).status == "COMPLETED"
        branches = Run.objects.filter(parent_id=run_id)
        assert set(branches.values_list("branch", "use_case", "status", "global_id")) == {
            ("money", "orders.return.card", "COMPLETED", run.global_id),
            ("goods", "orders.return.goods", "COMPLETED", run.global_id),
            ("document", "orders.return.document", "COMPLETED", run.global_id),
        }
        shop.assert_returned()
        shop.assert_money(customer="1000.00", sales="0.00", clearing="0.00")

    def test_is_not_decided_by_whoever_asks_for_it(self, opened: demo.Demo) -> None:
        mine = _credentials(opened.account, opened.secret)
        order_id = bought(shop.by_balance(amount=LARGE), **mine)
        asked(order_id, **mine)
        (question,) = find_approvals(limit=10).rows
        yes = {"approve": True, "reason": "it is my own"}
        answer = Client().post(f"/sagas/approvals/{question.id}", yes, content_type="application/json", headers=mine)
        assert (answer.status_code, answer.json()["code"]) == (403, "R580")
        with transaction.atomic():
            identity.create_account(name="Support", scopes=["sagas:operate"], code="acc_support", now=timezone.now())
            secret = identity.issue_secret(account_id="acc_support", now=timezone.now()).secret
        other = _credentials("acc_support", secret)
        answer = Client().post(f"/sagas/approvals/{question.id}", yes, content_type="application/json", headers=other)
        assert (answer.status_code, answer.json()["status"], answer.json()["asked_by"]) == (
            *(200, "APPROVED"),
            f"account:{opened.account}",
        )

    def test_that_is_refused_may_be_asked_for_again(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance(amount=LARGE))
        run_id = asked(order_id)
        answer = shop.post_return(Client(), order_id)
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (409, "R538", True)
        decided(approve=False)
        assert finish(run_id).status == "COMPENSATED"
        found = told(order_id)
        assert (found["status"], found["error"]["code"]) == ("REFUSED", "R534")
        assert shop.order(order_id).status == "COMPLETED"
        shop.assert_money(customer="750.00", sales="250.00", clearing="0.00")
        again = asked(order_id)
        decided(approve=True)
        assert finish(again).status == "COMPLETED"
        shop.assert_returned()

    def test_passes_to_a_delegate_and_then_is_refused(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance(amount=LARGE))
        run_id = asked(order_id)
        assert find_approvals(limit=10, may=DEPUTY).total == 0
        let_time_pass(run_id)
        work(run_id)
        assert (find_approvals(limit=10, may=DEPUTY).total, find_approvals(limit=10, may=CHIEF).total) == (1, 0)
        let_time_pass(run_id)
        assert finish(run_id).status == "COMPENSATED"
        assert told(order_id)["error"]["code"] == "R535"

    def test_is_refused_at_the_deadline_of_the_run(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance(amount=LARGE))
        run_id = asked(order_id)
        Run.objects.filter(pk=run_id).update(deadline_at=timezone.now() - timedelta(seconds=1))
        assert finish(run_id).status == "COMPENSATED"
        assert told(order_id)["error"]["code"] == "R530"
        assert find_approvals(limit=10).total == 0


class TestPages:
    def test_show_a_return_that_waits_and_let_it_be_decided(self, opened: demo.Demo, admin_client: Client) -> None:
        order_id = bought(shop.by_balance(amount=LARGE))
        run_id = asked(order_id)
        (question,) = find_approvals(limit=10).rows
        page = reverse("admin:backoffice_approval", args=[question.id])
        for address in (reverse("admin:backoffice_approvals"), page, reverse("admin:backoffice_run", args=[run_id])):
            assert "Give back 250.00 BRL?" in admin_client.get(address).content.decode() or address.endswith(f"{run_id}/")
        assert "It does not fit." in admin_client.get(reverse("admin:orders_orderreturn_changelist")).content.decode()
        detail = admin_client.get(reverse("admin:orders_orderreturn_change", args=[told(order_id)["id"]]))
        assert (detail.status_code, order_id in detail.content.decode()) == (200, True)
        admin_client.post(page, {"decision": "approve", "reason": "as agreed"})
        assert finish(run_id).status == "COMPLETED"
        assert "Returned" in admin_client.get(reverse("admin:orders_order_change", args=[order_id])).content.decode()


class TestMerchantsReference:
    """Merchants write what they like into their payments' references, an order's id, too."""

    def test_is_not_taken_for_the_payment_of_an_order(self, opened: demo.Demo) -> None:
        order_id = bought(shop.body())
        theirs = shop.Payment.objects.get()
        stranger = _paid_by_a_merchant(opened, amount="500.00", reference=order_id)
        assert Client().get(f"/orders/{order_id}").json()["links"]["payment"] == f"/payments/{theirs.pk}"
        assert finish(asked(order_id)).status == "COMPLETED"
        refunded = dict(shop.Payment.objects.values_list("pk", "refunded_amount"))
        assert refunded == {theirs.pk: Decimal("10.50"), stranger: 0}


def _paid_by_a_merchant(opened: demo.Demo, *, amount: str, reference: str) -> UUID:
    card = {"number": demo.SANDBOX_CARDS["approved"], "exp_month": 12, "exp_year": timezone.now().year + 2, "cvv": "123"}
    answer = Client().post(
        "/payments",
        {"amount": amount, "reference": reference, "card": card},
        content_type="application/json",
        headers=_credentials(opened.account, opened.secret),
    )
    pump_messages()
    payment = shop.Payment.objects.get(pk=answer.json()["id"])
    assert payment.state == "CAPTURED"
    return payment.pk


class TestCardNumbers:
    """Whoever types one where it does not belong: it is neither kept in a reason nor shown by a list."""

    def test_are_refused_in_a_reason(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance())
        answer = shop.post_return(Client(), order_id, reason="Please pay to 4242 4242 4242 4242.")
        assert (answer.status_code, answer.json()["field"], "4242" in str(answer.json())) == (422, "reason", False)
        assert not Run.objects.filter(use_case="orders.return").exists()

    def test_are_masked_where_an_orders_items_are_shown(self, opened: demo.Demo, admin_client: Client) -> None:
        named = {**shop.SEED_BODY["items"][0], "name": "day-one 4242424242424242"}
        order_id = shop.post_order(Client(), shop.body(items=[named])).json()["id"]
        page = admin_client.get(reverse("admin:orders_order_change", args=[order_id])).content.decode()
        assert ("4242424242424242" in page, "day-one ****4242" in page) == (False, True)


class TestRefused:
    def test_nothing_is_begun_for_what_cannot_be_returned(self, opened: demo.Demo) -> None:
        order_id = str(shop.post_order(Client(), shop.by_balance()).json()["id"])
        answers = [shop.post_return(Client(), order_id)]
        finish(shop.run_of(order_id).pk)
        answers.append(shop.post_return(Client(), order_id, reason="no"))
        answers.append(shop.post_return(Client(), "00000000-0000-0000-0000-000000000001"))
        Order.objects.update(finished_at=timezone.now() - timedelta(days=7, minutes=1))
        answers.append(shop.post_return(Client(), order_id))
        assert [(each.status_code, each.json()["code"]) for each in answers] == [
            (409, "R306"),
            (422, "R001"),
            (404, "R004"),
            (409, "R307"),
        ]
        assert not Run.objects.filter(use_case="orders.return").exists()

    def test_a_key_gives_the_same_answer_again(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_balance())
        key = {"Idempotency-Key": "return-1"}
        first, again = (shop.post_return(Client(), order_id, **key) for _ in range(2))
        assert (again.status_code, again.json(), again["Idempotent-Replayed"]) == (202, first.json(), "true")
        other = shop.post_return(Client(), order_id, reason="another one", **key)
        assert other.json()["code"] == "R013"
        assert Run.objects.filter(use_case="orders.return").count() == 1

    def test_a_payment_that_was_refunded_before_is_not_given_back_twice(self, opened: demo.Demo) -> None:
        order_id = bought(shop.body())
        shop.Payment.objects.update(refunded_amount=1)
        assert finish(asked(order_id)).status == "COMPENSATED"
        assert told(order_id)["error"]["code"] == "R308"

    @pytest.mark.parametrize("body", [shop.by_balance(), shop.body()], ids=["balance", "card"])
    def test_a_sale_that_was_taken_back_by_hand_is_not_given_back_again(self, opened: demo.Demo, body: Any) -> None:
        order_id = bought(body)
        _taken_back(order_id)
        assert finish(asked(order_id)).status == "COMPENSATED"
        assert told(order_id)["error"]["code"] == "R308"
        assert shop.stock() == demo.STOCK - 1

    def test_nor_one_that_was_taken_back_while_it_waited_for_a_person(self, opened: demo.Demo) -> None:
        order_id = bought(shop.body(amount=LARGE))
        run_id = asked(order_id)
        _taken_back(order_id)
        decided(approve=True)
        assert finish(run_id).status == "COMPENSATED"
        assert (told(order_id)["error"]["code"], shop.Payment.objects.get().refunded_amount) == ("R308", 0)

    @pytest.mark.parametrize("number", ["4000000000007726", "4000000000008054"], ids=["lost", "doubled"])
    def test_an_answer_to_the_refund_that_is_lost_or_doubled_gives_back_once(self, opened: demo.Demo, number: str) -> None:
        order_id = bought(shop.by_card(_saved(number)))
        assert finish(asked(order_id)).status == "COMPLETED"
        shop.assert_returned()
        shop.assert_money(customer="1000.00", sales="0.00", clearing="0.00")
        assert shop.ProcessorTransaction.objects.get().refunded_amount == Decimal("10.50")

    def test_a_refund_that_the_bank_refuses_waits_for_a_person(self, opened: demo.Demo) -> None:
        order_id = bought(shop.by_card(_saved("4000000000005126")))
        run_id = asked(order_id)
        branch = Run.objects.get(parent_id=run_id, use_case="orders.return.card")
        assert (work(branch.pk).status, Run.objects.get(pk=branch.pk).error_code) == ("STUCK", "R215")
        assert told(order_id)["status"] in ("ACCEPTED", "STUCK")
        assert shop.Payment.objects.get().refunded_amount == 0
        shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")


def _saved(number: str) -> str:
    """The token of a sandbox card of the demo's customer."""
    card = payments.CardInput(number=number, exp_month=12, exp_year=timezone.now().year + 3, cvv="123")
    with transaction.atomic():
        return payments.save_card(owner_id=str(demo.CUSTOMER_ID), card=card, now=timezone.now()).token


def _taken_back(order_id: str) -> None:
    """As an operator does on the page of an entry."""
    link = Client().get(f"/orders/{order_id}").json()["links"]["postings"]
    with transaction.atomic():
        ledger.reverse(tracekey=UUID(link.rpartition("/")[2]), reversal_tracekey=uuid4(), now=timezone.now())


def _credentials(account: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{account}:{secret}".encode()).decode()}


@pytest.mark.django_db
def test_who_may_approve_is_a_permission_that_exists() -> None:
    app, _, code = ApproveReturn.deciders[0].removeprefix("permission:").partition(".")
    assert Permission.objects.filter(content_type__app_label=app, codename=code).exists()
