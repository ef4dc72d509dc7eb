"""The only file that talks to the tax authority: SOAP 1.2 over HTTPS with the issuer's certificate (mutual TLS).

Nothing is repeated here. Three things can go wrong, and they differ:
- AuthorityUnreachable: no connection was made, so nothing was sent; the caller may try again.
- UnknownOutcome: a request that changes something was sent and no answer came; ask by key before repeating.
- AuthorityUnavailable: the authority answered that it decides nothing now (108, 109, …).
"""

import http.client
import os
import re
import socket
import ssl
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from django.conf import settings
from lxml import etree

from apps.common.errors import UnknownOutcome
from apps.common.transactions import durable
from apps.fiscal_docs.certificates import IDENTITIES_MAX, Identity, identity
from apps.fiscal_docs.documents.archive import NAMESPACE, cut, cut_all, document_batch, event_batch, without_declaration
from apps.fiscal_docs.lifecycle import EVENT_REGISTERED, Outcome, outcome_of
from apps.fiscal_docs.sandbox import discovery
from apps.fiscal_docs.signature import read_xml

ANSWER_BYTES_MAX = 2 * 1024 * 1024  # an answer about one document is a few kB; more is not an answer
STATUS, PROTOCOL = re.compile(r"[0-9]{3,4}"), re.compile(r"[0-9]{15}|[0-9]{17}")  # TStat and TProt of the layout
CANCELLATIONS = frozenset({"110111", "110112"})  # the second one: by substitution, which others may have sent
ENCODING = re.compile(rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']([\w.-]+)""")
LAST_WAIT_S = 0.001  # zero would mean: do not wait, and raise something else
BATCH_DONE = "128"
BATCH_ID = "1"  # one document a batch: the number means nothing to anybody
SOAP = "http://www.w3.org/2003/05/soap-envelope"
WSDL = "http://www.portalfiscal.inf.br/nfe/wsdl/"
OPERATIONS = {
    "NFeStatusServico4": "nfeStatusServicoNF",
    "NFeAutorizacao4": "nfeAutorizacaoLote",
    "NFeConsultaProtocolo4": "nfeConsultaNF",
    "NFeRecepcaoEvento4": "nfeRecepcaoEvento",
    "NFeInutilizacao4": "nfeInutilizacaoNF",
}


class AuthorityUnreachable(ConnectionError):
    """No connection to the authority: nothing was sent."""


class AuthorityUnavailable(ConnectionError):
    """The authority answered, and decided nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the authority said: cStat, xMotivo, protocol and time of the innermost decision, and its exact bytes.

    ``key``: which document it decided on; empty when it decided on none.
    """

    status: str
    reason: str
    key: str = ""
    protocol: str = ""
    at: str = ""
    digest: str = ""
    xml: bytes = b""
    event_status: str = ""
    event_protocol: str = ""
    event_xml: bytes = b""


def base_url() -> str:
    """The setting, or the sandbox that runs here or left its address. Raises AuthorityUnreachable when there is none."""
    url = settings.FISCAL_AUTHORITY_URL or discovery.url()
    if not url:
        raise AuthorityUnreachable("no tax authority is configured and no sandbox runs")
    return str(url).rstrip("/")


@lru_cache(maxsize=IDENTITIES_MAX)
def _context(own: Identity, trust: str) -> ssl.SSLContext:
    """One TLS context per certificate. OpenSSL reads keys from files only, so one lives there for a moment, encrypted."""
    context = ssl.create_default_context(cafile=trust or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    password = os.urandom(24).hex()
    key = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        pem = Path(folder) / "client.pem"
        pem.write_bytes(key + own.certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(pem, password=password)
    return context


def _trust() -> str:
    """Whose server certificates count: the configured file, the sandbox's own authority, or the system's (empty)."""
    configured = str(getattr(settings, "FISCAL_AUTHORITY_CA_FILE", ""))
    if configured or settings.FISCAL_AUTHORITY_URL:
        return configured
    return str(discovery.trust_file())


def _envelope(service: str, content: bytes) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><soap12:Envelope xmlns:soap12="{SOAP}"><soap12:Body>'
        f'<nfeDadosMsg xmlns="{WSDL}{service}">'.encode()
        + without_declaration(content)
        + b"</nfeDadosMsg></soap12:Body></soap12:Envelope>"
    )


def _post(service: str, content: bytes, own: Identity) -> tuple[int, bytes]:
    """One request, one answer. Raises AuthorityUnreachable before anything is sent, OSError or HTTPException after."""
    where = urlsplit(base_url())
    timeout_s = settings.FISCAL_AUTHORITY_TIMEOUT_S
    try:
        context = _context(own, _trust())
        connection = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=timeout_s, context=context)
        connection.connect()
    except OSError as error:
        raise AuthorityUnreachable(f"no connection to {where.netloc}: {error}") from error
    action = f"{WSDL}{service}/{OPERATIONS[service]}"
    try:
        connection.request(
            "POST",
            f"{where.path}/ws/{service}.asmx",
            _envelope(service, content),
            {"Content-Type": f'application/soap+xml; charset=utf-8; action="{action}"', "Connection": "close"},
        )
        until, sock = time.monotonic() + timeout_s, connection.sock
        response = connection.getresponse()
        return response.status, _read(response, sock, until)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, sock: socket.socket, until: float) -> bytes:
    """The answer's body. The timeout is for the whole of it: each byte of one that trickles in would come in time."""
    read = bytearray()
    while len(read) < ANSWER_BYTES_MAX:
        sock.settimeout(max(until - time.monotonic(), LAST_WAIT_S))
        part = response.read1(ANSWER_BYTES_MAX - len(read))
        if not part:
            break
        read += part
    return bytes(read)


def _in_utf8(answer: bytes) -> bytes:
    """An answer in another encoding is written again: its parts go into files of ours."""
    declared = ENCODING.match(answer)
    if declared is None or declared[1].upper() in (b"UTF-8", b"UTF8"):
        return answer
    try:
        return etree.tostring(read_xml(answer), encoding="UTF-8")
    except etree.XMLSyntaxError:
        return answer  # whoever reads it finds out


def _ask(service: str, content: bytes, own: Identity) -> bytes:
    """A question: it changes nothing, so any failure is only a failure to ask."""
    try:
        status, answer = _post(service, content, own)
    except (OSError, http.client.HTTPException) as error:
        raise AuthorityUnreachable(f"{service}: no answer ({type(error).__name__}: {error})") from error
    if status != 200:
        raise AuthorityUnreachable(f"{service}: HTTP status {status}")
    return _in_utf8(answer)


def _tell(service: str, content: bytes, own: Identity) -> bytes:
    """A request that changes something: once it is sent, no answer means that nobody knows."""
    try:
        status, answer = _post(service, content, own)
    except AuthorityUnreachable:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise UnknownOutcome(f"{service}: sent, and no answer came ({type(error).__name__}: {error})") from error
    if status != 200:
        raise UnknownOutcome(f"{service}: sent, and HTTP status {status} came instead of an answer")
    return _in_utf8(answer)


def _result(answer: bytes, tag: str) -> etree._Element:
    """The element of the answer that speaks. Raises UnknownOutcome for anything else: it was sent, and not understood."""
    try:
        found = read_xml(answer).find(f".//{{{NAMESPACE}}}{tag}")
    except etree.XMLSyntaxError:
        found = None
    if found is None:
        raise UnknownOutcome(f"the authority's answer holds no {tag}")
    return found


def _text(element: etree._Element | None, path: str) -> str:
    if element is None:
        return ""
    return element.findtext("/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/"))) or ""


def _child(element: etree._Element, path: str) -> etree._Element | None:
    return element.find("/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/")))


def _understood(answer: Answer) -> Answer:
    """Raises UnknownOutcome for what is no code, and for a decision in favour without its protocol."""
    favourable = outcome_of(answer.status) in (Outcome.AUTHORISED, Outcome.CANCELLED) or answer.status in EVENT_REGISTERED
    if not STATUS.fullmatch(answer.status) or (favourable and not PROTOCOL.fullmatch(answer.protocol)):
        raise UnknownOutcome(f"the authority's answer is not understood: {answer.status!r}, protocol {answer.protocol!r}")
    return answer


def _exact(answer: bytes, element: etree._Element | None, tag: str) -> bytes:
    """The bytes of an element of the answer as they came. Written again when its names have prefixes."""
    if element is None:
        return b""
    return cut(answer, tag) or etree.tostring(element, encoding="UTF-8", xml_declaration=False, with_tail=False)


def _of_document(result: etree._Element, answer: bytes) -> Answer:
    """The decision on the document when there is one, else what was said about the whole message."""
    inner = _child(result, "protNFe/infProt")
    said = result if inner is None else inner
    return Answer(
        status=_text(said, "cStat"),
        reason=_text(said, "xMotivo"),
        key=_text(inner, "chNFe"),
        protocol=_text(inner, "nProt"),
        at=_text(said, "dhRecbto"),
        digest=_text(inner, "digVal"),
        xml=_exact(answer, _child(result, "protNFe"), "protNFe") or _exact(answer, result, "retEnviNFe"),
    )


def _of_key(result: etree._Element, answer: bytes) -> Answer:
    """What is known about a key: its protocol, and the one of its events that cancelled it."""
    protocol = _child(result, "protNFe/infProt")
    event, event_xml = _cancellation(result, answer)
    return Answer(
        status=_text(result, "cStat"),
        reason=_text(result, "xMotivo"),
        key=_text(protocol, "chNFe"),
        protocol=_text(protocol, "nProt"),
        at=_text(protocol, "dhRecbto") or _text(result, "dhRecbto"),
        digest=_text(protocol, "digVal"),
        xml=_exact(answer, _child(result, "protNFe"), "protNFe"),
        event_status=_text(event, "cStat"),
        event_protocol=_text(event, "nProt"),
        event_xml=event_xml,
    )


def _cancellation(result: etree._Element, answer: bytes) -> tuple[etree._Element | None, bytes]:
    """A document may have other events before it: a letter of correction, a payment linked to it."""
    for place, found in enumerate(result.findall(f"{{{NAMESPACE}}}procEventoNFe")):
        event = _child(found, "retEvento/infEvento")
        if _text(event, "tpEvento") in CANCELLATIONS and _text(event, "cStat") in EVENT_REGISTERED:
            whole = cut_all(answer, "procEventoNFe")
            return event, _exact(whole[place] if whole else b"", _child(found, "retEvento"), "retEvento")
    return None, b""


@durable
def service_status(*, certificate_id: UUID, uf_code: str, environment: str) -> Answer:
    """Does the authority work? 107 when it does."""
    content = (
        f'<consStatServ versao="4.00" xmlns="{NAMESPACE}"><tpAmb>{environment}</tpAmb><cUF>{uf_code}</cUF>'
        f"<xServ>STATUS</xServ></consStatServ>"
    )
    result = _result(_ask("NFeStatusServico4", content.encode(), identity(certificate_id)), "retConsStatServ")
    return Answer(status=_text(result, "cStat"), reason=_text(result, "xMotivo"), at=_text(result, "dhRecbto"))


@durable
def authorise(*, signed: bytes, certificate_id: UUID) -> Answer:
    """Send one signed document and wait for the decision. Raises UnknownOutcome when none came."""
    answer = _tell("NFeAutorizacao4", document_batch(signed, BATCH_ID), identity(certificate_id))
    return _understood(_of_document(_result(answer, "retEnviNFe"), answer))


@durable
def consult(*, access_key: str, environment: str, certificate_id: UUID) -> Answer:
    """What does the authority know about this key? The status is the key's own: 100, 101, 217, …"""
    content = (
        f'<consSitNFe versao="4.00" xmlns="{NAMESPACE}"><tpAmb>{environment}</tpAmb><xServ>CONSULTAR</xServ>'
        f"<chNFe>{access_key}</chNFe></consSitNFe>"
    )
    answer = _ask("NFeConsultaProtocolo4", content.encode(), identity(certificate_id))
    try:
        return _understood(_of_key(_result(answer, "retConsSitNFe"), answer))
    except UnknownOutcome as error:
        raise AuthorityUnreachable(str(error)) from error  # a question changes nothing


@durable
def send_event(*, signed: bytes, certificate_id: UUID) -> Answer:
    """Send one signed event. The status is the event's own (135, 573, 501, …), not that of the batch."""
    answer = _tell("NFeRecepcaoEvento4", event_batch(signed, BATCH_ID), identity(certificate_id))
    result = _result(answer, "retEnvEvento")
    inner = _child(result, "retEvento/infEvento")
    said = result if inner is None else inner
    if inner is None and _text(result, "cStat") == BATCH_DONE:
        raise UnknownOutcome("the authority's answer holds no decision on the event")
    return _understood(
        Answer(
            status=_text(said, "cStat"),
            reason=_text(said, "xMotivo"),
            key=_text(inner, "chNFe"),
            protocol=_text(inner, "nProt"),
            at=_text(inner, "dhRegEvento"),
            xml=_exact(answer, _child(result, "retEvento"), "retEvento"),
        )
    )


@durable
def void_number(*, signed: bytes, certificate_id: UUID) -> Answer:
    """Declare a number unused for ever. 102 when done; 241 when it was used after all."""
    answer = _tell("NFeInutilizacao4", signed, identity(certificate_id))
    result = _result(answer, "retInutNFe")
    return _understood(
        Answer(
            status=_text(result, "infInut/cStat"),
            reason=_text(result, "infInut/xMotivo"),
            protocol=_text(result, "infInut/nProt"),
            at=_text(result, "infInut/dhRecbto"),
            xml=_exact(answer, result, "retInutNFe"),
        )
    )
