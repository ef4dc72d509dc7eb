"""What a text may show to people: never a card, or a whole CPF."""

import re

from apps.observability.logs import mask_cards

HIDDEN = "••••••"
_CPF = re.compile(r"(?<![\w-])(\d{3})[.]?(\d{3})[.]?(\d{3})-?(\d{2})(?![\w-])")


def mask_cpf(cpf: str) -> str:
    """Eleven digits as •••.•••.417-••; anything else is hidden altogether."""
    digits = re.sub(r"\D", "", cpf)
    # The hyphen does not break: a masked CPF stays on one line.
    return f"•••.•••.{digits[6:9]}\u2011••" if len(digits) == 11 else HIDDEN


def mask_text(text: str) -> str:
    """A text without card numbers and CPFs."""
    return _CPF.sub(lambda match: mask_cpf(match.group()), mask_cards(text))
