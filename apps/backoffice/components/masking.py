"""What a page may show of an input or an output: never a card, a secret, or a whole CPF."""

from collections.abc import Mapping
from typing import Any

from apps.observability.masking import HIDDEN, mask_cpf, mask_text

TOKEN_CHARACTERS_SHOWN = 8  # enough to tell two tokens apart, too few to pay with
DEPTH_MAX = 12  # deeper JSON than any message of ours; a page must not recurse without an end
_SECRET = frozenset({"secret", "password", "cvv", "cvc", "number", "card_number", "pan", "authorization", "private_key"})
_TOKEN = frozenset({"token", "card_token", "cardtoken"})


def mask_token(token: str) -> str:
    """The first characters of a card token: it is all that it takes to pay."""
    return f"{token[:TOKEN_CHARACTERS_SHOWN]}…" if len(token) > TOKEN_CHARACTERS_SHOWN else HIDDEN


def mask(value: Any, *, depth: int = 0) -> Any:
    """The same JSON value with everything hidden that must not be seen."""
    if depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _mask_field(str(key), inner, depth=depth) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask(inner, depth=depth + 1) for inner in value]
    return mask_text(value) if isinstance(value, str) else value


def _mask_field(key: str, value: Any, *, depth: int) -> Any:
    name = key.lower().replace("-", "_")
    if name in _SECRET and value is not None and not isinstance(value, Mapping | list):
        return HIDDEN
    if isinstance(value, str):
        if name in _TOKEN:
            return mask_token(value) if value else value
        if "cpf" in name:
            return mask_cpf(value) if value else value
        if "email" in name:
            return HIDDEN
    return mask(value, depth=depth + 1)
