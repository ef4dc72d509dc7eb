"""The legal files, made by splicing bytes: a signed document that is parsed and written again is no longer signed. Pure."""

import re

NAMESPACE = "http://www.portalfiscal.inf.br/nfe"
_DECLARATION = re.compile(rb"^\s*<\?xml[^>]*\?>\s*")
XML_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'


def without_declaration(xml: bytes) -> bytes:
    return _DECLARATION.sub(b"", xml)


def _element(name: str, version: str, *parts: bytes) -> bytes:
    opening = f'<{name} versao="{version}" xmlns="{NAMESPACE}">'.encode()
    return opening + b"".join(without_declaration(part) for part in parts) + f"</{name}>".encode()


def nfe_proc(signed: bytes, protocol: bytes) -> bytes:
    """nfeProc: the exact signed bytes and the exact answer of the authority."""
    return XML_DECLARATION + _element("nfeProc", "4.00", signed, protocol)


def event_proc(signed: bytes, answer: bytes) -> bytes:
    """procEventoNFe: the exact signed event and the exact answer of the authority."""
    return XML_DECLARATION + _element("procEventoNFe", "1.00", signed, answer)


def event_batch(signed: bytes, batch: str) -> bytes:
    """envEvento with one event."""
    return _element("envEvento", "1.00", f"<idLote>{batch}</idLote>".encode(), signed)


def document_batch(signed: bytes, batch: str) -> bytes:
    """enviNFe with one document, to be decided at once (indSinc 1: a batch of one may not be asynchronous)."""
    return _element("enviNFe", "4.00", f"<idLote>{batch}</idLote><indSinc>1</indSinc>".encode(), signed)


def cut(xml: bytes, tag: str) -> bytes:
    """The exact bytes of the first element ``tag`` (unprefixed), or nothing."""
    return next(iter(cut_all(xml, tag)), b"")


def cut_all(xml: bytes, tag: str) -> list[bytes]:
    """The exact bytes of each element ``tag`` (unprefixed)."""
    return re.findall(rb"<%(tag)s[ >].*?</%(tag)s>" % {b"tag": tag.encode()}, xml, re.DOTALL)
