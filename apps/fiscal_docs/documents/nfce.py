"""NFC-e, model 65: the receipt of a consumer. Loads nfelib."""

from nfelib.nfe.bindings.v4_0 import leiaute_nfe_v4_00 as L

from apps.fiscal_docs.documents import groups
from apps.fiscal_docs.documents.consumer_urls import urls_of
from apps.fiscal_docs.documents.draft import Draft
from apps.fiscal_docs.documents.serial import one_line


def build(draft: Draft) -> str:
    """One line of unsigned XML with a QR code of version 3, which needs no shared secret (CSC)."""
    document = groups.assemble(draft, print_format="4", presence="1")
    urls = urls_of(draft.key.uf_code, draft.environment)
    document.infNFeSupl = L.Tnfe.InfNfeSupl(
        qrCode=f"{urls.qr_code}?p={draft.key}|3|{draft.environment}", urlChave=urls.by_key
    )
    return one_line(document)
