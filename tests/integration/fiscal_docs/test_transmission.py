"""Issuing over the wire: the real sandbox, mutual TLS, faults by script."""

from decimal import Decimal

import pytest

from apps.common.errors import UnknownOutcome
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs import schemas
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument
from apps.fiscal_docs.signature import verify
from tests.integration.fiscal_docs.conftest import Company

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

AUTHORISE = "NFeAutorizacao4"


class TestIssue:
    def test_is_authorised_and_archived_with_the_exact_signed_bytes(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        done = company.issue("a")
        document = journal.read("a")
        signed, archived = journal.content(document, BlobKind.SIGNED), journal.content(document, BlobKind.PROC)
        assert done["state"] == "AUTHORISED"
        assert len(done["protocol"]) == 15
        assert signed
        assert archived
        assert signed in archived
        assert bytes(SandboxDocument.objects.get(access_key=done["access_key"]).xml) == signed
        assert schemas.errors(archived, schemas.PROC_NFE) == []
        assert verify(archived, tag="infNFe").ok
        assert company.facts("a") == ["NUMBERED", "SIGNED", "SENT", "AUTHORISED"]

    def test_says_what_the_customer_pays(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        archived = journal.content(journal.read("a"), BlobKind.PROC) or b""
        assert b"<vProd>200.00</vProd>" in archived
        assert b"<vDesc>189.50</vDesc>" in archived
        assert b"<vNF>10.50</vNF>" in archived

    def test_does_everything_once_when_everything_is_called_twice(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        first, second = company.prepare("a"), company.prepare("a")
        outcome = company.transmit("a")
        assert company.transmit("a")["protocol"] == outcome["protocol"]  # 204, asked by key, adopted
        done, again = company.record("a", outcome), company.record("a", outcome)
        assert first == second
        assert done == again
        assert company.transmit("a")["status"] == "100"
        assert SandboxDocument.objects.count() == 1
        assert company.facts("a").count("AUTHORISED") == 1

    def test_issues_for_a_cnpj_with_letters_and_cancels_it(self, rsa_key, db, sandbox: fiscal.RunningSandbox) -> None:
        from tests.integration.fiscal_docs.conftest import ALPHANUMERIC_CNPJ, found

        company = found(ALPHANUMERIC_CNPJ, rsa_key)
        assert ALPHANUMERIC_CNPJ in company.issue("a")["access_key"]
        assert company.cancel("a")["state"] == "CANCELLED"


class TestALostAnswer:
    def test_is_unknown_then_found_by_key_and_authorised_exactly_once(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        assert company.state("a") == "UNKNOWN"
        outcome = fiscal.ask_authority(step_key="a", now=company.now)
        assert outcome
        assert outcome["status"] == "100"
        assert company.record("a", outcome)["state"] == "AUTHORISED"
        assert SandboxDocument.objects.count() == 1

    def test_adopts_the_first_protocol_when_the_same_bytes_go_again(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        outcome = company.transmit("a")
        assert outcome["protocol"] == SandboxDocument.objects.get().protocol
        assert company.record("a", outcome)["state"] == "AUTHORISED"


class TestALostRequest:
    def test_is_unknown_then_not_known_there_then_sent_again(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_REQUEST, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        assert fiscal.ask_authority(step_key="a", now=company.now) is None
        assert company.state("a") == "SIGNED"
        assert company.issue("a")["state"] == "AUTHORISED"

    def test_an_answer_that_comes_too_late_is_unknown(
        self, company: Company, sandbox: fiscal.RunningSandbox, settings
    ) -> None:
        settings.FISCAL_AUTHORITY_TIMEOUT_S = 2  # of which the connection alone takes some on a busy machine
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.DELAY, service=AUTHORISE, seconds=6.0))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")


class TestAnAuthorityThatDoesNotWork:
    def test_is_a_technical_error_when_it_answers_108(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.STATUS, service=AUTHORISE, status="108"))
        with pytest.raises(fiscal.AuthorityUnavailable, match="108"):
            company.transmit("a")
        assert company.state("a") == "SIGNED"

    def test_is_a_technical_error_when_the_connection_is_refused(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION))
        with pytest.raises(fiscal.AuthorityUnreachable):
            company.transmit("a")
        assert company.state("a") == "SIGNED"

    def test_is_a_technical_error_when_nobody_listens(self, company: Company, settings) -> None:
        stopped = fiscal.start_sandbox(announce=False)
        stopped.stop()
        settings.FISCAL_AUTHORITY_URL = stopped.url
        company.prepare("a")
        with pytest.raises(ConnectionError):
            company.transmit("a")
        assert company.state("a") == "SIGNED"


class TestARejection:
    def test_is_kept_and_raised_with_the_authoritys_words(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        item = fiscal.SaleItem(code="x", name="x", quantity=1, unit_amount=Decimal("10.00"), ncm="99999999")
        company.prepare("a", items=(item,), total=Decimal("10.00"))
        with pytest.raises(fiscal.DocumentRejected, match="778"):
            company.transmit("a")
        document = fiscal.document_of(step_key="a")
        assert document is not None
        assert (document.state, document.refusal_code) == ("REJECTED", "778")

    def test_of_a_number_that_another_document_has_is_a_conflict_for_a_person(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.issue("a")
        with_number_again(company)
        company.prepare("b")
        with pytest.raises(fiscal.NumberConflict, match="539"):
            company.transmit("b")
        assert company.undo("b")["undone"] == "abandoned"
        assert company.state("b") == "ABANDONED"


def with_number_again(company: Company) -> None:
    """What a restored backup does: the authority knows number 1, our books have forgotten it."""
    from apps.fiscal_docs.models import Document, NumberRange

    Document.objects.update(series=889)
    NumberRange.objects.update(next_number=1)
