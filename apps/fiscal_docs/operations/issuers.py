"""Verbs on issuers: who issues, with which series, and demo issuers with a certificate of the sandbox's making."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import rsa

from apps.common import prepared
from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs.certificates import CertificateUnusable, import_certificate
from apps.fiscal_docs.documents.draft import IssuerData, Offline
from apps.fiscal_docs.keys import NUMBER_MAX, cnpj_is_valid
from apps.fiscal_docs.models import DocumentKind, Environment, Issuer, NumberRange
from apps.fiscal_docs.sandbox.certificates import make_test_a1


class NoIssuer(DomainError):
    """There is no active issuer of fiscal documents for this sale."""

    code = "R401"


class NoNumberLeft(DomainError):
    """The issuer has no series for this kind of document, or its numbers are used up."""

    code = "R403"


@dataclass(frozen=True, slots=True)
class Ready:
    """An issuer who can issue now: as it is printed, with its certificate."""

    id: UUID
    environment: str
    printed: IssuerData
    certificate_id: UUID
    offline: Offline | None = None


_PRINTED = [column.name for column in fields(IssuerData)]
# The issuer of this CNPJ, or the first one registered; its certificate; the series in use: the lowest with numbers left.
_READY = f"""
SELECT i.id, i.environment, c.id, c.not_before, c.not_after, r.series, t.began_at, t.reason,
    {", ".join(f"i.{name}" for name in _PRINTED)}
FROM fiscal_docs_issuer i
LEFT JOIN fiscal_docs_certificate c ON c.id = i.certificate_id
LEFT JOIN LATERAL (
    SELECT n.series FROM fiscal_docs_numberrange n
    WHERE n.issuer_id = i.id AND n.environment = i.environment AND n.kind = %(kind)s AND n.next_number <= %(number_max)s
    ORDER BY n.series LIMIT 1
) r ON true
LEFT JOIN fiscal_docs_contingency t ON t.kind = %(kind)s AND t.ended_at IS NULL
WHERE i.is_active AND (i.cnpj = %(cnpj)s OR %(cnpj)s = '')
ORDER BY i.id LIMIT 1
"""  # noqa: S608  # names of columns


def ready(cnpj: str, kind: str, now: datetime, *, number_needed: bool = True) -> Ready:
    """Who issues this kind of document, ready to. Raises NoIssuer, CertificateUnusable, NoNumberLeft."""
    found = prepared.execute(_READY, {"cnpj": cnpj, "kind": kind, "number_max": NUMBER_MAX}).fetchone()
    if found is None:
        raise NoIssuer(f"{cnpj} issues no documents here." if cnpj else None)
    issuer_id, environment, certificate_id, not_before, not_after, series, since, reason, *texts = found
    printed = IssuerData(**dict(zip(_PRINTED, texts, strict=True)))
    if certificate_id is None:
        raise CertificateUnusable(f"{printed.name} has no certificate.")
    if not not_before <= now < not_after:
        raise CertificateUnusable(f"The certificate of {printed.name} is valid from {not_before:%F} to {not_after:%F}.")
    if series is None and number_needed:
        raise NoNumberLeft(f"{printed.name} has no numbers left for model {kind}.")
    offline = Offline(since=since, reason=reason) if since is not None else None
    return Ready(issuer_id, environment, printed, certificate_id, offline)


# Two issues meet at the row: the second waits for the first one's commit, and looks at it again then. The first may have
# taken the last number of the series: the second finds none, and begins again with the next series.
SERIES_TRIED_MAX = 3  # one after another used up while we waited: more would be a fault of ours
_TAKE = """
UPDATE fiscal_docs_numberrange SET next_number = next_number + 1
WHERE next_number <= %(number_max)s AND id = (
    SELECT n.id FROM fiscal_docs_numberrange n
    WHERE n.issuer_id = %(issuer)s AND n.environment = %(environment)s AND n.kind = %(kind)s
      AND n.next_number <= %(number_max)s
    ORDER BY n.series LIMIT 1
)
RETURNING series, next_number - 1
"""


def take_number(issuer: Ready, kind: str) -> tuple[int, int]:
    """Series and number. Raises NoNumberLeft. The row stays locked until the caller's commit, which takes the number."""
    values = {"issuer": issuer.id, "environment": issuer.environment, "kind": kind, "number_max": NUMBER_MAX}
    for _ in range(SERIES_TRIED_MAX):
        if found := prepared.execute(_TAKE, values).fetchone():
            series, number = found
            return series, number
    raise NoNumberLeft(f"A series of model {kind} is used up.")


@transaction_required
def register_issuer(
    *,
    cnpj: str,
    name: str,
    now: datetime,
    state_registration: str = "111111111119",
    street: str = "AV PAULISTA",
    street_number: str = "1000",
    district: str = "BELA VISTA",
    city_code: str = "3550308",
    city: str = "SÃO PAULO",
    uf: str = "SP",
    uf_code: str = "35",
    postal_code: str = "01310100",
    series: int = 1,
) -> UUID:
    """Register a company of Simples Nacional for the test environment, with one series per kind. Safe to repeat."""
    if not cnpj_is_valid(cnpj):
        raise NoIssuer(f"{cnpj} is no valid CNPJ.")
    issuer, created = Issuer.objects.get_or_create(
        cnpj=cnpj,
        defaults={
            "name": name, "state_registration": state_registration, "street": street, "street_number": street_number,
            "district": district, "city_code": city_code, "city": city, "uf": uf, "uf_code": uf_code,
            "postal_code": postal_code, "environment": Environment.HOMOLOGATION, "created_at": now,
        },
    )  # fmt: skip
    if created:
        NumberRange.objects.bulk_create(
            NumberRange(issuer=issuer, environment=issuer.environment, kind=kind, series=series) for kind in DocumentKind
        )
    return issuer.id


@transaction_required
def create_issuer_with_test_certificate(
    *, cnpj: str, name: str, now: datetime, key: rsa.RSAPrivateKey | None = None, **address: Any
) -> UUID:
    """An issuer with a certificate of the sandbox's own authority: for demo data and tests. Safe to repeat.

    ``address`` takes the address fields of ``register_issuer``; ``key`` spares making an RSA key (70 ms).
    """
    issuer_id = register_issuer(cnpj=cnpj, name=name, now=now, **address)
    issuer = Issuer.objects.select_related("certificate").get(pk=issuer_id)
    if issuer.certificate is None or issuer.certificate.not_after <= now:
        pkcs12_bytes, password = make_test_a1(cnpj=cnpj, name=name, now=now, key=key)
        import_certificate(issuer_cnpj=cnpj, pkcs12_bytes=pkcs12_bytes, password=password, now=now)
    return issuer_id
