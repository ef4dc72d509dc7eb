"""Standard Webhooks, symmetric: who signs, with what, and how a merchant checks it (docs/webhooks.md).

webhook-signature: v1,base64(HMAC-SHA256(secret, "{webhook-id}.{webhook-timestamp}.{body}"))
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from apps.common import sealed
from apps.common.errors import DomainError

PREFIX = "whsec_"
SECRET_BYTES = 32  # the standard wants 24 to 64
PURPOSE = b"webhooks.secret"


class SecretUnreadable(DomainError):
    """The endpoint's signing secret cannot be read: rotate it."""

    code = "R907"


def new_secret() -> bytes:
    """256 bits from the operating system's generator."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """A secret as merchants are given it, once."""
    return PREFIX + base64.b64encode(secret).decode()


def seal(secret: bytes, *, endpoint_id: object) -> bytes:
    """A secret as it is kept."""
    return sealed.seal(secret, purpose=PURPOSE, owner=str(endpoint_id))


def unseal(box: bytes, *, endpoint_id: object) -> bytes:
    """The secret itself. Raises SecretUnreadable: SECRET_KEY was changed without a fallback."""
    secret = sealed.unseal(box, purpose=PURPOSE, owner=str(endpoint_id))
    if secret is None:
        raise SecretUnreadable
    return secret


def sign(keys: Sequence[bytes], *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The header's value: a signature by each secret, so that a receiver may know either."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    made = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return " ".join(f"v1,{signature}" for signature in made)
