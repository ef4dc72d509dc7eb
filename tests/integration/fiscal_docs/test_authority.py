"""What an authority may answer besides the everyday, made by hand and sent over the real wire."""

from collections.abc import Callable

import pytest

from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.services import SERVICES, Desk
from tests.integration.fiscal_docs.conftest import Company

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

AUTHORISE, CONSULT, EVENT = "NFeAutorizacao4", "NFeConsultaProtocolo4", "NFeRecepcaoEvento4"
Edit = Callable[[bytes], bytes]


@pytest.fixture
def rewrite(monkeypatch: pytest.MonkeyPatch, sandbox: fiscal.RunningSandbox) -> Callable[[str, Edit], None]:
    """Change what a service answers, after it decided."""

    def rewrite(service: str, edit: Edit) -> None:
        operation, decide = SERVICES[service]

        def edited(message: bytes, desk: Desk) -> bytes:
            return edit(decide(message, desk))

        monkeypatch.setitem(SERVICES, service, (operation, edited))

    return rewrite


class TestTheWidthsOfAnAnswer:
    def test_a_rejection_with_a_code_of_four_digits_is_kept(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.STATUS, service=AUTHORISE, status="1115"))
        with pytest.raises(fiscal.DocumentRejected, match="1115"):
            company.transmit("a")
        document = fiscal.document_of(step_key="a")
        assert document
        assert (document.state, document.refusal_code) == ("REJECTED", "1115")

    def test_a_protocol_of_seventeen_digits_is_recorded_and_its_cancellation_signed(
        self, company: Company, rewrite
    ) -> None:
        rewrite(AUTHORISE, lambda answer: answer.replace(b"<nProt>", b"<nProt>99"))
        done = company.issue("a")
        assert len(done["protocol"]) == 17
        assert company.state("a") == "AUTHORISED"
        company.commit(fiscal.prepare_cancel, step_key="a")
        assert f"<nProt>{done['protocol']}</nProt>".encode() in (journal.content(journal.read("a"), BlobKind.EVENT) or b"")

    def test_a_reason_longer_than_the_layout_allows_is_cut_and_kept(self, company: Company, rewrite, sandbox) -> None:
        rewrite(AUTHORISE, lambda answer: answer.replace(b"<xMotivo>", b"<xMotivo>" + b"x" * 300))
        company.prepare("a")
        sandbox.set_clock(lambda: company.now.replace(year=company.now.year + 2))  # 291
        with pytest.raises(fiscal.DocumentRejected, match="291"):
            company.transmit("a")
        document = fiscal.document_of(step_key="a")
        assert document
        assert (document.state, document.refusal_code, len(document.refusal_reason)) == ("REJECTED", "291", 255)
