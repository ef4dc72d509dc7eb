"""Certificates for the servers of config.services: an authority of their own, a server's and a client's."""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
HOST, ADDRESS = "localhost", ip_address("127.0.0.1")


class Certificates:
    """PEM files in one folder. ``server`` and ``client`` hold key and certificate, as Kafka's PEM stores want it."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "ca.pem"
        self.server = folder / "server.pem"
        self.client = folder / "client.pem"

    def make(self) -> "Certificates":
        """Make them when they are missing or nearly over: a new authority, so all servers must be started again."""
        if not self._are_fresh():
            self.authority.parent.mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC)
            key = ec.generate_private_key(ec.SECP256R1())
            authority = _certificate("Lastro development authority", key.public_key(), key, None, now)
            for path, name, usage in (
                (self.server, HOST, ExtendedKeyUsageOID.SERVER_AUTH),
                (self.client, "lastro", ExtendedKeyUsageOID.CLIENT_AUTH),
            ):
                own = ec.generate_private_key(ec.SECP256R1())
                signed = _certificate(name, own.public_key(), key, (authority, usage), now)
                _write(path, _key_pem(own) + signed.public_bytes(serialization.Encoding.PEM))
            # Last: whoever finds it finds the others too.
            _write(self.authority, authority.public_bytes(serialization.Encoding.PEM))
        return self

    def _are_fresh(self) -> bool:
        if not self.authority.exists():
            return False
        found = x509.load_pem_x509_certificate(self.authority.read_bytes())
        return found.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    signing_key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, x509.ObjectIdentifier] | None,
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if issuer is None:
        signs = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**signs), critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ADDRESS)])
        builder = builder.add_extension(x509.ExtendedKeyUsage([issuer[1]]), critical=False).add_extension(
            names, critical=False
        )
    return builder.sign(signing_key, hashes.SHA256())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
