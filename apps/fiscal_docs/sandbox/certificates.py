"""The sandbox's own certificate authority, and look-alikes of ICP-Brasil A1 certificates signed by it.

Made once per data directory. Worth nothing outside this machine, which is the point.
"""

import ipaddress
import os
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apps.fiscal_docs.sandbox.discovery import trust_file
from apps.fiscal_docs.signature import CNPJ_OF_HOLDER

CA_VALID = timedelta(days=3650)
A1_VALID = timedelta(days=365)  # as the real ones
SERVER_VALID = timedelta(days=365)  # made anew at each start
SKEW = timedelta(days=1)  # clocks of two machines differ


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "BR"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ICP-Brasil (sandbox, sem valor)"),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=not signs_certificates,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The sandbox's certificate authority, made on first use."""
    folder = trust_file().parent
    if not trust_file().exists():
        _make_authority(folder, now)
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} is no key of the sandbox's making")
    return key, certificate_of_authority()


def certificate_of_authority() -> x509.Certificate:
    return x509.load_pem_x509_certificate(trust_file().read_bytes())


def _make_authority(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("AC SANDBOX LASTRO")
    certificate = (
        _builder(name, name, key.public_key(), now, CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=folder.parent))
    _write_private(making / "ca.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (making / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    try:
        making.rename(folder)
    except OSError:  # Two processes met here; the other one was first, and its authority counts.
        shutil.rmtree(making)


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _issued(
    builder: x509.CertificateBuilder, authority_key: ec.EllipticCurvePrivateKey, usage: x509.ObjectIdentifier
) -> x509.Certificate:
    return (
        builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def make_test_a1(*, cnpj: str, name: str, now: datetime, key: rsa.RSAPrivateKey | None = None) -> tuple[bytes, str]:
    """A PKCS#12 and its password: what a company would buy from a certification authority. ``key`` spares making one."""
    authority_key, authority_certificate = authority(now)
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    holder = bytes([0x0C, len(cnpj)]) + cnpj.encode()  # DER: UTF8String
    builder = _builder(_name(f"{name[:49]}:{cnpj}"), authority_certificate.subject, key.public_key(), now, A1_VALID)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.OtherName(CNPJ_OF_HOLDER, holder)]), critical=False)
    certificate = _issued(builder, authority_key, ExtendedKeyUsageOID.CLIENT_AUTH)
    password = secrets.token_urlsafe(16)
    encryption = BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(b"a1", key, certificate, None, encryption), password


def server_context(*, names: Iterable[str], now: datetime) -> ssl.SSLContext:
    """TLS of the server: its own certificate, and a client certificate of our authority demanded."""
    authority_key, authority_certificate = authority(now)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("SEFAZ SANDBOX"), authority_certificate.subject, key.public_key(), now, SERVER_VALID)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    certificate = _issued(builder, authority_key, ExtendedKeyUsageOID.SERVER_AUTH)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=trust_file())
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "server.pem"
        _write_private(
            pem,
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM),
        )
        context.load_cert_chain(pem)
    return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
