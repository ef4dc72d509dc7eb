"""Verbs on issuers: who issues, with which series, and demo issuers with a certificate of the sandbox's making."""

from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import rsa

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs.certificates import import_certificate
from apps.fiscal_docs.keys import NUMBER_MAX, cnpj_is_valid
from apps.fiscal_docs.models import DocumentKind, Environment, Issuer, NumberRange
from apps.fiscal_docs.sandbox.certificates import make_test_a1


class NoIssuer(DomainError):
    """There is no active issuer of fiscal documents for this sale."""

    code = "R401"


class NoNumberLeft(DomainError):
    """The issuer has no series for this kind of document, or its numbers are used up."""

    code = "R403"


def active_issuer(cnpj: str = "") -> Issuer:
    """The issuer of this CNPJ, or the first one registered when none is named. Raises NoIssuer."""
    issuers = Issuer.objects.select_related("certificate").filter(is_active=True).order_by("id")
    found = issuers.filter(cnpj=cnpj).first() if cnpj else issuers.first()
    if found is None:
        raise NoIssuer(f"{cnpj} issues no documents here." if cnpj else None)
    return found


def number_range(issuer: Issuer, kind: str) -> NumberRange:
    """The series in use: the lowest with numbers left. Raises NoNumberLeft."""
    ranges = NumberRange.objects.filter(issuer=issuer, environment=issuer.environment, kind=kind)
    found = ranges.filter(next_number__lte=NUMBER_MAX).order_by("series").first()
    if found is None:
        raise NoNumberLeft(f"{issuer.name} has no numbers left for model {kind}.")
    return found


def take_number(issuer: Issuer, kind: str) -> tuple[int, int]:
    """Series and number. Raises NoNumberLeft. The row stays locked until the caller's commit, which takes the number."""
    chosen = number_range(issuer, kind)
    # Two issues meet here: the second waits for the first one's commit, or gets the number that its rollback gave back.
    row = NumberRange.objects.select_for_update().get(pk=chosen.pk)
    if row.next_number > NUMBER_MAX:
        raise NoNumberLeft(f"Series {row.series} of model {kind} is used up.")
    number = row.next_number
    row.next_number = number + 1
    row.save(update_fields=["next_number"])
    return row.series, number


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
