"""The card vault: the only file that sees a card number.

A number comes in, is checked, is encrypted and leaves as a token. It is in no message, log or error. The CVV is checked
for its shape and forgotten: PCI DSS 3.3.1 lets nobody keep it.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from stdnum import luhn

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.payments.brands import Brand, brand_of
from apps.payments.models import CardToken
from apps.payments.rules import check_expiry

TOKEN_CHARACTERS = 32  # of base64url: 192 bits; a token is all that it takes to pay
NONCE_BYTES = 12  # GCM's own size. Random: one key may encrypt 2**32 cards before two nonces might meet
REENCRYPT_ROWS_MAX = 500  # one batch: a short transaction
NUMBER = re.compile(r"[0-9]{13,19}")
GROUPED = re.compile(r"[0-9]{1,6}(?:[ -][0-9]{1,6}){1,5}")
CVV = re.compile(r"[0-9]{3,4}")


class InvalidCardNumber(DomainError):
    """The card number is not valid."""

    code, status = "R203", 422


class UnsupportedBrand(DomainError):
    """Cards of this brand are not accepted."""

    code, status = "R204", 422


class InvalidCvv(DomainError):
    """The card's security code is not valid."""

    code, status = "R206", 422


class UnknownCard(DomainError):
    """There is no such card token, or it is not yours."""

    code, status = "R207", 404


@dataclass(frozen=True, slots=True, kw_only=True)
class CardInput:
    """A card as its holder typed it. Number and CVV are kept out of every repr."""

    number: str = field(repr=False)
    exp_month: int
    exp_year: int
    cvv: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardView:
    """A card without its number."""

    token: str = field(repr=False)
    bin6: str
    last4: str
    brand: str
    exp_month: int
    exp_year: int


def _digits(number: str) -> str:
    """The number without its groups' spaces or hyphens. Raises InvalidCardNumber."""
    digits = re.sub("[ -]", "", number) if GROUPED.fullmatch(number) else number
    if not NUMBER.fullmatch(digits) or not luhn.is_valid(digits):
        raise InvalidCardNumber(field="number")
    return digits


def check(card: CardInput, *, now: datetime) -> Brand:
    """The card's brand. Raises InvalidCardNumber, UnsupportedBrand, CardExpired or InvalidCvv; none quotes the card."""
    digits = _digits(card.number)
    brand = brand_of(digits[:6])
    if brand is None:
        raise UnsupportedBrand(field="number")
    if len(digits) not in brand.lengths:
        raise InvalidCardNumber(f"A number of {brand.name} has another length.", field="number")
    check_expiry(exp_month=card.exp_month, exp_year=card.exp_year, today=business_date(now))
    if not CVV.fullmatch(card.cvv) or len(card.cvv) != brand.cvv_digits:
        raise InvalidCvv(field="cvv")
    return brand


def truncated(number: str) -> tuple[str, str]:
    """First six and last four digits of what was typed as a number, or two empty texts: all that may be kept of it."""
    digits = re.sub("[ -]", "", number)
    return (digits[:6], digits[-4:]) if NUMBER.fullmatch(digits) else ("", "")


@transaction_required
def save_card(*, owner_id: str, card: CardInput, now: datetime) -> CardView:
    """Put a card into the vault and give a token for it. Not safe to repeat: each call makes a new token.

    Raises what ``check`` raises.
    """
    brand = check(card, now=now)
    digits = _digits(card.number)
    token = f"tok_{secrets.token_urlsafe(TOKEN_CHARACTERS * 3 // 4)}"
    key_id, key = _keys()[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    row = CardToken.objects.create(
        token=token,
        owner_id=owner_id,
        key_id=key_id,
        nonce=nonce,
        ciphertext=AESGCM(key).encrypt(nonce, digits.encode(), token.encode()),
        fingerprint=_fingerprint(key, digits),
        bin6=digits[:6],
        last4=digits[-4:],
        brand=brand.name,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
        created_at=now,
    )
    return view_of(row)


def card(token: str, *, owner_id: str | None = None) -> CardView:
    """The card behind a token. Raises UnknownCard, also for a card of another owner when ``owner_id`` is given."""
    return view_of(find(token, owner_id=owner_id))


def find(token: str, *, owner_id: str | None = None) -> CardToken:
    """The row of a token, for verbs of this app. Raises UnknownCard."""
    row = CardToken.objects.filter(token=token).first() if "\x00" not in token else None
    if row is None or (owner_id is not None and row.owner_id != owner_id):
        raise UnknownCard(field="card_token")
    return row


def view_of(row: CardToken) -> CardView:
    """The values of a row."""
    return CardView(
        token=row.token, bin6=row.bin6, last4=row.last4, brand=row.brand, exp_month=row.exp_month, exp_year=row.exp_year
    )


def _keys() -> list[tuple[str, bytes]]:
    """The vault's keys with their ids, newest first. An id is a digest of its key and says nothing about it."""
    keys = [base64.urlsafe_b64decode(text) for text in settings.VAULT_KEYS]
    return [(hashlib.sha256(b"lastro.vault.id" + key).hexdigest()[:12], key) for key in keys]


def _fingerprint(key: bytes, digits: str) -> bytes:
    """Keyed: of a plain digest beside first six and last four digits the number could be computed in a second.

    Its key is derived from the vault's and is another one, so neither helps with the other.
    """
    return hmac.digest(hmac.digest(key, b"lastro.vault.fingerprint", hashlib.sha256), digits.encode(), hashlib.sha256)


def _number(row: CardToken) -> str:
    key = dict(_keys())[row.key_id]
    return AESGCM(key).decrypt(bytes(row.nonce), bytes(row.ciphertext), row.token.encode()).decode()


@transaction_required
def reencrypt(*, rows_max: int = REENCRYPT_ROWS_MAX) -> int:
    """Bring cards under older keys to the newest one, at most ``rows_max``. Safe to repeat; 0 means: old keys may go."""
    key_id, key = _keys()[0]
    # Waits for a card that somebody else holds: skipped, it would be missing from the 0 that lets its key go.
    old = CardToken.objects.select_for_update(no_key=True).exclude(key_id=key_id).order_by("pk")[:rows_max]
    rows = list(old)
    for row in rows:
        digits = _number(row)
        row.key_id, row.nonce = key_id, secrets.token_bytes(NONCE_BYTES)
        row.ciphertext = AESGCM(key).encrypt(row.nonce, digits.encode(), row.token.encode())
        row.fingerprint = _fingerprint(key, digits)
    CardToken.objects.bulk_update(rows, ["key_id", "nonce", "ciphertext", "fingerprint"])
    return len(rows)
