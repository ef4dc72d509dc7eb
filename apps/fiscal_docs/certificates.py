"""Certificates at rest and in use: the PKCS#12 under a password of ours, the password under the site's key.

Opening a PKCS#12 costs 45 ms, so an identity is opened once per process and kept.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from apps.common import sealed
from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs.keys import CNPJ_PATTERN
from apps.fiscal_docs.models import Certificate, Issuer
from apps.fiscal_docs.signature import cnpj_of

PURPOSE = b"fiscal_docs.certificate"
IDENTITIES_MAX = 64  # open keys in memory: companies served by one process
CNPJ_BASE = 8  # the first eight characters name the company, the rest the branch


class CertificateUnusable(DomainError):
    """The issuer has no certificate that is valid now."""

    code = "R402"


class CertificateUnreadable(DomainError):
    """The certificate file cannot be used: wrong password, no key inside, out of date, or another company's."""

    code, status = "R413", 422


@dataclass(frozen=True, slots=True)
class Identity:
    """An open certificate: what signs, and what opens a TLS connection."""

    cnpj: str
    fingerprint: str
    key: rsa.RSAPrivateKey = field(compare=False, repr=False)
    certificate: x509.Certificate = field(compare=False, repr=False)


def _seal(password: bytes, fingerprint: str) -> bytes:
    return sealed.seal(password, purpose=PURPOSE, owner=fingerprint)


def _unseal(box: bytes, fingerprint: str) -> bytes:
    """Raises CertificateUnusable when no key of the site fits: SECRET_KEY was changed without a fallback."""
    password = sealed.unseal(box, purpose=PURPOSE, owner=fingerprint)
    if password is None:
        raise CertificateUnusable("The certificate was sealed with another SECRET_KEY: import it again.")
    return password


@transaction_required
def import_certificate(*, issuer_cnpj: str, pkcs12_bytes: bytes, password: str, now: datetime) -> UUID:
    """Keep an A1 certificate and make it the issuer's active one. Safe to repeat. Raises CertificateUnreadable."""
    issuer = Issuer.objects.select_for_update().get(cnpj=issuer_cnpj)
    key, certificate = _read(pkcs12_bytes, password.encode())
    cnpj = cnpj_of(certificate)
    if not CNPJ_PATTERN.fullmatch(cnpj) or cnpj[:CNPJ_BASE] != issuer.cnpj[:CNPJ_BASE]:
        raise CertificateUnreadable("The certificate belongs to another company.")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise CertificateUnreadable(f"The certificate is not valid now: it ends on {certificate.not_valid_after_utc:%F}.")
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    own = secrets.token_urlsafe(32).encode()  # stronger than what people choose, and nobody has to remember it
    row, _ = Certificate.objects.get_or_create(
        fingerprint=fingerprint,
        defaults={
            "issuer": issuer,
            "cnpj": cnpj,
            "subject": certificate.subject.rfc4514_string()[:255],
            "not_before": certificate.not_valid_before_utc,
            "not_after": certificate.not_valid_after_utc,
            "pkcs12": pkcs12.serialize_key_and_certificates(b"a1", key, certificate, None, BestAvailableEncryption(own)),
            "sealed_password": _seal(own, fingerprint),
            "created_at": now,
        },
    )
    issuer.certificate = row
    issuer.save(update_fields=["certificate"])
    return row.id


def _read(pkcs12_bytes: bytes, password: bytes) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(pkcs12_bytes, password)
    except ValueError:
        raise CertificateUnreadable("The file is no PKCS#12, or the password is wrong.") from None
    if not isinstance(key, rsa.RSAPrivateKey) or certificate is None:
        raise CertificateUnreadable("The file holds no RSA key with its certificate.")
    return key, certificate


@lru_cache(maxsize=IDENTITIES_MAX)
def identity(certificate_id: UUID) -> Identity:
    """Open a stored certificate. Its row never changes, so the opened one is kept for the life of the process."""
    row = Certificate.objects.get(pk=certificate_id)
    key, certificate = _read(bytes(row.pkcs12), _unseal(bytes(row.sealed_password), row.fingerprint))
    return Identity(row.cnpj, row.fingerprint, key, certificate)
