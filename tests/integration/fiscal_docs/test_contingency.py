"""Receipts that are handed out before the authority has them: signed for it, delivered later, over the wire."""

from datetime import timedelta
from decimal import Decimal

import pytest
from lxml import etree

from apps.common.errors import UnknownOutcome
from apps.fiscal_docs import keys
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.documents.archive import NAMESPACE
from apps.fiscal_docs.models import Contingency, DocumentEvent
from apps.fiscal_docs.operations import correct, journal
from apps.fiscal_docs.operations.correct import key_in
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxVoidedRange
from tests.integration.fiscal_docs.conftest import Company, ticket_sale
from tests.integration.fiscal_docs.test_corrections import AUTHORISE, LATE, RIGHT, WRONG, arrives_late, signed_files

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

REASON = "Sem comunicacao com a SEFAZ autorizadora."


def enter(company: Company) -> None:
    company.commit(fiscal.enter_contingency, reason=REASON, by="user:ana")


def leave(company: Company) -> None:
    company.commit(fiscal.leave_contingency, by="user:ana")


def handed_out(company: Company, step_key: str = "a", **changes: object) -> dict[str, object]:
    """Issued in contingency; the authority is never asked."""
    return company.issue(step_key, **changes)


def deliver(company: Company, step_key: str = "a", **changes: object) -> dict[str, object]:
    """As a run does that delivers it: asks by key when it was tried before."""
    found = fiscal.ask_authority(step_key=step_key, now=company.now)
    if found is None:
        sale = ticket_sale(issuer_cnpj=company.cnpj, order_id=journal.read(step_key).order_id, **changes)
        correction = fiscal.Correction(sale=sale, actor="user:ana", reason="The catalogue was mended.")
        found = fiscal.transmit(step_key=step_key, now=company.now, again=lambda: correction, deliver=True)
    return company.record(step_key, found)


def said(content: bytes, path: str) -> str:
    found = etree.fromstring(content).findtext(".//" + "/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/")))
    return found or ""


class TestTheSwitch:
    def test_is_on_once_and_tells_since_when_and_why(self, company: Company) -> None:
        assert fiscal.contingency() is None
        enter(company)
        with pytest.raises(fiscal.AlreadyInContingency):
            enter(company)
        period = fiscal.contingency()
        assert period is not None
        assert (period.began_at, period.began_by, period.reason) == (company.now, "user:ana", REASON)
        leave(company)
        with pytest.raises(fiscal.NotInContingency):
            leave(company)
        assert fiscal.contingency() is None
        enter(company)
        assert [each.ended_by for each in fiscal.contingencies()] == ["", "user:ana"]

    def test_needs_a_reason_that_a_document_can_carry(self, company: Company) -> None:
        with pytest.raises(fiscal.ReasonUnfit):
            company.commit(fiscal.enter_contingency, reason="too short", by="user:ana")
        assert not Contingency.objects.exists()


class TestADocumentInContingency:
    def test_says_so_in_its_key_its_head_and_its_qr_code(self, company: Company) -> None:
        enter(company)
        done = handed_out(company, buyer_document="52998224725", buyer_name="Ana")
        document, (content,) = journal.read("a"), signed_files("a")
        assert (done["state"], document.emission_type) == ("OFFLINE", "9")
        assert keys.parse(str(done["access_key"])).emission_type == "9"
        assert (said(content, "ide/tpEmis"), said(content, "ide/xJust")) == ("9", REASON)
        assert said(content, "ide/dhCont").startswith(f"{company.now.year}-")
        told = said(content, "infNFeSupl/qrCode").partition("?p=")[2].split("|")
        assert told[:3] == [done["access_key"], "3", "2"]
        assert told[4:7] == ["10.50", "2", "52998224725"]
        assert len(told) == 8

    def test_is_not_sent_and_needs_no_authority(self, company: Company, settings) -> None:
        settings.FISCAL_AUTHORITY_URL = "https://127.0.0.1:1"
        enter(company)
        assert handed_out(company)["state"] == "OFFLINE"
        assert company.facts("a") == ["NUMBERED", "SIGNED", "OFFLINE"]
        assert fiscal.handed_out() == 1
        assert company.record("a", fiscal.transmit(step_key="a", now=company.now))["state"] == "OFFLINE"
        assert company.facts("a") == ["NUMBERED", "SIGNED", "OFFLINE"]

    def test_is_printed_with_the_words_for_it(self, company: Company) -> None:
        from apps.fiscal_docs.admin import print_masked

        enter(company)
        handed_out(company)
        assert b"CONTING" in print_masked(journal.read("a"), signed_files("a")[0])

    def test_is_delivered_as_it_was_handed_out_however_late(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        handed_out(company)
        (content,) = signed_files("a")
        leave(company)
        company.now += timedelta(hours=5)
        sandbox.set_clock(lambda: company.now)
        assert deliver(company)["state"] == "AUTHORISED"
        assert bytes(SandboxDocument.objects.get().xml) == content
        assert signed_files("a") == [content]
        assert company.cancel("a")["state"] == "CANCELLED"

    def test_that_was_never_recorded_as_handed_out_is_delivered_as_it_was_signed(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """Its run was closed by hand just then. Whoever has it, has it in these words."""
        enter(company)
        company.prepare("a")
        (content,) = signed_files("a")
        leave(company)
        company.now += timedelta(hours=1)
        sandbox.set_clock(lambda: company.now)
        assert deliver(company, buyer_document="52998224725", buyer_name="Ana")["state"] == "AUTHORISED"
        assert signed_files("a") == [content]
        assert "SIGNED_AGAIN" not in company.facts("a")

    def test_goes_back_to_what_is_usual(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        handed_out(company, "a")
        leave(company)
        done = company.issue("b")
        assert (done["state"], keys.parse(done["access_key"]).emission_type) == ("AUTHORISED", "1")
        assert (journal.read("a").number, done["number"]) == (1, 2)

    def test_an_nfe_is_not_concerned(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        address = fiscal.BuyerAddress(
            street="RUA A", street_number="1", district="CENTRO", city_code="3550308", city="SAO PAULO", uf="SP",
            postal_code="01310100",
        )  # fmt: skip
        done = company.issue("a", kind="55", buyer_document="52998224725", buyer_name="Ana", buyer_address=address)
        assert (done["state"], keys.parse(done["access_key"]).emission_type) == ("AUTHORISED", "1")


class TestWhatWasPendingAtTheSwitch:
    def test_keeps_its_number_and_key_and_is_asked_about(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        """Nobody knows whether the authority has it: nothing else is signed in its place."""
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        before = journal.read("a")
        enter(company)
        assert company.retry("a")["state"] == "AUTHORISED"
        assert (journal.read("a").access_key, journal.read("a").emission_type) == (before.access_key, "1")
        assert SandboxDocument.objects.count() == 1

    def test_is_handed_out_under_its_number_when_it_was_never_sent(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """Nobody could be connected with: no question is needed to know that the authority has nothing of it."""
        company.prepare("a")
        for _ in range(2):
            sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION))
            with pytest.raises(fiscal.AuthorityUnreachable):
                company.transmit("a")
        sandbox.faults.add(Fault(action=Action.STATUS, service=AUTHORISE, status="108"))
        with pytest.raises(fiscal.AuthorityUnavailable):
            company.transmit("a")
        before = journal.read("a")
        enter(company)
        sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION, times=9))
        done = company.retry("a")
        sandbox.faults.clear()
        assert (done["state"], done["number"]) == ("OFFLINE", before.number)
        assert done["access_key"] != before.access_key
        assert DocumentEvent.objects.get(fact="SIGNED_AGAIN").reason == correct.HANDED_OUT
        leave(company)
        assert deliver(company)["access_key"] == done["access_key"]
        assert (journal.read("a").emission_type, SandboxDocument.objects.get().number) == ("9", before.number)

    def test_is_handed_out_when_it_waited_since_it_was_signed(self, company: Company) -> None:
        company.prepare("a")
        enter(company)
        company.now += LATE
        assert company.retry("a")["state"] == "OFFLINE"

    def test_stays_as_it_is_when_the_authority_was_asked_and_knew_nothing(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """A request was sent and lost: it may arrive yet."""
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_REQUEST, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        enter(company)
        company.now += LATE
        sandbox.set_clock(lambda: company.now)
        assert company.retry("a")["state"] == "AUTHORISED"
        assert journal.read("a").emission_type == "1"

    def test_is_adopted_when_it_was_at_the_authority_after_all(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        """It cannot be; should it be, the authority has one number once, and tells which file."""
        company.prepare("a")
        (first,) = signed_files("a")
        enter(company)
        company.now += LATE
        assert company.retry("a")["state"] == "OFFLINE"
        arrives_late(company, first)
        sandbox.set_clock(lambda: company.now)
        leave(company)
        done = deliver(company)  # 539, and asked for under the key of before
        assert (done["state"], done["access_key"]) == ("AUTHORISED", key_in(first))
        assert SandboxDocument.objects.count() == 1
        assert company.cancel("a")["state"] == "CANCELLED"


class TestADeliveryThatFails:
    def test_is_unknown_then_found_by_key(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        handed_out(company)
        leave(company)
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            deliver(company)
        assert company.state("a") == "UNKNOWN"
        assert deliver(company)["state"] == "AUTHORISED"

    def test_stays_handed_out_when_nobody_listens(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        handed_out(company)
        sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION))
        with pytest.raises(fiscal.AuthorityUnreachable):
            deliver(company)
        assert company.state("a") == "OFFLINE"

    def test_for_a_wrong_field_is_corrected_with_its_hour_and_its_reason(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        enter(company)
        handed_out(company, items=(WRONG,))
        leave(company)
        company.now += LATE
        sandbox.set_clock(lambda: company.now)
        with pytest.raises(fiscal.DocumentRejected, match="778"):
            deliver(company)
        assert company.state("a") == "REJECTED"
        assert deliver(company, items=(RIGHT,))["state"] == "AUTHORISED"
        first, second = signed_files("a")
        for path in ("ide/dhEmi", "ide/dhCont", "ide/xJust", "ide/tpEmis"):
            assert said(first, path) == said(second, path), path
        assert (said(first, "prod/NCM"), said(second, "prod/NCM")) == ("99999999", "49119900")
        assert DocumentEvent.objects.get(fact="SIGNED_AGAIN").actor == "user:ana"

    def test_that_is_undone_before_has_its_number_voided(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        enter(company)
        handed_out(company)
        assert company.undo("a")["undone"] == "voided"
        assert SandboxVoidedRange.objects.get().first == 1
        with pytest.raises(fiscal.IssueUndone):
            deliver(company)

    def test_that_is_undone_after_it_was_sent_is_asked_about_first(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        enter(company)
        handed_out(company)
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            deliver(company)
        assert company.undo("a")["undone"] == "cancelled"


class TestTheAuthority:
    @pytest.mark.parametrize(
        ("wrong", "status"),
        [(b"|10.50|", "397"), (b"tpEmis>9<", "")],
        ids=["a QR code about another amount", "as it is"],
    )
    def test_checks_what_the_qr_code_was_signed_for(
        self, company: Company, sandbox: fiscal.RunningSandbox, wrong: bytes, status: str
    ) -> None:
        from apps.fiscal_docs.sandbox import rules
        from apps.fiscal_docs.signature import read_xml

        enter(company)
        handed_out(company, total=Decimal("10.50"))
        (content,) = signed_files("a")
        changed = content.replace(wrong, b"|11.50|") if status else content
        refusal = rules.check_document(changed, read_xml(changed), now=company.now)
        assert (refusal.status if refusal else "") == status
