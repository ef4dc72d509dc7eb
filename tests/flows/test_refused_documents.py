"""The authority refuses a document after the money was taken: an operator retries the run, and the number stays."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from apps.fiscal_docs.models import BlobKind, Document, DocumentBlob, DocumentEvent, Issuer, NumberRange
from apps.fiscal_docs.public import RunningSandbox
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument
from apps.saga import incidents, triage
from apps.saga.models import Incident, Run, Step
from apps.saga.public import Selection, action_state, request_action, wanted, work_on_action
from config import demo
from tests import shop
from tests.saga_driver import finish, work

AUTHORISE = "NFeAutorizacao4"
REASON = "Their clock was wrong."


@pytest.fixture(autouse=True)
def own_time(running_sandbox: RunningSandbox) -> Iterator[None]:
    yield
    running_sandbox.set_clock()
    running_sandbox.faults.clear()


def ahead(sandbox: RunningSandbox) -> None:
    """The authority believes that it is later: everything comes too late (704)."""
    sandbox.set_clock(lambda: timezone.now() + timedelta(minutes=10))


def refused() -> Run:
    """An order that is paid, and whose document was refused."""
    order_id = shop.post_order(Client(), shop.by_balance()).json()["id"]
    run = work(shop.run_of(order_id).pk)
    assert (run.status, run.at_step, run.error_code) == ("STUCK", "transmit_fiscal_doc", "R407")
    return run


def retry(*runs: Run, patch: dict[str, object] | None = None) -> None:
    action_id = request_action(
        Selection(run_ids=tuple(run.pk for run in runs)),
        wanted(triage.Action.RETRY, patch=patch),
        reason=REASON,
        by="user:ana",
        now=timezone.now(),
    )
    work_on_action(action_id, now=timezone.now())
    assert action_state(action_id).done == len(runs)


class TestARetry:
    def test_signs_the_same_number_anew_and_completes_the_order(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        ahead(running_sandbox)
        run = refused()
        before = Document.objects.get()
        running_sandbox.set_clock()
        Issuer.objects.update(name="BILHETERIA NOVA LTDA")
        retry(run)
        assert finish(run.pk).status == "COMPLETED"
        document, authorised = Document.objects.get(), SandboxDocument.objects.get()
        assert (document.state, document.number, document.access_key) == ("AUTHORISED", before.number, before.access_key)
        assert b"BILHETERIA NOVA LTDA" in bytes(authorised.xml)
        assert DocumentBlob.objects.filter(kind=BlobKind.SIGNED).count() == 2
        again = DocumentEvent.objects.get(fact="SIGNED_AGAIN")
        assert (again.actor, again.reason) == ("user:ana", REASON)
        shop.assert_money(customer="989.50", sales="10.50", clearing="0.00")
        shop.assert_books_agree()

    def test_of_all_that_were_refused_leaves_no_gap_in_the_numbers(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        ahead(running_sandbox)
        runs = [refused() for _ in range(3)]
        running_sandbox.set_clock()
        retry(*runs)
        assert {finish(run.pk).status for run in runs} == {"COMPLETED"}
        assert sorted(SandboxDocument.objects.values_list("number", flat=True)) == [1, 2, 3]
        assert NumberRange.objects.get(kind="65").next_number == 4
        shop.assert_books_agree()

    def test_of_a_group_says_what_it_does(
        self, opened: demo.Demo, running_sandbox: RunningSandbox, admin_client: Client
    ) -> None:
        ahead(running_sandbox)
        refused()
        incidents.adopt()
        page = f"/admin/triage/act/?incident={Incident.objects.get().pk}&action="
        assert "Each document is signed anew." in admin_client.get(page + "retry").content.decode()
        assert "Each document is signed anew." not in admin_client.get(page + "skip").content.decode()

    def test_finds_what_was_authorised_meanwhile_and_signs_nothing(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        """The request that was answered with a refusal had a twin on its way, which arrives while people think."""
        from apps.fiscal_docs import authority
        from apps.fiscal_docs.operations import journal

        ahead(running_sandbox)
        run = refused()
        running_sandbox.set_clock()
        document = Document.objects.get()
        twin = journal.content(document, BlobKind.SIGNED) or b""
        authority.authorise(signed=twin, certificate_id=journal.acting_certificate(document))
        retry(run)
        assert finish(run.pk).status == "COMPLETED"
        assert bytes(SandboxDocument.objects.get().xml) == twin
        assert DocumentBlob.objects.filter(kind=BlobKind.SIGNED).count() == 1
        shop.assert_books_agree()

    def test_that_is_refused_again_waits_for_a_person_again(
        self, opened: demo.Demo, running_sandbox: RunningSandbox
    ) -> None:
        ahead(running_sandbox)
        run = refused()
        retry(run)
        run = work(run.pk)
        assert (run.status, run.error_code) == ("STUCK", "R407")
        running_sandbox.set_clock()
        retry(run)
        assert finish(run.pk).status == "COMPLETED"
        shop.assert_books_agree()

    def test_takes_the_next_number_when_the_input_says_that_another_document_has_its_own(
        self, opened: demo.Demo, client: Client, admin_client: Client
    ) -> None:
        """A restored backup: the authority knows number 1, our books have forgotten it."""
        finish(shop.run_of(shop.post_order(client, shop.by_balance()).json()["id"]).pk)
        Document.objects.update(series=889)
        NumberRange.objects.update(next_number=1)
        order_id = shop.post_order(client, shop.by_balance()).json()["id"]
        run = work(shop.run_of(order_id).pk)
        assert (run.status, run.error_code) == ("STUCK", "R408")
        page = f"/admin/triage/act/?action=retry&run={run.pk}"
        assert "{&quot;instead_of_number&quot;: 1}" in admin_client.get(page).content.decode().replace('"', "&quot;")
        retry(run, patch={"instead_of_number": 1})
        assert finish(run.pk).status == "COMPLETED"
        assert Document.objects.get(order_id=order_id).number == 2
        assert sorted(SandboxDocument.objects.values_list("number", flat=True)) == [1, 2]


class TestAnAuthorityThatWasAwayForLong:
    @pytest.mark.parametrize("pay", [shop.by_balance(), shop.body()], ids=["balance", "card"])
    def test_gets_documents_with_the_hour_of_today(
        self, opened: demo.Demo, running_sandbox: RunningSandbox, pay: dict[str, object]
    ) -> None:
        """Nobody has to do anything: what never arrived is signed again before it is sent."""
        running_sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION))
        order_id = shop.post_order(Client(), pay).json()["id"]
        run = work(shop.run_of(order_id).pk)
        assert Document.objects.get().state == "SIGNED"
        Document.objects.update(issued_at=timezone.now() - timedelta(minutes=10))
        assert finish(run.pk).status == "COMPLETED"
        assert DocumentEvent.objects.filter(fact="SIGNED_AGAIN").count() == 1
        shop.assert_books_agree()


class TestAStepThatWasPassedOver:
    def test_tells_what_is_missing_when_the_document_was_never_signed(self, opened: demo.Demo) -> None:
        """An operator skipped the step that signs, and gave nothing that the next one could send."""
        order_id = shop.post_order(Client(), shop.by_balance(), Prefer="wait=5").json()["id"]
        Issuer.objects.update(certificate=None)
        run_id = shop.run_of(order_id).pk
        assert (work(run_id).at_step, shop.run_of(order_id).error_code) == ("sign_fiscal_doc", "R402")
        with transaction.atomic():
            skip = wanted(triage.Action.SKIP, output={"document_key": ""})
            triage.apply(run_id, skip, reason="issued on paper", by="user:ana", now=timezone.now(), seen="")
        run = work(run_id)
        assert (run.status, run.at_step, run.error_code) == ("STUCK", "transmit_fiscal_doc", "R309")
        assert "document_key" in run.error_detail
        assert Step.objects.get(run_id=run_id, name="transmit_fiscal_doc").attempts == 1
