"""Small secrets at rest, under a key that is derived from the site's SECRET_KEY, another one for each purpose."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.encoding import force_bytes

NONCE_BYTES = 12


def _site_key(secret: str | bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length=32, salt=None, info=purpose).derive(force_bytes(secret))


def seal(plain: bytes, *, purpose: bytes, owner: str) -> bytes:
    """Encrypt (AES-256-GCM). What is sealed opens for this purpose and owner only: a row cannot take another's."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(_site_key(settings.SECRET_KEY, purpose)).encrypt(nonce, plain, owner.encode())


def unseal(sealed: bytes, *, purpose: bytes, owner: str) -> bytes | None:
    """Decrypt, also what was sealed under one of SECRET_KEY_FALLBACKS. None when no key of the site fits."""
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        try:
            return AESGCM(_site_key(secret, purpose)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
        except InvalidTag:
            continue
    return None
