"""The printed form (DANFE) as a PDF, drawn from the archived bytes. Slow (60 to 700 ms): never in the issue step."""

from dataclasses import dataclass

from apps.fiscal_docs.lifecycle import State
from apps.fiscal_docs.models import BlobKind, Document, DocumentKind
from apps.fiscal_docs.operations import journal


@dataclass(frozen=True, slots=True)
class Printed:
    """A PDF and the name to save it under."""

    content: bytes
    file_name: str


def render(document: Document) -> Printed | None:
    """Draw a document, or None when nothing was signed. Test documents say SEM VALOR FISCAL, cancelled ones CANCELADA.

    "Cancelled" comes from the projected state: the archived XML says 100 for ever.
    """
    xml = journal.content(document, BlobKind.PROC) or journal.content(document, BlobKind.SIGNED)
    if xml is None:
        return None
    cancelled = document.state == State.CANCELLED
    draw = _receipt if document.kind == DocumentKind.NFCE else _page
    return Printed(draw(xml.decode(), cancelled), f"{document.access_key}-danfe.pdf")


def _receipt(xml: str, cancelled: bool) -> bytes:
    from brazilfiscalreport.danfce import Danfce, DanfceConfig

    return bytes(Danfce(xml=xml, config=DanfceConfig(watermark_cancelled=cancelled)).output())


def _page(xml: str, cancelled: bool) -> bytes:
    from brazilfiscalreport.danfe import Danfe, DanfeConfig

    return bytes(Danfe(xml=xml, config=DanfeConfig(watermark_cancelled=cancelled)).output())
