"""The authority's XML signature: enveloped, RSA-SHA1, inclusive C14N, one reference, the leaf certificate only.

Pure. Made with lxml and cryptography alone. SHA-1 is what the authority prescribes and checks.
"""

import base64
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

DS = "http://www.w3.org/2000/09/xmldsig#"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
ENVELOPED = DS + "enveloped-signature"
RSA_SHA1 = DS + "rsa-sha1"
SHA1 = DS + "sha1"


@dataclass(frozen=True, slots=True)
class Verification:
    """Does the signature hold, why not, and whose certificate made it."""

    ok: bool
    why: str
    certificate: x509.Certificate | None = None


def read_xml(xml: bytes, *, remove_blank_text: bool = False) -> etree._Element:
    """Parse without entities, network or huge trees. Raises lxml's XMLSyntaxError."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, remove_comments=False, remove_blank_text=remove_blank_text
    )
    return etree.fromstring(xml, parser)


def _with_id(root: etree._Element, identifier: str) -> list[etree._Element]:
    return [element for element in root.iter("*") if element.get("Id") == identifier]


def _ds(tag: str) -> str:
    return f"{{{DS}}}{tag}"


def _canonical(element: etree._Element) -> bytes:
    """Inclusive C14N of a subtree.

    Re-rooted first: lxml writes ``xmlns=""`` on the grandchildren of a non-root element, and the authority would
    answer 297.
    """
    alone = read_xml(etree.tostring(element, with_tail=False))
    return etree.tostring(alone, method="c14n", exclusive=False, with_comments=False)


def _digest(element: etree._Element) -> str:
    return base64.b64encode(hashlib.sha1(_canonical(element)).digest()).decode()


def _signed_info(signature: etree._Element, reference: str, digest: str) -> etree._Element:
    info = etree.SubElement(signature, _ds("SignedInfo"))
    etree.SubElement(info, _ds("CanonicalizationMethod"), Algorithm=C14N)
    etree.SubElement(info, _ds("SignatureMethod"), Algorithm=RSA_SHA1)
    node = etree.SubElement(info, _ds("Reference"), URI="#" + reference)
    transforms = etree.SubElement(node, _ds("Transforms"))
    etree.SubElement(transforms, _ds("Transform"), Algorithm=ENVELOPED)
    etree.SubElement(transforms, _ds("Transform"), Algorithm=C14N)
    etree.SubElement(node, _ds("DigestMethod"), Algorithm=SHA1)
    etree.SubElement(node, _ds("DigestValue")).text = digest
    return info


def sign(xml: bytes, *, reference: str, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> bytes:
    """Put the signature beside the element whose Id is ``reference``. The bytes returned are the document: store them."""
    root = read_xml(xml, remove_blank_text=True)
    (element,) = _with_id(root, reference)
    digest = _digest(element)
    parent = element.getparent()
    signature = etree.SubElement(root if parent is None else parent, _ds("Signature"), nsmap={None: DS})  # type: ignore[dict-item]  # the stubs know no default namespace
    info = _signed_info(signature, reference, digest)
    value = key.sign(_canonical(info), padding.PKCS1v15(), hashes.SHA1())  # noqa: S303  (the authority prescribes it)
    etree.SubElement(signature, _ds("SignatureValue")).text = base64.b64encode(value).decode()
    der = certificate.public_bytes(serialization.Encoding.DER)
    data = etree.SubElement(etree.SubElement(signature, _ds("KeyInfo")), _ds("X509Data"))
    etree.SubElement(data, _ds("X509Certificate")).text = base64.b64encode(der).decode()
    return etree.tostring(root, encoding="UTF-8", xml_declaration=False)


def sign_text(text: str, *, key: rsa.RSAPrivateKey) -> str:
    """A text's signature (RSA, SHA-1, as prescribed for the QR code) in Base64."""
    return base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA1())).decode()  # noqa: S303


def verify(xml: bytes, *, tag: str) -> Verification:
    """Check the one signature over the one element ``tag``. Whom the certificate belongs to is the caller's question."""
    root = read_xml(xml)
    signatures = list(root.iter(_ds("Signature")))
    if len(signatures) != 1:
        return Verification(False, f"{len(signatures)} signatures")
    signature = signatures[0]
    info = signature.find(_ds("SignedInfo"))
    if info is None:
        return Verification(False, "no SignedInfo")
    why = _fixed_parts(info) or _target(root, signature, info, tag)
    if why:
        return Verification(False, why)
    return _value(signature, info)


def _fixed_parts(info: etree._Element) -> str:
    """The algorithms that the authority prescribes, and nothing beside them."""

    def algorithms(tag: str) -> list[str | None]:
        return [node.get("Algorithm") for node in info.iter(_ds(tag))]

    if len(info.findall(_ds("Reference"))) != 1:
        return "not exactly one reference"
    expected = {"CanonicalizationMethod": [C14N], "SignatureMethod": [RSA_SHA1], "DigestMethod": [SHA1]}
    for tag, value in expected.items():
        if algorithms(tag) != value:
            return f"algorithm of {tag}"
    return "" if algorithms("Transform") == [ENVELOPED, C14N] else "transforms"


def _target(root: etree._Element, signature: etree._Element, info: etree._Element, tag: str) -> str:
    """The reference points to the one element that counts, and its digest is right. Refuses signature wrapping."""
    reference = info.find(_ds("Reference"))
    uri = "" if reference is None else reference.get("URI") or ""
    found = _with_id(root, uri[1:]) if uri.startswith("#") else []
    if len(found) != 1 or etree.QName(found[0]).localname != tag or signature.getparent() is not found[0].getparent():
        return "reference to another element"
    if len(list(root.iter(f"{{*}}{tag}"))) != 1:
        return f"more than one {tag}"
    stated = (info.findtext(f"{_ds('Reference')}/{_ds('DigestValue')}") or "").strip()
    return "" if stated == _digest(found[0]) else "digest differs"


def _value(signature: etree._Element, info: etree._Element) -> Verification:
    try:
        certificate = x509.load_der_x509_certificate(
            base64.b64decode(signature.findtext(f".//{_ds('X509Certificate')}") or "")
        )
        public = certificate.public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            return Verification(False, "the certificate holds no RSA key")
        value = base64.b64decode(signature.findtext(_ds("SignatureValue")) or "")
        public.verify(value, _canonical(info), padding.PKCS1v15(), hashes.SHA1())  # noqa: S303  (prescribed)
    except (InvalidSignature, ValueError):
        return Verification(False, "signature value differs")
    return Verification(True, "", certificate)


def digest_value(xml: bytes) -> str:
    """The DigestValue that a signed document states."""
    return "".join((read_xml(xml).findtext(f".//{_ds('DigestValue')}") or "").split())


CNPJ_OF_HOLDER = x509.ObjectIdentifier("2.16.76.1.3.3")  # ICP-Brasil: the CNPJ of the company, as otherName


def cnpj_of(certificate: x509.Certificate) -> str:
    """The CNPJ inside a company certificate, or an empty text when there is none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id == CNPJ_OF_HOLDER:
            return name.value[-14:].decode("ascii", "replace")  # tag and length, then the text
    return ""
