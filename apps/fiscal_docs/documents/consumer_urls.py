"""Where a consumer looks an NFC-e up: per state and environment. A table, because each state has its own."""

from dataclasses import dataclass

from apps.common.errors import DomainError


class StateNotSupported(DomainError):
    """NFC-e of this state cannot be issued yet: its consumer addresses are not in our table."""

    code = "R414"


@dataclass(frozen=True, slots=True)
class ConsumerUrls:
    qr_code: str
    by_key: str


_URLS = {
    ("35", "1"): ConsumerUrls("https://www.nfce.fazenda.sp.gov.br/qrcode", "https://www.nfce.fazenda.sp.gov.br/consulta"),
    ("35", "2"): ConsumerUrls(
        "https://www.homologacao.nfce.fazenda.sp.gov.br/qrcode", "https://www.homologacao.nfce.fazenda.sp.gov.br/consulta"
    ),
}


def urls_of(uf_code: str, environment: str) -> ConsumerUrls:
    """Raises StateNotSupported for a state that is not in the table."""
    try:
        return _URLS[uf_code, environment]
    except KeyError:
        raise StateNotSupported(f"NFC-e of state {uf_code} cannot be issued yet.") from None
