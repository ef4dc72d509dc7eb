"""Taking back: cancel, void, tombstone, and what the authority no longer allows. Against the real sandbox."""

from datetime import datetime, timedelta

import pytest
from django.db import transaction

from apps.common.errors import UnknownOutcome
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs import schemas, transmission
from apps.fiscal_docs.models import BlobKind, NumberRange
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox.certificates import A1_VALID, make_test_a1
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent, SandboxVoidedRange
from apps.fiscal_docs.signature import verify
from tests.integration.fiscal_docs.conftest import Company
from tests.integration.fiscal_docs.test_transmission import with_number_again

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

EVENT = "NFeRecepcaoEvento4"


def install(company: Company, key, *, until: datetime) -> None:
    """Give the company another certificate, which is its active one from now on."""
    file, password = make_test_a1(cnpj=company.cnpj, name="BILHETERIA EXEMPLO LTDA", now=until - A1_VALID, key=key)
    company.commit(fiscal.import_certificate, issuer_cnpj=company.cnpj, pkcs12_bytes=file, password=password)


def transmit_in_vain(company: Company, sandbox: fiscal.RunningSandbox, lost: Action) -> None:
    """Send a document whose request or answer is lost: nobody here knows whether it is valid."""
    company.prepare("a")
    sandbox.faults.add(Fault(action=lost, service="NFeAutorizacao4"))
    with pytest.raises(UnknownOutcome):
        company.transmit("a")


class TestCancel:
    def test_is_registered_and_archived(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        assert company.cancel("a")["state"] == "CANCELLED"
        archived = journal.content(journal.read("a"), BlobKind.EVENT_PROC) or b""
        assert schemas.errors(archived, schemas.PROC_EVENTO_CANCEL) == []
        assert verify(archived, tag="infEvento").why in ("", "more than one infEvento")  # the answer has one of its own
        assert verify(journal.content(journal.read("a"), BlobKind.EVENT) or b"", tag="infEvento").ok

    def test_happens_once_when_everything_is_called_twice(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        company.commit(fiscal.prepare_cancel, step_key="a")
        company.commit(fiscal.prepare_cancel, step_key="a")
        first = fiscal.cancel(step_key="a", now=company.now)
        again = fiscal.cancel(step_key="a", now=company.now)  # 573, asked by key, a success
        assert first["status"] == again["status"] == "135"
        assert first["protocol"] == again["protocol"]
        assert first["answer_xml"] == again["answer_xml"]
        company.commit(fiscal.record_cancel, step_key="a", outcome=first)
        company.commit(fiscal.record_cancel, step_key="a", outcome=again)
        assert fiscal.cancel(step_key="a", now=company.now)["status"] == "135"
        assert SandboxEvent.objects.count() == 1
        assert company.facts("a").count("CANCELLED") == 1

    def test_whose_answer_was_lost_is_found_by_key(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        company.commit(fiscal.prepare_cancel, step_key="a")
        assert fiscal.ask_cancelled(step_key="a", now=company.now) is None
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=EVENT))
        with pytest.raises(UnknownOutcome):
            fiscal.cancel(step_key="a", now=company.now)
        outcome = fiscal.ask_cancelled(step_key="a", now=company.now)
        assert outcome
        assert company.commit(fiscal.record_cancel, step_key="a", outcome=outcome)["state"] == "CANCELLED"

    def test_after_the_deadline_needs_a_return_document_and_leaves_the_document_valid(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.issue("a")
        sandbox.set_clock(lambda: company.now + timedelta(minutes=31))
        with pytest.raises(fiscal.ReturnDocumentNeeded, match="501"):
            company.cancel("a")
        assert company.state("a") == "AUTHORISED"
        assert "CANCEL_DENIED" in company.facts("a")

    def test_at_once_is_registered_though_our_clock_is_behind_the_authoritys(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """An event from before the authorisation is refused (579)."""
        sandbox.set_clock(lambda: company.now + timedelta(seconds=40))
        company.issue("a")
        assert company.cancel("a")["state"] == "CANCELLED"

    def test_is_signed_by_the_certificate_of_today_when_the_documents_own_is_out_of_date(
        self, company: Company, sandbox: fiscal.RunningSandbox, rsa_key
    ) -> None:
        install(company, rsa_key, until=company.now + timedelta(minutes=10))
        company.issue("a")
        company.prepare("b")
        install(company, rsa_key, until=company.now + timedelta(days=300))
        company.now += timedelta(minutes=20)
        sandbox.set_clock(lambda: company.now)
        assert company.cancel("a")["state"] == "CANCELLED"
        assert company.undo("b")["undone"] == "voided"

    def test_of_a_document_that_is_not_authorised_is_refused(self, company: Company) -> None:
        company.prepare("a")
        with pytest.raises(fiscal.NotAuthorised):
            company.commit(fiscal.prepare_cancel, step_key="a")

    def test_with_a_reason_too_short_for_the_layout_is_refused(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.issue("a")
        with pytest.raises(fiscal.ReasonUnfit):
            company.commit(fiscal.prepare_cancel, step_key="a", reason="sorry")


class TestUndo:
    def test_before_its_do_leaves_a_tombstone_that_refuses_the_late_do(self, company: Company) -> None:
        assert company.commit(fiscal.undo_prepare, step_key="a") == "nothing"
        assert company.commit(fiscal.undo_prepare, step_key="a") == "nothing"
        assert fiscal.undo_call(step_key="a", now=company.now) == {"undone": "nothing"}
        assert fiscal.undo_did_it_happen(step_key="a", now=company.now) is None
        company.commit(fiscal.undo_record, step_key="a", outcome={"undone": "nothing"})
        with pytest.raises(fiscal.IssueUndone):
            company.prepare("a")
        with pytest.raises(fiscal.IssueUndone):
            company.transmit("a")
        assert company.state("a") == "ABANDONED"
        assert NumberRange.objects.get(kind="65").next_number == 1

    def test_of_what_was_signed_and_never_sent_voids_its_number(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        number = company.prepare("a")["number"]
        assert company.undo("a")["undone"] == "voided"
        assert company.state("a") == "NUMBER_VOIDED"
        assert SandboxVoidedRange.objects.get().first == number
        assert company.undo("a")["undone"] == "nothing"
        with pytest.raises(fiscal.IssueUndone):
            company.transmit("a")

    def test_of_a_rejected_document_voids_its_number(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        sandbox.set_clock(lambda: company.now + timedelta(days=400))  # the certificate is out of date by then: 291
        company.prepare("a")
        with pytest.raises(fiscal.DocumentRejected, match="291"):
            company.transmit("a")
        sandbox.set_clock()
        assert company.undo("a")["undone"] == "voided"
        document = fiscal.document_of(step_key="a")
        assert document
        assert (document.state, document.refusal_code) == ("NUMBER_VOIDED", "291")

    def test_of_an_authorised_document_cancels_it(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        assert company.undo("a")["undone"] == "cancelled"
        assert company.state("a") == "CANCELLED"
        assert company.undo("a")["undone"] == "nothing"
        assert SandboxEvent.objects.count() == 1

    def test_of_a_document_whose_answer_was_lost_asks_first_then_cancels_and_archives(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        transmit_in_vain(company, sandbox, Action.LOSE_ANSWER)
        assert company.commit(fiscal.undo_prepare, step_key="a") == "ask"
        assert company.undo("a")["undone"] == "cancelled"
        assert company.state("a") == "CANCELLED"
        assert journal.content(journal.read("a"), BlobKind.PROC)

    def test_of_a_document_that_never_arrived_asks_first_then_voids(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        transmit_in_vain(company, sandbox, Action.LOSE_REQUEST)
        assert company.undo("a")["undone"] == "voided"

    @pytest.mark.parametrize("service", ["NFeRecepcaoEvento4", "NFeInutilizacao4"])
    def test_whose_answer_was_lost_ends_the_same_when_it_is_repeated(
        self, company: Company, sandbox: fiscal.RunningSandbox, service: str
    ) -> None:
        cancels = service == "NFeRecepcaoEvento4"
        company.issue("a") if cancels else company.prepare("a")
        company.commit(fiscal.undo_prepare, step_key="a")
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=service))
        with pytest.raises(UnknownOutcome):
            fiscal.undo_call(step_key="a", now=company.now)
        assert (fiscal.undo_did_it_happen(step_key="a", now=company.now) is not None) == cancels
        assert company.undo("a")["undone"] == ("cancelled" if cancels else "voided")
        assert company.state("a") == ("CANCELLED" if cancels else "NUMBER_VOIDED")

    def test_that_crashed_before_it_was_recorded_finds_the_cancellation(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.issue("a")
        company.commit(fiscal.undo_prepare, step_key="a")
        fiscal.undo_call(step_key="a", now=company.now)
        outcome = fiscal.undo_did_it_happen(step_key="a", now=company.now)
        assert outcome
        assert company.commit(fiscal.undo_record, step_key="a", outcome=outcome)["state"] == "CANCELLED"

    def test_fences_a_send_that_comes_later(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        company.commit(fiscal.undo_prepare, step_key="a")
        with pytest.raises(fiscal.IssueUndone):
            company.transmit("a")
        assert not SandboxDocument.objects.exists()

    def test_of_a_send_that_is_still_under_way_cancels_what_it_authorises(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """We ask (unknown), the slow request arrives, we void: 241. Then we ask again and cancel."""
        transmit_in_vain(company, sandbox, Action.LOSE_ANSWER)
        hidden = SandboxDocument.objects.get()
        SandboxDocument.objects.all().delete()
        company.commit(fiscal.undo_prepare, step_key="a")
        assert fiscal.ask_authority(step_key="a", now=company.now) is None
        hidden.save(force_insert=True)
        outcome = transmission._void(journal.read("a"), company.now)
        assert outcome["status"] == "241"
        assert company.undo("a")["undone"] == "cancelled"

    def test_of_an_authorised_document_waits_while_the_authority_refuses_the_question(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """280 (the certificate of the connection) and the like say nothing about the key: the document may be valid."""
        transmit_in_vain(company, sandbox, Action.LOSE_ANSWER)
        sandbox.faults.add(Fault(action=Action.STATUS, service="NFeConsultaProtocolo4", status="280", times=2))
        with pytest.raises(fiscal.AuthorityUnavailable, match="280"):
            company.undo("a")
        sandbox.faults.clear()
        assert company.undo("a")["undone"] == "cancelled"

    @pytest.mark.parametrize("status", ["562", "301"])
    def test_of_a_number_that_is_used_but_not_by_our_document_leaves_nothing_to_undo(
        self, company: Company, sandbox: fiscal.RunningSandbox, status: str
    ) -> None:
        company.issue("a")
        with_number_again(company)
        company.prepare("b")
        with pytest.raises(fiscal.NumberConflict):
            company.transmit("b")
        sandbox.faults.add(Fault(action=Action.STATUS, service="NFeConsultaProtocolo4", status=status, times=2))
        assert company.undo("b")["undone"] == "abandoned"

    def test_past_the_deadline_says_that_a_return_document_is_needed(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.issue("a")
        sandbox.set_clock(lambda: company.now + timedelta(hours=1))
        for _ in range(2):
            with pytest.raises(fiscal.ReturnDocumentNeeded):
                company.undo("a")
        assert company.state("a") == "AUTHORISED"

    def test_needs_no_network_inside_a_transaction(self, company: Company) -> None:
        from apps.common.transactions import TransactionMisuse

        with transaction.atomic(), pytest.raises(TransactionMisuse):
            fiscal.undo_call(step_key="a", now=company.now)
