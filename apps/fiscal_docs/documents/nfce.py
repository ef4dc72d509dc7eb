"""NFC-e, model 65: the receipt of a consumer. Loads nfelib."""

from nfelib.nfe.bindings.v4_0 import leiaute_nfe_v4_00 as L

from apps.fiscal_docs.documents import groups
from apps.fiscal_docs.documents.consumer_urls import urls_of
from apps.fiscal_docs.documents.draft import Draft, SignText, local_time
from apps.fiscal_docs.documents.serial import one_line


def build(draft: Draft, sign_text: SignText | None) -> str:
    """One line of unsigned XML with a QR code of version 3, which needs no shared secret (CSC)."""
    document = groups.assemble(draft, print_format="4", presence="1")
    urls = urls_of(draft.key.uf_code, draft.environment)
    document.infNFeSupl = L.Tnfe.InfNfeSupl(qrCode=f"{urls.qr_code}?p={_told(draft, sign_text)}", urlChave=urls.by_key)
    return one_line(document)


def _told(draft: Draft, sign_text: SignText | None) -> str:
    """What the QR code says. Before the authority has the document it has to speak for itself, so it is signed."""
    online = f"{draft.key}|3|{draft.environment}"
    if draft.offline is None:
        return online
    if sign_text is None:
        raise ValueError("a document in contingency has a signature in its QR code")
    buyer = draft.sale.buyer_document
    kind = {0: "", 11: "2", 14: "1"}[len(buyer)]
    text = f"{online}|{local_time(draft.issued_at)[8:10]}|{groups.money(draft.sale.total)}|{kind}|{buyer}"
    return f"{text}|{sign_text(text)}"
