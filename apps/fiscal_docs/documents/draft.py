"""What a builder needs, frozen: a numbered sale of an issuer. And the one place that loads the builders.

The nfelib bindings take 0.3 s to import and 50 MB, so they are loaded with the first document and not with Django.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from apps.common.clock import BUSINESS_ZONE
from apps.fiscal_docs.documents.sale import SaleToDocument
from apps.fiscal_docs.keys import AccessKey

HOMOLOGATION = "2"
TEXT_MAX = 120  # xProd


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerData:
    """The issuer as it is printed."""

    cnpj: str
    name: str
    state_registration: str
    tax_regime: str
    street: str
    street_number: str
    district: str
    city_code: str
    city: str
    uf: str
    uf_code: str
    postal_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """Why a document is handed out before the authority has it: since when it is away, in words for the document."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A sale with its number: everything that the document says."""

    issuer: IssuerData
    sale: SaleToDocument
    key: AccessKey
    issued_at: datetime
    environment: str
    offline: Offline | None = None

    @property
    def is_test(self) -> bool:
        return self.environment == HOMOLOGATION


SignText = Callable[[str], str]


def build(draft: Draft, sign_text: SignText | None = None) -> str:
    """The unsigned document as one line of XML. ``sign_text``: the issuer's signature of a text, in Base64; an NFC-e in
    contingency needs it."""
    if draft.key.kind == "65":
        from apps.fiscal_docs.documents import nfce

        return nfce.build(draft, sign_text)
    from apps.fiscal_docs.documents import nfe

    return nfe.build(draft)


def warm_up() -> None:
    """Load the bindings now."""
    from apps.fiscal_docs.documents import nfce, nfe  # noqa: F401  (loads nfelib)


def schema_version() -> str:
    """Which official schema package the bindings follow."""
    from nfelib.nfe.bindings.v4_0 import SCHEMA_VERSION

    return str(SCHEMA_VERSION)


def local_time(moment: datetime) -> str:
    """A moment as the layout wants it: São Paulo, whole seconds, with its offset."""
    return moment.astimezone(BUSINESS_ZONE).replace(microsecond=0).isoformat()


def printable(text: str, length: int = TEXT_MAX) -> str:
    """Text that the layout accepts: Latin-1, single blanks, not too long. What it cannot say becomes a question mark."""
    kept = "".join(
        character if " " <= character <= "ÿ" and character.isprintable() else "?" for character in " ".join(text.split())
    )
    return kept[:length].strip() or "?"
