"""The official XSDs, from the nfelib package, each compiled once per process (6 ms) and reused (0.1 ms)."""

import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lxml import etree

from apps.fiscal_docs.signature import read_xml

NFE = "nfe/schemas/v4_0/nfe_v4.00.xsd"
ENVI_NFE = "nfe/schemas/v4_0/enviNFe_v4.00.xsd"
RET_ENVI_NFE = "nfe/schemas/v4_0/retEnviNFe_v4.00.xsd"
PROC_NFE = "nfe/schemas/v4_0/procNFe_v4.00.xsd"
CONS_STAT_SERV = "nfe/schemas/v4_0/consStatServ_v4.00.xsd"
RET_CONS_STAT_SERV = "nfe/schemas/v4_0/retConsStatServ_v4.00.xsd"
CONS_SIT_NFE = "nfe/schemas/v4_0/consSitNFe_v4.00.xsd"
RET_CONS_SIT_NFE = "nfe/schemas/v4_0/retConsSitNFe_v4.00.xsd"
INUT_NFE = "nfe/schemas/v4_0/inutNFe_v4.00.xsd"
RET_INUT_NFE = "nfe/schemas/v4_0/retInutNFe_v4.00.xsd"
ENV_EVENTO_CANCEL = "nfe_evento_cancel/schemas/v1_0/envEventoCancNFe_v1.00.xsd"
RET_ENV_EVENTO_CANCEL = "nfe_evento_cancel/schemas/v1_0/retEnvEventoCancNFe_v1.00.xsd"
PROC_EVENTO_CANCEL = "nfe_evento_cancel/schemas/v1_0/procEventoCancNFe_v1.00.xsd"

MESSAGES_MAX = 10  # one mistake makes a chain of messages; the first ones tell it

# A schema object keeps the messages of its last validation, so two threads must not validate with one at a time.
_validating = threading.Lock()

# The event and voiding XSDs of nfelib 3.2 still want a numeric CNPJ and a protocol of 15 digits. These are the widenings
# that NT Conjunta 2025.001 makes and the document's own XSD already has; take them out when nfelib ships the 010d event
# package.
_KEY = "[0-9]{6}[0-9A-Z]{12}[0-9]{26}"
_WIDER = {
    'pattern value="[0-9]{15}"': 'pattern value="[0-9]{15}|[0-9]{17}"',
    'pattern value="[0-9]{14}"': 'pattern value="[0-9A-Z]{12}[0-9]{2}"',
    'pattern value="[0-9]{0}|[0-9]{14}"': 'pattern value="[0-9]{0}|[0-9A-Z]{12}[0-9]{2}"',
    'pattern value="ID[0-9]{52}"': f'pattern value="ID[0-9]{{6}}{_KEY}[0-9]{{2}}"',
    'pattern value="ID[0-9]{41}"': 'pattern value="ID[0-9]{4}[0-9A-Z]{12}[0-9]{25}"',
    'pattern value="(1[1-7]|2[1-9]|3[1,2,3,5]|4[1-3]|5[0-3])(0[6-9]|[1-9][\\d])(0[1-9]|1[0-2])'
    '([\\d]{14})([\\d]{5})([\\d]{9})([\\d]{10})"': f'pattern value="{_KEY}"',
}


class _Widening(etree.Resolver):
    def resolve(self, system_url: str, public_id: str, context: Any) -> Any:  # type: ignore[override]  # so lxml calls it
        return self.resolve_string(_widened(Path(system_url)), context, base_url=system_url)


def _widened(path: Path) -> str:
    text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
    text = text.replace('encoding="UTF-8"', "", 1).replace('encoding="utf-8"', "", 1)
    for narrow, wide in _WIDER.items():
        text = text.replace(narrow, wide)
    return text


def _root() -> Path:
    spec = find_spec("nfelib")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("nfelib is not installed")
    return Path(spec.submodule_search_locations[0])


@cache
def _compiled(relative: str) -> etree.XMLSchema:
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_Widening())
    path = _root() / relative
    return etree.XMLSchema(etree.fromstring(_widened(path), parser, base_url=str(path)))


def errors(xml: bytes, relative: str) -> list[str]:
    """What is wrong with a document according to one XSD; empty when it is valid. Malformed XML is one message."""
    try:
        document = read_xml(xml)
    except etree.XMLSyntaxError as error:
        return [f"malformed XML: {error}"]
    schema = _compiled(relative)
    with _validating:
        if schema.validate(document):
            return []
        log: Any = schema.error_log
        return [str(entry.message) for entry in list(log)[:MESSAGES_MAX]]


def warm_up() -> None:
    """Compile the schemas of the issue step, so that the first order does not pay for it."""
    for relative in (NFE, ENV_EVENTO_CANCEL, INUT_NFE):
        _compiled(relative)
