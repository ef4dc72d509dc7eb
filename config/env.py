"""Read settings from the environment, with one clear error for a value that cannot be used."""

import ipaddress
import os
import re
from decimal import Decimal

from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def matching(name: str, default: str, pattern: str, what: str) -> str:
    """A text of a given form; ``what`` names it."""
    value = text(name, default)
    if not re.fullmatch(pattern, value):
        raise ImproperlyConfigured(f"{name} is {what}, not {value!r}.")
    return value


def flag(name: str, default: bool) -> bool:
    value = text(name).lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} is 1 or 0, not {value!r}.")


def whole(name: str, default: int, *, least: int = 0) -> int:
    value = text(name)
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise ImproperlyConfigured(f"{name} is a whole number of at least {least}, not {value!r}.")
    return int(value)


def words(name: str, default: str = "", *, each: str = r"(?s).*", what: str = "a word") -> list[str]:
    """Texts between commas, each of a given form; ``what`` names it."""
    found = [word.strip() for word in text(name, default).split(",") if word.strip()]
    for word in found:
        if not re.fullmatch(each, word):
            raise ImproperlyConfigured(f"{name} holds {word!r}, which is not {what}.")
    return found


def networks(name: str) -> list[str]:
    """Addresses and networks between commas."""
    found = words(name)
    for word in found:
        try:
            ipaddress.ip_network(word)
        except ValueError:
            raise ImproperlyConfigured(f"{name} holds {word!r}, which is no address and no network.") from None
    return found


def amount(name: str, default: str) -> Decimal:
    value = text(name, default)
    if not re.fullmatch(r"[0-9]{1,13}[.][0-9]{2}", value):
        raise ImproperlyConfigured(f"{name} is an amount with two decimals, such as 200.00, not {value!r}.")
    return Decimal(value)
