"""The sandbox authority's services: one request's bytes in, the answer's bytes out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from lxml import etree

from apps.fiscal_docs import schemas
from apps.fiscal_docs.sandbox import answers, books, buyers, rules
from apps.fiscal_docs.sandbox.rules import Refusal, find, findall
from apps.fiscal_docs.signature import digest_value, read_xml


@dataclass(frozen=True, slots=True)
class Desk:
    """What a service needs besides the message."""

    authority: x509.Certificate
    now: datetime


Service = Callable[[bytes, Desk], bytes]


def _cut(xml: bytes, tag: str) -> bytes:
    """The exact bytes of an element: what was signed is never written again."""
    found = re.search(rb"<%(tag)s[ >].*</%(tag)s>" % {b"tag": tag.encode()}, xml, re.DOTALL)
    return found[0] if found else b""


def status(xml: bytes, desk: Desk) -> bytes:
    refusal = rules.check_schema(xml, schemas.CONS_STAT_SERV, "215")
    return answers.service_status(status=refusal.status if refusal else "107", now=desk.now)


def authorise(xml: bytes, desk: Desk) -> bytes:
    refusal = rules.check_schema(xml, schemas.ENVI_NFE, "225")
    if refusal:
        return answers.batch(status="225", now=desk.now, detail=refusal.detail)
    root = read_xml(xml)
    if find(root, "indSinc") != "1" or len(findall(root, "NFe")) != 1:
        return answers.batch(status="452", now=desk.now)  # larger batches are not simulated
    document = _cut(xml, "NFe")
    if stopped_for := buyers.stopped(_buyer(root)):
        return answers.batch(status=stopped_for, now=desk.now)
    return answers.batch(status="104", now=desk.now, protocol=_decide(document, desk))


def _buyer(root: etree._Element) -> str:
    """The buyer's CPF, if the document names one."""
    return find(root, "NFe/infNFe/dest/CPF")


def _decide(xml: bytes, desk: Desk) -> bytes:
    """protNFe of one document whose schema is right."""
    nfe = read_xml(xml)
    (inf,) = findall(nfe, "infNFe")
    stated = (inf.get("Id") or "")[3:]
    refusal = rules.check_signature(
        xml, tag="infNFe", cnpj=find(inf, "emit/CNPJ"), authority=desk.authority, now=desk.now
    ) or rules.check_document(xml, nfe, now=desk.now)
    if refusal:
        return answers.protocol_of(key=stated, status=refusal.status, detail=refusal.detail, now=desk.now)
    if refused := buyers.refused(find(inf, "dest/CPF"), key=stated):
        return answers.protocol_of(key=stated, status=refused, detail="SANDBOX", now=desk.now)
    decision = books.authorise(key=rules.key_of(inf), xml=xml, digest=digest_value(xml), now=desk.now)
    if isinstance(decision, Refusal):
        return answers.protocol_of(key=stated, status=decision.status, detail=decision.detail, now=desk.now)
    return decision.answer


def consult(xml: bytes, desk: Desk) -> bytes:
    refusal = rules.check_schema(xml, schemas.CONS_SIT_NFE, "215")
    if refusal:
        return answers.situation(key=answers.NO_KEY, status="215", now=desk.now, detail=refusal.detail)
    key = find(read_xml(xml), "chNFe")
    document, cancellation = books.consult(key)
    if document is None:
        return answers.situation(key=key, status="217", now=desk.now)
    events = b""
    if cancellation:
        pair = bytes(cancellation.xml) + bytes(cancellation.answer)
        events = b'<procEventoNFe versao="1.00">' + pair + b"</procEventoNFe>"
    return answers.situation(
        key=key, status="101" if cancellation else "100", now=desk.now, protocol=bytes(document.answer), events=events
    )


def event(xml: bytes, desk: Desk) -> bytes:
    """One cancellation (110111). Other events are not simulated and fail the schema."""
    refusal = rules.check_schema(xml, schemas.ENV_EVENTO_CANCEL, "215")
    if refusal:
        return answers.event_batch(batch_id=answers.NO_BATCH, status="215", detail=refusal.detail)
    batch_id = find(read_xml(xml), "idLote")
    exact = _cut(xml, "evento")
    node = read_xml(exact)
    decision = _check_event(exact, node, desk) or books.cancel(event=node, xml=exact, now=desk.now)
    if isinstance(decision, Refusal):
        answer = answers.event_answer(node, status=decision.status, detail=decision.detail, now=desk.now)
    else:
        answer = decision.answer
    return answers.event_batch(batch_id=batch_id, status="128", answer=answer)


def _check_event(xml: bytes, node: etree._Element, desk: Desk) -> Refusal | None:
    if find(node, "infEvento/tpAmb") != "2":
        return Refusal("252")
    return rules.check_signature(
        xml, tag="infEvento", cnpj=find(node, "infEvento/CNPJ"), authority=desk.authority, now=desk.now
    )


def void(xml: bytes, desk: Desk) -> bytes:
    refusal = rules.check_schema(xml, schemas.INUT_NFE, "215")
    if refusal:
        return answers.voiding(request=None, status="215", now=desk.now, detail=refusal.detail)
    request = read_xml(xml)
    cnpj = find(request, "infInut/CNPJ")
    refusal = Refusal("252") if find(request, "infInut/tpAmb") != "2" else None
    refusal = refusal or rules.check_signature(xml, tag="infInut", cnpj=cnpj, authority=desk.authority, now=desk.now)
    decision = refusal or books.void(request=request, xml=xml, now=desk.now)
    if isinstance(decision, Refusal):
        return answers.voiding(request=request, status=decision.status, detail=decision.detail, now=desk.now)
    return answers.voiding(request=request, status="102", protocol=decision.protocol, now=desk.now)


def stopped(service: str, status_code: str, desk: Desk) -> bytes:
    """The scripted answer of a service that is not working (108, 109)."""
    if service == "NFeAutorizacao4":
        return answers.batch(status=status_code, now=desk.now)
    if service == "NFeRecepcaoEvento4":
        return answers.event_batch(batch_id=answers.NO_BATCH, status=status_code)
    if service == "NFeInutilizacao4":
        return answers.voiding(request=None, status=status_code, now=desk.now)
    if service == "NFeConsultaProtocolo4":
        return answers.situation(key=answers.NO_KEY, status=status_code, now=desk.now)
    return answers.service_status(status=status_code, now=desk.now)


# Name in the WSDL -> operation, decision.
SERVICES: dict[str, tuple[str, Service]] = {
    "NFeStatusServico4": ("nfeStatusServicoNF", status),
    "NFeAutorizacao4": ("nfeAutorizacaoLote", authorise),
    "NFeConsultaProtocolo4": ("nfeConsultaNF", consult),
    "NFeRecepcaoEvento4": ("nfeRecepcaoEvento", event),
    "NFeInutilizacao4": ("nfeInutilizacaoNF", void),
}
