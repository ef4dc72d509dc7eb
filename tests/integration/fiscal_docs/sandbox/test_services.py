"""The sandbox authority decides by checks: each rule refuses what breaks it, and its answers pass the official XSDs."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings

from apps.fiscal_docs import certificates, schemas
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.documents import archive
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox import buyers, services
from apps.fiscal_docs.sandbox.certificates import certificate_of_authority
from apps.fiscal_docs.sandbox.models import SandboxDocument
from apps.fiscal_docs.sandbox.services import Desk
from apps.fiscal_docs.signature import sign
from tests.integration.fiscal_docs.conftest import OTHER_CNPJ, Company, found

pytestmark = pytest.mark.django_db


@dataclass
class Counter:
    """What a client would hold in hand at the authority's counter: signed bytes, and pens to change them with."""

    company: Company
    signed: bytes
    identity: certificates.Identity
    later: timedelta = timedelta(0)

    def desk(self) -> Desk:
        return Desk(certificate_of_authority(), self.company.now + self.later)

    def send(self, signed: bytes | None = None) -> str:
        """The cStat of the document, or of the batch when the document was not looked at."""
        return inner_status(self.answer(signed))

    def answer(self, signed: bytes | None = None) -> bytes:
        return services.authorise(archive.document_batch(signed or self.signed, "1"), self.desk())

    def resigned(self, *changes: tuple[str, str], by: certificates.Identity | None = None) -> bytes:
        """The document with some texts changed, honestly signed again."""
        text = re.sub(r"<Signature .*</Signature>", "", self.signed.decode())
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        signer = by or self.identity
        found_id = re.search(r'Id="([^"]+)"', text)
        assert found_id
        return sign(text.encode(), reference=found_id[1], key=signer.key, certificate=signer.certificate)

    def blob(self, kind: BlobKind) -> bytes:
        return journal.content(journal.read("a"), kind) or b""


def inner_status(answer: bytes) -> str:
    return re.findall(rb"<cStat>(\d+)</cStat>", answer)[-1].decode()


@pytest.fixture
def counter(company: Company) -> Counter:
    return at_the_counter(company)


def at_the_counter(company: Company, **sale: str) -> Counter:
    company.prepare("a", **sale)
    document = journal.read("a")
    assert document.certificate_id
    return Counter(
        company, journal.content(document, BlobKind.SIGNED) or b"", certificates.identity(document.certificate_id)
    )


class TestAuthorise:
    def test_a_good_document_is_authorised_and_the_same_again_is_a_duplicate(self, counter: Counter) -> None:
        assert counter.send() == "100"
        assert counter.send() == "204"
        assert SandboxDocument.objects.count() == 1

    def test_another_key_with_a_used_number_is_a_conflict_that_names_the_first(self, counter: Counter) -> None:
        counter.send()
        key = journal.read("a").access_key or ""
        from apps.fiscal_docs import keys

        parts = keys.parse(key)
        other = keys.AccessKey(**{name: getattr(parts, name) for name in parts.__slots__} | {"code": "00000042"})
        answer = counter.answer(
            counter.resigned(
                (key, str(other)), (f"<cNF>{parts.code}", "<cNF>00000042"), (f"<cDV>{key[-1]}", f"<cDV>{str(other)[-1]}")
            )
        )
        assert inner_status(answer) == "539"
        assert key.encode() in answer

    def test_a_tampered_document_is_297(self, counter: Counter) -> None:
        assert counter.send(counter.signed.replace(b"<vNF>10.50<", b"<vNF>11.50<")) == "297"

    def test_a_certificate_of_another_company_is_213(self, counter: Counter, rsa_key: rsa.RSAPrivateKey) -> None:
        found(OTHER_CNPJ, rsa_key)
        from apps.fiscal_docs.models import Certificate

        other = certificates.identity(Certificate.objects.get(cnpj=OTHER_CNPJ).id)
        assert counter.send(counter.resigned(by=other)) == "213"

    def test_a_certificate_that_nobody_issued_is_290(self, counter: Counter) -> None:
        own, now = counter.identity, counter.company.now
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "I am my own authority")])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(own.key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        forged = certificates.Identity(own.cnpj, "", own.key, builder.sign(own.key, hashes.SHA256()))
        assert counter.send(counter.resigned(by=forged)) == "290"

    def test_a_certificate_out_of_date_is_291(self, counter: Counter) -> None:
        counter.later = timedelta(days=366)
        assert counter.send() == "291"

    @pytest.mark.parametrize(
        ("old", "new", "status"),
        [
            ("<tpAmb>2<", "<tpAmb>1<", "252"),
            ("<nNF>1<", "<nNF>2<", "502"),
            ("<NCM>49119900<", "<NCM>99999999<", "778"),
            ("<NCM>49119900<", "<NCM>4911<", "225"),
            ("<vUnCom>200.0000000000<", "<vUnCom>199.0000000000<", "629"),
            ("<vNF>10.50<", "<vNF>10.51<", "610"),
            ("<vPag>10.50<", "<vPag>10.49<", "865"),
            ("<vPag>10.50<", "<vPag>10.51<", "866"),
            ("<xProd>NOTA FISCAL EMITIDA EM AMBIENTE", "<xProd>NOTA FISCAL", "373"),
            ("|3|2</qrCode>", "|3|1</qrCode>", "397"),
        ],
    )
    def test_a_broken_rule_has_its_number(self, counter: Counter, old: str, new: str, status: str) -> None:
        assert counter.send(counter.resigned((old, new))) == status

    def test_a_wrong_check_digit_is_253(self, counter: Counter) -> None:
        key = journal.read("a").access_key or ""
        wrong = str((int(key[-1]) + 1) % 10)
        assert counter.send(counter.resigned((key, key[:-1] + wrong), (f"<cDV>{key[-1]}", f"<cDV>{wrong}"))) == "253"

    def test_blanks_between_tags_are_588(self, counter: Counter) -> None:
        assert counter.send(counter.signed.replace(b"><infNFe ", b">\n<infNFe ", 1)) == "588"

    def test_an_asynchronous_batch_of_one_is_452(self, counter: Counter) -> None:
        batch = archive.document_batch(counter.signed, "1").replace(b"<indSinc>1<", b"<indSinc>0<")
        assert inner_status(services.authorise(batch, counter.desk())) == "452"

    def test_a_voided_number_is_206(self, counter: Counter) -> None:
        counter.company.commit(fiscal.undo_prepare, step_key="a")
        assert inner_status(services.void(counter.blob(BlobKind.VOID), counter.desk())) == "102"
        assert counter.send() == "206"

    def test_protocols_only_grow(self, counter: Counter) -> None:
        counter.send()
        counter.company.prepare("b")
        counter.send(journal.content(journal.read("b"), BlobKind.SIGNED))
        first, second = SandboxDocument.objects.order_by("number").values_list("protocol", flat=True)
        assert first < second


@pytest.fixture
def authorised(counter: Counter) -> Counter:
    from apps.fiscal_docs.documents.archive import cut
    from apps.fiscal_docs.signature import digest_value

    answer = counter.answer()
    outcome = {
        "status": "100", "reason": "ok", "access_key": journal.read("a").access_key, "at": counter.company.now.isoformat(),
        "protocol": SandboxDocument.objects.get().protocol, "digest": digest_value(counter.signed),
        "answer_xml": cut(answer, "protNFe").decode(),
    }  # fmt: skip
    counter.company.record("a", outcome)
    counter.company.commit(fiscal.prepare_cancel, step_key="a")
    counter.signed = counter.blob(BlobKind.EVENT)
    return counter


class TestBuyers:
    """For whom the authority fails without a script: docs/sandbox-cards.md."""

    def test_one_is_refused_for_ever(self, company: Company) -> None:
        counter = at_the_counter(company, buyer_document=buyers.REFUSED)
        assert [counter.send(), counter.send()] == ["237", "237"]

    def test_one_is_refused_once(self, company: Company) -> None:
        counter = at_the_counter(company, buyer_document=buyers.REFUSED_ONCE)
        assert [counter.send(), counter.send(), counter.send()] == ["704", "100", "204"]

    def test_for_one_the_service_stands_still(self, company: Company) -> None:
        counter = at_the_counter(company, buyer_document=buyers.AWAY)
        assert [counter.send(), counter.send()] == ["108", "108"]
        assert not SandboxDocument.objects.exists()

    def test_are_the_published_ones(self) -> None:
        page = re.sub(r"[ .-]", "", (Path(settings.BASE_DIR) / "docs/sandbox-cards.md").read_text())
        assert [cpf for cpf in (buyers.AWAY, buyers.REFUSED, buyers.REFUSED_ONCE) if cpf not in page] == []

    def test_that_were_refused_once_are_remembered_within_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(buyers, "KEYS_MAX", 2)
        once = buyers.Once()
        assert [once.is_first(key) for key in ("a", "a", "b", "c", "a")] == [True, False, True, True, True]


class TestCancel:
    def send(self, counter: Counter, signed: bytes | None = None) -> str:
        return inner_status(services.event(archive.event_batch(signed or counter.signed, "1"), counter.desk()))

    def test_is_registered_once(self, authorised: Counter) -> None:
        assert self.send(authorised) == "135"
        assert self.send(authorised) == "573"

    def test_of_an_unknown_key_is_494(self, authorised: Counter) -> None:
        SandboxDocument.objects.all().delete()
        assert self.send(authorised) == "494"

    def test_with_another_protocol_is_222(self, authorised: Counter) -> None:
        protocol = SandboxDocument.objects.get().protocol
        assert self.send(authorised, authorised.resigned((protocol, "135260999999999"))) == "222"

    @pytest.mark.parametrize(("minutes", "status"), [(29, "135"), (31, "501")])
    def test_has_thirty_minutes_for_a_receipt(self, authorised: Counter, minutes: int, status: str) -> None:
        authorised.later = timedelta(minutes=minutes)
        assert self.send(authorised) == status

    def test_that_was_tampered_with_is_297(self, authorised: Counter) -> None:
        assert self.send(authorised, authorised.signed.replace(b"<nSeqEvento>1<", b"<nSeqEvento>2<", 1)) == "297"


class TestVoid:
    def test_once_then_the_same_then_never_a_used_number(self, counter: Counter) -> None:
        counter.company.commit(fiscal.undo_prepare, step_key="a")
        request = counter.blob(BlobKind.VOID)
        assert inner_status(services.void(request, counter.desk())) == "102"
        assert inner_status(services.void(request, counter.desk())) == "563"

    def test_of_a_used_number_is_241(self, counter: Counter) -> None:
        counter.send()
        counter.company.commit(fiscal.undo_prepare, step_key="a")
        assert inner_status(services.void(counter.blob(BlobKind.VOID), counter.desk())) == "241"


def consult(counter: Counter, key: str) -> bytes:
    question = (
        f'<consSitNFe versao="4.00" xmlns="{archive.NAMESPACE}"><tpAmb>2</tpAmb><xServ>CONSULTAR</xServ>'
        f"<chNFe>{key}</chNFe></consSitNFe>"
    )
    return services.consult(question.encode(), counter.desk())


class TestConsult:
    def test_says_unknown_then_authorised_then_cancelled(self, authorised: Counter) -> None:
        key = journal.read("a").access_key or ""
        assert b"<cStat>100</cStat>" in consult(authorised, key)
        services.event(archive.event_batch(authorised.signed, "1"), authorised.desk())
        assert b"<cStat>101</cStat>" in consult(authorised, key)
        assert b"<cStat>217</cStat>" in consult(authorised, "35261111222333000181650010000000991123456785")


def _status(counter: Counter) -> bytes:
    question = f'<consStatServ versao="4.00" xmlns="{archive.NAMESPACE}"><tpAmb>2</tpAmb><cUF>35</cUF><xServ>STATUS</xServ>'
    return services.status(f"{question}</consStatServ>".encode(), counter.desk())


def _voided(counter: Counter) -> bytes:
    counter.company.prepare("b")
    counter.company.commit(fiscal.undo_prepare, step_key="b")
    return services.void(journal.content(journal.read("b"), BlobKind.VOID) or b"", counter.desk())


def _event(counter: Counter) -> bytes:
    return services.event(archive.event_batch(counter.signed, "1"), counter.desk())


def _consulted(counter: Counter) -> bytes:
    _event(counter)
    return consult(counter, journal.read("a").access_key or "")


class TestAnswers:
    @pytest.mark.parametrize(
        ("ask", "schema"),
        [
            (_status, schemas.RET_CONS_STAT_SERV),
            (
                lambda counter: counter.answer(counter.company and journal.content(journal.read("a"), BlobKind.SIGNED)),
                schemas.RET_ENVI_NFE,
            ),
            (_consulted, schemas.RET_CONS_SIT_NFE),
            (_event, schemas.RET_ENV_EVENTO_CANCEL),
            (_voided, schemas.RET_INUT_NFE),
            (lambda counter: counter.answer(b"<NFe/>"), schemas.RET_ENVI_NFE),
            (lambda counter: services.event(b"<no/>", counter.desk()), schemas.RET_ENV_EVENTO_CANCEL),
            (lambda counter: services.void(b"<no/>", counter.desk()), schemas.RET_INUT_NFE),
            (lambda counter: services.stopped("NFeAutorizacao4", "108", counter.desk()), schemas.RET_ENVI_NFE),
            (lambda counter: services.stopped("NFeConsultaProtocolo4", "109", counter.desk()), schemas.RET_CONS_SIT_NFE),
        ],
        ids=["status", "duplicate", "consult", "event", "void", "bad document", "bad event", "bad void", "108", "109"],
    )
    def test_pass_the_official_schemas(self, authorised: Counter, ask: Callable[[Counter], Any], schema: str) -> None:
        assert schemas.errors(ask(authorised), schema) == []

    @pytest.mark.parametrize("service", sorted(services.SERVICES))
    def test_rubbish_is_refused_and_nothing_breaks(self, running_sandbox: fiscal.RunningSandbox, service: str) -> None:
        desk = Desk(certificate_of_authority(), datetime.now(UTC))
        for rubbish in (b"", b"<nothing/>", b"\xff\xfe", b"<a", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"):
            assert inner_status(services.SERVICES[service][1](rubbish, desk)) in {"215", "225"}
