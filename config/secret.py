"""Secrets from the environment: outside the embedded mode each is there, and none is one that everybody knows."""

import base64
import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from config import embedded, env

EMBEDDED = env.flag("LASTRO_EMBEDDED", default=not env.text("DATABASE_URL"))
SECRET_CHARACTERS_MIN = 32  # of random characters: more than anybody tries
# Passwords that everybody knows: the demo's, and those of the images' and tutorials' examples.
DEFAULT_PASSWORDS = frozenset(
    {"zup@123", "postgres", "password", "admin", "lastro", "guest", "changeme", "beleza123", "secret"}
)


def refuse_default_password(name: str, url: str) -> None:
    """Raises ImproperlyConfigured for an address whose password everybody knows."""
    password = unquote(urlsplit(url).password or "")
    if not EMBEDDED and password in DEFAULT_PASSWORDS:
        raise ImproperlyConfigured(f"{name} carries a default password. Set one of your own.")


def hard_to_guess(name: str, value: str) -> str:
    """The value itself. Raises ImproperlyConfigured when it is short or well known."""
    if not EMBEDDED and (len(value) < SECRET_CHARACTERS_MIN or value in DEFAULT_PASSWORDS):
        raise ImproperlyConfigured(
            f"{name} is too short or well known: set at least {SECRET_CHARACTERS_MIN} random characters."
        )
    return value


def required(name: str, file: Path) -> str:
    """A secret that must be set; in the embedded mode it is generated into the file, once."""
    value = env.text(name)
    if value:
        return value
    if EMBEDDED:
        return embedded.generated_secret(file)
    raise ImproperlyConfigured(f"{name} is missing. Outside the embedded mode it has no default.")


def keys(name: str, file: Path) -> list[str]:
    """Keys of 256 bits (base64), each from one of the texts between commas.

    Each text is looked at by itself: an empty one in front would encrypt with a key that everybody can compute.
    """
    texts = [hard_to_guess(name, text.strip()) for text in required(name, file).split(",")]
    return [base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
