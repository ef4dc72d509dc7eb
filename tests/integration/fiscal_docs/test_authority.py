"""What an authority may answer besides the everyday, made by hand and sent over the real wire."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from apps.common.errors import UnknownOutcome
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs import schemas
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox import server
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.services import SERVICES, Desk
from apps.fiscal_docs.signature import verify
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


class TestAnAnswerThatSaysNothing:
    """It was sent, and nobody knows: never a rejection, never a success."""

    @pytest.mark.parametrize(
        "edit",
        [
            lambda answer: re.sub(rb"<cStat>\d+</cStat>", b"", answer),
            lambda answer: re.sub(rb"<cStat>\d+</cStat>", b"<cStat>OK</cStat>", answer),
            lambda answer: re.sub(rb"(<protNFe.*)<nProt>\d+</nProt>", rb"\1", answer),
            lambda answer: re.sub(rb"<chNFe>\d{44}", b"<chNFe>" + b"3" * 44, answer),
            lambda answer: answer[: len(answer) // 2],
            lambda answer: b" " * (3 * 1024 * 1024) + answer,
            lambda _: b"",
        ],
        ids=["no status", "no code", "no protocol", "another key", "cut off", "too long", "empty"],
    )
    def test_is_unknown_then_found_by_key(self, company: Company, sandbox, edit: Edit) -> None:
        with pytest.MonkeyPatch.context() as patched:
            operation, decide = SERVICES[AUTHORISE]
            patched.setitem(SERVICES, AUTHORISE, (operation, lambda message, desk: edit(decide(message, desk))))
            company.prepare("a")
            with pytest.raises(UnknownOutcome):
                company.transmit("a")
        assert company.state("a") == "UNKNOWN"
        outcome = fiscal.ask_authority(step_key="a", now=company.now)
        assert outcome
        assert company.record("a", outcome)["state"] == "AUTHORISED"

    def test_that_trickles_in_is_not_waited_for_for_ever(
        self, company: Company, sandbox: fiscal.RunningSandbox, settings: Any
    ) -> None:
        """Each byte comes in time. The authority goes on for as long as we listen, and then ends well."""
        settings.FISCAL_AUTHORITY_TIMEOUT_S = 2
        company.prepare("a")

        def trickle(handler: Any, _service: str, answer: bytes) -> None:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(b"<answer>")
            for _ in range(200):
                handler.wfile.write(b" ")
                threading.Event().wait(0.05)  # nobody sets it: the pace of a slow line
            handler.wfile.write(answer + b"</answer>")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(server._Handler, "_send", trickle)
            with pytest.raises(UnknownOutcome, match="TimeoutError"):
                company.transmit("a")
        assert company.state("a") == "UNKNOWN"

    def test_about_another_key_is_no_answer_to_a_question(self, company: Company, rewrite) -> None:
        company.issue("a")
        company.prepare("b")
        assert company.transmit("b")["status"] == "100"  # and its owner dies before it is recorded
        rewrite(CONSULT, lambda answer: re.sub(rb"<chNFe>\d{44}", b"<chNFe>" + b"3" * 44, answer))
        with pytest.raises(ConnectionError):
            fiscal.ask_authority(step_key="b", now=company.now)
        assert company.state("b") == "SENT"

    @pytest.mark.parametrize(
        "edit",
        [
            lambda answer: re.sub(rb"<retEvento .*</retEvento>", b"", answer),
            lambda answer: re.sub(rb"<chNFe>\d{44}", b"<chNFe>" + b"3" * 44, answer),
        ],
        ids=["no decision in the batch", "another key"],
    )
    def test_to_a_cancellation_is_unknown_then_found_by_key(self, company: Company, sandbox, edit: Edit) -> None:
        company.issue("a")
        company.commit(fiscal.prepare_cancel, step_key="a")
        with pytest.MonkeyPatch.context() as patched:
            operation, decide = SERVICES[EVENT]
            patched.setitem(SERVICES, EVENT, (operation, lambda message, desk: edit(decide(message, desk))))
            with pytest.raises(UnknownOutcome):
                fiscal.cancel(step_key="a", now=company.now)
        assert "CANCEL_DENIED" not in company.facts("a")
        outcome = fiscal.ask_cancelled(step_key="a", now=company.now)
        assert outcome
        assert company.commit(fiscal.record_cancel, step_key="a", outcome=outcome)["state"] == "CANCELLED"


class TestTheBytesOfAnAnswer:
    def test_of_a_cancellation_are_those_of_the_event_that_cancelled_not_of_one_before(
        self, company: Company, rewrite
    ) -> None:
        """A payment was linked to the document (110750) before it was cancelled."""
        company.issue("a")
        company.commit(fiscal.prepare_cancel, step_key="a")
        sent = fiscal.cancel(step_key="a", now=company.now)

        def with_an_earlier_event(answer: bytes) -> bytes:
            (event,) = re.findall(rb"<procEventoNFe.*</procEventoNFe>", answer, re.DOTALL)
            earlier = event.replace(b"110111", b"110750").replace(sent["protocol"].encode(), b"1" * 15)
            return answer.replace(event, earlier + event)

        rewrite(CONSULT, with_an_earlier_event)
        outcome = fiscal.ask_cancelled(step_key="a", now=company.now)
        assert outcome
        assert outcome["protocol"] == sent["protocol"]
        assert outcome["answer_xml"] == sent["answer_xml"]

    def test_in_another_encoding_are_archived_in_the_documents_own(
        self, company: Company, monkeypatch: pytest.MonkeyPatch, sandbox
    ) -> None:
        def latin(handler: Any, _service: str, answer: bytes) -> None:
            text = (
                '<?xml version="1.0" encoding="ISO-8859-1"?><r>'
                + answer.decode().replace("Autorizado", "Autorização")
                + "</r>"
            )
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(text.encode("latin-1"))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(server._Handler, "_send", latin)
            company.issue("a")
        archived = journal.content(journal.read("a"), BlobKind.PROC) or b""
        assert "Autorização".encode() in archived
        assert schemas.errors(archived, schemas.PROC_NFE) == []

    def test_with_prefixed_names_are_archived_as_a_valid_file(self, company: Company, rewrite) -> None:
        def prefixed(answer: bytes) -> bytes:
            answer = re.sub(rb"<(/?)(\w)", rb"<\1n:\2", answer)
            return answer.replace(b"xmlns=", b"xmlns:n=")

        rewrite(AUTHORISE, prefixed)
        company.issue("a")
        archived = journal.content(journal.read("a"), BlobKind.PROC) or b""
        assert b"protNFe" in archived
        assert schemas.errors(archived, schemas.PROC_NFE) == []
        assert verify(archived, tag="infNFe").ok
