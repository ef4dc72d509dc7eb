"""A refused document is signed again under its own number: over the wire, with everything that may come in between."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connections

from apps.common.errors import UnknownOutcome
from apps.fiscal_docs import authority, keys, queries, schemas
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import BlobKind, Document, DocumentEvent, Issuer, NumberRange
from apps.fiscal_docs.operations import correct, journal
from apps.fiscal_docs.operations.correct import key_in
from apps.fiscal_docs.sandbox.faults import Action, Fault
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent, SandboxVoidedRange
from apps.fiscal_docs.signature import digest_value, verify
from tests.integration.fiscal_docs.conftest import Company, ticket_sale

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

AUTHORISE, CONSULT = "NFeAutorizacao4", "NFeConsultaProtocolo4"
WRONG = fiscal.SaleItem(code="x", name="Ingresso", quantity=1, unit_amount=Decimal("200.00"), ncm="99999999")
RIGHT = fiscal.SaleItem(code="x", name="Ingresso", quantity=1, unit_amount=Decimal("200.00"))
LATE = timedelta(minutes=10)


def rejected(company: Company, step_key: str = "a", **changes: object) -> Document:
    """A document that the authority refused for its NCM."""
    company.prepare(step_key, items=(WRONG,), **changes)
    with pytest.raises(fiscal.DocumentRejected, match="778"):
        company.transmit(step_key)
    return journal.read(step_key)


def signed_files(step_key: str) -> list[bytes]:
    """The first one first."""
    return journal.contents(journal.read(step_key), BlobKind.SIGNED)[::-1]


def arrives_late(company: Company, content: bytes) -> None:
    """A request of an earlier attempt reaches the authority only now."""
    certificate = journal.acting_certificate(journal.read("a"))
    assert authority.authorise(signed=content, certificate_id=certificate).status == "100"


class TestARefusedDocument:
    def test_is_signed_again_under_its_number_and_authorised(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        before = rejected(company)
        done = company.retry("a", items=(RIGHT,))
        document = journal.read("a")
        first, second = signed_files("a")
        archived = journal.content(document, BlobKind.PROC) or b""
        assert (done["state"], done["number"], done["access_key"]) == ("AUTHORISED", before.number, before.access_key)
        assert b"<NCM>99999999</NCM>" in first
        assert b"<NCM>49119900</NCM>" in second
        assert second in archived
        assert schemas.errors(archived, schemas.PROC_NFE) == []
        assert verify(archived, tag="infNFe").ok
        assert bytes(SandboxDocument.objects.get().xml) == second
        assert NumberRange.objects.get(kind="65").next_number == 2

    def test_tells_every_attempt_with_its_file_its_answer_who_and_why(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        rejected(company)
        company.retry("a", items=(RIGHT,))
        told = list(DocumentEvent.objects.order_by("id").values_list("fact", "seq", "actor", "status"))
        assert told == [
            ("NUMBERED", 1, "", ""),
            ("SIGNED", 1, "", ""),
            ("SENT", 1, "", ""),
            ("REJECTED", 1, "", "778"),
            ("SIGNED_AGAIN", 1, "user:ana", ""),
            ("SENT", 2, "", ""),
            ("AUTHORISED", 1, "", "100"),
        ]
        assert DocumentEvent.objects.get(fact="SIGNED_AGAIN").reason == "The catalogue was mended."
        latest, refusal = journal.contents(journal.read("a"), BlobKind.ANSWER)
        assert b"<cStat>100</cStat>" in latest
        assert b"<cStat>778</cStat>" in refusal

    def test_keeps_the_answer_of_a_refusal_of_the_whole_message(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.STATUS, service=AUTHORISE, status="215"))
        with pytest.raises(fiscal.DocumentRejected, match="215"):
            company.transmit("a")
        assert b"<cStat>215</cStat>" in (journal.content(journal.read("a"), BlobKind.ANSWER) or b"")
        assert company.retry("a")["state"] == "AUTHORISED"

    def test_with_nothing_to_mend_is_sent_with_the_hour_of_today(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        company.prepare("a")
        sandbox.set_clock(lambda: company.now + LATE)
        with pytest.raises(fiscal.DocumentRejected, match="704"):
            company.transmit("a")
        company.now += LATE
        sandbox.set_clock(lambda: company.now)
        assert company.retry("a")["state"] == "AUTHORISED"
        assert journal.read("a").issued_at == company.now.replace(microsecond=0)

    def test_takes_over_what_the_issuer_and_the_buyer_are_called_today(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        rejected(company)
        Issuer.objects.update(name="BILHETERIA NOVA LTDA")
        company.retry("a", items=(RIGHT,), buyer_document="52998224725", buyer_name="Ana")
        assert journal.read("a").recipient == "52998224725"
        assert b"BILHETERIA NOVA LTDA" in signed_files("a")[1]

    def test_can_be_refused_again_and_corrected_again(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        rejected(company)
        with pytest.raises(fiscal.DocumentRejected, match="778"):
            company.retry("a", items=(WRONG,), total=Decimal("11.00"))
        assert company.retry("a", items=(RIGHT,))["state"] == "AUTHORISED"
        assert len(signed_files("a")) == 3
        assert SandboxDocument.objects.count() == 1

    def test_is_corrected_when_no_numbers_are_left(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        NumberRange.objects.update(next_number=keys.NUMBER_MAX)
        before = rejected(company)
        assert company.retry("a", items=(RIGHT,))["number"] == before.number == keys.NUMBER_MAX

    def test_that_is_undone_after_its_correction_has_its_number_voided(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        rejected(company)
        with pytest.raises(fiscal.DocumentRejected):
            company.retry("a", items=(WRONG,), total=Decimal("11.00"))
        assert company.undo("a")["undone"] == "voided"
        assert SandboxVoidedRange.objects.get().first == 1
        with pytest.raises(fiscal.IssueUndone):
            company.retry("a", items=(RIGHT,))

    def test_shows_its_files_while_it_is_signed_again(self, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
        company.prepare("a")
        document, contents = journal.read("a"), journal.contents

        def signed_meanwhile(*given: Any, **more: Any) -> list[bytes]:
            found = contents(*given, **more)
            journal.store(document, BlobKind.SIGNED, found[0] + b"<!-- again -->", now=company.now)
            return found

        monkeypatch.setattr(journal, "contents", signed_meanwhile)
        assert [file.label for file in queries.files(document)] == ["signed document"]


class TestWhatWasSentBefore:
    """A request that was thought lost arrives while the document is corrected: one file is valid, and it is found."""

    def test_is_found_by_key_before_anything_is_signed(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        sandbox.set_clock(lambda: company.now + LATE)
        with pytest.raises(fiscal.DocumentRejected, match="704"):
            company.transmit("a")
        sandbox.set_clock()
        (first,) = signed_files("a")
        arrives_late(company, first)
        assert company.retry("a", total=Decimal("11.00"))["state"] == "AUTHORISED"
        assert signed_files("a") == [first]

    def test_is_adopted_when_it_arrives_after_the_question(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a", buyer_document="52998224725", buyer_name="Ana")
        sandbox.set_clock(lambda: company.now + LATE)
        with pytest.raises(fiscal.DocumentRejected, match="704"):
            company.transmit("a")
        sandbox.set_clock()
        (first,) = signed_files("a")
        assert fiscal.ask_authority(step_key="a", now=company.now) is None
        arrives_late(company, first)
        done = company.retry("a", ask=False, total=Decimal("11.00"))  # signed anew, sent, 204: adopted
        document = journal.read("a")
        assert done["state"] == "AUTHORISED"
        assert len(signed_files("a")) == 2
        assert first in (journal.content(document, BlobKind.PROC) or b"")
        assert digest_value(journal.content(document, BlobKind.PROC) or b"") == digest_value(first)
        assert document.recipient == "52998224725"
        assert document.total == Decimal("10.50")
        assert SandboxDocument.objects.count() == 1
        assert company.cancel("a")["state"] == "CANCELLED"

    def test_is_adopted_when_the_month_has_changed_and_with_it_the_key(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        last_night, first = before_midnight(company, sandbox)
        company.now = last_night + LATE
        sandbox.set_clock(lambda: last_night)
        arrives_late(company, first)
        sandbox.set_clock(lambda: company.now)
        done = company.retry("a", ask=False)  # signed anew under another key, sent, 539: asked for under the earlier key
        _, second = signed_files("a")
        assert key_in(second) != key_in(first)
        assert (done["state"], done["access_key"]) == ("AUTHORISED", key_in(first))
        assert SandboxDocument.objects.count() == 1
        assert company.cancel("a")["state"] == "CANCELLED"

    def test_is_asked_for_under_every_key(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        last_night, first = before_midnight(company, sandbox)
        company.now = last_night + LATE
        sandbox.faults.add(Fault(action=Action.LOSE_REQUEST, service=AUTHORISE))
        sandbox.set_clock(lambda: company.now)
        with pytest.raises(UnknownOutcome):
            company.retry("a")
        sandbox.set_clock(lambda: last_night)
        arrives_late(company, first)
        sandbox.set_clock(lambda: company.now)
        assert company.retry("a")["access_key"] == key_in(first)
        assert journal.read("a").access_key == key_in(first)

    def test_is_found_and_cancelled_by_an_undo_under_its_earlier_key(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        last_night, first = before_midnight(company, sandbox)
        company.now = last_night + LATE
        sandbox.set_clock(lambda: company.now)
        with pytest.raises(fiscal.DocumentRejected, match="778"):
            company.retry("a", items=(WRONG,))
        sandbox.set_clock(lambda: last_night)
        arrives_late(company, first)
        sandbox.set_clock(lambda: company.now)
        assert company.undo("a")["undone"] == "cancelled"
        assert company.state("a") == "CANCELLED"

    def test_waits_when_the_authority_cannot_say(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        rejected(company)
        sandbox.faults.add(Fault(action=Action.STATUS, service=CONSULT, status="108"))
        with pytest.raises(ConnectionError):
            company.retry("a", items=(RIGHT,))
        assert len(signed_files("a")) == 1
        assert company.state("a") == "REJECTED"


def before_midnight(company: Company, sandbox: fiscal.RunningSandbox) -> tuple[datetime, bytes]:
    """A document refused in the last minutes of a month, in São Paulo; the authority has it not."""
    this_month = company.now.astimezone(UTC).replace(day=1, hour=2, minute=55, second=0, microsecond=0)
    company.now = (this_month + timedelta(days=32)).replace(day=1)  # 23:55 of the last day there
    company.prepare("a")
    sandbox.set_clock(lambda: company.now + LATE)
    with pytest.raises(fiscal.DocumentRejected, match="704"):
        company.transmit("a")
    (first,) = signed_files("a")
    return company.now, first


class TestTwoAtOnce:
    def test_sign_one_file_and_agree_on_what_was_authorised(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        """An owner who stalled wakes beside the one who took over, and both send."""
        before = rejected(company)
        sale = ticket_sale(issuer_cnpj=company.cnpj, order_id=before.order_id, items=(RIGHT,))
        correction = fiscal.Correction(sale=sale, actor="user:ana", reason="The catalogue was mended.")
        ready, outcomes = Barrier(4), []

        def send() -> None:
            try:
                ready.wait(90)
                outcomes.append(fiscal.transmit(step_key="a", now=company.now, again=lambda: correction))
            finally:
                connections.close_all()

        threads = [Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({outcome["protocol"] for outcome in outcomes}) == 1
        assert len(outcomes) == 4
        assert len(signed_files("a")) == 2
        assert SandboxDocument.objects.count() == 1
        assert {company.record("a", outcome)["state"] for outcome in outcomes} == {"AUTHORISED"}

    def test_a_correction_and_an_undo_leave_no_valid_document(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        rejected(company)
        ready = Barrier(2)

        def correct_it() -> None:
            try:
                ready.wait(90)
                with suppress(fiscal.IssueUndone):
                    company.retry("a", items=(RIGHT,))
            finally:
                connections.close_all()

        thread = Thread(target=correct_it)
        thread.start()
        ready.wait(90)
        undone = company.undo("a")["undone"]
        thread.join()
        assert company.undo("a")["undone"] in ("nothing", "cancelled")
        assert company.state("a") == ("NUMBER_VOIDED" if undone == "voided" else "CANCELLED")
        valid = SandboxDocument.objects.exclude(access_key__in=SandboxEvent.objects.values("access_key"))
        assert not valid.exists()


class TestADocumentThatWaitedTooLong:
    def test_is_signed_again_before_it_is_sent(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.REFUSE_CONNECTION))
        with pytest.raises(fiscal.AuthorityUnreachable):
            company.transmit("a")
        company.now += LATE
        sandbox.set_clock(lambda: company.now)
        assert company.retry("a")["state"] == "AUTHORISED"
        again = DocumentEvent.objects.get(fact="SIGNED_AGAIN")
        assert (again.actor, again.reason) == ("", correct.LATE)

    def test_is_signed_again_before_its_first_attempt(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        company.now += LATE
        sandbox.set_clock(lambda: company.now)
        assert company.retry("a")["state"] == "AUTHORISED"
        assert company.facts("a") == ["NUMBERED", "SIGNED", "SIGNED_AGAIN", "SENT", "AUTHORISED"]

    def test_goes_as_it_is_when_it_may_be_at_the_authority(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.prepare("a")
        sandbox.faults.add(Fault(action=Action.LOSE_ANSWER, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.transmit("a")
        company.now += LATE
        assert company.retry("a", ask=False)["state"] == "AUTHORISED"
        assert len(signed_files("a")) == 1


class TestANumberThatAnotherDocumentHas:
    @pytest.fixture
    def taken(self, company: Company, sandbox: fiscal.RunningSandbox) -> int:
        """The number of document b, which the authority knows as another one's."""
        from tests.integration.fiscal_docs.test_transmission import with_number_again

        company.issue("a")
        with_number_again(company)
        company.prepare("b")
        with pytest.raises(fiscal.NumberConflict, match="539"):
            company.transmit("b")
        return journal.read("b").number or 0

    def test_is_left_to_it_for_the_next_one_when_a_person_says_so(self, company: Company, taken: int) -> None:
        done = company.retry("b", instead_of=taken)
        assert (done["state"], done["number"]) == ("AUTHORISED", taken + 1)
        assert key_in(journal.content(journal.read("b"), BlobKind.PROC) or b"") == done["access_key"]
        assert DocumentEvent.objects.get(fact="SIGNED_AGAIN").reason.startswith(f"It was number {taken} of series 1")
        assert NumberRange.objects.get(kind="65").next_number == taken + 2
        assert SandboxDocument.objects.count() == 2

    @pytest.mark.parametrize("said", [None, 7])
    def test_is_kept_otherwise(self, company: Company, taken: int, said: int | None) -> None:
        with pytest.raises(fiscal.NumberConflict, match="539"):
            company.retry("b", instead_of=said)
        assert journal.read("b").number == taken
        assert NumberRange.objects.get(kind="65").next_number == taken + 1

    def test_is_taken_once_when_the_answer_is_lost(
        self, company: Company, sandbox: fiscal.RunningSandbox, taken: int
    ) -> None:
        sandbox.faults.add(Fault(action=Action.LOSE_REQUEST, service=AUTHORISE))
        with pytest.raises(UnknownOutcome):
            company.retry("b", instead_of=taken)
        assert company.retry("b", instead_of=taken)["number"] == taken + 1
        assert NumberRange.objects.get(kind="65").next_number == taken + 2

    def test_is_not_left_for_a_number_that_is_free(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        before = rejected(company)
        assert company.retry("a", items=(RIGHT,), instead_of=before.number)["number"] == before.number

    def test_says_so_in_the_preview(self, company: Company, taken: int) -> None:
        sale = ticket_sale(issuer_cnpj=company.cnpj, order_id=journal.read("b").order_id)
        told = fiscal.preview_correction(step_key="b", sale=sale, now=company.now)
        assert told is not None
        assert (told.taken_number, bool(told.closed), told.changes) == (taken, True, ())


class TestWhatCannotBeCorrected:
    def test_is_a_number_that_another_document_has(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        from tests.integration.fiscal_docs.test_transmission import with_number_again

        company.issue("a")
        with_number_again(company)
        company.prepare("b")
        for _ in range(2):
            with pytest.raises(fiscal.NumberConflict, match="539"):
                company.retry("b")
        assert len(journal.contents(journal.read("b"), BlobKind.SIGNED)) == 1

    def test_is_another_order(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        rejected(company)
        correction = fiscal.Correction(sale=ticket_sale(issuer_cnpj=company.cnpj))
        with pytest.raises(fiscal.NotCorrectable):
            fiscal.transmit(step_key="a", now=company.now, again=lambda: correction)
        assert company.state("a") == "REJECTED"

    def test_is_a_number_of_another_environment(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        rejected(company)
        Issuer.objects.update(environment="1")
        with pytest.raises(fiscal.NotCorrectable):
            company.retry("a", items=(RIGHT,))

    def test_is_what_was_signed_too_often(
        self, company: Company, sandbox: fiscal.RunningSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(correct, "REFUSALS_MAX", 2)
        rejected(company)
        with pytest.raises(fiscal.DocumentRejected):
            company.retry("a", items=(WRONG,), total=Decimal("11.00"))
        with pytest.raises(fiscal.NotCorrectable):
            company.retry("a", items=(RIGHT,))


class TestThePreview:
    def test_tells_the_fields_that_would_be_signed_otherwise(
        self, company: Company, sandbox: fiscal.RunningSandbox
    ) -> None:
        order_id = rejected(company).order_id
        company.now += LATE
        sale = ticket_sale(issuer_cnpj=company.cnpj, order_id=order_id, items=(RIGHT,))
        told = fiscal.preview_correction(step_key="a", sale=sale, now=company.now)
        assert told is not None
        assert [change.field for change in told.changes] == ["ide/dhEmi", "det[1]/prod/NCM"]
        assert (told.changes[1].before, told.changes[1].after) == ("99999999", "49119900")
        assert (told.refusal_code, told.closed) == ("778", "")
        assert company.state("a") == "REJECTED"
        assert len(signed_files("a")) == 1

    def test_says_why_nothing_would_be_signed(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        order_id = rejected(company).order_id
        sale = ticket_sale(issuer_cnpj=company.cnpj, order_id=order_id, items=())
        told = fiscal.preview_correction(step_key="a", sale=sale, now=company.now)
        assert told is not None
        assert "1 to 990 items" in told.closed

    def test_is_of_refused_documents_only(self, company: Company, sandbox: fiscal.RunningSandbox) -> None:
        company.issue("a")
        assert fiscal.preview_correction(step_key="a", sale=ticket_sale(), now=company.now) is None
        assert fiscal.preview_correction(step_key="b", sale=ticket_sale(), now=company.now) is None
