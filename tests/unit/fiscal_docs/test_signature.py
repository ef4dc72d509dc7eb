"""The signature: right by an independent calculation, and everything that was touched is refused."""

import base64
import hashlib
import re

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from lxml import etree

from apps.fiscal_docs import signature
from tests.unit.fiscal_docs.conftest import Signer

XML = (
    '<NFe xmlns="http://www.portalfiscal.inf.br/nfe"><infNFe versao="4.00" Id="NFe1"><a><b>São &amp; Paulo</b>'
    "<vNF>10.50</vNF></a></infNFe></NFe>"
)
# Inclusive C14N of infNFe, written by hand: namespace first, then attributes by name.
CANONICAL = (
    '<infNFe xmlns="http://www.portalfiscal.inf.br/nfe" Id="NFe1" versao="4.00"><a><b>São &amp; Paulo</b>'
    "<vNF>10.50</vNF></a></infNFe>"
)
SIGNED_INFO = (
    '<SignedInfo xmlns="http://www.w3.org/2000/09/xmldsig#">'
    '<CanonicalizationMethod Algorithm="{c14n}"></CanonicalizationMethod>'
    '<SignatureMethod Algorithm="http://www.w3.org/2000/09/xmldsig#rsa-sha1"></SignatureMethod><Reference URI="#NFe1">'
    '<Transforms><Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></Transform>'
    '<Transform Algorithm="{c14n}"></Transform></Transforms>'
    '<DigestMethod Algorithm="http://www.w3.org/2000/09/xmldsig#sha1"></DigestMethod>'
    "<DigestValue>{digest}</DigestValue></Reference></SignedInfo>"
)


@pytest.fixture
def signed(signer: Signer) -> bytes:
    return signature.sign(XML.encode(), reference="NFe1", key=signer.key, certificate=signer.certificate)


class TestSign:
    def test_digests_what_a_hand_written_canonical_form_digests(self, signed: bytes) -> None:
        expected = base64.b64encode(hashlib.sha1(CANONICAL.encode()).digest()).decode()
        assert signature.digest_value(signed) == expected

    def test_signs_what_a_hand_written_signed_info_says(self, signed: bytes, signer: Signer) -> None:
        value = signature.read_xml(signed).findtext(f".//{{{signature.DS}}}SignatureValue") or ""
        info = SIGNED_INFO.format(c14n=signature.C14N, digest=signature.digest_value(signed))
        signer.key.public_key().verify(base64.b64decode(value), info.encode(), padding.PKCS1v15(), hashes.SHA1())

    def test_gives_the_same_bytes_again(self, signed: bytes, signer: Signer) -> None:
        assert signature.sign(XML.encode(), reference="NFe1", key=signer.key, certificate=signer.certificate) == signed

    def test_stands_beside_the_element_without_declaration_or_prefixes(self, signed: bytes) -> None:
        assert signed.startswith(b"<NFe ")
        assert b"</infNFe><Signature xmlns=" in signed
        assert b"ds:" not in signed


def forged(signed: bytes) -> bytes:
    """A second infNFe with another amount in front of the one that was signed."""
    return re.sub(
        rb"(<infNFe .*?</infNFe>)", lambda m: m[1].replace(b"NFe1", b"NFe2").replace(b"10.50", b"1.00") + m[1], signed
    )


class TestVerify:
    def test_accepts_what_was_signed_and_says_by_whom(self, signed: bytes, signer: Signer) -> None:
        found = signature.verify(signed, tag="infNFe")
        assert found.ok
        assert found.certificate == signer.certificate

    def test_accepts_it_inside_another_element_with_the_same_namespace(self, signed: bytes) -> None:
        assert signature.verify(
            b'<nfeProc xmlns="http://www.portalfiscal.inf.br/nfe">' + signed + b"</nfeProc>", tag="infNFe"
        ).ok

    def test_refuses_every_kind_of_touch(self, signed: bytes, signer: Signer) -> None:
        whole = re.search(rb"<Signature .*</Signature>", signed)
        assert whole
        touched = {
            "digest differs": [
                signed.replace(b"<vNF>10.50<", b"<vNF>1.00<"),
                etree.tostring(etree.fromstring(signed), pretty_print=True),
            ],
            "more than one infNFe": [forged(signed)],
            "2 signatures": [signed.replace(whole[0], whole[0] * 2)],
            "0 signatures": [signed.replace(whole[0], b"")],
            "signature value differs": [
                signed.replace(b"<SignatureValue>", b"<SignatureValue>AAAA"),
                re.sub(rb"(<X509Certificate>).*(</X509Certificate>)", rb"\1\2", signed),
            ],
            "algorithm of SignatureMethod": [signed.replace(b"#rsa-sha1", b"#rsa-sha256")],
            "transforms": [signed.replace(b"#enveloped-signature", b"#base64")],
            "reference to another element": [
                signed.replace(b'URI="#NFe1"', b'URI="#NFe9"'),
                signed.replace(b'URI="#NFe1"', b'URI=""'),
                b'<x><a Id="NFe1"/>' + signed + b"</x>",
            ],
        }
        for why, variants in touched.items():
            for xml in variants:
                found = signature.verify(xml, tag="infNFe")
                assert (found.ok, found.why) == (False, why)

    def test_does_not_resolve_entities(self) -> None:
        bomb = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
        assert b"root:" not in etree.tostring(signature.read_xml(bomb))
