"""The sandbox authority's answers, as bytes. They pass the official XSDs of answers (tested)."""

from datetime import datetime
from xml.sax.saxutils import escape

from lxml import etree

from apps.common.clock import BUSINESS_ZONE
from apps.fiscal_docs.sandbox.rules import NAMESPACE, find, reason

VERSION = "SIM_LASTRO_1"  # verAplic: nobody takes this for a real authority
DEFAULT_UF = "35"
# The layouts of answers demand these fields even when the question could not be read.
NO_KEY = DEFAULT_UF + "0" * 42
NO_BATCH = "0"


def moment(now: datetime) -> str:
    return now.astimezone(BUSINESS_ZONE).replace(microsecond=0).isoformat()


def _fields(**values: str) -> str:
    return "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items() if value)


def protocol_of(*, key: str, status: str, now: datetime, protocol: str = "", digest: str = "", detail: str = "") -> bytes:
    """protNFe, for a document that was decided on: authorised with a protocol, or refused without one."""
    identifier = f' Id="ID{protocol}"' if protocol else ""
    fields = _fields(
        tpAmb="2", verAplic=VERSION, chNFe=key, dhRecbto=moment(now), nProt=protocol, digVal=digest,
        cStat=status, xMotivo=reason(status, detail),
    )  # fmt: skip
    return f'<protNFe versao="4.00"><infProt{identifier}>{fields}</infProt></protNFe>'.encode()


def batch(*, status: str, now: datetime, protocol: bytes = b"", detail: str = "") -> bytes:
    """retEnviNFe."""
    fields = _fields(
        tpAmb="2", verAplic=VERSION, cStat=status, xMotivo=reason(status, detail), cUF=DEFAULT_UF, dhRecbto=moment(now)
    )
    return f'<retEnviNFe versao="4.00" xmlns="{NAMESPACE}">{fields}'.encode() + protocol + b"</retEnviNFe>"


def service_status(*, status: str, now: datetime) -> bytes:
    fields = _fields(
        tpAmb="2", verAplic=VERSION, cStat=status, xMotivo=reason(status), cUF=DEFAULT_UF, dhRecbto=moment(now), tMed="1"
    )
    return f'<retConsStatServ versao="4.00" xmlns="{NAMESPACE}">{fields}</retConsStatServ>'.encode()


def situation(
    *, key: str, status: str, now: datetime, protocol: bytes = b"", events: bytes = b"", detail: str = ""
) -> bytes:
    """retConsSitNFe, with the protocol and the events that the key has."""
    fields = _fields(
        tpAmb="2",
        verAplic=VERSION,
        cStat=status,
        xMotivo=reason(status, detail),
        cUF=key[:2],
        dhRecbto=moment(now),
        chNFe=key,
    )
    return f'<retConsSitNFe versao="4.00" xmlns="{NAMESPACE}">{fields}'.encode() + protocol + events + b"</retConsSitNFe>"


def event_answer(event: etree._Element, *, status: str, now: datetime, protocol: str = "", detail: str = "") -> bytes:
    """retEvento for one event."""
    identifier = f' Id="ID{protocol}"' if protocol else ""
    fields = _fields(
        tpAmb="2", verAplic=VERSION, cOrgao=find(event, "infEvento/cOrgao"), cStat=status, xMotivo=reason(status, detail),
        chNFe=find(event, "infEvento/chNFe"), tpEvento=find(event, "infEvento/tpEvento"), xEvento="Cancelamento",
        nSeqEvento=find(event, "infEvento/nSeqEvento"), dhRegEvento=moment(now), nProt=protocol,
    )  # fmt: skip
    return f'<retEvento versao="1.00"><infEvento{identifier}>{fields}</infEvento></retEvento>'.encode()


def event_batch(*, batch_id: str, status: str, answer: bytes = b"", detail: str = "") -> bytes:
    """retEnvEvento."""
    fields = _fields(
        idLote=batch_id, tpAmb="2", verAplic=VERSION, cOrgao=DEFAULT_UF, cStat=status, xMotivo=reason(status, detail)
    )
    return f'<retEnvEvento versao="1.00" xmlns="{NAMESPACE}">{fields}'.encode() + answer + b"</retEnvEvento>"


def voiding(*, request: etree._Element | None, status: str, now: datetime, protocol: str = "", detail: str = "") -> bytes:
    """retInutNFe; a request that could not be read is answered without its fields."""
    about = {} if request is None else {
        "ano": find(request, "infInut/ano"), "CNPJ": find(request, "infInut/CNPJ"), "mod": find(request, "infInut/mod"),
        "serie": find(request, "infInut/serie"), "nNFIni": find(request, "infInut/nNFIni"),
        "nNFFin": find(request, "infInut/nNFFin"),
    }  # fmt: skip
    fields = _fields(
        tpAmb="2", verAplic=VERSION, cStat=status, xMotivo=reason(status, detail), cUF=DEFAULT_UF, **about,
        dhRecbto=moment(now), nProt=protocol,
    )  # fmt: skip
    return f'<retInutNFe versao="4.00" xmlns="{NAMESPACE}"><infInut>{fields}</infInut></retInutNFe>'.encode()
